//! `instance`.

use std::time::Duration;

use engine::{Engine, INSTANCE, Instance, InstanceOptions, Sampler, Stats, Stopped};
use globset::{Glob, GlobMatcher};
use plan::Command;
use serde::Serialize;
use store::unix_now;

use crate::args::{
    Globals, InstanceCommand, InstanceListArgs, InstanceStartArgs, InstanceStatsArgs,
    InstanceStopArgs,
};
use crate::edf::{Described, describe};
use crate::error::CliError;
use crate::lower::{self, LowerError};
use crate::{listing, output, report, run};

/// The wait between two looks at what an instance uses.
const LOOK: Duration = Duration::from_secs(1);

/// `instance`; the exit code.
pub fn run(engine: &Engine, globals: &Globals, command: InstanceCommand) -> Result<i32, CliError> {
    match command {
        InstanceCommand::Start(args) => start(engine, globals, &args, false),
        InstanceCommand::Run(args) => start(engine, globals, &args, true),
        InstanceCommand::List(args) => list(engine, globals, &args).map(|()| 0),
        InstanceCommand::Stop(args) => stop(engine, globals, &args).map(|()| 0),
        InstanceCommand::Stats(args) => stats(engine, &args).map(|()| 0),
    }
}

/// Starts an instance, of the image's start script or of what `run` runs.
fn start(
    engine: &Engine,
    globals: &Globals,
    args: &InstanceStartArgs,
    runs: bool,
) -> Result<i32, CliError> {
    // Pipes and files of the caller end with the caller.
    sys::process::close_others(&[]);
    let Described { args: flags, image, mut words, unset, .. } =
        describe(engine, &args.container, &args.words)?;
    if image.starts_with(INSTANCE) {
        return Err(LowerError::Instance(image).into());
    }
    if words.is_empty() {
        return Err(LowerError::NoInstanceName.into());
    }
    let name = words.remove(0);
    let name = name.into_string().map_err(LowerError::InstanceName)?;
    // A name that is in use is found before the image is fetched.
    let naming = engine.name_instance(&name)?;
    let resolved = run::resolve(engine, globals, &image)?;
    let command = match runs {
        true => Command::Run { entrypoint: None, args: words },
        false => Command::Start { args: words },
    };
    let skip = engine.config().no_mount.value;
    let mut request = lower::request(&flags, &resolved, command, skip)?;
    request.isolation.pid = true;
    request.instance = Some(name.clone());
    request.dry_run = flags.dry_run.is_some() || flags.explain;
    let container = engine.prepare(request, &resolved, &lower::devices(&flags), &unset)?;
    if run::planned(globals, &flags, container.plan())? {
        return Ok(0);
    }
    let options = InstanceOptions { pid_file: args.pid_file.clone(), ends: args.no_init };
    let failed = |error: engine::Error| {
        report::error(&error, error.hint().as_deref());
        error.container_exit_code()
    };
    let code = engine.start_instance(container, &resolved, naming, &options, &failed)?;
    if code == 0 && !globals.quiet {
        report::note(&format!("instance {name} started"));
    }
    Ok(code)
}

/// The instances whose names match.
fn matching(engine: &Engine, pattern: &str) -> Result<Vec<Instance>, CliError> {
    let pattern = pattern.strip_prefix(INSTANCE).unwrap_or(pattern);
    let glob: Result<GlobMatcher, _> = Glob::new(pattern).map(|glob| glob.compile_matcher());
    let glob = glob.map_err(|source| CliError::Pattern { text: pattern.to_owned(), source })?;
    let mut all = engine.instances()?;
    all.retain(|one| glob.is_match(&one.name));
    Ok(all)
}

/// One of Apptainer's list, and what it does not show.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    instance: &'a str,
    pid: u32,
    img: &'a str,
    /// An instance has the network of its host.
    ip: &'a str,
    log_err_path: String,
    log_out_path: String,
    node: &'a str,
    here: bool,
    started_at: u64,
}

impl<'a> Line<'a> {
    fn of(one: &'a Instance) -> Self {
        Self {
            instance: &one.name,
            pid: one.pid,
            img: &one.image,
            ip: "",
            log_err_path: one.err.display().to_string(),
            log_out_path: one.out.display().to_string(),
            node: &one.node,
            here: one.here,
            started_at: one.started_at,
        }
    }
}

fn list(engine: &Engine, globals: &Globals, args: &InstanceListArgs) -> Result<(), CliError> {
    #[derive(Serialize)]
    struct List<'a> {
        instances: Vec<Line<'a>>,
    }
    let all = matching(engine, &args.pattern)?;
    if args.json {
        let instances = all.iter().map(Line::of).collect();
        return output::json(&List { instances });
    }
    if globals.quiet {
        return output::print(&all.iter().map(|one| format!("{}\n", one.name)).collect::<String>());
    }
    output::print(&listing::instances(&all, args.logs, unix_now()))
}

fn stop(engine: &Engine, globals: &Globals, args: &InstanceStopArgs) -> Result<(), CliError> {
    let number =
        |text: &String| types::signal_number(text).ok_or_else(|| CliError::Signal(text.clone()));
    let signal = match args.force {
        true => Some(rustix::process::Signal::KILL.as_raw()),
        false => args.signal.as_ref().map(number).transpose()?,
    };
    let pattern = args.pattern.as_deref().unwrap_or("*");
    let (here, elsewhere): (Vec<_>, Vec<_>) =
        matching(engine, pattern)?.into_iter().partition(|one| one.here);
    if !globals.quiet {
        for one in &elsewhere {
            report::warning(&format!("{} is on node {}: it is left alone", one.name, one.node));
        }
    }
    if here.is_empty() && !args.all {
        return Err(CliError::NoInstance(pattern.to_owned()));
    }
    let mut said = |one: &Instance, how: Stopped| {
        if !globals.quiet {
            let how = if how == Stopped::Killed { "killed" } else { "stopped" };
            report::note(&format!(
                "instance {} {how} (process {}, {})",
                one.name, one.pid, one.image
            ));
        }
    };
    let timeout = Duration::from_secs(args.timeout.into());
    Ok(engine.stop_instances(&here, signal, timeout, &mut said)?)
}

fn stats(engine: &Engine, args: &InstanceStatsArgs) -> Result<(), CliError> {
    #[derive(Serialize)]
    struct Line<'a> {
        instance: &'a str,
        pid: u32,
        #[serde(flatten)]
        stats: Stats,
    }
    let instance = engine.instance(&args.name)?;
    let ended = || engine::Error::InstanceEnded { name: instance.name.clone() };
    let mut sampler = Sampler::new(&instance).ok_or_else(ended)?;
    sampler.sample().ok_or_else(ended)?;
    let mut first = true;
    loop {
        std::thread::sleep(LOOK);
        // Its end is the end of the looking.
        let Some(stats) = sampler.sample() else { return Ok(()) };
        if args.json {
            let line = Line { instance: &instance.name, pid: instance.pid, stats };
            output::print(&(serde_json::to_string(&line)? + "\n"))?;
        } else {
            let table = listing::stats(&instance.name, &stats);
            let line = table.split_inclusive('\n').skip(usize::from(!first));
            output::print(&line.collect::<String>())?;
        }
        if args.no_stream {
            return Ok(());
        }
        first = false;
    }
}
