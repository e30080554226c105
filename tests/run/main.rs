//! Promise: a container runs as its caller, on the caller's machine, exactly
//! as the same command would run outside.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod devices;
mod environment;
mod fallback;
mod hooks;
mod identity;
mod isolation;
mod mounts;
mod process;
mod served;
mod sharing;
mod site;
