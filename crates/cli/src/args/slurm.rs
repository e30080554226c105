//! `slurm`: what the plugin asks of sampan.

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
    /// Remove a named container of a job on this node, or all of them
    Forget {
        /// The job
        job: String,
        /// The name
        name: Option<String>,
    },
}
