//! Promise: every image of the field becomes one file, with what its layers
//! say and nothing else, or an error that names the culprit.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod convert;
mod elsewhere;
mod faults;
mod foreign;
mod hostile;
mod layered;
mod layers;
mod nodes;
mod registry;
mod sif_files;
