//! `sif`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// `sif`.
#[derive(Args, Debug)]
pub struct SifArgs {
    /// What to do with the file
    #[command(subcommand)]
    pub command: SifCommand,
}

/// What to do with a SIF file.
#[derive(Debug, Subcommand)]
pub enum SifCommand {
    /// List the objects of a file
    #[command(visible_alias = "ls")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// The file
        file: PathBuf,
    },
    /// Show the header of a file
    Header {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// The file
        file: PathBuf,
    },
    /// Show one object
    Info {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Its number
        id: u32,
        /// The file
        file: PathBuf,
    },
    /// Write the bytes of an object to standard output
    Dump {
        /// Its number
        id: u32,
        /// The file
        file: PathBuf,
    },
    /// Add an object
    Add(SifAddArgs),
    /// Remove an object
    Del {
        /// Its number
        id: u32,
        /// The file
        file: PathBuf,
    },
    /// Make a system partition the one that is run
    Setprim {
        /// Its number
        id: u32,
        /// The file
        file: PathBuf,
    },
}

/// `sif add`.
#[derive(Args, Debug)]
#[command(after_long_help = "Example:
  sampan sif add --type partition --part overlay --fs ext3 image.sif changes.img")]
pub struct SifAddArgs {
    /// What the object is
    #[arg(long = "type", value_enum, default_value_t = SifType::Generic)]
    pub kind: SifType,
    /// Its name; the data's file name where it is left out
    #[arg(long)]
    pub name: Option<String>,
    /// Its group; 0 is none
    #[arg(long, default_value_t = 1)]
    pub group: u32,
    /// The object that it is about; 0 is none
    #[arg(long, default_value_t = 0)]
    pub link: u32,
    /// Of a partition: its file system
    #[arg(long, value_enum, default_value_t = SifFs::Squashfs)]
    pub fs: SifFs,
    /// Of a partition: what it is for
    #[arg(long, value_enum, default_value_t = SifPart::Data)]
    pub part: SifPart,
    /// Of a partition: architecture of its programs, as in linux/ARCH
    #[arg(long, value_name = "ARCH")]
    pub arch: Option<String>,
    /// The file
    pub file: PathBuf,
    /// The object's data; - is standard input
    pub data: PathBuf,
}

/// Kinds of objects that can be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum SifType {
    Definition,
    Environment,
    Labels,
    Partition,
    Json,
    Generic,
    Sbom,
}

/// File systems of partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum SifFs {
    Squashfs,
    Ext3,
    Archive,
    Raw,
}

/// Uses of partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum SifPart {
    System,
    Primary,
    Data,
    Overlay,
}
