//! What each command does.

use std::io::{IsTerminal, stdout};
use std::path::{Path, PathBuf};

use engine::{Config, Destination, Engine, ExportOptions, Status, exit};
use serde::Serialize;
use store::{PruneOptions, unix_now};
use types::{ImageRef, Platform};

use crate::agent::Again;
use crate::args::{
    CdiCommand, Cli, Command, ConfigCommand, ConvertArgs, DoctorArgs, Globals, HistoryArgs,
    ImagesArgs, LoginArgs, LogoutArgs, MpiCommand, PruneArgs, PullArgs, PushArgs, RemoveArgs,
    TagArgs,
};
use crate::error::CliError;
use crate::{
    bars, building, inspect, instance, listing, manual, output, prompt, report, run, sif_file,
    site, slurm, text,
};

/// Does it; the exit code.
pub fn dispatch(cli: Cli, again: &Again) -> Result<i32, CliError> {
    let Cli { globals, command } = cli;
    // These work whatever the configuration says.
    match &command {
        Command::Version { json } => return version(*json).map(|()| 0),
        Command::Completions { shell } => return manual::completions(*shell).map(|()| 0),
        Command::Man { dir: Some(dir), .. } => return manual::write_all(dir).map(|()| 0),
        Command::Man { command, .. } => {
            return output::print(&manual::page(command.as_deref())?).map(|()| 0);
        }
        _ => {}
    }
    if let Command::Config(args) = &command
        && let ConfigCommand::Check { file, user, json } = &args.command
    {
        // A wrong configuration is what it is for.
        return config_check(file.as_deref(), *user, *json);
    }
    if let Command::Site(args) = &command
        && site::run(&args.command)?
    {
        return Ok(0);
    }
    let config = Config::load(&command.overrides(&globals)).map_err(engine::Error::from)?;
    let engine = Engine::new(config);
    match command {
        Command::Run(args) => return run::run(&engine, &globals, &args, again),
        Command::Exec(args) => return run::exec(&engine, &globals, &args, again),
        Command::Shell(args) => return run::shell(&engine, &globals, &args, again),
        Command::Test(args) => return run::test(&engine, &globals, &args, again),
        Command::Instance(args) => return instance::run(&engine, &globals, args.command),
        Command::Build(args) => building::run(&engine, &globals, &args)?,
        Command::Commit(args) => building::commit(&engine, &globals, &args)?,
        Command::Save(args) => building::save(&engine, &globals, &args)?,
        Command::Load(args) => building::load(&engine, &globals, &args)?,
        Command::Convert(args) => convert(&engine, &globals, &args)?,
        Command::Push(args) => push(&engine, &globals, &args)?,
        Command::Tag(args) => tag(&engine, &globals, &args)?,
        Command::History(args) => history(&engine, &globals, &args)?,
        Command::Sif(args) => sif_file::run(args.command)?,
        Command::Slurm(args) => slurm::run(&engine, args.command)?,
        Command::Cdi(args) => return cdi(&engine, &globals, args.command),
        Command::Mpi(args) => return mpi_check(&engine, &globals, &args.command),
        Command::Doctor(args) => return doctor(&engine, &args),
        Command::Pull(args) => pull(&engine, &globals, &args)?,
        Command::Images(args) => images(&engine, &globals, &args)?,
        Command::Inspect(args) => inspect::inspect(&engine, &args)?,
        Command::RunHelp(args) => inspect::run_help(&engine, &args)?,
        Command::Rm(args) => remove(&engine, &globals, &args)?,
        Command::Prune(args) => prune(&engine, &globals, &args)?,
        Command::Login(args) => login(&engine, &globals, &args)?,
        Command::Logout(args) => logout(&engine, &globals, &args)?,
        Command::Config(args) => {
            let json = matches!(args.command, ConfigCommand::Show { json: true });
            let values = engine.config().show();
            if json { output::json(&values)? } else { output::print(&listing::config(&values))? }
        }
        Command::Site(args) => site::install(&engine, &globals, &args.command)?,
        Command::Version { .. } | Command::Completions { .. } | Command::Man { .. } => {}
    }
    Ok(0)
}

fn version(json: bool) -> Result<(), CliError> {
    let version = env!("CARGO_PKG_VERSION");
    if json {
        #[derive(Serialize)]
        struct Version<'a> {
            version: &'a str,
            platform: String,
            store_format: u32,
        }
        let platform = Platform::host().to_string();
        return output::json(&Version { version, platform, store_format: store::FORMAT_VERSION });
    }
    output::print(&format!("sampan {version}\n"))
}

