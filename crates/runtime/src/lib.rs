//! Apply a plan: root file system, namespaces, exec.
#![forbid(unsafe_code)]
