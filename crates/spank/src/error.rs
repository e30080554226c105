//! What can go wrong, as srun prints it.

use std::io;
use std::path::PathBuf;

/// Why a flag cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// A flag without a value.
    #[error("{0}: a value is expected")]
    Empty(String),
    /// A flag given twice, with different values.
    #[error("{flag}: given twice, as {first:?} and {second:?}")]
    Twice {
        /// The flag.
        flag: String,
        /// Its first value.
        first: String,
        /// Its second value.
        second: String,
    },
    /// Flags that contradict each other.
    #[error("{0} and {1} contradict each other")]
    Contradiction(String, String),
    /// A variable that is neither true nor false.
    #[error("{variable}={value:?}: expected yes or no")]
    Switch {
        /// The variable.
        variable: String,
        /// Its value.
        value: String,
    },
    /// A mount that cannot be read.
    #[error("--container-mounts: {text:?}: {reason}")]
    Mount {
        /// The mount.
        text: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A working directory that is not in the container.
    #[error("--container-workdir: {0:?} must start with /")]
    Workdir(String),
    /// A name that is none.
    #[error(
        "--container-name: {0:?} is no name: expected up to 64 of A-Z a-z 0-9 _ . -, not a dot first"
    )]
    Name(String),
    /// A flag of a name that is not known.
    #[error("--container-name: {0:?} is not known: expected auto, create, no_exec or exec")]
    NameFlag(String),
    /// An image's name that cannot be read.
    #[error("--container-image: {0}")]
    Image(#[from] types::EnrootNameError),
    /// An argument in plugstack.conf.
    #[error("plugstack.conf: {0:?} is not known: expected sampan=/PATH")]
    Argument(String),
}

/// Why a step cannot have its container.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A container that is not running.
    #[error("--container-name: no container {0:?} of this job runs on this node")]
    NotRunning(String),
    /// A flag that would change a container that is there.
    #[error(
        "{0} changes nothing of a container that runs: leave it out with --container-name=NAME:exec"
    )]
    Fixed(&'static str),
    /// A flag.
    #[error(transparent)]
    Flag(#[from] FlagError),
    /// Flags about a container without one.
    #[error("--{0} needs --container-image or --edf")]
    NoImage(&'static str),
    /// sampan is not on the node.
    #[error("there is no sampan on this node: looked for {}, and along PATH; the argument \
             sampan=/PATH in plugstack.conf says where it is", .0.display())]
    NoSampan(PathBuf),
    /// A path that no script's first line can hold.
    #[error("{0:?} cannot be used: the path of sampan must have no spaces and 100 bytes at most")]
    SampanPath(PathBuf),
    /// sampan could not be started.
    #[error("cannot start {program:?}: {source}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// sampan has said what is wrong.
    #[error("{}", .0.trim_end())]
    Sampan(String),
    /// The step is one that Slurm tells nothing about.
    #[error("Slurm does not say what this step is ({0})")]
    Slurm(&'static str),
    /// Nothing to put in the place of the task's program.
    #[error("the step has no program")]
    NoProgram,
    /// Programs that Slurm shows to no plugin on the node, as srun sent them.
    #[error(
        "--multi-prog needs this plugin where srun runs, too: install it there, or write \
         `sampan exec IMAGE PROGRAM` for each program in its file, without --container-image"
    )]
    MultiProg,
    /// The words for sampan have no place.
    #[error("cannot hand the task to sampan: {0}")]
    Task(#[source] io::Error),
    /// The tasks of the node cannot wait for each other.
    #[error("cannot make the tasks wait for their image: {0}")]
    Gate(#[source] io::Error),
    /// A named container's files.
    #[error("container {name:?}: {path:?}: {source}")]
    Named {
        /// The name.
        name: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The name is taken.
    #[error("container {0:?} exists already in this job on this node")]
    Exists(String),
    /// The name is not taken.
    #[error(
        "there is no container {0:?} in this job on this node: give --container-image to make it"
    )]
    Unknown(String),
    /// The name stands for another image.
    #[error("container {name:?} was made from {old}, not from {new}")]
    OtherImage {
        /// The name.
        name: String,
        /// Its image.
        old: String,
        /// The image given.
        new: String,
    },
    /// The container is written to, or about to be.
    #[error("container {0:?} is in use by another step on this node, which may write to it")]
    Busy(String),
    /// Several nodes would save one file.
    #[error(
        "--container-save needs a step on one node: {0} tasks are not all on this one, and each node would write the file"
    )]
    Save(u32),
    /// A container that takes no writes has nothing to save.
    #[error("--container-save with --container-readonly would save nothing")]
    SaveReadOnly,
    /// A container whose image the plugin does not know.
    #[error("{0} needs --container-image: the image of an EDF is known to sampan alone")]
    EdfImage(&'static str),
}