fn pull(engine: &Engine, globals: &Globals, args: &PullArgs) -> Result<(), CliError> {
    #[derive(Serialize)]
    struct Line {
        reference: String,
        digest: String,
        path: String,
        size: u64,
        converted: bool,
    }
    // A misspelt name is found before the first one is fetched.
    let images = args.images.iter().map(|name| name.parse()).collect::<Result<Vec<ImageRef>, _>>();
    let mut lines = Vec::new();
    for image in images.map_err(engine::Error::from)? {
        let progress = bars::progress(globals);
        let line = if let ImageRef::File(file) = &image {
            // Kept as it is: nothing is converted.
            let fetched = engine.fetch_file(file, &progress)?;
            let (digest, path) = (fetched.digest.to_string(), fetched.path.display().to_string());
            let (reference, size) = (file.to_string(), fetched.size);
            Line { reference, digest, path, size, converted: false }
        } else {
            let pulled = engine.pull(&image, &progress)?;
            Line {
                reference: pulled.reference,
                digest: pulled.image.id.to_string(),
                path: pulled.image.path.display().to_string(),
                size: pulled.image.record.size,
                converted: pulled.converted,
            }
        };
        drop(progress);
        lines.push(line);
        if let (false, Some(line)) = (args.which.json, lines.last()) {
            output::print(&format!("{}\n", line.digest))?;
        }
    }
    if args.which.json { output::json(&lines) } else { Ok(()) }
}

fn convert(engine: &Engine, globals: &Globals, args: &ConvertArgs) -> Result<(), CliError> {
    let to = Destination::parse(&args.destination)?;
    let epoch = engine::source_date_epoch(None)?;
    let options = ExportOptions { force: args.force, deterministic: args.deterministic, epoch };
    export(engine, globals, (&args.image, &to), options, args.which.json)
}

/// Sends an image to a registry, under its own name or another.
fn push(engine: &Engine, globals: &Globals, args: &PushArgs) -> Result<(), CliError> {
    let name = args.destination.as_ref().unwrap_or(&args.image);
    let name = name.strip_prefix("docker://").unwrap_or(name);
    let to = Destination::Registry(name.parse().map_err(engine::Error::from)?);
    let options = ExportOptions { epoch: engine::source_date_epoch(None)?, ..Default::default() };
    export(engine, globals, (&args.image, &to), options, args.which.json)
}

fn tag(engine: &Engine, globals: &Globals, args: &TagArgs) -> Result<(), CliError> {
    let image = args.image.parse().map_err(engine::Error::from)?;
    let name = args.name.parse().map_err(engine::Error::from)?;
    let reference = engine.tag(&image, &name)?;
    say(globals, &format!("{reference}\n"))
}

/// What an image's configuration says of each step, oldest first.
fn history(engine: &Engine, globals: &Globals, args: &HistoryArgs) -> Result<(), CliError> {
    let resolved = run::resolve(engine, globals, &args.image)?;
    let document = engine.image_document(&resolved)?;
    let steps = document["history"].as_array().cloned().unwrap_or_default();
    if args.json {
        return output::json(&steps);
    }
    let line = |step: &serde_json::Value| {
        let text = |name: &str| step[name].as_str().unwrap_or_default().to_owned();
        let layer = if step["empty_layer"] == true { "-" } else { "layer" };
        format!("{:<20}  {layer:<5}  {}\n", text("created"), text("created_by"))
    };
    output::print(&steps.iter().map(line).collect::<String>())
}

fn export(
    engine: &Engine,
    globals: &Globals,
    (image, to): (&str, &Destination),
    options: ExportOptions,
    json: bool,
) -> Result<(), CliError> {
    let image = image.parse().map_err(engine::Error::from)?;
    let progress = bars::progress(globals);
    let exported = engine.convert(&image, to, options, &progress)?;
    drop(progress);
    if json {
        return output::json(&exported);
    }
    let digest = exported.digest.map_or_else(String::new, |digest| format!("@{digest}"));
    say(globals, &format!("{}{digest}\n", exported.destination))
}

fn images(engine: &Engine, globals: &Globals, args: &ImagesArgs) -> Result<(), CliError> {
    let entries = engine.images()?;
    if args.json {
        return output::json(&entries);
    }
    if globals.quiet {
        let ids: String = entries.iter().map(|entry| format!("{}\n", entry.id)).collect();
        return output::print(&ids);
    }
    output::print(&listing::images(&entries, args.no_trunc, unix_now()))
}

fn remove(engine: &Engine, globals: &Globals, args: &RemoveArgs) -> Result<(), CliError> {
    let platform = args.which.platform.as_deref().map(str::parse::<Platform>).transpose()?;
    let mut all = Vec::new();
    for name in &args.images {
        let removed = engine.remove(name, platform.as_ref(), args.force)?;
        if !args.which.json && !globals.quiet {
            output::print(&listing::removed(&removed))?;
        }
        all.push(removed);
    }
    if args.which.json { output::json(&all) } else { Ok(()) }
}

fn prune(engine: &Engine, globals: &Globals, args: &PruneArgs) -> Result<(), CliError> {
    let parse = |age: &String| text::parse_age(age).ok_or_else(|| CliError::Age(age.clone()));
    let older_than = args.older_than.as_ref().map(parse).transpose()?;
    let options = PruneOptions {
        all: args.all,
        older_than,
        dry_run: args.dry_run,
        ..PruneOptions::default()
    };
    let report = engine.prune(&options, &bars::progress(globals))?;
    if args.json {
        output::json(&report)
    } else if globals.quiet && !args.dry_run {
        Ok(())
    } else {
        output::print(&listing::pruned(&report, args.dry_run))
    }
}

