//! Promise: a step's tasks run in a container, and nothing else of the job
//! changes. On a real cluster: slurmctld, munge and four slurmd.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod batch;
mod cluster;
mod flags;
mod inside;
mod many;
mod mpi;
mod named;
mod pbs;
mod steps;
