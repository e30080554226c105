//! The cluster of these tests, and Slurm's commands on it.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

pub use cluster::NODES;
use harness::{Place, Ran, WAIT_FOR, required, run};

/// Nothing waits longer for a command, in seconds.
const LONGEST: &str = "900";

/// A running cluster, for all tests of this process.
pub struct Cluster(cluster::Cluster);

impl Cluster {
    /// The cluster; started when first asked for.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn get() -> &'static Self {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        let (plugin, sampan) = (required("SAMPAN_SPANK"), required("SAMPAN_BIN"));
        CLUSTER.get_or_init(|| {
            let user = required("SAMPAN_TEST_USER");
            let started = cluster::Cluster::start(Path::new(&plugin), Path::new(&sampan), &user);
            Self(started.unwrap())
        })
    }

    /// A command of Slurm as the ordinary user, in the place's working
    /// directory; ended when it hangs.
    #[must_use]
    pub fn command(&self, place: &Place, program: &str) -> Command {
        let mut command = place.command("timeout");
        command.args(["-k", "5", LONGEST, program]).env("SLURM_CONF", self.0.conf());
        command
    }

    /// Runs a command of Slurm.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn run(&self, place: &Place, program: &str, args: &[&str]) -> Ran {
        run(self.command(place, program).args(args))
    }

    /// Runs srun.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn srun(&self, place: &Place, args: &[&str]) -> Ran {
        self.run(place, "srun", args)
    }

    /// Runs a shell script from which Slurm's commands can be called, and [`WAIT_FOR`].
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn shell(&self, place: &Place, script: &str) -> Ran {
        self.run(place, "bash", &["-c", &format!("{WAIT_FOR}\n{script}")])
    }
}

/// What every test of a step begins with.
#[must_use]
pub fn image_flag(image: &str) -> String {
    format!("--container-image={image}")
}
