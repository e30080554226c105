//! Flags of `cdi`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `cdi`.
#[derive(Args, Debug)]
#[command(after_long_help = "Specs of the Container Device Interface are files ending in .json \
    or .yaml in /etc/cdi and /var/run/cdi, or the directories of the configuration key \
    cdi_dirs; of two specs with the same device, the one in the later directory counts. \
    Examples:
  sampan cdi list
  sampan run --device nvidia.com/gpu=0 image.sqsh nvidia-smi
  sampan cdi validate /etc/cdi/nvidia.yaml")]
pub struct CdiArgs {
    /// What to do
    #[command(subcommand)]
    pub command: CdiCommand,
}

/// What to do with CDI specs.
#[derive(Debug, Subcommand)]
pub enum CdiCommand {
    /// List the devices that --device takes
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check specs, and say what is wrong with each
    ///
    /// The exit code is 1 where something is.
    Validate {
        /// The files; those of the directories where none is given
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}
