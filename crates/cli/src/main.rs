//! The sampan command line.
#![forbid(unsafe_code)]
fn main() {}
