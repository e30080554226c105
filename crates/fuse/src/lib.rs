//! Serve an image tree over a /dev/fuse descriptor.
#![forbid(unsafe_code)]
