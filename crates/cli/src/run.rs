//! `run`, `exec` and `shell`.

use std::path::Path;

use engine::{Engine, Resolved};
use plan::{Command, render_text};
use types::ImageRef;

use crate::args::{ContainerArgs, DryRun, ExecArgs, Globals, RunArgs, ShellArgs, TestArgs};
use crate::error::CliError;
use crate::{bars, lower, output, report};

/// Becomes the image's process.
pub fn run(engine: &Engine, globals: &Globals, args: &RunArgs) -> Result<i32, CliError> {
    let (image, words) = lower::split_words(&args.words)?;
    let entrypoint = lower::entrypoint(args.entrypoint.as_ref());
    let command = Command::Run { entrypoint, args: words };
    start(engine, globals, &args.container, image, command)
}

/// Becomes a command.
pub fn exec(engine: &Engine, globals: &Globals, args: &ExecArgs) -> Result<i32, CliError> {
    let (image, words) = lower::split_words(&args.words)?;
    start(engine, globals, &args.container, image, Command::Exec { args: words })
}

/// Becomes the image's test.
pub fn test(engine: &Engine, globals: &Globals, args: &TestArgs) -> Result<i32, CliError> {
    let (image, words) = lower::split_words(&args.words)?;
    start(engine, globals, &args.container, image, Command::Test { args: words })
}

/// Becomes a shell.
pub fn shell(engine: &Engine, globals: &Globals, args: &ShellArgs) -> Result<i32, CliError> {
    let (image, words) = lower::split_words(&args.words)?;
    let command = Command::Shell { shell: args.shell.clone(), args: words };
    start(engine, globals, &args.container, image, command)
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
    args: &ContainerArgs,
    image: &str,
    command: Command,
) -> Result<i32, CliError> {
    let resolved = resolve(engine, globals, image)?;
    let skip = engine.config().no_mount.value;
    let request = lower::request(args, &resolved, command, skip)?;
    let container = engine.prepare(request, &resolved, &lower::devices(args))?;
    if !globals.quiet {
        container.plan().warnings.iter().for_each(|text| report::warning(text));
    }
    match (args.dry_run, args.explain) {
        (Some(DryRun::Json), _) => output::json(container.plan())?,
        (Some(DryRun::Text), _) | (None, true) => {
            output::print(&render_text(container.plan(), args.explain))?;
        }
        (None, false) => return Ok(container.launch()?),
    }
    Ok(0)
}
