//! The one library API behind every front: pull, run, list, remove.
#![forbid(unsafe_code)]
