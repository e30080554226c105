//! `run`, `exec` and `shell`.

use std::ffi::OsString;
use std::path::Path;

use engine::{Engine, INSTANCE, Resolved};
use plan::{Command, Plan, PlanError, Skip, render_text};
use types::ImageRef;

use crate::agent::Again;
use crate::args::{ContainerArgs, DryRun, ExecArgs, Globals, RunArgs, ShellArgs, TestArgs};
use crate::edf::{Described, describe};
use crate::error::CliError;
use crate::lower::LowerError;
use crate::{bars, lower, output, report};

/// Becomes the image's process.
pub fn run(
    engine: &Engine,
    globals: &Globals,
    args: &RunArgs,
    again: &Again,
) -> Result<i32, CliError> {
    let described = describe(engine, &args.container, &args.words)?;
    let given = lower::entrypoint(args.entrypoint.as_ref());
    let without = described.entrypoint == Some(false) && !args.image_entrypoint;
    let command = |resolved: &Resolved, words: Vec<OsString>| match given {
        // An EDF names no command: the image's default words are it.
        None if without && words.is_empty() => {
            let words = resolved.config.cmd.iter().map(OsString::from).collect();
            Command::Run { entrypoint: Some(Vec::new()), args: words }
        }
        None if without => Command::Run { entrypoint: Some(Vec::new()), args: words },
        entrypoint => Command::Run { entrypoint, args: words },
    };
    start(engine, globals, again, described, command)
}

/// Becomes a command.
pub fn exec(
    engine: &Engine,
    globals: &Globals,
    args: &ExecArgs,
    again: &Again,
) -> Result<i32, CliError> {
    let described = describe(engine, &args.container, &args.words)?;
    if described.words.is_empty() {
        return Err(LowerError::NoCommand.into());
    }
    start(engine, globals, again, described, |_, args| Command::Exec { args })
}

/// Becomes the image's test.
pub fn test(
    engine: &Engine,
    globals: &Globals,
    args: &TestArgs,
    again: &Again,
) -> Result<i32, CliError> {
    let described = describe(engine, &args.container, &args.words)?;
    let of_app = described.args.app.is_some();
    match start(engine, globals, again, described, |_, args| Command::Test { args }) {
        // As Apptainer has it: an image need not have one.
        Err(CliError::Engine(engine::Error::Plan(error @ PlanError::NoTest))) if !of_app => {
            if !globals.quiet {
                report::note(&error.to_string());
            }
            Ok(0)
        }
        other => other,
    }
}

/// Becomes a shell.
pub fn shell(
    engine: &Engine,
    globals: &Globals,
    args: &ShellArgs,
    again: &Again,
) -> Result<i32, CliError> {
    let described = describe(engine, &args.container, &args.words)?;
    let shell = args.shell.clone();
    start(engine, globals, again, described, |_, args| Command::Shell { shell, args })
}

/// Finds an image. A name that a registry does not know may have meant a path.
pub fn resolve(engine: &Engine, globals: &Globals, name: &str) -> Result<Resolved, CliError> {
    let image: ImageRef = name.parse().map_err(engine::Error::from)?;
    let progress = bars::progress(globals);
    let resolved = engine.resolve(&image, &progress);
    drop(progress);
    let path = matches!(image, ImageRef::Registry(_)) && Path::new(name).exists();
    if resolved.is_err() && path && !globals.quiet {
        report::warning(&format!("{name} is also a path here: write ./{name} to run that"));
    }
    Ok(resolved?)
}

fn start(
    engine: &Engine,
    globals: &Globals,
    again: &Again,
    described: Described,
    command: impl FnOnce(&Resolved, Vec<OsString>) -> Command,
) -> Result<i32, CliError> {
    let Described { args, image, words, unset, .. } = described;
    if image.starts_with(INSTANCE) {
        return enter(engine, &image, &args, words, &unset, command);
    }
    let resolved = resolve(engine, globals, &image)?;
    let skip = engine.config().no_mount.value;
    let devices = lower::devices(&args);
    let other_nodes = again.other_nodes(words.len());
    let command = match again.proxy {
        // Whatever the launcher itself was started by.
        true => Command::Exec { args: words },
        false => command(&resolved, words),
    };
    let mut request = lower::request(&args, &resolved, command, skip)?;
    request.other_nodes = other_nodes;
    request.dry_run = args.dry_run.is_some() || args.explain;
    let container = engine.prepare(request, &resolved, &devices, &unset)?;
    if planned(globals, &args, container.plan())? {
        return Ok(0);
    }
    Ok(container.launch()?)
}

/// Says what there is to say before a container starts; whether that was all that
/// was asked for.
pub fn planned(globals: &Globals, args: &ContainerArgs, plan: &Plan) -> Result<bool, CliError> {
    if !globals.quiet {
        plan.warnings.iter().for_each(|text| report::warning(text));
    }
    match (args.dry_run, args.explain) {
        (Some(DryRun::Json), _) => output::json(plan)?,
        (Some(DryRun::Text), _) | (None, true) => output::print(&render_text(plan, args.explain))?,
        (None, false) => return Ok(false),
    }
    Ok(true)
}

/// Runs a command in an instance.
fn enter(
    engine: &Engine,
    name: &str,
    args: &ContainerArgs,
    words: Vec<OsString>,
    unset: &[String],
    command: impl FnOnce(&Resolved, Vec<OsString>) -> Command,
) -> Result<i32, CliError> {
    let instance = engine.instance(name)?;
    // Apptainer wants --fakeroot again; it is of the instance.
    let flag = lower::of_start(args).or((args.root && !instance.is_root()).then_some("--root"));
    if let Some(flag) = flag {
        return Err(LowerError::Running(flag).into());
    }
    let resolved = instance.resolved();
    let command = command(&resolved, words);
    let request = lower::request(args, &resolved, command, Skip::default())?;
    Ok(engine.exec_instance(&instance, request, unset)?)
}
