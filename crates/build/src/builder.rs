//! The walk through a Dockerfile.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::{BuildLease, Engine, SharedProgress};
use plan::{RootEmulation, SubIds};
use serde_json::{Value, json};
use store::{Flight, LayerRecord};
use types::Platform;

use crate::cache::{Cache, Hasher, Key, Out, Record};
use crate::dockerfile::expand::expand;
use crate::dockerfile::{Arg, Dockerfile, Instruction, Kind, Problem, Stage, parse_instruction};
use crate::error::{BuildError, Result};
use crate::files::ImageFiles;
use crate::ignore::Ignore;
use crate::layer::LayerWriter;
use crate::parallel::OfDockerfile;
use crate::remote::{CachePlace, Remote};
use crate::run::RunArguments;
use crate::state::State;

/// How an image is built.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether the %test of a definition file is left out.
    pub no_test: bool,
    /// The recipe, for messages.
    pub file: PathBuf,
    /// The directory that COPY takes from; of a definition file that is `/`.
    pub context: PathBuf,
    /// Where relative paths of a definition file begin.
    pub directory: PathBuf,
    /// The stage to build; None is the last one.
    pub target: Option<String>,
    /// `--build-arg`.
    pub args: BTreeMap<String, String>,
    /// Secrets: name and file.
    pub secrets: Vec<(String, PathBuf)>,
    /// Agents of ssh: name and socket.
    pub agents: Vec<(String, PathBuf)>,
    /// A shell where a command fails.
    pub shell_on_failure: bool,
    /// One layer with everything.
    pub squash: bool,
    /// Where layers of other builds are.
    pub cache_from: Vec<CachePlace>,
    /// Where layers are put for other builds.
    pub cache_to: Vec<CachePlace>,
    /// Do every step anew.
    pub no_cache: bool,
    /// How root is emulated in RUN.
    pub root_emulation: RootEmulation,
    /// SOURCE_DATE_EPOCH: no file is younger, and what is made has this time.
    pub epoch: Option<u32>,
}

/// Hears of a build.
pub trait Watch {
    /// A step begins.
    fn step(&mut self, stage: &str, text: &str);
    /// It was in the cache.
    fn cached(&mut self);
    /// It was made now.
    fn done(&mut self) {}
    /// From here on this is one process of several that tell of steps.
    fn apart(&mut self) {}
    /// A command says something.
    fn output(&mut self, bytes: &[u8]);
}

/// The variable that says how young files may be.
pub const EPOCH: &str = "SOURCE_DATE_EPOCH";

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What one process of a build tells another.
pub(crate) struct Known {
    globals: BTreeMap<String, String>,
    done: HashMap<String, State>,
    name: String,
}

