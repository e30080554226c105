//! Flags of the commands that run a container.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Args, ValueEnum};

/// `run`.
#[derive(Args, Debug)]
#[command(override_usage = "sampan run [OPTIONS] {IMAGE|--edf NAME} [COMMAND [ARG]...]")]
#[command(after_long_help = "Everything after IMAGE belongs to the command. Examples:
  sampan run docker://python:3.12 python3 -c 'print(1)'
  sampan run -B /scratch:/data:ro --cwd /data image.sqsh ./solve
  sampan run --isolate alpine:3 sh -c 'id; ls /'
  sampan run --edf pytorch python3 train.py
  srun -n 64 sampan run mpi.sqsh ./simulation")]
pub struct RunArgs {
    /// Replace the image's entrypoint; an empty value removes it
    #[arg(long, value_name = "PROGRAM", help_heading = "Process")]
    pub entrypoint: Option<OsString>,
    /// With --edf: run the image's entrypoint, whatever the file says
    #[arg(long, requires = "edf", conflicts_with = "entrypoint", help_heading = "Process")]
    pub image_entrypoint: bool,
    /// Everything else.
    #[command(flatten)]
    pub container: ContainerArgs,
    /// The image, then the command in place of the image's own, and its arguments
    #[arg(required_unless_present = "edf", num_args = 1.., trailing_var_arg = true)]
    #[arg(value_names = ["IMAGE"])]
    pub words: Vec<OsString>,
}

/// `exec`.
#[derive(Args, Debug)]
#[command(override_usage = "sampan exec [OPTIONS] {IMAGE|--edf NAME} COMMAND [ARG]...")]
#[command(after_long_help = "The image's entrypoint, default command, user and working \
    directory are not used; its variables are. Examples:
  sampan exec debian:12 cat /etc/os-release
  sampan exec --root --writable ./rootfs apt-get update")]
pub struct ExecArgs {
    /// Everything else.
    #[command(flatten)]
    pub container: ContainerArgs,
    /// The image, then the command and its arguments
    #[arg(required = true, num_args = 1.., trailing_var_arg = true, value_names = ["IMAGE"])]
    pub words: Vec<OsString>,
}

/// `test`.
#[derive(Args, Debug)]
#[command(override_usage = "sampan test [OPTIONS] IMAGE [ARG]...")]
#[command(after_long_help = "Runs the test script of an image that was made from a definition \
    file, as Apptainer's test does. Example:
  sampan test solver.sif")]
pub struct TestArgs {
    /// Everything else.
    #[command(flatten)]
    pub container: ContainerArgs,
    /// The image, then arguments for the script
    #[arg(required = true, num_args = 1.., trailing_var_arg = true, value_names = ["IMAGE"])]
    pub words: Vec<OsString>,
}

/// `shell`.
#[derive(Args, Debug)]
#[command(override_usage = "sampan shell [OPTIONS] {IMAGE|--edf NAME} [ARG]...")]
#[command(after_long_help = "Opens bash where the image has it, else sh. Examples:
  sampan shell debian:12
  sampan shell --writable-tmpfs --root image.sqsh")]
pub struct ShellArgs {
    /// The shell to open
    #[arg(short, long, value_name = "PROGRAM", help_heading = "Process")]
    pub shell: Option<OsString>,
    /// Everything else.
    #[command(flatten)]
    pub container: ContainerArgs,
    /// The image, then arguments for the shell
    #[arg(required_unless_present = "edf", num_args = 1.., trailing_var_arg = true)]
    #[arg(value_names = ["IMAGE"])]
    pub words: Vec<OsString>,
}

/// Whether the network is the host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Net {
    /// The host's network
    #[default]
    Host,
    /// Loopback alone
    None,
}

/// How `--dry-run` prints the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    /// Lines for people
    Text,
    /// The plan itself
    Json,
}

