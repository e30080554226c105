//! How a launcher inside of a container starts processes on other nodes.

use std::ffi::OsString;
use std::fmt;

use serde::Serialize;

use crate::lossy_list;

/// What starts a process on another node of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum RemoteShell {
    /// Slurm's srun.
    Srun,
    /// PBS's pbs_tmrsh.
    Tmrsh,
    /// A program that is called as ssh(1) is, for these hosts.
    Shell {
        /// The program and its first words.
        program: Vec<String>,
        /// The hosts that may be reached.
        hosts: Vec<String>,
    },
}

impl fmt::Display for RemoteShell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Srun => f.write_str("srun"),
            Self::Tmrsh => f.write_str("pbs_tmrsh"),
            Self::Shell { program, .. } => f.write_str(&program.join(" ")),
        }
    }
}

/// Other nodes, for a launcher of the image: an agent inside hands what it is to
/// start to a helper outside, over a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remote {
    /// What starts it there.
    pub shell: RemoteShell,
    /// The name of the socket, in the abstract namespace (unix(7)).
    pub socket: String,
    /// The program and words that start a command in a container like this one;
    /// the command follows.
    #[serde(serialize_with = "lossy_list")]
    pub again: Vec<OsString>,
}
