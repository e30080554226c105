//! `spank_sampan.so`: the tasks of a Slurm step run in a container.
//!
//! The plugin is thin: it reads flags, and starts sampan.
//!
//! ```text
//! srun, sbatch, salloc   init        flags are registered and checked
//! srun                   local_user_init   programs of --multi-prog get a word before them
//! slurmstepd             user_init   the container is decided
//!   first task           task_init   `sampan exec --dry-run`: fetches the image, checks everything
//!   each task            task_init   waits for the first; its program becomes `sampan exec`
//!   each task            task_exit   what a container has written is saved
//! slurmd                 job_epilog  named containers of the job go
//! ```
//!
//! Between `task_init` and execve(2) Slurm runs the task prolog, makes TMPDIR
//! and sets the job's limits. So the hook does not become the container: it
//! puts a program of its own in the place of the task's, and the rest stays
//! Slurm's work (`ffi::Spank::replace_program`). The process that Slurm made for the
//! task becomes the application; its pinning, cgroup, limits, descriptors and
//! exit code were never anybody else's.
#![deny(unsafe_code)]
#![cfg_attr(test, allow(dead_code, reason = "what ffi uses"))]

// The symbols of slurmstepd, which a test program lacks.
#[cfg(not(test))]
#[allow(unsafe_code, reason = "the interface is C")]
mod ffi;

mod error;
mod flags;
mod mounts;
mod named;
mod programs;
mod step;
mod words;
