//! Flags of the commands that run nothing.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Which of an image's platforms, and how to tell of it.
#[derive(Args, Debug)]
pub struct Which {
    /// Platform of the image, os/architecture[/variant]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How an image file is made.
#[derive(Args, Debug)]
pub struct Made {
    /// How to compress: zstd[:LEVEL], gzip[:LEVEL], lz4, xz or none
    #[arg(long, value_name = "METHOD")]
    pub compression: Option<String>,
}

/// `pull`.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  sampan pull docker://debian:12
  sampan pull --platform linux/arm64 ghcr.io/org/app:1.2
  sampan pull oci-archive:app.tar
  sampan pull https://www.example.org/app.sif  # kept as it is")]
pub struct PullArgs {
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// What is made
    #[command(flatten)]
    pub made: Made,
    /// Which of an image, and how to tell of it
    #[command(flatten)]
    pub which: Which,
}

/// `images`.
#[derive(Args, Debug)]
#[command(after_long_help = "With --quiet, only digests are printed.")]
pub struct ImagesArgs {
    /// Print whole digests
    #[arg(long)]
    pub no_trunc: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `rm`.
#[derive(Args, Debug)]
#[command(after_long_help = "An image goes when its last name does. One that a container \
    uses, on any machine that shares the store, stays unless --force is given.")]
pub struct RemoveArgs {
    /// The images, by name, or by digest or the beginning of one
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Also images in use
    #[arg(short, long)]
    pub force: bool,
    /// Which of an image, and how to tell of it
    #[command(flatten)]
    pub which: Which,
}

/// `convert`.
#[derive(Args, Debug)]
#[command(after_long_help = "Destinations:
  NAME.sif, sif:PATH             a SIF file, which Apptainer runs too
  NAME.oci.sif, oci-sif:PATH     a SIF file of SingularityCE's OCI form
  NAME.sqfs, squashfs:PATH       a squashfs file
  NAME/, dir:PATH                a directory
  oci:PATH[:TAG]                 an OCI layout; other images in it stay
  oci-archive:PATH[:TAG]         an OCI layout in a tar file
  docker-archive:PATH[:NAME]     what docker load reads
  docker://REGISTRY/NAME[:TAG]   a repository of a registry (sampan login first)

An image from a registry, a layout or an archive keeps its layers and its digest in the last \
    four. Any other becomes one layer there: gzip, or zstd with --compression zstd. Owners that \
    you cannot give to files of a directory are noted in the attribute \
    user.containers.override_stat, and read from there again. Variables and command of an OCI \
    image become scripts under /.singularity.d in the first and the third, which sampan and \
    Apptainer honour. Examples:
  sampan convert docker://debian:12 debian.sif
  sampan convert --compression gzip ./rootfs image.sqfs
  sampan convert image.sif docker://registry.example/team/image:1
  sampan convert docker://debian:12 docker-archive:debian.tar:debian:12")]
pub struct ConvertArgs {
    /// Replace a file that is there
    #[arg(short, long)]
    pub force: bool,
    /// No time and no random identity in a SIF file; SOURCE_DATE_EPOCH sets the time
    #[arg(long)]
    pub deterministic: bool,
    /// What is made
    #[command(flatten)]
    pub made: Made,
    /// Which of an image, and how to tell of it
    #[command(flatten)]
    pub which: Which,
    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// What to write
    #[arg(value_name = "DESTINATION")]
    pub destination: String,
}

/// `push`.
#[derive(Args, Debug)]
#[command(after_long_help = "An image that was built here is sent with the layers of its base \
    and its own; what the registry has is not sent again. Log in first: sampan login REGISTRY. \
    Examples:
  sampan push registry.example/me/solver:1
  sampan push solver docker://registry.example/me/solver:1
  sampan push image.sif registry.example/me/solver:1")]
pub struct PushArgs {
    /// How to compress layers that have no form yet: gzip[:LEVEL] or zstd[:LEVEL]
    #[arg(long, value_name = "METHOD")]
    pub compression: Option<String>,
    /// Which of an image, and how to tell of it
    #[command(flatten)]
    pub which: Which,
    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// The repository, with its registry [default: the image's name]
    #[arg(value_name = "NAME[:TAG]")]
    pub destination: Option<String>,
}

/// `save`.
#[derive(Args, Debug)]
#[command(after_long_help = "docker load and podman load read it. Other forms: sampan convert. \
    Examples:
  sampan save -o solver.tar solver
  sampan save solver | ssh other sampan load")]
pub struct SaveArgs {
    /// The file to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// `load`.
#[derive(Args, Debug)]
#[command(after_long_help = "Archives of docker save, podman save and OCI archives. Each image \
    keeps its name.")]
pub struct LoadArgs {
    /// The archive [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `commit`.
#[derive(Args, Debug)]
#[command(after_long_help = "Containers leave nothing behind, unless what they write is kept in \
    an overlay directory; that becomes a layer over the image. Examples:
  sampan run --overlay changes debian:12 sh -c 'echo hello >/greeting'
  sampan commit --change 'CMD [\"cat\", \"/greeting\"]' changes debian:12 greeting
  sampan run greeting")]
pub struct CommitArgs {
    /// An instruction of a Dockerfile for the configuration, such as ENV A=b; may be given
    /// several times
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    pub changes: Vec<String>,
    /// The overlay directory
    #[arg(value_name = "DIRECTORY")]
    pub overlay: PathBuf,
    /// The image that it lies over
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Name of the new image
    #[arg(value_name = "NAME[:TAG]")]
    pub name: String,
}

/// `tag`.
#[derive(Args, Debug)]
pub struct TagArgs {
    /// The image, by name, or by digest or the beginning of one
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// The new name; without a registry it is one of this store alone
    #[arg(value_name = "NAME[:TAG]")]
    pub name: String,
}

/// `history`.
#[derive(Args, Debug)]
pub struct HistoryArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// `prune`.
#[derive(Args, Debug)]
#[command(after_long_help = "Without --all, what goes is what crashes left behind, and images \
    that no name leads to. Images in use stay.")]
pub struct PruneArgs {
    /// Also images that have names
    #[arg(short, long)]
    pub all: bool,
    /// Keep what is younger: a number with s, m, h, d or w
    #[arg(long, value_name = "AGE")]
    pub older_than: Option<String>,
    /// Only say what would go
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `login`.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  sampan login ghcr.io
  sampan login --username ann --password-stdin r.example:5000 <token-file
  sampan login --password-stdin library://library.example <token-file")]
pub struct LoginArgs {
    /// The registry, host[:port][/namespace], or library://host[:port]
    #[arg(value_name = "REGISTRY")]
    pub registry: String,
    /// User name; asked for on a terminal
    #[arg(short, long, value_name = "NAME")]
    pub username: Option<String>,
    /// Read the password or token from standard input
    #[arg(long)]
    pub password_stdin: bool,
}

/// `logout`.
#[derive(Args, Debug)]
pub struct LogoutArgs {
    /// The registry, host[:port][/namespace], or library://host[:port]
    #[arg(value_name = "REGISTRY")]
    pub registry: String,
}

/// `doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Also look whether this registry answers
    #[arg(long = "registry", value_name = "HOST[:PORT]")]
    pub registries: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `config`.
#[derive(Args, Debug)]
pub struct ConfigArgs {
    /// What to do with it
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every value and where it comes from
    ///
    /// Flags win over SAMPAN_* variables, those over ~/.config/sampan/config.toml,
    /// that over /etc/sampan/config.toml, and that over the defaults.
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check configuration files: keys, values, and what they name on this host
    ///
    /// Without a file, the site's and your own. The exit code is 1 where something is wrong.
    Check {
        /// The file, read as a site's
        file: Option<PathBuf>,
        /// Read FILE as a user's, which may not set what is the site's alone
        #[arg(long, requires = "file")]
        user: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}
