//! Apptainer as a peer. Each run passes through nsenter(1) and setpriv(1), which
//! costs it two program starts.

use std::path::PathBuf;
use std::process::Stdio;

use super::Job;
use crate::apptainer::Namespace;
use crate::error::Result;
use crate::run::{root_shell, run};
use crate::setup::USER;

/// Apptainer, and a SIF file of its own.
pub(super) struct Apptainer {
    namespace: Namespace,
    sif: PathBuf,
}

impl Apptainer {
    /// Enters the root that has it, and makes the SIF file unless it is there.
    pub(super) fn enter(job: &Job) -> Result<Self> {
        let apptainer = Self { namespace: Namespace::enter()?, sif: job.dir.join("image.sif") };
        if !apptainer.sif.exists() {
            println!("bench: Apptainer makes its SIF file");
            let words = apptainer.words(&["pull", "--no-https"]).join(" ");
            let image = format!("docker://{}/numpy:latest", job.registry);
            let sif = apptainer.sif.display();
            run(root_shell(&format!("{words} {sif} {image}")).stderr(Stdio::null()))?;
        }
        Ok(apptainer)
    }

    pub(super) fn sif(&self) -> String {
        self.sif.display().to_string()
    }

    /// The words that run Apptainer as the ordinary user.
    pub(super) fn words(&self, rest: &[&str]) -> Vec<String> {
        let mount = self.namespace.mount();
        let (user, group) = (format!("--reuid={USER}"), format!("--regid={USER}"));
        let home = format!("HOME=/home/{USER}");
        let cache = format!("APPTAINER_CACHEDIR=/home/{USER}/.apptainer-bench");
        let before =
            ["nsenter", &mount, "setpriv", &user, &group, "--init-groups", "env", &home, &cache];
        let words = before.iter().copied().chain(["apptainer", "--silent"]);
        words.chain(rest.iter().copied()).map(str::to_owned).collect()
    }
}
