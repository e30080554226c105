//! A client for OCI distribution registries.
#![forbid(unsafe_code)]