/// A build on its way.
pub(crate) struct Builder<'a> {
    engine: &'a Engine,
    options: &'a Options,
    file: &'a Dockerfile,
    progress: SharedProgress,
    watch: &'a mut dyn Watch,
    cache: Cache,
    /// Keeps others from removing layers.
    lease: Arc<BuildLease>,
    /// What this build calls itself, all its processes.
    name: String,
    scratch: PathBuf,
    /// Ids of RUN, where the kernel gives it many.
    sub_ids: Option<SubIds>,
    ignore: Arc<Ignore>,
    globals: BTreeMap<String, String>,
    /// Stages that are done, and images, by the names that copies use.
    done: HashMap<String, State>,
    /// Caches of other builds.
    remotes: Vec<Remote>,
    /// Layers that this build has come by.
    used: Vec<Key>,
    /// Stages that other processes built.
    elsewhere: HashSet<usize>,
    /// Nobody needs to hear of steps.
    silent: bool,
    /// What has been warned of.
    warned: HashSet<String>,
    pub(crate) last_output: Vec<u8>,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(
        engine: &'a Engine,
        options: &'a Options,
        file: &'a Dockerfile,
        progress: SharedProgress,
        watch: &'a mut dyn Watch,
    ) -> Result<Self> {
        let (scratch, said) = engine.build_scratch()?;
        crate::run::clean(engine, &scratch);
        let (_, also) = engine::emulation_here(options.root_emulation);
        let told = said.into_iter().chain(also.clone());
        told.for_each(|text| progress.event(engine::Event::Notice(text)));
        let sub_ids = match options.root_emulation {
            RootEmulation::Subid => engine.sub_ids()?,
            _ => None,
        };
        let lease = engine.lease_builds(&progress)?;
        let cache = Cache::new(engine.build_cache()?);
        cache.clean();
        Ok(Self {
            ignore: Arc::new(read_ignore(options)?),
            cache,
            lease,
            name: store::temporary_name("build"),
            engine,
            options,
            file,
            progress,
            watch,
            scratch,
            sub_ids,
            globals: BTreeMap::new(),
            done: HashMap::new(),
            remotes: Vec::new(),
            used: Vec::new(),
            warned: also.into_iter().collect(),
            elsewhere: HashSet::new(),
            silent: false,
            last_output: Vec::new(),
        })
    }

    pub(crate) fn engine(&self) -> &'a Engine {
        self.engine
    }

    pub(crate) fn options(&self) -> &'a Options {
        self.options
    }

    pub(crate) fn escape(&self) -> char {
        self.file.escape
    }

    pub(crate) fn context(&self) -> &Path {
        &self.options.context
    }

    pub(crate) fn ignore(&self) -> Arc<Ignore> {
        Arc::clone(&self.ignore)
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    pub(crate) fn epoch(&self) -> Option<u32> {
        self.options.epoch
    }

    pub(crate) fn scratch(&self) -> &Path {
        &self.scratch
    }

    pub(crate) fn sub_ids(&self) -> Option<&SubIds> {
        self.sub_ids.as_ref()
    }

    pub(crate) fn progress(&self) -> &SharedProgress {
        &self.progress
    }

    pub(crate) fn watch(&mut self) -> &mut dyn Watch {
        self.watch
    }

    /// Builds the target.
    pub(crate) fn build(&mut self) -> Result<State> {
        let file = self.file;
        for arg in &file.args {
            let globals = self.globals.clone();
            let value = self.argument(arg, &|name| globals.get(name).cloned())?;
            self.globals.extend(value.map(|value| (arg.name.clone(), value)));
        }
        let index = match &self.options.target {
            Some(target) => {
                let unknown = || BuildError::NoStage(target.clone());
                self.stage_index(target, file.stages.len()).ok_or_else(unknown)?
            }
            None => file.stages.len() - 1,
        };
        self.tell_unused();
        let built = self.stages(&OfDockerfile, &[index])?;
        built.ok_or_else(|| BuildError::NoStage(index.to_string()))
    }

    /// Says which variables were given that the file does not take.
    fn tell_unused(&self) {
        let stages = self.file.stages.iter().flat_map(|stage| &stage.instructions);
        let of_stages = stages.filter_map(|instruction| match &instruction.kind {
            Kind::Arg(args) => Some(args),
            _ => None,
        });
        let all: HashSet<&str> =
            self.file.args.iter().chain(of_stages.flatten()).map(|arg| arg.name.as_str()).collect();
        for name in self.options.args.keys() {
            if crate::run::is_proxy(name) || name == EPOCH || all.contains(name.as_str()) {
                continue;
            }
            let why = match name.starts_with("BUILDKIT_") {
                true => "it is BuildKit's and changes nothing here",
                false => "the Dockerfile has no ARG of that name",
            };
            let text = format!("--build-arg {name}: {why}");
            self.progress.event(engine::Event::Notice(text));
        }
    }

    pub(crate) fn file(&self) -> &'a Dockerfile {
        self.file
    }

    /// A variable of the build before any stage.
    pub(crate) fn global(&self, name: &str) -> Option<String> {
        self.globals.get(name).cloned().or_else(|| self.predefined(name))
    }

    pub(crate) fn stage_name(&self, index: usize) -> String {
        self.file.stages[index].name.clone().unwrap_or_else(|| index.to_string())
    }

    /// What another process needs to go on here.
    pub(crate) fn known(&self) -> Known {
        Known { globals: self.globals.clone(), done: self.done.clone(), name: self.name.clone() }
    }

    pub(crate) fn know(&mut self, known: Known) {
        Known { globals: self.globals, done: self.done, name: self.name } = known;
    }

    /// Begins a stage; one that another process has built is told no more.
    pub(crate) fn begin_quietly(&mut self, index: usize) {
        self.silent = self.elsewhere.contains(&index);
    }

    /// Ends what [`begin_quietly`](Self::begin_quietly) began.
    pub(crate) fn end_quietly(&mut self) {
        self.silent = false;
    }

    /// Takes note that another process has built a stage.
    pub(crate) fn made_elsewhere(&mut self, index: usize) {
        self.elsewhere.insert(index);
    }

    /// A layer of this cache that this build may use.
    fn usable(&self, key: &Key) -> Option<Record> {
        let own = |record: &Record| record.build.as_ref() == Some(&self.name);
        self.cache.find(key).filter(|record| !self.options.no_cache || own(record))
    }

    /// A layer of this cache, or of those of other builds.
    fn find(&self, key: &Key) -> Option<Record> {
        let remote = |remote: &Remote| remote.take(key, &self.cache).ok().flatten();
        let remotes = if self.options.no_cache { &[][..] } else { &self.remotes };
        // A cache that fails is slower, and no reason to fail.
        self.usable(key).or_else(|| remotes.iter().find_map(remote))
    }

    /// Opens the caches of other builds.
    pub(crate) fn open_remotes(&mut self) {
        for place in &self.options.cache_from {
            match Remote::open(self.engine, place, &self.progress) {
                Ok(remote) => self.remotes.extend(remote),
                // The build is slower, and no worse.
                Err(error) => {
                    let text = format!("{place} is left out: {error}");
                    self.progress.event(engine::Event::Notice(text));
                }
            }
        }
    }

    /// Gives the layers of this build to others.
    pub(crate) fn give(&self) -> Result<()> {
        for place in &self.options.cache_to {
            crate::remote::give(self.engine, &self.cache, &self.used, place, &self.progress)?;
        }
        Ok(())
    }

    /// The value of an ARG: given, or its default, or a known one.
    pub(crate) fn argument(
        &self,
        arg: &Arg,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<String>> {
        if let Some(given) = self.options.args.get(&arg.name) {
            return Ok(Some(given.clone()));
        }
        if let Some(default) = &arg.default {
            return Ok(Some(expand(default, self.escape(), lookup)?));
        }
        Ok(self.globals.get(&arg.name).cloned().or_else(|| self.predefined(&arg.name)))
    }

    fn predefined(&self, name: &str) -> Option<String> {
        if name == "TARGETSTAGE" {
            // As BuildKit has it, the last stage has that name.
            return Some(self.options.target.clone().unwrap_or_else(|| "default".to_owned()));
        }
        let (kind, rest) = match name.strip_prefix("TARGET") {
            Some(rest) => (self.engine.config().platform.value.clone(), rest),
            None => (Platform::host(), name.strip_prefix("BUILD")?),
        };
        match rest {
            "PLATFORM" => Some(kind.to_string()),
            "OS" => Some(kind.os().to_owned()),
            "ARCH" => Some(kind.architecture().to_owned()),
            "VARIANT" => Some(kind.variant().unwrap_or_default().to_owned()),
            _ => None,
        }
    }

    /// The stage of a name or number, before another one.
    pub(crate) fn stage_index(&self, name: &str, before: usize) -> Option<usize> {
        let lower = name.to_ascii_lowercase();
        let stages = &self.file.stages[..before];
        let named = stages.iter().position(|stage| stage.name.as_ref() == Some(&lower));
        named.or_else(|| name.parse().ok().filter(|index| *index < before))
    }

    pub(crate) fn stage(&mut self, index: usize) -> Result<State> {
        let file = self.file;
        let stage: &Stage = &file.stages[index];
        let known = format!("#{index}");
        if let Some(state) = self.done.get(&known) {
            return Ok(state.clone());
        }
        let name = self.stage_name(index);
        self.begin_quietly(index);
        let located = |builder: &Self, source| {
            builder.at(stage.place, &format!("FROM {}", stage.from), source)
        };
        let begun = self.begin(index);
        let (mut state, triggers) = begun.map_err(|error| located(self, error))?;
        let mut cmd = false;
        for text in triggers {
            let instruction = parse_instruction(&text).map_err(|error| {
                let source = BuildError::Syntax { path: self.options.file.clone(), source: error };
                located(self, source)
            })?;
            self.step(index, &name, &mut state, &instruction, &mut cmd)?;
        }
        for instruction in &stage.instructions {
            self.step(index, &name, &mut state, instruction, &mut cmd)?;
        }
        self.end_quietly();
        self.done.insert(known, state.clone());
        Ok(state)
    }

    /// What a stage begins with: an image, or the stage of a number.
    pub(crate) fn begins_with(&mut self, index: usize) -> Result<Base> {
        let file = self.file;
        let stage: &Stage = &file.stages[index];
        let lookup = |name: &str| self.global(name);
        let from = expand(&stage.from, self.escape(), &lookup)?;
        let mut platform = None;
        if let Some(text) = &stage.platform {
            let value = expand(text, self.escape(), &lookup)?;
            let wrong = |_| Problem::Value { what: "--platform", value: value.clone() };
            platform = Some(value.parse::<Platform>().map_err(wrong)?);
        }
        match self.stage_index(&from, index) {
            Some(other) => Ok(Base::Stage(other)),
            None => self.image_for(&from, platform).map(|image| Base::Image(Box::new(image))),
        }
    }

    /// What a stage begins with, and what the image asks of who builds from it.
    fn begin(&mut self, index: usize) -> Result<(State, Vec<String>)> {
        let mut state = match self.begins_with(index)? {
            Base::Image(image) => *image,
            Base::Stage(other) => self.stage(other)?,
        };
        state.args.clear();
        let onbuild = state.process().remove("OnBuild");
        let triggers = onbuild.as_ref().and_then(Value::as_array).into_iter().flatten();
        let triggers = triggers.filter_map(|text| text.as_str().map(str::to_owned)).collect();
        if let Some(shell) = state.config["config"]["Shell"].as_array() {
            let words = shell.iter().filter_map(|word| word.as_str().map(str::to_owned));
            state.shell = words.collect();
        }
        Ok((state, triggers))
    }

    /// The files of another stage or image that a step names.
    pub(crate) fn other(&self, name: &str) -> Result<ImageFiles> {
        match self.done.get(name) {
            Some(state) => state.files(),
            None => Err(BuildError::NoStage(name.to_owned())),
        }
    }

    /// A stage or image that has come up under a name.
    pub(crate) fn known_as(&self, name: &str) -> Option<&State> {
        self.done.get(name)
    }

    /// Passes on what is to be known of a container, each thing once.
    pub(crate) fn warn(&mut self, warnings: &[String]) {
        for text in warnings {
            if self.warned.insert(text.clone()) {
                self.progress.event(engine::Event::Notice(text.clone()));
            }
        }
    }

    /// Gives a stage a name for copies.
    pub(crate) fn name_stage(&mut self, name: &str, state: &State) {
        self.done.insert(name.to_owned(), state.clone());
    }

    /// Tells of a step.
    pub(crate) fn say(&mut self, stage: &str, text: &str) {
        self.last_output.clear();
        if !self.silent {
            self.watch.step(stage, text);
        }
    }

    /// Tells that it is over, and whether it was in the cache.
    pub(crate) fn told(&mut self, cached: bool) {
        match cached {
            _ if self.silent => {}
            true => self.watch.cached(),
            false => self.watch.done(),
        }
    }

    /// Makes sure that [`other`](Self::other) finds a stage or image.
    fn ensure(&mut self, index: usize, name: &str) -> Result<()> {
        if self.done.contains_key(name) {
            return Ok(());
        }
        let state = match self.stage_index(name, index) {
            Some(other) => self.stage(other)?,
            None => self.image(name)?,
        };
        self.done.insert(name.to_owned(), state);
        Ok(())
    }

    pub(crate) fn at(
        &self,
        place: crate::dockerfile::Place,
        text: &str,
        source: BuildError,
    ) -> BuildError {
        if let BuildError::Step { .. } = source {
            return source;
        }
        let (path, source) = (self.options.file.clone(), Box::new(source));
        BuildError::Step { path, place, text: text.to_owned(), source }
    }

    /// The stages and images that an instruction takes files from.
    fn sources(&self, state: &State, kind: &Kind) -> Result<Vec<String>> {
        match kind {
            Kind::Copy(copy) => {
                let lookup = |name: &str| state.lookup(name);
                let from = copy.from.iter().map(|from| expand(from, self.escape(), &lookup));
                Ok(from.collect::<std::result::Result<_, Problem>>()?)
            }
            Kind::Run { mounts, .. } => self.mounted_stages(state, mounts),
            _ => Ok(Vec::new()),
        }
    }

    fn step(
        &mut self,
        index: usize,
        stage: &str,
        state: &mut State,
        instruction: &Instruction,
        cmd: &mut bool,
    ) -> Result<()> {
        self.last_output.clear();
        let located =
            |builder: &Self, error| builder.at(instruction.place, &instruction.text, error);
        for name in self.sources(state, &instruction.kind).map_err(|e| located(self, e))? {
            self.ensure(index, &name).map_err(|error| located(self, error))?;
        }
        self.say(stage, &instruction.text);
        let layers = state.layers.len();
        let done = match &instruction.kind {
            Kind::Run { command, heredocs, mounts, network } => {
                let network = network.as_deref();
                self.run(state, &RunArguments { command, heredocs, mounts, network })
            }
            Kind::Copy(copy) => self.copy(state, copy, false),
            Kind::Add(copy) => self.copy(state, copy, true),
            Kind::Workdir(dir) => self.workdir(state, dir),
            other => self.set(state, other, cmd).map(|()| false),
        };
        let cached = done.map_err(|error| located(self, error))?;
        self.told(cached);
        let created = self.options.epoch.map(|epoch| crate::finish::rfc3339(u64::from(epoch)));
        state.history(&instruction.text, created.as_deref(), state.layers.len() == layers);
        Ok(())
    }

    /// Puts a layer over a stage.
    fn apply(&self, state: &mut State, key: &Key, record: &Record) {
        if let Some((digest, size)) = &record.layer {
            if let Some(provenance) = &mut state.provenance {
                provenance.layers.push(digest.clone());
            }
            state.parts.push(self.cache.part(digest));
            state.layers.push(LayerRecord {
                digest: digest.clone(),
                size: *size,
                media_type: LAYER.to_owned(),
            });
            let diff_ids = &mut state.config["rootfs"]["diff_ids"];
            match diff_ids {
                Value::Array(list) => list.push(json!(digest)),
                other => *other = json!([digest]),
            }
        }
        state.key = key.over(record);
    }

    /// The layer of a step: from the cache, or made now, by one of all builds that want
    /// it; whether it was cached. A step that opens no file for it changes nothing.
    pub(crate) fn layer(
        &mut self,
        state: &mut State,
        key: &Key,
        make: impl FnOnce(&mut Self, &State, &Out<'_>) -> Result<()>,
    ) -> Result<bool> {
        let key = key.until(self.options.epoch);
        self.used.push(key.clone());
        self.lease.touch();
        let found = match self.find(&key) {
            Some(record) => Flight::Found(record),
            None => {
                // Who makes all anew waits for its own processes alone.
                let whose = if self.options.no_cache { &*self.name } else { "" };
                let name = format!("layer {key} {whose}");
                self.engine.turn_unless(&name, &self.progress, &|| self.usable(&key))?
            }
        };
        let _turn = match found {
            Flight::Found(record) => {
                self.apply(state, &key, &record);
                return Ok(true);
            }
            Flight::Yours(turn) => turn,
        };
        // Of its own, so that the step may use the builder.
        let cache = self.cache.clone();
        let out = Out { cache: &cache, key: &key };
        let made = make(self, state, &out).and_then(|()| {
            let record = Record { layer: out.written()?, build: Some(self.name.clone()) };
            out.keep(&record)?;
            Ok(record)
        });
        let record = made.inspect_err(|_| out.discard())?;
        self.apply(state, &key, &record);
        Ok(false)
    }

    /// What keeps the layers of the finished image.
    pub(crate) fn lease(&self) -> Arc<BuildLease> {
        Arc::clone(&self.lease)
    }

    /// Where a cache mount of a name lives.
    pub(crate) fn cache_mount(&self, id: &str) -> PathBuf {
        self.cache.mount(&Key::of_base(&format!("cache mount {id}")))
    }

    /// Where something of that name is made that is renamed when it is whole.
    pub(crate) fn unfinished(&self, id: &str) -> PathBuf {
        self.cache.temporary(&Key::of_base(&format!("cache mount {id}")))
    }

    /// WORKDIR makes its directory, of the stage's user.
    fn workdir(&mut self, state: &mut State, dir: &str) -> Result<bool> {
        let lookup = |name: &str| state.lookup(name);
        let dir = state.absolute(&expand(dir, self.escape(), &lookup)?);
        let files = state.files()?;
        let (real, entry) = plan::resolve(&files, &dir)?;
        state.process().insert("WorkingDir".to_owned(), json!(dir));
        if entry.is_some() {
            return Ok(false);
        }
        let owner = match state.user() {
            Some(spec) => Some(state.ids(spec)?).map(|(uid, gid, _)| (uid, gid)),
            None => None,
        };
        let mut hasher = Hasher::new(&state.key, "workdir");
        hasher.text(&format!("{} {owner:?}", real.display()));
        let epoch = self.options.epoch;
        self.layer(state, &hasher.key(), |builder, _, out| {
            let compression = builder.engine.build_compression();
            let mut writer = LayerWriter::new(out.create()?, compression, &files, epoch)?;
            writer.directory(&real, owner)?;
            writer.finish()
        })
    }
}

/// What a stage begins with.
pub(crate) enum Base {
    Image(Box<State>),
    Stage(usize),
}

fn read_ignore(options: &Options) -> Result<Ignore> {
    let own = options.file.with_file_name(format!(
        "{}.dockerignore",
        options.file.file_name().unwrap_or_default().to_string_lossy()
    ));
    for path in [own, options.context.join(".dockerignore")] {
        match bounded(&path) {
            Ok(text) => {
                return Ignore::parse(&text)
                    .map_err(|pattern| BuildError::Ignore { path, pattern });
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            // What it would leave out may be secret.
            Err(source) => return Err(BuildError::Read { path, source }),
        }
    }
    Ok(Ignore::default())
}

/// The text of a plain file, where it is not endless.
fn bounded(path: &Path) -> std::io::Result<String> {
    use std::io::{Error, ErrorKind, Read};
    /// In bytes.
    const LARGEST: u64 = 16 << 20;
    let meta = std::fs::metadata(path)?;
    if !meta.is_file() || meta.len() > LARGEST {
        let text = format!("it is no plain file of at most {LARGEST} bytes");
        return Err(Error::new(ErrorKind::InvalidInput, text));
    }
    let mut text = String::new();
    std::fs::File::open(path)?.take(LARGEST).read_to_string(&mut text)?;
    Ok(text)
}
