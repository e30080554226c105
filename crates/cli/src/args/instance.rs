//! `instance`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ContainerArgs;

/// `instance`.
#[derive(Args, Debug)]
#[command(after_long_help = "An instance is a container that stays until it is stopped, on this \
    node and in this job. exec, run, shell, test and inspect take instance://NAME as the image. \
    Examples:
  sampan instance start -B /scratch database.sif db1
  sampan exec instance://db1 psql
  sampan instance stop db1")]
pub struct InstanceArgs {
    /// What to do
    #[command(subcommand)]
    pub command: InstanceCommand,
}

/// What to do with instances.
#[derive(Debug, Subcommand)]
pub enum InstanceCommand {
    /// Start an instance: the image's start script, if it has one
    ///
    /// Returns when it runs. It stays when the script has ended, until it is stopped.
    Start(InstanceStartArgs),
    /// Start an instance: what run would run of the image
    #[command(override_usage = "sampan instance run [OPTIONS] {IMAGE|--edf NAME} NAME [ARG]...")]
    Run(InstanceStartArgs),
    /// List the instances
    List(InstanceListArgs),
    /// Stop instances
    ///
    /// Every process gets the signal; what is left after the timeout is killed.
    Stop(InstanceStopArgs),
    /// Show what an instance uses
    Stats(InstanceStatsArgs),
}

/// `instance start` and `instance run`.
#[derive(Args, Debug)]
#[command(override_usage = "sampan instance start [OPTIONS] {IMAGE|--edf NAME} NAME [ARG]...")]
pub struct InstanceStartArgs {
    /// Write the number of the instance's first process to this file
    #[arg(long, value_name = "FILE", help_heading = "Instance")]
    pub pid_file: Option<PathBuf>,
    /// End the instance when its script or command ends
    #[arg(long, help_heading = "Instance")]
    pub no_init: bool,
    /// Everything else.
    #[command(flatten)]
    pub container: ContainerArgs,
    /// The image, the instance's name, and arguments for the script or command
    #[arg(required = true, num_args = 1.., trailing_var_arg = true)]
    #[arg(value_names = ["IMAGE", "NAME"])]
    pub words: Vec<OsString>,
}

/// `instance list`.
#[derive(Args, Debug)]
pub struct InstanceListArgs {
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
    /// Show where the instances write their output and errors
    #[arg(short, long)]
    pub logs: bool,
    /// Accepted for Apptainer's sake: all are always shown
    #[arg(short, long, help_heading = "Without effect")]
    pub all: bool,
    /// Those whose names match, with *, ? and [...]
    #[arg(default_value = "*", hide_default_value = true)]
    pub pattern: String,
}

/// `instance stop`.
#[derive(Args, Debug)]
pub struct InstanceStopArgs {
    /// Stop every instance of this node
    #[arg(short, long, conflicts_with = "pattern")]
    pub all: bool,
    /// Kill at once
    #[arg(short = 'F', long, conflicts_with_all = ["signal", "timeout"])]
    pub force: bool,
    /// Send this signal, by name or number, in place of the image's or SIGTERM
    #[arg(short, long, value_name = "SIGNAL")]
    pub signal: Option<String>,
    /// Kill what is left after so many seconds
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    pub timeout: u32,
    /// Those whose names match, with *, ? and [...]
    #[arg(required_unless_present = "all")]
    pub pattern: Option<String>,
}

/// `instance stats`.
#[derive(Args, Debug)]
pub struct InstanceStatsArgs {
    /// Print JSON, a line for each look
    #[arg(short, long)]
    pub json: bool,
    /// Look once
    #[arg(long)]
    pub no_stream: bool,
    /// The instance
    pub name: String,
}
