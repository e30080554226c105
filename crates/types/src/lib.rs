//! Names and values that every other crate speaks: image references, digests, platforms, image configuration.
#![forbid(unsafe_code)]
