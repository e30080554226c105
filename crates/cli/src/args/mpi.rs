//! Flags of `mpi`.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};

/// `mpi`.
#[derive(Args, Debug)]
pub struct MpiArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: MpiCommand,
}

/// What to do with MPI.
#[derive(Debug, Subcommand)]
pub enum MpiCommand {
    /// Compare the host's MPI with an image's, and say what --mpi=host would do
    ///
    /// Nothing is started. The exit code is 0 where the host's MPI can be used, else 1.
    #[command(after_long_help = "The host's MPI is looked for in the configuration's mpi_path, \
        in LD_LIBRARY_PATH, beside the mpirun of PATH, and where the dynamic linker looks. \
        Example:
  module load openmpi; sampan mpi check solver.sqsh")]
    Check {
        /// The image
        image: String,
        /// How well the host's MPI has to fit
        #[arg(long, visible_alias = "mpi-policy", value_name = "POLICY", value_parser = PossibleValuesParser::new(["major", "full", "strict"]))]
        policy: Option<String>,
        /// Platform of the image, os/architecture[/variant]
        #[arg(long, value_name = "PLATFORM")]
        platform: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}
