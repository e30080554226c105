//! Instances: containers that stay until they are stopped, by name.
//!
//! Nothing watches them: an instance is its first process ([`runtime::instance`]) and a
//! file that says so (module `record`). Both are of one node.

mod record;
mod stats;

use std::ffi::OsString;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use host::DirectoryTree;
use plan::{Contribution, Exec, Rank, RunRequest, Stage};
use runtime::instance::Detached;
use runtime::{JoinError, RuntimeError};
use rustix::process::{Pid, Signal};
use store::{Liveness, Owner};

use crate::{Container, Engine, Error, Resolved, Result, bundle, unpack};

use record::{Inside, Record, State};
pub use stats::{Sampler, Stats};

/// What a name of an instance begins with where an image is expected.
pub const SCHEME: &str = "instance://";

/// How long a namespace may take to go once it has been killed.
const KILLED: Duration = Duration::from_secs(10);

/// An instance that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Whether it is of this node and PID namespace: no other can be reached.
    pub here: bool,
    /// Its init.
    pub pid: u32,
    /// What a person called the image; a path is absolute.
    pub image: String,
    /// Seconds since 1970 at which it was started.
    pub started_at: u64,
    /// What it has written to standard output.
    pub out: PathBuf,
    /// What it has written to standard error.
    pub err: PathBuf,
    inside: Inside,
    owner: Owner,
    path: PathBuf,
}

/// How an instance is to be.
#[derive(Clone, Debug, Default)]
pub struct InstanceOptions {
    /// A file to write its init's number to.
    pub pid_file: Option<PathBuf>,
    /// Whether it ends with its application.
    pub ends: bool,
}

/// A name that is being given to an instance.
pub struct Naming {
    place: record::Place,
    claim: record::Claim,
}

/// How an instance came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It ended when it was asked to.
    Ended,
    /// It was killed.
    Killed,
}

impl Engine {
    fn instances_dir(&self) -> Result<PathBuf> {
        let dir = unpack::own_directory(&unpack::cache(&self.config().scratch.value))?;
        unpack::own_directory(&dir.join(unpack::INSTANCES))
    }