fn login(engine: &Engine, globals: &Globals, args: &LoginArgs) -> Result<(), CliError> {
    if args.registry.starts_with("library://") {
        let token = if args.password_stdin {
            prompt::standard_input("password")?
        } else {
            prompt::ask("Token", "password", true)?
        };
        let place = engine.keep_token(&args.registry, &token)?;
        let text = format!("kept the token for {} in {place}, unchecked\n", args.registry);
        return say(globals, &text);
    }
    let username = match &args.username {
        Some(name) => name.clone(),
        None => prompt::ask("User name", "user name", false)?,
    };
    let password = if args.password_stdin {
        prompt::standard_input("password")?
    } else {
        prompt::ask("Password or token", "password", true)?
    };
    let place = engine.login(&args.registry, &username, &password)?;
    say(globals, &format!("logged in to {}; kept in {place}\n", args.registry))
}

fn logout(engine: &Engine, globals: &Globals, args: &LogoutArgs) -> Result<(), CliError> {
    let places = engine.logout(&args.registry)?;
    let registry = &args.registry;
    let text = match &places[..] {
        [] => format!("there were no credentials for {registry}\n"),
        _ => format!("removed the credentials for {registry} from {}\n", places.join(", ")),
    };
    say(globals, &text)
}

/// The exit code says whether all specs are good.
fn cdi(engine: &Engine, globals: &Globals, command: CdiCommand) -> Result<i32, CliError> {
    match command {
        CdiCommand::List { json } => {
            let found = engine.cdi();
            if !globals.quiet {
                let all = found.broken.iter().chain(&found.conflicts);
                all.for_each(|text| report::warning(text));
            }
            if json {
                output::json(&found.devices)?;
            } else {
                output::print(&listing::cdi(&found.devices, globals.quiet))?;
            }
            Ok(0)
        }
        CdiCommand::Validate { files } => {
            let checked = engine.check_cdi(&files)?;
            if checked.is_empty() {
                let dirs =
                    engine.config().cdi_dirs.value.iter().map(|dir| dir.display().to_string());
                let dirs: Vec<String> = dirs.collect();
                say(globals, &format!("there is no CDI spec in {}\n", dirs.join(", ")))?;
            }
            output::print(&listing::cdi_checked(&checked, globals.quiet))?;
            // Two good specs may still be in each other's way.
            let clashes = if files.is_empty() { engine.cdi().conflicts } else { Vec::new() };
            clashes.iter().try_for_each(|text| output::print(&format!("{text}\n")))?;
            let good = clashes.is_empty() && checked.iter().all(|one| one.outcome.is_ok());
            Ok(if good { 0 } else { exit::FAILURE })
        }
    }
}

fn say(globals: &Globals, text: &str) -> Result<(), CliError> {
    if globals.quiet { Ok(()) } else { output::print(text) }
}

/// The exit code says whether something is wrong.
fn config_check(file: Option<&Path>, user: bool, json: bool) -> Result<i32, CliError> {
    #[derive(Serialize)]
    struct Checked {
        file: PathBuf,
        present: bool,
        problems: Vec<String>,
    }
    let files = match file {
        Some(file) => vec![(file.to_owned(), !user)],
        None => Config::files(),
    };
    let mut all = Vec::new();
    for (path, site) in files {
        let present = file.is_some() || path.exists();
        let problems = if present { Config::check_file(&path, site) } else { Vec::new() };
        all.push(Checked { file: path, present, problems });
    }
    if json {
        output::json(&all)?;
    } else {
        let mut text = String::new();
        for Checked { file, present, problems } in &all {
            let said = match (present, &problems[..]) {
                (false, _) => "not there".to_owned(),
                (true, []) => "good".to_owned(),
                (true, problems) => problems.join("\n  "),
            };
            let gap = if problems.is_empty() { " " } else { "\n  " };
            text.push_str(&format!("{}:{gap}{said}\n", file.display()));
        }
        output::print(&text)?;
    }
    let wrong = all.iter().any(|checked| !checked.problems.is_empty());
    Ok(if wrong { exit::FAILURE } else { 0 })
}

/// The exit code says whether the host's MPI can be used.
fn mpi_check(engine: &Engine, globals: &Globals, command: &MpiCommand) -> Result<i32, CliError> {
    let MpiCommand::Check { image, policy, json, .. } = command;
    let resolved = run::resolve(engine, globals, image)?;
    // clap has checked the word.
    let policy = policy.as_deref().and_then(|word| word.parse().ok());
    let check = engine.check_mpi(&resolved, policy)?;
    if *json {
        output::json(&check)?;
    } else {
        output::print(&listing::mpi(&check))?;
    }
    Ok(if check.error.is_some() { exit::FAILURE } else { 0 })
}

/// The exit code says whether containers run on this machine.
fn doctor(engine: &Engine, args: &DoctorArgs) -> Result<i32, CliError> {
    let checks = engine.doctor(&args.registries)?;
    if args.json {
        output::json(&checks)?;
    } else {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        output::print(&listing::checks(&checks, stdout().is_terminal() && !plain))?;
    }
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    Ok(if failed { exit::FAILURE } else { 0 })
}
