//! A definition file, built: its sections as steps.

use std::path::{Path, PathBuf};

use serde_json::json;
use types::{FileRef, ImageRef};

use crate::builder::Builder;
use crate::cache::Hasher;
use crate::definition::{Section, Stage};
use crate::dockerfile::expand::expand_words;
use crate::dockerfile::{Copy, Place, Problem, Source, Words};
use crate::error::{BuildError, Result};
use crate::files::Files;
use crate::layer::{LayerWriter, Owning};
use crate::parallel::Stages;
use crate::run::RunArguments;
use crate::state::State;

/// Where Apptainer keeps what an image says of itself.
const META: &str = "/.singularity.d";
/// What %post may append variables to.
const WRITTEN_ENVIRONMENT: &str = "/.singularity.d/env/91-environment.sh";
/// What %post may append labels to.
const WRITTEN_LABELS: &str = "/.singularity.d/build.labels";
/// More labels writes nobody.
const LONGEST_LABELS: usize = 1 << 20;

/// The environment of the app that is asked for.
const APPS: &str = r#"#!/bin/sh
if [ -n "$SINGULARITY_APPNAME" ]; then
    SCIF_APPNAME="$SINGULARITY_APPNAME"
    SCIF_APPROOT="/scif/apps/$SCIF_APPNAME"
    PATH="$SCIF_APPROOT/bin:$PATH"
    LD_LIBRARY_PATH="$SCIF_APPROOT/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export SCIF_APPNAME SCIF_APPROOT PATH LD_LIBRARY_PATH
    if [ -f "$SCIF_APPROOT/scif/env/90-environment.sh" ]; then
        . "$SCIF_APPROOT/scif/env/90-environment.sh"
    fi
fi
"#;

/// The stages of a definition file, whose whole text goes into the image.
struct Definition<'a> {
    stages: &'a [Stage],
    text: &'a str,
    test: bool,
}

impl Definition<'_> {
    fn name_of(&self, index: usize) -> String {
        let name = self.stages[index].header.get("stage").cloned();
        name.unwrap_or_else(|| index.to_string())
    }

    /// Whether the host takes part, or is the image: such a stage is built once, after
    /// all before it and before all behind it.
    fn of_host(&self, index: usize) -> bool {
        let stage = &self.stages[index];
        let sections = stage.sections.iter().filter(|section| !section.text.trim().is_empty());
        let mut names = sections.map(|section| section.name.as_str());
        names.any(|name| name == "pre" || name == "setup")
            || stage.header.get("bootstrap").is_some_and(|kind| kind.eq_ignore_ascii_case("host"))
    }
}

impl Stages for Definition<'_> {
    fn needs(&self, _: &Builder<'_>, index: usize) -> Vec<usize> {
        let from = |section: &Section| match &section.arguments[..] {
            [word, stage] if word == "from" => Some(stage.clone()),
            _ => None,
        };
        let named: Vec<String> = self.stages[index].sections.iter().filter_map(from).collect();
        let needed = |other: &usize| {
            self.of_host(index) || self.of_host(*other) || named.contains(&self.name_of(*other))
        };
        (0..index).filter(needed).collect()
    }

    fn name(&self, _: &Builder<'_>, index: usize) -> String {
        self.name_of(index)
    }

    fn fetch(&self, builder: &mut Builder<'_>, index: usize) {
        if let Ok(Some(name)) = builder.base(&self.stages[index]) {
            // What fails is told by the stage.
            let _ = builder.image_by(&name);
        }
    }

    fn build(&self, builder: &mut Builder<'_>, index: usize) -> Result<State> {
        let (stage, name) = (&self.stages[index], self.name_of(index));
        builder.begin_quietly(index);
        let test = self.test && index + 1 == self.stages.len();
        let built = builder.define_stage(stage, &name, self.text, test);
        builder.end_quietly();
        let state = built.map_err(|error| builder.at(place(stage.line), "Bootstrap", error))?;
        builder.name_stage(&name, &state);
        Ok(state)
    }
}

/// A file of the image that a section makes.
struct Meta {
    path: PathBuf,
    mode: u16,
    text: String,
}

