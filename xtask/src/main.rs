//! Everything a person types here.
#![forbid(unsafe_code)]
fn main() {}