    /// The instances of this user, on every node that shares the scratch directory.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn instances(&self) -> Result<Vec<Instance>> {
        if !unpack::cache(&self.config().scratch.value).exists() {
            return Ok(Vec::new());
        }
        let dir = self.instances_dir()?;
        let failed = |source| Error::InstanceFile { path: dir.clone(), source };
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let place = record::Place::new(entry.map_err(failed)?.path());
            all.extend(
                place.records()?.into_iter().filter_map(|found| Instance::of(found, &place)),
            );
        }
        all.sort_by(|a, b| (!a.here, &a.node, &a.name).cmp(&(!b.here, &b.node, &b.name)));
        Ok(all)
    }

    /// An instance of this node.
    ///
    /// # Errors
    /// When there is none of that name, or on another node only.
    pub fn instance(&self, name: &str) -> Result<Instance> {
        let name = name.strip_prefix(SCHEME).unwrap_or(name);
        let mut elsewhere = None;
        for instance in self.instances()? {
            match (instance.name == name, instance.here) {
                (true, true) => return Ok(instance),
                (true, false) => elsewhere = Some(instance.node),
                _ => {}
            }
        }
        let name = name.to_owned();
        Err(match elsewhere {
            Some(node) => Error::InstanceElsewhere { name, node },
            None => Error::NoInstance { name },
        })
    }

    /// Takes a name for an instance of this node. Nobody else has it until it is dropped
    /// or this process ends.
    ///
    /// # Errors
    /// When the name is none, or in use.
    pub fn name_instance(&self, name: &str) -> Result<Naming> {
        let dir = self.instances_dir()?.join(crate::named::component(&Owner::current().host)?);
        let place = record::Place::new(unpack::own_directory(&dir)?);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let claim = place.claim(name, now)?;
        Ok(Naming { place, claim })
    }

    /// Starts a container that stays, under a name. The exit code is 0, or that of a
    /// process of the container that has failed and called `report`. Must be called while
    /// the process has one thread.
    ///
    /// # Errors
    /// What failed in this process. There is no instance then, and no name is taken.
    pub fn start_instance(
        &self,
        container: Container,
        resolved: &Resolved,
        naming: Naming,
        options: &InstanceOptions,
        report: &dyn Fn(Error) -> i32,
    ) -> Result<i32> {
        let Naming { place, mut claim } = naming;
        start(container, resolved, &place, &mut claim, options, report)
    }

    /// Runs a command in an instance of this node; its exit code (128+n for signal n).
    /// `request` says what, and its environment is the caller's but for `unset`. Must be
    /// called while the process has one thread.
    ///
    /// # Errors
    /// When the instance has ended, or may not be entered; the process is then to report
    /// and to end, as it may be one of the container's.
    pub fn exec_instance(
        &self,
        instance: &Instance,
        mut request: RunRequest,
        unset: &[String],
    ) -> Result<i32> {
        let running = instance.open()?;
        let inside = &instance.inside;
        let mut facts = host::facts();
        facts.env.retain(|(name, _)| !unset.iter().any(|one| name == one.as_str()));
        request.instance = Some(instance.name.clone());
        let variable = |(name, value): &(String, Option<String>)| {
            (OsString::from(name), value.as_ref().map(OsString::from))
        };
        let added = Contribution {
            env: inside.env.iter().map(variable).collect(),
            ..Contribution::new(Rank::Host, "set when the instance was started")
        };
        let root = running.root();
        let open = |source: std::io::Error| match source.kind() {
            // A process that is ending has no root directory any more.
            std::io::ErrorKind::NotFound => instance.ended(),
            _ => Error::InstanceRoot { name: instance.name.clone(), source },
        };
        let tree = DirectoryTree::open(root).map_err(open)?;
        let exec: Exec = plan::exec(&request, &facts, &tree, &inside.home, vec![added])?;
        drop(tree);
        running.exec(&exec, &inside.bounds).map_err(|error| match error {
            RuntimeError::Join(JoinError::Killed(_)) => {
                Error::InstanceKilled { name: instance.name.clone() }
            }
            RuntimeError::Join(JoinError::Ended(_)) => instance.ended(),
            error => error.into(),
        })
    }

    /// Stops instances of this node, all at once: each process in them gets the signal,
    /// and what is left after the timeout is killed. The signal is that of the image, or
    /// SIGTERM, where none is given. Says of each how it ended.
    ///
    /// # Errors
    /// When one cannot be signalled or does not end, after the others have been.
    pub fn stop_instances(
        &self,
        instances: &[Instance],
        signal: Option<i32>,
        timeout: Duration,
        said: &mut dyn FnMut(&Instance, Stopped),
    ) -> Result<()> {
        let mut failed = None;
        let mut stopping = Vec::new();
        for instance in instances {
            let own = instance.inside.config.stop_signal.as_deref();
            let own = || own.and_then(types::signal_number);
            let number = signal.or_else(own).unwrap_or(Signal::TERM.as_raw());
            match instance.signal(number) {
                Ok(running) => stopping.push((instance, running, number)),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let begun = Instant::now();
        for (instance, running, number) in stopping {
            match instance.end(running, number, timeout.saturating_sub(begun.elapsed())) {
                Ok(how) => said(instance, how),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Makes the container and writes it down.
fn start(
    container: Container,
    resolved: &Resolved,
    place: &record::Place,
    claim: &mut record::Claim,
    options: &InstanceOptions,
    report: &dyn Fn(Error) -> i32,
) -> Result<i32> {
    let Container { plan, image, keeper, share, bundles, added_env } = container;
    let name = claim.record.name.clone();
    let log = |stream: &str| {
        let path = place.log(&name, stream);
        record::forget(&path)?;
        let open = std::fs::File::options().append(true).create_new(true).mode(0o600).open(&path);
        open.map_err(|source| Error::InstanceFile { path, source })
    };
    let null = runtime::instance::null();
    let null = null.map_err(|source| Error::InstanceFile { path: "/dev/null".into(), source })?;
    let (output, error) = (log("out")?.into(), log("err")?.into());
    let detached = Detached { input: null, output, error, stays: !options.ends };
    let home = plan.env.iter().find(|var| var.name == "HOME");
    let inside = Inside {
        image: resolved.name.clone(),
        digest: resolved.stored.as_ref().map(|stored| stored.id.to_string()),
        root: plan.rootfs.source.clone(),
        config: resolved.config.clone(),
        scripts: resolved.scripts,
        home: home.map_or_else(|| "/".into(), |home| PathBuf::from(&home.value)),
        env: added_env,
        bounds: plan.bounds(),
    };
    let told = plan.hooks.iter().any(|hook| hook.stage != Stage::Precreate);
    let bundle = told.then(|| bundle::write(&plan, &bundles)).transpose()?;
    let report = |error: RuntimeError| report(error.into());
    let started = runtime::instance::start(
        &plan,
        image.as_ref(),
        keeper,
        share.as_ref(),
        bundle.as_deref(),
        &detached,
        &report,
    )?;
    let started = match started {
        Ok(started) => started,
        Err(code) => return Ok(code),
    };
    let pid = started.init().as_raw_pid().unsigned_abs();
    let owner = Owner::of(pid).ok_or_else(|| Error::InstanceEnded { name: name.clone() })?;
    if let Some(path) = &options.pid_file {
        let written = std::fs::write(path, format!("{pid}\n"));
        written.map_err(|source| Error::InstanceFile { path: path.clone(), source })?;
    }
    claim.record.state = State::Running;
    claim.record.owner = owner;
    claim.record.container = Some(inside);
    claim.write()?;
    started.stay()?;
    claim.keep();
    Ok(0)
}

impl Instance {
    /// None before it runs.
    fn of(found: record::Found, place: &record::Place) -> Option<Self> {
        let record::Found { record: Record { name, owner, started_at, container, .. }, path, life } =
            found;
        let inside = container?;
        Some(Self {
            node: owner.host.clone(),
            here: life == Liveness::Alive,
            pid: owner.pid,
            image: inside.image.clone(),
            started_at,
            out: place.log(&name, "out"),
            err: place.log(&name, "err"),
            name,
            inside,
            owner,
            path,
        })
    }

    /// The image, as it was resolved when the instance was started.
    #[must_use]
    pub fn resolved(&self) -> Resolved {
        let Inside { image, root, config, scripts, .. } = &self.inside;
        let (name, root, config) = (image.clone(), root.clone(), config.clone());
        Resolved { name, root, config, stored: None, scripts: *scripts, sif: Default::default() }
    }

    /// The digest of an image of the store.
    pub(crate) fn digest(&self) -> Option<&str> {
        self.inside.digest.as_deref()
    }

    /// Whether processes in it are root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.inside.bounds.id_map.uid == 0
    }

    fn ended(&self) -> Error {
        Error::InstanceEnded { name: self.name.clone() }
    }

    /// Takes hold of its processes.
    fn open(&self) -> Result<runtime::Container> {
        if !self.here {
            let (name, node) = (self.name.clone(), self.node.clone());
            return Err(Error::InstanceElsewhere { name, node });
        }
        let pid = Pid::from_raw(self.pid.cast_signed()).ok_or_else(|| self.ended())?;
        runtime::Container::open(pid, self.owner.pid_start_time).map_err(|_| self.ended())
    }

    fn signal(&self, number: i32) -> Result<Option<runtime::Container>> {
        let running = match self.open() {
            // It was faster.
            Err(Error::InstanceEnded { .. }) => return Ok(None),
            running => running?,
        };
        let refused = |source| Error::InstanceSignal { name: self.name.clone(), source };
        running.stop(number).map_err(refused)?;
        Ok(Some(running))
    }

    /// Waits for its end, and kills it when that does not come.
    fn end(
        &self,
        running: Option<runtime::Container>,
        number: i32,
        timeout: Duration,
    ) -> Result<Stopped> {
        let kill = Signal::KILL.as_raw();
        let mut how = if number == kill { Stopped::Killed } else { Stopped::Ended };
        if let Some(running) = running {
            let refused = |source| Error::InstanceSignal { name: self.name.clone(), source };
            if !running.ended(timeout).map_err(refused)? {
                running.stop(kill).map_err(refused)?;
                how = Stopped::Killed;
                if !running.ended(KILLED).map_err(refused)? {
                    return Err(Error::InstanceStays { name: self.name.clone(), pid: self.pid });
                }
            }
        }
        record::forget(&self.path)?;
        Ok(how)
    }
}
