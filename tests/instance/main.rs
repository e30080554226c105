//! Promise: an instance stays until it is stopped, what is said of it is true whatever
//! has been killed, and it leaves nothing behind.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod entering;
mod life;
mod names;
mod stopping;

use std::ops::Deref;

/// A place whose instances end with it.
struct Place(harness::Place);

impl Place {
    fn new() -> Self {
        Self(harness::Place::new())
    }
}

impl Deref for Place {
    type Target = harness::Place;

    fn deref(&self) -> &harness::Place {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.sampan(&["instance", "stop", "--all", "--force"]);
    }
}

/// What every test does to instances.
impl Place {
    /// The names of those that are listed.
    fn listed(&self) -> Vec<String> {
        self.sampan(&["-q", "instance", "list"]).ok().lines().map(str::to_owned).collect()
    }

    /// The number of an instance's init, on the host.
    fn init(&self, name: &str) -> u32 {
        let text = self.sampan(&["instance", "list", "--json", name]).ok();
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        list["instances"][0]["pid"].as_u64().unwrap().try_into().unwrap()
    }

    /// Processes that were started for the place: image servers, inits and what is in
    /// their namespaces.
    fn processes(&self) -> String {
        let dir = self.path("").display().to_string();
        // The shell that looks has the path too, in its own words.
        self.shell(&format!("pgrep -a -f -- '{dir}' | grep -v -e pgrep -e '^[0-9]* grep'")).out
    }

    /// The image servers among them.
    fn servers(&self) -> Vec<u32> {
        let lines = self.processes();
        let pids = lines.lines().filter_map(|line| line.split(' ').next()?.parse().ok());
        let named = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
        pids.filter(|pid| named(pid).is_some_and(|name| name.trim() == "sampan-serve")).collect()
    }

    /// An image of Apptainer's form, with a start script.
    fn scripted(&self, startscript: &str) -> String {
        let root = std::path::PathBuf::from(self.image_dir());
        let scripts = root.join(".singularity.d");
        std::fs::create_dir_all(scripts.join("env")).unwrap();
        std::fs::write(scripts.join("env/90-environment.sh"), "export FROM_IMAGE=yes\n").unwrap();
        for (name, text) in [("startscript", startscript), ("runscript", "echo runs \"$@\"")] {
            std::fs::write(scripts.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(scripts.join(name), mode).unwrap();
        }
        self.give(&root);
        self.image_file()
    }
}
