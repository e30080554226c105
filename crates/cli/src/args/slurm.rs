//! `slurm`: what the plugin asks of sampan.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `slurm`.
#[derive(Args, Debug)]
pub struct SlurmArgs {
    /// What is asked
    #[command(subcommand)]
    pub command: SlurmCommand,
}

/// What the plugin asks.
#[derive(Debug, Subcommand)]
pub enum SlurmCommand {
    /// Print the directory of a named container on this node, made if it is not there
    State {
        /// The job
        job: String,
        /// The name
        name: String,
    },
    /// Become a command in a container that runs
    Join {
        /// The container's first process
        pid: i32,
        /// When it was started, as /proc/PID/stat says
        start: u64,
        /// Where the command starts
        #[arg(long)]
        workdir: Option<PathBuf>,
        /// The command
        #[arg(required = true, num_args = 1.., trailing_var_arg = true)]
        words: Vec<OsString>,
    },
    /// Remove a named container of a job on this node, or all of them
    Forget {
        /// The job
        job: String,
        /// The name
        name: Option<String>,
    },
}
