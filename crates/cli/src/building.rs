//! `build`: arguments to a build, and its steps on the terminal.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use build::{BuildError, Options, Watch};
use engine::{Destination, Engine, ExportOptions};
use types::{ImageRef, RegistryRef};

use crate::args::{BuildArgs, Globals};
use crate::error::CliError;
use crate::{bars, output};

/// Builds an image, keeps it, and writes it where that is asked for.
pub fn run(engine: &Engine, globals: &Globals, args: &BuildArgs) -> Result<(), CliError> {
    let wrong = |text: String| CliError::Build(text);
    let (file, text) = recipe(args)?;
    let names = args.tags.iter().map(|tag| match tag.parse::<ImageRef>() {
        Ok(ImageRef::Registry(name)) => Ok(name),
        Ok(_) => Err(wrong(format!("{tag:?} is no name of an image"))),
        Err(source) => Err(engine::Error::from(source).into()),
    });
    let names: Vec<RegistryRef> = names.collect::<Result<_, CliError>>()?;
    let outputs = args.outputs.iter().map(|text| destination(text));
    let outputs: Vec<Destination> = outputs.collect::<Result<_, _>>()?;
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    let keep = tempfile::tempdir()
        .map_err(|source| BuildError::Write { path: std::env::temp_dir(), source })?;
    let context = std::path::absolute(&args.context)
        .map_err(|source| BuildError::Read { path: args.context.clone(), source })?;
    if !context.is_dir() {
        return Err(wrong(format!("the context {:?} is no directory", args.context)));
    }
    let options = Options {
        file,
        directory: context.clone(),
        context: if build::is_definition(&text) { "/".into() } else { context },
        target: args.target.clone(),
        args: variables(args)?,
        secrets: args.secrets.iter().map(|s| secret(s, keep.path())).collect::<Result<_, _>>()?,
        no_cache: args.no_cache,
        no_test: args.no_test,
        // clap has checked the word.
        root_emulation: args.root_emulation.parse().unwrap_or_default(),
        epoch: args.timestamp.or(epoch),
    };
    let quiet = globals.quiet || args.progress == "quiet";
    let mut watch = Steps { quiet, json: args.progress == "json" };
    let progress = bars::progress(globals);
    let outcome = build::build(engine, &text, &options, progress, &mut watch);
    let built = outcome.image.inspect_err(|_| {
        if quiet {
            // What nobody has seen explains the failure.
            let _ = std::io::stderr().write_all(&outcome.last_output);
        }
    })?;
    let image = engine.add_built(&built, &names)?;
    let id = image.id.to_string();
    for to in &outputs {
        let name: ImageRef = id.parse().map_err(engine::Error::from)?;
        let options = ExportOptions { force: true, deterministic: epoch.is_some() };
        engine.convert(&name, to, options, &bars::progress(globals))?;
    }
    output::print(&format!("{id}\n"))
}

/// The Dockerfile's path and text.
fn recipe(args: &BuildArgs) -> Result<(PathBuf, String), CliError> {
    let unread = |path: &Path| {
        let path = path.to_owned();
        move |source| CliError::from(BuildError::Read { path, source })
    };
    let path = match &args.file {
        Some(path) if path == Path::new("-") => {
            let path = PathBuf::from("standard input");
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(unread(&path))?;
            return Ok((path, text));
        }
        Some(path) => path.clone(),
        None => {
            let names = ["Dockerfile", "Containerfile", "Apptainer.def"]
                .map(|name| args.context.join(name));
            let there = names.iter().find(|path| path.exists()).unwrap_or(&names[0]);
            there.clone()
        }
    };
    let text = std::fs::read_to_string(&path).map_err(unread(&path))?;
    Ok((path, text))
}

fn variables(args: &BuildArgs) -> Result<BTreeMap<String, String>, CliError> {
    let mut all = BTreeMap::new();
    let mut lines = Vec::new();
    for path in &args.build_arg_files {
        let text = std::fs::read_to_string(path)
            .map_err(|source| BuildError::Read { path: path.clone(), source })?;
        let kept = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        lines.extend(kept.map(str::to_owned));
    }
    lines.extend(args.build_args.iter().cloned());
    for line in lines {
        match line.split_once('=') {
            Some((name, value)) => drop(all.insert(name.to_owned(), value.to_owned())),
            None => {
                if let Ok(value) = std::env::var(&line) {
                    all.insert(line, value);
                }
            }
        }
    }
    Ok(all)
}

/// `id=NAME,src=FILE` or `id=NAME,env=VARIABLE`.
fn secret(text: &str, keep: &Path) -> Result<(String, PathBuf), CliError> {
    let wrong = || CliError::Build(format!("--secret {text:?}: expected id=NAME,src=FILE"));
    let mut pairs = text.split(',').map(|part| part.split_once('='));
    let all: Option<BTreeMap<&str, &str>> = pairs.by_ref().collect();
    let all = all.ok_or_else(wrong)?;
    let id = all.get("id").filter(|id| !id.is_empty() && !id.contains('/')).ok_or_else(wrong)?;
    let path = match (all.get("src").or(all.get("source")), all.get("env")) {
        (Some(path), _) => std::path::absolute(path).map_err(|_| wrong())?,
        (None, Some(name)) => {
            let value = std::env::var(name).map_err(|_| wrong())?;
            let path = keep.join(id);
            std::fs::write(&path, value)
                .map_err(|source| BuildError::Write { path: path.clone(), source })?;
            path
        }
        (None, None) => return Err(wrong()),
    };
    Ok(((*id).to_owned(), path))
}

/// sampan's own form, or `type=…,dest=…` of docker build.
fn destination(text: &str) -> Result<Destination, CliError> {
    if !text.starts_with("type=") {
        return Ok(Destination::parse(text)?);
    }
    let wrong = || CliError::Build(format!("--output {text:?}: expected type=…,dest=PATH"));
    let all: Option<BTreeMap<&str, &str>> =
        text.split(',').map(|part| part.split_once('=')).collect();
    let all = all.ok_or_else(wrong)?;
    let place = all.get("dest").or(all.get("name")).ok_or_else(wrong)?;
    let form = match all.get("type").copied().unwrap_or_default() {
        "oci" => "oci-archive:",
        "docker" => "docker-archive:",
        "sif" => "sif:",
        "squashfs" => "squashfs:",
        "dir" | "local" => "dir:",
        "registry" | "image" => "docker://",
        _ => return Err(wrong()),
    };
    Ok(Destination::parse(&format!("{form}{place}"))?)
}

/// Steps as lines on standard error.
struct Steps {
    quiet: bool,
    json: bool,
}

impl Steps {
    fn line(&self, text: &str) {
        if !self.quiet {
            // Progress that cannot be shown stops no build.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }
}

impl Watch for Steps {
    fn step(&mut self, stage: &str, text: &str) {
        if self.json {
            self.line(&serde_json::json!({"stage": stage, "step": text}).to_string());
        } else {
            self.line(&format!("[{stage}] {text}"));
        }
    }

    fn cached(&mut self) {
        if self.json {
            self.line(&serde_json::json!({"cached": true}).to_string());
        } else {
            self.line("  (cached)");
        }
    }

    fn output(&mut self, bytes: &[u8]) {
        if self.json {
            let text = String::from_utf8_lossy(bytes);
            self.line(&serde_json::json!({ "output": text }).to_string());
        } else if !self.quiet {
            let _ = std::io::stderr().write_all(bytes);
        }
    }
}