impl Builder<'_> {
    /// Builds every stage; the last one is the image.
    pub(crate) fn define(&mut self, stages: &[Stage], text: &str, test: bool) -> Result<State> {
        let all: Vec<usize> = (0..stages.len()).collect();
        let built = self.stages(&Definition { stages, text, test }, &all)?;
        built.ok_or(BuildError::NoStage("of the definition file".to_owned()))
    }

    fn define_stage(&mut self, stage: &Stage, name: &str, text: &str, test: bool) -> Result<State> {
        let located = |error, builder: &Self, section: &Section| {
            builder.at(place(section.line), &format!("%{}", section.name), error)
        };
        let named = |name: &'static str| {
            let all = stage.sections.iter();
            all.filter(move |s| s.name == name && !s.text.trim().is_empty())
        };
        for section in named("pre") {
            self.say(name, "%pre");
            self.pre(section).map_err(|error| located(error, self, section))?;
        }
        let mut state = self.bootstrap(stage, name)?;
        for section in named("setup") {
            self.say(name, "%setup");
            let cached = self.setup(&mut state, section);
            let cached = cached.map_err(|error| located(error, self, section))?;
            self.told(cached);
        }
        for section in stage.sections.iter().filter(|s| s.name == "files" || s.name == "appfiles") {
            self.say(name, &title(section));
            self.files(&mut state, section).map_err(|error| located(error, self, section))?;
        }
        self.say(name, META);
        self.meta(&mut state, stage, text)?;
        let posts = |s: &&Section| s.name == "post" || s.name == "appinstall";
        for section in stage.sections.iter().filter(posts) {
            self.say(name, &title(section));
            let script = script_of(section);
            let words = Words::Exec(script);
            let before = state.clone();
            for (name, path) in [("ENVIRONMENT", WRITTEN_ENVIRONMENT), ("LABELS", WRITTEN_LABELS)] {
                for engine in ["APPTAINER", "SINGULARITY"] {
                    state.args.insert(format!("{engine}_{name}"), path.to_owned());
                }
            }
            state.process().insert("WorkingDir".to_owned(), json!("/"));
            let done = self.run(&mut state, &plain(&words));
            state.args = before.args;
            let cached = done.map_err(|error| located(error, self, section))?;
            self.told(cached);
        }
        self.written_labels(&mut state)?;
        state.process().insert("Entrypoint".to_owned(), json!([format!("{META}/actions/run")]));
        for gone in ["Cmd", "User", "WorkingDir"] {
            state.process().remove(gone);
        }
        let tests = stage.sections.iter().find(|section| section.name == "test");
        if let Some(section) = tests.filter(|_| test) {
            self.say(name, "%test");
            let words = Words::Exec(vec![format!("{META}/actions/test")]);
            let mut thrown_away = state.clone();
            self.run(&mut thrown_away, &plain(&words)).map_err(|e| located(e, self, section))?;
        }
        Ok(state)
    }

    /// The image that a stage begins with, by its name; None of what is made here.
    fn base(&self, stage: &Stage) -> Result<Option<ImageRef>> {
        let kind = stage.header.get("bootstrap").map(|kind| kind.to_ascii_lowercase());
        let kind = kind.unwrap_or_default();
        let from = || {
            let needs = Problem::Arguments { name: "Bootstrap".to_owned(), expected: "From:" };
            let from = stage.header.get("from").ok_or(BuildError::Value(needs))?;
            // People write the scheme of the kind too.
            let plain = from.strip_prefix(&kind).and_then(|rest| rest.strip_prefix("://"));
            Ok::<_, BuildError>(plain.unwrap_or(from).to_owned())
        };
        let name = match kind.as_str() {
            "docker" => {
                let part = |key: &str| {
                    let text = stage.header.get(key)?.trim_end_matches('/');
                    Some(format!("{}/", text.split("://").last().unwrap_or(text)))
                };
                let (registry, namespace) = (part("registry"), part("namespace"));
                let [registry, namespace] = [registry, namespace].map(Option::unwrap_or_default);
                format!("docker://{registry}{namespace}{}", from()?)
            }
            "oras" | "shub" => format!("{kind}://{}", from()?),
            "oci" | "oci-archive" | "docker-archive" => format!("{kind}:{}", from()?),
            "localimage" => {
                let path = self.options().directory.join(from()?);
                format!("file:{}", path.display())
            }
            "library" => {
                let mut file: FileRef = from()?.parse().map_err(engine::Error::from)?;
                if let (FileRef::Library { server, .. }, Some(url)) =
                    (&mut file, stage.header.get("library"))
                {
                    server.get_or_insert_with(|| url.clone());
                }
                return Ok(Some(ImageRef::File(file)));
            }
            _ => return Ok(None),
        };
        Ok(Some(name.parse().map_err(engine::Error::from)?))
    }

    /// What a stage begins with.
    fn bootstrap(&mut self, stage: &Stage, name: &str) -> Result<State> {
        if stage.header.contains_key("fingerprints") {
            let text = "Fingerprints: (signatures cannot be checked yet)".to_owned();
            return Err(Problem::Unsupported(text).into());
        }
        if let Some(image) = self.base(stage)? {
            return self.image_by(&image);
        }
        let kind = stage.header.get("bootstrap").map(String::as_str).unwrap_or_default();
        match kind.to_ascii_lowercase().as_str() {
            "scratch" => self.image("scratch"),
            "busybox" => self.busybox(stage, name),
            "host" => self.live_host(stage, name),
            "yum" | "dnf" | "zypper" => self.rpm(stage, name),
            "debootstrap" => self.debian(stage, name),
            "arch" => self.arch(stage, name),
            _ => Err(Problem::Unsupported(format!("Bootstrap: {kind}")).into()),
        }
    }

    /// `%files [from STAGE]`: a source, and where it goes if elsewhere.
    fn files(&mut self, state: &mut State, section: &Section) -> Result<()> {
        let from = match &section.arguments[..] {
            [word, stage] if word == "from" => Some(stage.clone()),
            _ => None,
        };
        for line in section.text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let words = expand_words(line, '\\', &|name| Some(format!("${name}")))?;
            let Some(first) = words.first() else { continue };
            let mut to = words.get(1).unwrap_or(first).clone();
            if section.name == "appfiles" {
                // Of an app, places are below its directory.
                let app = section.arguments.first().map(String::as_str).unwrap_or_default();
                to = format!("/scif/apps/{app}/{}", to.trim_start_matches('/'));
            }
            let source = match from {
                Some(_) => first.clone(),
                None => self.options().directory.join(first).to_string_lossy().into_owned(),
            };
            let below = state.files()?;
            let real = plan::resolve(&below, &state.absolute(&to))?;
            let into = real.1.is_some_and(|entry| entry.kind == plan::EntryKind::Directory);
            if into && self.is_directory(&source, from.as_deref())? {
                // As cp(1) has it: a directory goes into one that is there.
                let name = Path::new(&source).file_name().unwrap_or_default();
                to = Path::new(&to).join(name).to_string_lossy().into_owned();
            }
            let copy = Copy {
                sources: vec![Source::Path(source.replace('$', "\\$"))],
                destination: to.replace('$', "\\$"),
                from: from.clone(),
                ..Copy::default()
            };
            let cached = self.copy(state, &copy, false)?;
            self.told(cached);
        }
        Ok(())
    }

    fn is_directory(&self, source: &str, from: Option<&str>) -> Result<bool> {
        match from {
            Some(stage) => {
                let files = self.other(stage)?;
                let (_, entry) = plan::resolve(&files, &Path::new("/").join(source))?;
                Ok(entry.is_some_and(|entry| entry.kind == plan::EntryKind::Directory))
            }
            None => Ok(self.context().join(source).is_dir()),
        }
    }

    /// Takes the labels that %post has written.
    fn written_labels(&mut self, state: &mut State) -> Result<()> {
        let below = state.files()?;
        let written = plan::RootTree::read(&below, Path::new(WRITTEN_LABELS), LONGEST_LABELS)?;
        let written = labels(&String::from_utf8_lossy(&written.unwrap_or_default()));
        if written.is_empty() {
            return Ok(());
        }
        for (name, value) in &written {
            state.set_of("Labels").insert(name.clone(), value.as_str().into());
        }
        let all = state.config["config"]["Labels"].to_string();
        let mut hasher = Hasher::new(&state.key, "labels");
        hasher.text(&all);
        let (epoch, compression) = (self.epoch(), self.engine().build_compression());
        self.layer(state, &hasher.key(), |_, _, out| {
            let mut writer = LayerWriter::new(out.create()?, compression, &below, epoch)?;
            let owning = Owning { owner: None, mode: Some(0o644) };
            writer.bytes(Path::new(&format!("{META}/labels.json")), all.as_bytes(), owning)?;
            writer.finish()
        })?;
        Ok(())
    }

    /// What the image says of itself, as Apptainer looks for it.
    fn meta(&mut self, state: &mut State, stage: &Stage, text: &str) -> Result<()> {
        let below = state.files()?;
        let mut all: Vec<Meta> = Vec::new();
        let own = below.info(Path::new(META)).ok().flatten().is_some();
        if !own {
            let bytes = state.config.to_string().into_bytes();
            let config = types::parse_image_config(&bytes).map_err(|source| {
                engine::Error::ImageConfig { name: "build".to_owned(), source }
            })?;
            for (path, mode, text) in engine::apptainer_scripts(&config) {
                all.push(Meta { path: Path::new("/").join(path), mode, text });
            }
        }
        let mut put = |path: String, mode, text: String| {
            let path = PathBuf::from(path);
            all.retain(|other| other.path != path);
            all.push(Meta { path, mode, text });
        };
        put(format!("{META}/Singularity"), 0o644, text.to_owned());
        put(WRITTEN_ENVIRONMENT.to_owned(), 0o755, "#!/bin/sh\n".to_owned());
        for section in &stage.sections {
            let app = section.arguments.first().map(|app| format!("/scif/apps/{app}/scif"));
            let app = app.unwrap_or_default();
            let mut script = |path: String| put(path, 0o755, with_shell(section));
            match section.name.as_str() {
                "environment" => script(format!("{META}/env/90-environment.sh")),
                "runscript" => script(format!("{META}/runscript")),
                "startscript" => script(format!("{META}/startscript")),
                "test" => script(format!("{META}/test")),
                "apprun" => script(format!("{app}/runscript")),
                "appstart" => script(format!("{app}/startscript")),
                "apptest" => script(format!("{app}/test")),
                "appenv" => script(format!("{app}/env/90-environment.sh")),
                "help" => put(format!("{META}/runscript.help"), 0o644, section.text.clone()),
                "apphelp" => put(format!("{app}/runscript.help"), 0o644, section.text.clone()),
                "labels" => {
                    let labels = labels(&section.text);
                    for (name, value) in &labels {
                        state.set_of("Labels").insert(name.clone(), value.as_str().into());
                    }
                    let all = state.config["config"]["Labels"].to_string();
                    put(format!("{META}/labels.json"), 0o644, all);
                }
                "applabels" => {
                    let labels = serde_json::to_string(&labels(&section.text)).unwrap_or_default();
                    put(format!("{app}/labels.json"), 0o644, labels);
                }
                _ => {}
            }
        }
        if stage.sections.iter().any(|section| section.name.starts_with("app")) {
            put(format!("{META}/env/95-apps.sh"), 0o755, APPS.to_owned());
        }
        let mut hasher = Hasher::new(&state.key, "meta");
        for Meta { path, mode, text } in &all {
            hasher.text(&format!("{} {mode:o}", path.display()));
            hasher.text(text);
        }
        let epoch = self.epoch();
        let compression = self.engine().build_compression();
        let cached = self.layer(state, &hasher.key(), |_, _, out| {
            let mut writer = LayerWriter::new(out.create()?, compression, &below, epoch)?;
            for Meta { path, mode, text } in &all {
                let owning = Owning { owner: None, mode: Some(*mode) };
                writer.bytes(path, text.as_bytes(), owning)?;
            }
            writer.finish()
        })?;
        self.told(cached);
        Ok(())
    }
}

