//! `build`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::images::Made;

/// `build`.
#[derive(Args, Debug)]
#[command(
    after_long_help = "RUN commands are root, with every owner that they set: chown, useradd, \
    apt, dnf and the scripts of packages work as in a build by root, and the image has the owners, \
    devices and file capabilities that such a build would have given it. No daemon takes \
    part, and no subuid range and no setuid program but with --root-emulation=subid.

--output takes what sampan convert does: NAME.sif, NAME.sqfs, oci:PATH[:TAG], \
    oci-archive:PATH[:TAG], docker-archive:PATH[:NAME], docker://REGISTRY/NAME[:TAG]; or the form \
    of docker build, type=oci|docker|sif|squashfs|registry,dest=PATH|name=NAME.

Definition files begin with docker, oci, oci-archive, docker-archive, localimage, oras, \
    library (with Library: URL, if not the configured one), scratch, busybox, host, debootstrap, yum, dnf, zypper or arch. The last five take packages from \
    MirrorURL:, else the configuration's mirrors, else the mirrors of this host; Keyring: names \
    the keys that must have signed them, if not those of this host; Include: names more packages. \
    debootstrap also takes Variant: minbase, buildd or essential, Components: and \
    Check-Valid-Until: no; yum and its like UpdateURL:, and MirrorURL: metalink=URL or \
    mirrorlist=URL; arch Components: [core extra]; host Exclude: paths.

Layers are kept by what they were made from: another checkout of the same files finds them. With \
    SOURCE_DATE_EPOCH two builds of the same files give the same image. Examples:
  sampan build -t solver .
  sampan build -t solver:2 -f Dockerfile.mpi --build-arg MPI=4.2 .
  sampan build -o solver.sif . && sampan run solver.sif"
)]
pub struct BuildArgs {
    /// Name of the image in the store; may be given several times
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    pub tags: Vec<String>,
    /// The Dockerfile or Apptainer definition file, told apart by what it says; - is standard
    /// input [default: CONTEXT/Dockerfile, Containerfile or Apptainer.def]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Also write the image here; may be given several times
    #[arg(short, long = "output", value_name = "DESTINATION")]
    pub outputs: Vec<String>,
    /// The stage to build [default: the last one]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// A variable of the build; without a value, that of the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    pub build_args: Vec<String>,
    /// A file of such lines
    #[arg(long = "build-arg-file", value_name = "FILE")]
    pub build_arg_files: Vec<PathBuf>,
    /// A file that RUN --mount=type=secret shows: id=NAME,src=FILE or id=NAME,env=VARIABLE
    #[arg(long = "secret", value_name = "SECRET")]
    pub secrets: Vec<String>,
    /// An agent for RUN --mount=type=ssh: NAME[=SOCKET] [default socket: SSH_AUTH_SOCK]
    #[arg(long = "ssh", value_name = "NAME[=SOCKET]")]
    pub agents: Vec<String>,
    /// Also write the image as a directory
    #[arg(long, value_name = "DIRECTORY")]
    pub sandbox: Option<PathBuf>,
    /// Make one layer of all
    #[arg(long)]
    pub squash: bool,
    /// Open a shell where a RUN fails
    #[arg(long)]
    pub shell_on_failure: bool,
    /// Leave out the %test of a definition file
    #[arg(long, visible_alias = "notest")]
    pub no_test: bool,
    /// Take layers of other builds from here: a directory, or the name of an image in a registry;
    /// may be given several times
    #[arg(long = "cache-from", value_name = "PLACE")]
    pub cache_from: Vec<String>,
    /// Put the layers of this build there for others
    #[arg(long = "cache-to", value_name = "PLACE")]
    pub cache_to: Vec<String>,
    /// Do every step anew
    #[arg(long)]
    pub no_cache: bool,
    /// How RUN is root: consistent: owners and identities are recorded and shown; fast: changes of
    /// them succeed and do nothing; subid: the kernel does them, with the caller's ranges in
    /// /etc/subuid and /etc/subgid and the setuid programs newuidmap and newgidmap; none: they fail
    #[arg(long, value_name = "MODE", default_value = "consistent")]
    #[arg(value_parser = PossibleValuesParser::new(["consistent", "fast", "subid", "none"]))]
    pub root_emulation: String,
    /// Seconds since 1970 that no file of the image is younger than [env: SOURCE_DATE_EPOCH]
    #[arg(long, value_name = "SECONDS")]
    pub timestamp: Option<u32>,
    /// How steps are shown: plain: lines, with all that commands say; auto: the same, but on a
    /// terminal one line for each step and what its command said last; json; quiet
    #[arg(long, value_name = "HOW", default_value = "auto")]
    #[arg(value_parser = PossibleValuesParser::new(["auto", "plain", "json", "quiet"]))]
    pub progress: String,
    /// When to ask registries: missing, always or never
    #[arg(long, value_name = "WHEN")]
    pub pull: Option<String>,
    /// What is made
    #[command(flatten)]
    pub made: Made,
    /// Platform of the image, os/architecture[/variant]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// The directory that COPY takes from
    #[arg(value_name = "CONTEXT", default_value = ".")]
    pub context: PathBuf,
}