/// What `run`, `exec` and `shell` share.
#[derive(Args, Clone, Debug, Default)]
pub struct ContainerArgs {
    /// Be root inside; files made are yours outside
    #[arg(long, visible_alias = "fakeroot", conflicts_with = "user", help_heading = "Identity")]
    pub root: bool,
    /// With --root: what changes of owner and identity do. none: fail; fast: succeed and do
    /// nothing; consistent: are recorded and shown, in a PID namespace; subid: are done by the
    /// kernel, with the caller's ranges in /etc/subuid and /etc/subgid
    #[arg(long, value_name = "MODE", requires = "root", help_heading = "Identity")]
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(["none", "fast", "consistent", "subid"]))]
    pub root_emulation: Option<String>,
    /// Be this user of the image, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]", help_heading = "Identity")]
    pub user: Option<String>,

    /// Minimal /dev, and empty /tmp, /var/tmp and home in memory
    #[arg(short, long, help_heading = "Isolation")]
    pub contain: bool,
    /// As --contain, with a clean environment and private PID and IPC namespaces
    #[arg(short = 'C', long, help_heading = "Isolation")]
    pub containall: bool,
    /// As --containall, with no network, a host name of its own, masked paths and a read-only /sys
    #[arg(long, help_heading = "Isolation")]
    pub isolate: bool,
    /// As --containall --writable-tmpfs, which is near to what Docker does
    #[arg(long, conflicts_with = "writable", help_heading = "Isolation")]
    pub compat: bool,
    /// A PID namespace: only the container's processes are seen
    #[arg(long, help_heading = "Isolation")]
    pub pid: bool,
    /// An IPC namespace: System V IPC and message queues of its own
    #[arg(long, help_heading = "Isolation")]
    pub ipc: bool,
    /// A UTS namespace: a host name of its own
    #[arg(long, help_heading = "Isolation")]
    pub uts: bool,
    /// The network: the host's, or loopback alone
    #[arg(
        long,
        visible_alias = "network",
        value_enum,
        value_name = "NET",
        help_heading = "Isolation"
    )]
    pub net: Option<Net>,
    /// Ask these servers for names, in place of the host's
    #[arg(
        long,
        value_name = "ADDRESS",
        value_delimiter = ',',
        conflicts_with = "writable",
        help_heading = "Isolation"
    )]
    pub dns: Vec<IpAddr>,
    /// Set the host name inside; implies --uts
    #[arg(long, value_name = "NAME", help_heading = "Isolation")]
    pub hostname: Option<String>,

    /// Refuse writes to the image; this is the default
    #[arg(long, conflicts_with_all = ["writable", "writable_tmpfs"], help_heading = "Writing")]
    pub read_only: bool,
    /// Keep changes in memory until the container ends
    #[arg(long, conflicts_with = "writable", help_heading = "Writing")]
    pub writable_tmpfs: bool,
    /// Write into the image itself, which must be a directory
    #[arg(long, help_heading = "Writing")]
    pub writable: bool,
    /// Keep changes in a directory; with :ro, only show those in it. Topmost first
    #[arg(long, value_name = "DIR[:ro]", help_heading = "Writing")]
    pub overlay: Vec<String>,

    /// Show a file or directory of the host inside
    ///
    /// DST is SRC where it is left out. OPTIONS are ro, rw, bind (without the
    /// mounts below) and rbind. Write \: and \, for these characters in a path.
    /// Several binds can be separated by commas where the next one starts with /.
    #[arg(
        short = 'B',
        long,
        visible_short_alias = 'v',
        visible_alias = "volume",
        value_name = "SRC[:DST[:OPTIONS]]",
        help_heading = "Mounts"
    )]
    pub bind: Vec<String>,
    /// Mount as Docker's --mount does: type=bind|tmpfs,source=SRC,target=DST,readonly
    #[arg(long, value_name = "SPEC", help_heading = "Mounts")]
    pub mount: Vec<String>,
    /// An empty directory in memory; OPTIONS are size= and mode=
    #[arg(
        short_alias = 'S',
        long,
        visible_alias = "scratch",
        value_name = "DST[:OPTIONS]",
        help_heading = "Mounts"
    )]
    pub tmpfs: Vec<String>,
    /// Home directory inside: your own at DST, or SRC at DST
    #[arg(
        short = 'H',
        long,
        value_name = "[SRC:]DST",
        conflicts_with = "no_home",
        help_heading = "Mounts"
    )]
    pub home: Option<String>,
    /// Do not show your home directory
    #[arg(long, help_heading = "Mounts")]
    pub no_home: bool,
    /// Default mounts to leave out: tmp, cwd, dev, sys, proc, network-files, localtime, accounts
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Mounts")]
    pub no_mount: Vec<String>,

    /// Show a device of the host: a CDI device VENDOR/CLASS=NAME, or a path of /dev
    ///
    /// CDI devices are those that `sampan cdi list` shows, with all that their specs say
    /// they need; VENDOR/CLASS=all is every one of a kind. A path may be followed by
    /// :PATH, its place inside; it is of use with --contain, where /dev is minimal.
    /// Can be given more than once.
    #[arg(long, value_name = "DEVICE", help_heading = "Devices")]
    pub device: Vec<String>,
    /// Show the GPUs of this host and their driver: all, none, nvidia or amd
    ///
    /// By the CDI specs of nvidia.com/gpu and amd.com/gpu where there are some, else as
    /// the driver is found. CUDA_VISIBLE_DEVICES and ROCR_VISIBLE_DEVICES are passed on.
    /// NVIDIA_DRIVER_CAPABILITIES=graphics adds what drawing and video need.
    #[arg(
        long,
        value_name = "MAKER",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "all",
        value_parser = PossibleValuesParser::new(["all", "none", "nvidia", "amd"]),
        help_heading = "Devices"
    )]
    pub gpu: Option<String>,
    /// As --gpu=nvidia
    #[arg(long, conflicts_with = "gpu", help_heading = "Devices")]
    pub nv: bool,
    /// As --gpu=amd
    #[arg(long, conflicts_with = "gpu", help_heading = "Devices")]
    pub rocm: bool,

    /// Set a variable; without a value, pass the one you have
    ///
    /// The value is taken literally and never seen by a shell.
    #[arg(short, long, value_name = "NAME[=VALUE]", help_heading = "Environment")]
    pub env: Vec<OsString>,
    /// Read variables from a file: a line each, # begins a comment; --env wins
    #[arg(long, value_name = "FILE", help_heading = "Environment")]
    pub env_file: Vec<PathBuf>,
    /// Pass nothing of your environment but TERM and the proxies
    #[arg(long, help_heading = "Environment")]
    pub cleanenv: bool,

    /// Start in this directory of the container
    #[arg(
        long,
        visible_aliases = ["cwd", "pwd"],
        value_name = "DIR",
        help_heading = "Process"
    )]
    pub workdir: Option<PathBuf>,

    /// Of an image made by Apptainer: the app whose process and variables are meant
    #[arg(long, value_name = "NAME", help_heading = "Process")]
    pub app: Option<String>,

    /// Take the image, mounts, variables and more from an environment definition file
    ///
    /// A name is looked for as NAME.toml in the directories of EDF_PATH, or else
    /// in edf_dirs of the configuration, by default ~/.edf. All words then belong to the command. Flags win over the file.
    #[arg(long, value_name = "NAME|PATH", help_heading = "Image")]
    pub edf: Option<String>,
    /// With --edf: this image in place of the file's
    #[arg(long, value_name = "IMAGE", requires = "edf", help_heading = "Image")]
    pub image: Option<String>,
    /// Whose MPI is used
    ///
    /// auto: the image's, wired to the launcher that started sampan (srun, mpirun, flux, PALS).
    /// host: the host's libraries in place of the image's, where they fit; sampan mpi check
    /// IMAGE tells. container: the image's, started by an mpirun inside, which reaches the
    /// other nodes of a job. none: nothing is done.
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(["auto", "host", "container", "none"]), help_heading = "Host")]
    pub mpi: Option<String>,
    /// How well the host's MPI has to fit: same major version, no older, or the same
    #[arg(long, value_name = "POLICY", value_parser = PossibleValuesParser::new(["major", "full", "strict"]), help_heading = "Host")]
    pub mpi_policy: Option<String>,

    /// Whose network libraries are used: host puts the host's libfabric, UCX and verbs in
    /// place of those that the image has, whatever its MPI is
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(["none", "host"]), help_heading = "Host")]
    pub fabric: Option<String>,
    /// Tell hooks something of the container
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Host")]
    pub annotation: Vec<String>,

    /// When to fetch the image
    #[arg(long, value_name = "POLICY", value_parser = PossibleValuesParser::new(["missing", "always", "never"]), help_heading = "Image")]
    pub pull: Option<String>,
    /// Platform of the image, os/architecture[/variant]
    #[arg(long, value_name = "PLATFORM", help_heading = "Image")]
    pub platform: Option<String>,

    /// Be one container with those that the same process starts and that are alike: all see
    /// what each of them writes to it
    ///
    /// Without it each has changes of its own. It is for the ranks of one launcher. The container
    /// stays as long as the process that starts them, an interactive shell too.
    #[arg(long, help_heading = "Isolation")]
    pub sharens: bool,

    /// Print what would be done, and do nothing
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "text",
        help_heading = "Planning"
    )]
    pub dry_run: Option<DryRun>,
    /// Print what would be done with the reason for each step; implies --dry-run
    #[arg(long, help_heading = "Planning")]
    pub explain: bool,

    /// Accepted for Docker's sake: standard input is always the command's own
    #[arg(short, long, help_heading = "Without effect")]
    pub interactive: bool,
    /// Accepted for Docker's sake: the terminal is always the command's own
    #[arg(short, long, help_heading = "Without effect")]
    pub tty: bool,
    /// Accepted for Docker's sake: nothing of a container ever stays
    #[arg(long, help_heading = "Without effect")]
    pub rm: bool,
    /// Accepted for Apptainer's sake: so it always is
    #[arg(
        long,
        visible_aliases = ["no-eval", "no-privs", "disable-cache"],
        action = ArgAction::Count,
        help_heading = "Without effect"
    )]
    pub userns: u8,
}