fn title(section: &Section) -> String {
    format!("%{} {}", section.name, section.arguments.join(" ")).trim_end().to_owned()
}

fn place(line: usize) -> Place {
    Place { line, column: 1 }
}

fn plain(words: &Words) -> RunArguments<'_> {
    RunArguments { command: words, heredocs: &[], mounts: &[], network: None }
}

/// `name value` in lines.
fn labels(text: &str) -> std::collections::BTreeMap<String, String> {
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    let pair = |line: &str| {
        let (name, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        (name.to_owned(), value.trim().trim_matches('"').to_owned())
    };
    lines.map(pair).collect()
}

/// The script of a section, for the shell unless it names its interpreter.
fn with_shell(section: &Section) -> String {
    let text = section.text.trim_start_matches('\n');
    if text.trim_start().starts_with("#!") {
        return text.trim_start().to_owned();
    }
    let shell = section.shell().unwrap_or("/bin/sh");
    format!("#!{shell}\n\n{text}")
}

/// The words that run %post: a failing command ends it, as Apptainer has it.
fn script_of(section: &Section) -> Vec<String> {
    let mut words = section.interpreter();
    let app = section.arguments.first().filter(|_| section.name == "appinstall");
    let begin = app.map_or_else(String::new, |app| {
        format!(
            "SCIF_APPNAME={app} SCIF_APPROOT=/scif/apps/{app}; export SCIF_APPNAME SCIF_APPROOT\n\
             mkdir -p /scif/apps/{app}/bin /scif/apps/{app}/lib; cd /scif/apps/{app}\n"
        )
    });
    words.push(begin + &section.text);
    words
}
