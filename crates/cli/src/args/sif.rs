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
  sampan sif add --type partition --part overlay --fs ext3 image.sif changes.img
\
The numbers that Apptainer has for types, file systems and uses are understood too.")]
pub struct SifAddArgs {
    /// What the object is
    #[arg(long = "type", visible_alias = "datatype", value_enum, default_value_t = SifType::Generic)]
    pub kind: SifType,
    /// Its name; the data's file name where it is left out
    #[arg(long, visible_alias = "filename")]
    pub name: Option<String>,
    /// Its group; 0 is none
    #[arg(long, visible_alias = "groupid", default_value_t = 1)]
    pub group: u32,
    /// The object that it is about; 0 is none
    #[arg(long, default_value_t = 0)]
    pub link: u32,
    /// Of a partition: its file system
    #[arg(long, visible_alias = "partfs", value_enum, default_value_t = SifFs::Squashfs)]
    pub fs: SifFs,
    /// Of a partition: what it is for
    #[arg(long, visible_alias = "parttype", value_enum, default_value_t = SifPart::Data)]
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
    #[value(alias = "1")]
    Definition,
    #[value(alias = "2")]
    Environment,
    #[value(alias = "3")]
    Labels,
    #[value(alias = "4")]
    Partition,
    #[value(alias = "6")]
    Json,
    #[value(alias = "7")]
    Generic,
    #[value(alias = "9")]
    Sbom,
}

/// File systems of partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum SifFs {
    #[value(alias = "1")]
    Squashfs,
    #[value(alias = "2")]
    Ext3,
    #[value(alias = "3")]
    Archive,
    #[value(alias = "4")]
    Raw,
}

/// Uses of partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum SifPart {
    #[value(alias = "1")]
    System,
    #[value(alias = "2")]
    Primary,
    #[value(alias = "3")]
    Data,
    #[value(alias = "4")]
    Overlay,
}
