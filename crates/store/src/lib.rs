//! Content-addressed images on shared file systems.
#![forbid(unsafe_code)]
