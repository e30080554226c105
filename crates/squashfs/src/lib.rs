//! Read and write squashfs 4.0 images, in parallel and deterministically.
#![forbid(unsafe_code)]
