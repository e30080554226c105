//! `build`: arguments to a build, and what goes with it.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use build::{BuildError, CachePlace, EPOCH, Options};
use engine::{Destination, Engine, ExportOptions};
use types::{ImageRef, RegistryRef};

use crate::args::{BuildArgs, CommitArgs, Globals, LoadArgs, SaveArgs};
use crate::error::CliError;
use crate::steps::Steps;
use crate::{bars, output};

/// Builds an image, keeps it, and writes it where that is asked for.
pub fn run(engine: &Engine, globals: &Globals, args: &BuildArgs) -> Result<(), CliError> {
    let wrong = |text: String| CliError::Build(text);
    let (file, text) = recipe(args)?;
    let names: Vec<RegistryRef> =
        args.tags.iter().map(|tag| image_name(tag)).collect::<Result<_, CliError>>()?;
    let outputs = args.outputs.iter().map(|text| destination(text));
    let mut outputs: Vec<Destination> = outputs.collect::<Result<_, _>>()?;
    if let Some(path) = &args.sandbox {
        outputs.push(Destination::parse(&format!("dir:{}", path.display()))?);
    }
    let variables = variables(args)?;
    let epoch = match args.timestamp {
        None => engine::source_date_epoch(variables.get(EPOCH).map(String::as_str))?,
        given => given,
    };
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
        args: variables,
        secrets: args.secrets.iter().map(|s| secret(s, keep.path())).collect::<Result<_, _>>()?,
        agents: args.agents.iter().map(|text| agent(text)).collect::<Result<_, _>>()?,
        shell_on_failure: args.shell_on_failure,
        squash: args.squash,
        cache_from: args.cache_from.iter().map(|t| cache_place(t)).collect::<Result<_, _>>()?,
        cache_to: args.cache_to.iter().map(|t| cache_place(t)).collect::<Result<_, _>>()?,
        no_cache: args.no_cache,
        no_test: args.no_test,
        // clap has checked the word.
        root_emulation: args.root_emulation.parse().unwrap_or_default(),
        epoch,
    };
    let quiet = globals.quiet || args.progress == "quiet";
    let mut watch = match args.progress.as_str() {
        _ if quiet => Steps::quiet(),
        "json" => Steps::json(),
        "auto" if std::io::stderr().is_terminal() => Steps::live(),
        _ => Steps::lines(),
    };
    let progress = bars::progress(globals);
    let outcome = build::build(engine, &text, &options, progress, &mut watch);
    let built = outcome.image.inspect_err(|_| {
        if watch.hides_output() {
            // What nobody has seen explains the failure.
            let _ = std::io::stderr().write_all(&outcome.last_output);
        }
    })?;
    let image = engine.add_built(&built, &names)?;
    let id = image.id.to_string();
    for to in &outputs {
        let name: ImageRef = id.parse().map_err(engine::Error::from)?;
        let options = ExportOptions { force: true, deterministic: false, epoch };
        engine.convert(&name, to, options, &bars::progress(globals))?;
    }
    output::print(&format!("{id}\n"))
}

fn image_name(text: &str) -> Result<RegistryRef, CliError> {
    match text.parse::<ImageRef>() {
        Ok(ImageRef::Registry(name)) => Ok(name),
        Ok(_) => Err(CliError::Build(format!("{text:?} is no name of an image"))),
        Err(source) => Err(engine::Error::from(source).into()),
    }
}

/// Makes an image of what an overlay directory has over another one.
pub fn commit(engine: &Engine, globals: &Globals, args: &CommitArgs) -> Result<(), CliError> {
    let name = image_name(&args.name)?;
    let mut watch = Steps::quiet();
    let (progress, changes) = (bars::progress(globals), &args.changes);
    let built = build::commit(engine, &args.image, &args.overlay, changes, progress, &mut watch)?;
    let image = engine.add_built(&built, &[name])?;
    output::print(&format!("{}\n", image.id))
}

