//! The command line, as typed. Reading it touches nothing of the system: what
//! the flags mean is worked out in `lower`.

mod build;
mod cdi;
mod container;
mod images;
mod inspect;
mod instance;
mod mpi;
mod sif;
mod site;
mod slurm;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::Styles;
use clap::builder::styling::{AnsiColor, Effects};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use engine::{Override, exit};

pub use build::BuildArgs;
pub use cdi::{CdiArgs, CdiCommand};
pub use container::{ContainerArgs, DryRun, ExecArgs, Net, RunArgs, ShellArgs, TestArgs};
pub use images::{
    CommitArgs, ConfigArgs, ConfigCommand, ConvertArgs, DoctorArgs, HistoryArgs, ImagesArgs,
    LoadArgs, LoginArgs, LogoutArgs, Made, PruneArgs, PullArgs, PushArgs, RemoveArgs, SaveArgs,
    TagArgs,
};
pub use inspect::{Chosen, InspectArgs, RunHelpArgs};
pub use instance::{
    InstanceArgs, InstanceCommand, InstanceListArgs, InstanceStartArgs, InstanceStatsArgs,
    InstanceStopArgs,
};
pub use mpi::{MpiArgs, MpiCommand};
pub use sif::{SifAddArgs, SifArgs, SifCommand, SifFs, SifPart, SifType};
pub use site::{ModuleArgs, ModuleFormat, ModuleTree, SiteArgs, SiteCommand};
pub use slurm::{SlurmArgs, SlurmCommand};

/// Run, fetch and keep HPC containers as an ordinary user.
///
/// An image is named by a registry's name (docker://python:3.12, or just
/// python:3.12), by oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE, or by
/// the path of a directory, a squashfs file or a SIF file. instance://NAME is a
/// container that runs.
#[derive(Debug, Parser)]
#[command(name = "sampan", version, propagate_version = false, styles = styles())]
#[command(subcommand_required = true, arg_required_else_help = true, infer_subcommands = false)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub globals: Globals,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// Print no progress and no warnings; listings print names alone
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Print what happens on the way
    #[arg(long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Directory of your images, in place of SAMPAN_STORE
    #[arg(long, global = true, value_name = "DIR")]
    pub store: Option<String>,
    /// Address of the library that library:// means, in place of SAMPAN_LIBRARY
    #[arg(long, global = true, value_name = "URL")]
    pub library: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fetch an image into the store
    Pull(PullArgs),
    /// Run an image's process, or another command in it
    Run(RunArgs),
    /// Run a command in an image, whatever the image's entrypoint
    Exec(ExecArgs),
    /// Open a shell in an image
    Shell(ShellArgs),
    /// Run the test script of an image that Apptainer made
    Test(TestArgs),
    /// Start, list and stop containers that stay
    Instance(InstanceArgs),
    /// Build an image from a Dockerfile or a definition file
    Build(BuildArgs),
    /// Make an image of what a container has written
    Commit(CommitArgs),
    /// Write an image as a file or directory, or into a registry
    Convert(ConvertArgs),
    /// Send an image to a registry
    Push(PushArgs),
    /// Write an image as an archive that docker load reads
    Save(SaveArgs),
    /// Take the images of an archive into the store
    Load(LoadArgs),
    /// Give an image of the store another name
    Tag(TagArgs),
    /// Show how an image was made
    History(HistoryArgs),
    /// Show, extract and change what a SIF file holds
    Sif(SifArgs),
    /// List the images in the store
    #[command(visible_alias = "ls")]
    Images(ImagesArgs),
    /// Show what is known about an image
    Inspect(InspectArgs),
    /// Show what an image that Apptainer made says to those who ask for help
    RunHelp(RunHelpArgs),
    /// Remove images from the store
    #[command(visible_alias = "rmi")]
    Rm(RemoveArgs),
    /// Remove from the store what nobody needs
    Prune(PruneArgs),
    /// Keep credentials for a registry
    Login(LoginArgs),
    /// Forget the credentials for a registry
    Logout(LogoutArgs),
    /// List the devices of the Container Device Interface, and check its specs
    Cdi(CdiArgs),
    /// Tell whether the host's MPI fits an image
    Mpi(MpiArgs),
    /// Check what this machine offers to containers, and how to mend it
    Doctor(DoctorArgs),
    /// Show the configuration and where each value comes from
    Config(ConfigArgs),
    /// Help an administrator: a configuration of this host, modules of images
    Site(SiteArgs),
    /// What the Slurm plugin needs
    #[command(hide = true)]
    Slurm(SlurmArgs),
    /// Print the version
    Version {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a completion script for a shell
    ///
    /// For bash: sampan completions bash >~/.local/share/bash-completion/completions/sampan
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write every page into a directory
    Man {
        /// Write sampan.1, sampan-run.1 and so on into this directory
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// The command whose page is printed
        command: Option<String>,
    },
}

impl Command {
    /// Whether it runs a container, so that Docker's exit codes count.
    pub fn runs_container(&self) -> bool {
        let joins = |args: &SlurmArgs| matches!(args.command, SlurmCommand::Join { .. });
        let starts = |args: &InstanceArgs| {
            matches!(args.command, InstanceCommand::Start(_) | InstanceCommand::Run(_))
        };
        match self {
            Self::Instance(args) => starts(args),
            Self::Run(_) | Self::Exec(_) | Self::Shell(_) | Self::Test(_) => true,
            Self::Slurm(args) => joins(args),
            _ => false,
        }
    }

