//! OCI layers to one squashfs file, and the other forms an image comes in.
#![forbid(unsafe_code)]
