//! Facts about this host, and what it contributes to a container.
#![forbid(unsafe_code)]