    /// The configuration values that its flags set.
    pub fn overrides(&self, globals: &Globals) -> Vec<Override> {
        let mut list = Vec::new();
        let mut add = |key, flag, value: &Option<String>| {
            if let Some(value) = value {
                list.push(Override { key, flag, value: value.clone() });
            }
        };
        add("store", "--store", &globals.store);
        add("library", "--library", &globals.library);
        match self {
            Self::Build(args) => {
                add("platform", "--platform", &args.platform);
                add("compression", "--compression", &args.made.compression);
                add("pull", "--pull", &args.pull);
            }
            Self::Push(PushArgs { which, compression, .. })
            | Self::Convert(ConvertArgs { which, made: Made { compression }, .. })
            | Self::Pull(PullArgs { which, made: Made { compression }, .. }) => {
                add("platform", "--platform", &which.platform);
                add("compression", "--compression", compression);
            }
            Self::Run(RunArgs { container, .. })
            | Self::Exec(ExecArgs { container, .. })
            | Self::Shell(ShellArgs { container, .. })
            | Self::Test(TestArgs { container, .. })
            | Self::Instance(InstanceArgs {
                command:
                    InstanceCommand::Start(InstanceStartArgs { container, .. })
                    | InstanceCommand::Run(InstanceStartArgs { container, .. }),
            }) => {
                add("platform", "--platform", &container.platform);
                add("pull", "--pull", &container.pull);
                add("mpi", "--mpi", &container.mpi);
                add("mpi_policy", "--mpi-policy", &container.mpi_policy);
                add("fabric", "--fabric", &container.fabric);
                let no_mount = &container.no_mount;
                let joined = (!no_mount.is_empty()).then(|| no_mount.join(","));
                add("no_mount", "--no-mount", &joined);
            }
            Self::Mpi(MpiArgs { command: MpiCommand::Check { platform, .. } }) => {
                add("platform", "--platform", platform);
            }
            Self::Inspect(args) => add("platform", "--platform", &args.platform),
            _ => {}
        }
        list
    }
}

fn styles() -> Styles {
    Styles::styled()
        .header(AnsiColor::Yellow.on_default() | Effects::BOLD)
        .usage(AnsiColor::Yellow.on_default() | Effects::BOLD)
        .literal(AnsiColor::Green.on_default())
        .placeholder(AnsiColor::Cyan.on_default())
}

/// The whole command line, for help, completions and the manual.
pub fn full() -> clap::Command {
    use std::fmt::Write;
    let mut codes = String::from("Exit codes:\n");
    for (code, meaning) in exit::TABLE {
        // Writing to a String cannot fail.
        let _ = writeln!(codes, "  {code:>3}  {meaning}");
    }
    codes.push_str("  128+n  run, exec, shell: the command was ended by signal n\n");
    Cli::command().after_long_help(codes)
}

/// The commands that start a container at once.
const CONTAINERS: [&str; 3] = ["run", "exec", "shell"];

/// The name of the command that starts a container, if the words call one.
pub fn container_command(words: &[OsString]) -> Option<&str> {
    let globals = Globals::augment_args(clap::Command::new(""));
    let mut words = words.iter().skip(1).map(|word| word.to_str());
    while let Some(word) = words.next().flatten() {
        let Some(flag) = word.strip_prefix('-') else {
            return Some(word).filter(|name| CONTAINERS.contains(name));
        };
        let (name, value) = flag.split_once('=').map_or((flag, None), |(n, v)| (n, Some(v)));
        let global = globals.get_arguments().find(|arg| match name.strip_prefix('-') {
            Some(long) => arg.get_long() == Some(long),
            None => arg.get_short().is_some_and(|short| name.chars().eq([short])),
        })?;
        if global.get_action().takes_values() && value.is_none() {
            words.next();
        }
    }
    None
}

/// The part of the command line that starts a container: what starts a
/// thousand ranks should not build the options of every other command.
fn short(name: &str) -> Option<clap::Command> {
    let sub = clap::Command::new(name.to_owned());
    let sub = match name {
        "run" => RunArgs::augment_args(sub),
        "exec" => ExecArgs::augment_args(sub),
        "shell" => ShellArgs::augment_args(sub),
        _ => return None,
    };
    let base = clap::Command::new("sampan").version(env!("CARGO_PKG_VERSION")).styles(styles());
    Some(Globals::augment_args(base).subcommand_required(true).subcommand(sub))
}

/// Reads the command line; the first word is the program's name.
///
/// # Errors
/// What clap says about it, which may be the help that was asked for.
pub fn parse(words: Vec<OsString>) -> Result<Cli, clap::Error> {
    let command = container_command(&words).and_then(short).unwrap_or_else(full);
    let matches = command.try_get_matches_from(words)?;
    let globals = Globals::from_arg_matches(&matches)?;
    let command = Command::from_arg_matches(&matches)?;
    Ok(Cli { globals, command })
}

#[cfg(test)]
mod tests;
