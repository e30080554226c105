//! Stages that do not need each other, at the same time: each in a process of its
//! own, which fills the cache; the build then goes through them and finds all.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitOptions, waitpid};
use serde::{Deserialize, Serialize};
use sys::process::{Fork, exit_now, fork};

use engine::{Event, Progress, SharedProgress};
use types::ByteSize;

use crate::builder::{Builder, Watch};
use crate::dockerfile::Kind;
use crate::dockerfile::expand::expand;
use crate::error::{BuildError, Elsewhere, Result};
use crate::state::State;

/// What a process tells when it ends.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Report {
    failure: Option<Elsewhere>,
    last_output: Vec<u8>,
}

/// The stages of a recipe, by their numbers.
pub(crate) trait Stages {
    /// The earlier stages that a stage cannot do without.
    fn needs(&self, builder: &Builder<'_>, index: usize) -> Vec<usize>;
    /// What a stage is called.
    fn name(&self, builder: &Builder<'_>, index: usize) -> String;
    /// Fetches the image that a stage begins with, if it begins with one.
    fn fetch(&self, builder: &mut Builder<'_>, index: usize);
    /// Builds a stage whose needs are built.
    fn build(&self, builder: &mut Builder<'_>, index: usize) -> Result<State>;
}

/// Those of a Dockerfile.
pub(crate) struct OfDockerfile;

impl Stages for OfDockerfile {
    fn needs(&self, builder: &Builder<'_>, index: usize) -> Vec<usize> {
        builder.needs(index)
    }

    fn name(&self, builder: &Builder<'_>, index: usize) -> String {
        builder.stage_name(index)
    }

    fn fetch(&self, builder: &mut Builder<'_>, index: usize) {
        // What fails is told by the stage.
        let _ = builder.begins_with(index);
    }

    fn build(&self, builder: &mut Builder<'_>, index: usize) -> Result<State> {
        builder.stage(index)
    }
}

impl Builder<'_> {
    /// Builds these stages and all that they need, as many at once as there are
    /// processors; the last one of them is what comes of it.
    pub(crate) fn stages(&mut self, all: &dyn Stages, targets: &[usize]) -> Result<Option<State>> {
        let mut needed = BTreeMap::new();
        let mut todo = targets.to_vec();
        while let Some(index) = todo.pop() {
            if let Entry::Vacant(new) = needed.entry(index) {
                todo.extend(new.insert(all.needs(self, index)).iter());
            }
        }
        let mut done: HashSet<usize> = HashSet::new();
        let mut last = None;
        while done.len() < needed.len() {
            let open = needed.iter().filter(|(index, _)| !done.contains(index));
            // Needs are earlier stages: the first that is open can be built.
            let ready: Vec<usize> = open
                .filter(|(_, needs)| needs.iter().all(|need| done.contains(need)))
                .map(|(index, _)| *index)
                .collect();
            if ready.len() > 1 {
                self.together(all, &ready)?;
            }
            for index in &ready {
                let state = all.build(self, *index)?;
                if targets.last() == Some(index) {
                    last = Some(state);
                }
            }
            done.extend(ready);
        }
        Ok(last)
    }

    /// The earlier stages that a stage names.
    fn needs(&self, index: usize) -> Vec<usize> {
        let stage = &self.file().stages[index];
        let mut names = vec![stage.from.clone()];
        for instruction in &stage.instructions {
            match &instruction.kind {
                Kind::Copy(copy) => names.extend(copy.from.clone()),
                Kind::Run { mounts, .. } => {
                    let options = mounts.iter().flat_map(|mount| &mount.options);
                    let from = options.filter(|(name, _)| name == "from");
                    names.extend(from.filter_map(|(_, value)| value.clone()));
                }
                _ => {}
            }
        }
        let lookup = |name: &str| self.global(name);
        // A name that only the stage knows is found when it comes to it.
        let names = names.iter().filter_map(|name| expand(name, self.escape(), &lookup).ok());
        names.filter_map(|name| self.stage_index(&name, index)).collect()
    }

    fn together(&mut self, all: &dyn Stages, ready: &[usize]) -> Result<()> {
        for index in ready {
            // One after the other, so that their progress is readable.
            all.fetch(self, *index);
        }
        let most = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut failure = None;
        for group in ready.chunks(most.max(2)) {
            let mut running = Vec::new();
            for index in group {
                running.push((*index, self.start(all, *index)?));
            }
            for (index, (child, pipe)) in running {
                let mut bytes = Vec::new();
                // A process that was killed says nothing.
                let _ = File::from(pipe).read_to_end(&mut bytes);
                waitpid(Some(child), WaitOptions::empty())
                    .map_err(|e| BuildError::Fork(e.into()))?;
                // Its stage is built here, then.
                let Ok(report) = serde_json::from_slice::<Report>(&bytes) else { continue };
                self.made_elsewhere(index);
                if let (Some(told), None) = (report.failure, &failure) {
                    self.last_output = report.last_output;
                    failure = Some(told);
                }
            }
            if let Some(failure) = failure {
                return Err(BuildError::Elsewhere(failure));
            }
        }
        Ok(())
    }

    fn start(
        &mut self,
        all: &dyn Stages,
        index: usize,
    ) -> Result<(rustix::process::Pid, std::os::fd::OwnedFd)> {
        let (reader, writer) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|e| BuildError::Fork(e.into()))?;
        match fork().map_err(BuildError::Fork)? {
            Fork::Parent(child) => Ok((child, reader)),
            Fork::Child => {
                drop(reader);
                // It ends with the build; else it ends by itself.
                let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
                let report = self.alone(all, index);
                let bytes = serde_json::to_vec(&report).unwrap_or_default();
                let written = File::from(writer).write_all(&bytes);
                exit_now(i32::from(written.is_err()))
            }
        }
    }

    /// In a process of its own: the stage, with its name before every line.
    fn alone(&mut self, all: &dyn Stages, index: usize) -> Report {
        let name = all.name(self, index);
        let (engine, options, file) = (self.engine(), self.options(), self.file());
        let progress = Arc::new(Named { name: name.clone(), inner: self.progress().clone() });
        let known = self.known();
        self.watch().apart();
        let mut watch = Prefixed { name, rest: Vec::new(), inner: self.watch() };
        let built = Builder::new(engine, options, file, progress, &mut watch).map(|mut builder| {
            builder.know(known);
            let built = all.build(&mut builder, index);
            Report {
                failure: built.err().map(|error| Elsewhere::of(&error)),
                last_output: std::mem::take(&mut builder.last_output),
            }
        });
        let report = built.unwrap_or_else(|error| Report {
            failure: Some(Elsewhere::of(&error)),
            ..Report::default()
        });
        watch.flush();
        report
    }
}

/// Progress of one among several, in lines: bars of several processes would be drawn
/// over each other.
struct Named {
    name: String,
    inner: SharedProgress,
}

impl Progress for Named {
    fn event(&self, event: Event) {
        let name = &self.name;
        let note = |what: String| Event::Note(format!("[{name}] fetching {what}"));
        self.inner.event(match event {
            Event::Packages { count, size } => {
                note(format!("{count} packages, {}", ByteSize(size)))
            }
            Event::Layers { layers, remote: true } => {
                let size = layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.size));
                note(format!("{} layers, {}", layers.len(), ByteSize(size)))
            }
            Event::Notice(text) => Event::Notice(format!("[{name}] {text}")),
            _ => return,
        });
    }
}

/// Output of one among several, line by line.
struct Prefixed<'a> {
    name: String,
    rest: Vec<u8>,
    inner: &'a mut dyn Watch,
}

impl Prefixed<'_> {
    fn flush(&mut self) {
        if !self.rest.is_empty() {
            self.rest.push(b'\n');
            self.lines();
        }
    }

    fn lines(&mut self) {
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.inner.output(&[format!("[{}] ", self.name).as_bytes(), &line].concat());
        }
    }
}

impl Watch for Prefixed<'_> {
    fn step(&mut self, stage: &str, text: &str) {
        self.flush();
        self.inner.step(stage, text);
    }

    fn cached(&mut self) {
        let name = self.name.clone();
        self.inner.step(&name, "(cached)");
    }

    fn output(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        self.lines();
    }
}