/// Writes an archive of `docker save`, to a file or to standard output.
pub fn save(engine: &Engine, globals: &Globals, args: &SaveArgs) -> Result<(), CliError> {
    let image: ImageRef = args.image.parse().map_err(engine::Error::from)?;
    let progress = bars::progress(globals);
    let options = ExportOptions { force: true, ..ExportOptions::default() };
    let name = match &image {
        ImageRef::Registry(_) => engine.name_in_store(&image)?,
        _ => None,
    };
    let name = name.map_or_else(String::new, |name| format!(":{name}"));
    let write = |path: &Path| {
        let to = Destination::parse(&format!("docker-archive:{}{name}", path.display()))?;
        engine.convert(&image, &to, options, &progress)
    };
    if let Some(path) = &args.output {
        write(path)?;
        return Ok(());
    }
    if std::io::stdout().is_terminal() {
        let text = "an archive is nothing for a terminal: -o FILE, or a pipe".to_owned();
        return Err(CliError::Build(text));
    }
    let file = temporary()?;
    write(file.path())?;
    let failed = |source| BuildError::Write { path: "standard output".into(), source };
    // A file of that name was put in the place of this one.
    let mut archive = std::fs::File::open(file.path()).map_err(failed)?;
    std::io::copy(&mut archive, &mut std::io::stdout()).map_err(failed)?;
    Ok(())
}

/// Takes the images of an archive into the store.
pub fn load(engine: &Engine, globals: &Globals, args: &LoadArgs) -> Result<(), CliError> {
    let progress = bars::progress(globals);
    let loaded = match &args.input {
        Some(path) => engine.load(path, &progress)?,
        None => {
            let file = temporary()?;
            let failed = |source| BuildError::Read { path: "standard input".into(), source };
            let mut archive = file.reopen().map_err(failed)?;
            std::io::copy(&mut std::io::stdin(), &mut archive).map_err(failed)?;
            engine.load(file.path(), &progress)?
        }
    };
    if args.json {
        let line = |(name, image): &(String, store::StoredImage)| serde_json::json!({"reference": name, "digest": image.id.to_string()});
        return output::json(&loaded.iter().map(line).collect::<Vec<_>>());
    }
    loaded.iter().try_for_each(|(name, _)| output::print(&format!("{name}\n")))
}

fn temporary() -> Result<tempfile::NamedTempFile, CliError> {
    let failed = |source| BuildError::Write { path: std::env::temp_dir(), source };
    Ok(tempfile::NamedTempFile::new().map_err(failed)?)
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
            let text = bounded(std::io::stdin()).map_err(unread(&path))?;
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
    let text = std::fs::File::open(&path).and_then(bounded).map_err(unread(&path))?;
    Ok((path, text))
}

/// A recipe's text, where it is not endless.
fn bounded(from: impl Read) -> std::io::Result<String> {
    /// In bytes.
    const LARGEST: u64 = 64 << 20;
    let mut text = String::new();
    if from.take(LARGEST + 1).read_to_string(&mut text)? as u64 > LARGEST {
        let reason = format!("it has more than {LARGEST} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, reason));
    }
    Ok(text)
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

fn cache_place(text: &str) -> Result<CachePlace, CliError> {
    let wrong = || CliError::Build(format!("{text:?} is no place for layers: PATH or NAME[:TAG]"));
    CachePlace::parse(text).ok_or_else(wrong)
}

/// `NAME[=SOCKET]`.
fn agent(text: &str) -> Result<(String, PathBuf), CliError> {
    let (name, socket) = match text.split_once('=') {
        Some((name, socket)) => (name, Some(PathBuf::from(socket))),
        None => (text, std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from)),
    };
    let none = || CliError::Build(format!("--ssh {text}: SSH_AUTH_SOCK names no agent"));
    let socket = std::path::absolute(socket.ok_or_else(none)?).map_err(|_| none())?;
    let meta = std::fs::metadata(&socket)
        .map_err(|source| BuildError::Read { path: socket.clone(), source })?;
    if !meta.file_type().is_socket() {
        let advice = "is no socket of an agent; for a key: eval $(ssh-agent), ssh-add KEY, then";
        return Err(CliError::Build(format!("--ssh {text:?}: {socket:?} {advice} --ssh {name}")));
    }
    Ok((name.to_owned(), socket))
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
