//! RUN: a command in a container, and what it changed.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use engine::Engine;
use image::{ConvertOptions, TreeSource};
use plan::{
    Command, HomeChoice, Identity, Isolation, MountRequest, RootSource, RunRequest, Skip, SubIds,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitOptions, waitpid};
use sys::process::{Fork, exit_now, fork};
use types::{ACL_NOTES, ImageConfig};

use crate::builder::Builder;
use crate::cache::Hasher;
use crate::dockerfile::{Heredoc, RunMount, Words};
use crate::error::{BuildError, Result};
use crate::state::State;

/// How much of a command's output a failure shows again.
const LAST_OUTPUT: usize = 8 << 10;

/// Whether a variable names a proxy, which needs no ARG.
pub(crate) fn is_proxy(name: &str) -> bool {
    let known = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];
    let same_case = name == name.to_ascii_lowercase() || name == name.to_ascii_uppercase();
    same_case && known.contains(&name.to_ascii_lowercase().as_str())
}

/// A RUN, with variables expanded.
pub(crate) struct Run {
    pub(crate) words: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) mounts: Vec<MountRequest>,
    /// Whether it has the caller's terminal.
    pub(crate) interactive: bool,
    pub(crate) no_net: bool,
    pub(crate) user: Option<(u32, u32)>,
    pub(crate) workdir: PathBuf,
}

/// What a RUN says.
pub(crate) struct RunArguments<'a> {
    pub(crate) command: &'a Words,
    pub(crate) heredocs: &'a [Heredoc],
    pub(crate) mounts: &'a [RunMount],
    pub(crate) network: Option<&'a str>,
}

impl Builder<'_> {
    /// The layer of a RUN: from the cache, or made now.
    pub(crate) fn run(&mut self, state: &mut State, said: &RunArguments<'_>) -> Result<bool> {
        let mut run = self.plan_run(state, said)?;
        let mut hasher = Hasher::new(&state.key, "run");
        hasher.text(&format!("{:?} {:?} {:?}", run.words, run.env, run.user));
        hasher.text(&format!("{:?} {}", run.workdir, run.no_net));
        hasher.text(&format!("{:?} {:?}", said.mounts, self.options().root_emulation));
        let mut mounts = self.mounts(state, said.mounts, &mut hasher)?;
        let key = hasher.key();
        self.layer(state, &key, |builder, state, out| {
            let scratch = Scratch::new(builder)?;
            let turns = mounts.lock(builder)?;
            mounts.prepare(&scratch.dir, builder.sub_ids())?;
            run.mounts = std::mem::take(&mut mounts.requests);
            run.env.append(&mut mounts.env);
            run.env.extend(builder.proxies(&run.env));
            let code = builder.execute(state, &run, &scratch)?;
            drop(turns);
            if code != 0 {
                builder.offer_shell(state, &mut run, &scratch)?;
                return Err(BuildError::Command { code });
            }
            if scratch.untouched() {
                return Ok(());
            }
            scratch.commit(out.create()?, &builder.convert_options())
        })
    }

    /// Proxies that were given for the build: every command has them, and no layer is
    /// another one for them.
    fn proxies(&self, env: &[(String, String)]) -> Vec<(String, String)> {
        let given = self.options().args.iter().filter(|(name, _)| is_proxy(name));
        let new = given.filter(|(name, _)| !env.iter().any(|(known, _)| known == *name));
        new.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    fn plan_run(&self, state: &State, said: &RunArguments<'_>) -> Result<Run> {
        let words = words(state, said);
        let mut env = state.env();
        for (name, value) in &state.args {
            if !env.iter().any(|(known, _)| known == name) {
                env.push((name.clone(), value.clone()));
            }
        }
        let mut user = None;
        if let Some(spec) = state.user() {
            let (uid, gid, home) = state.ids(spec)?;
            if (uid, gid) != (0, 0) {
                user = Some((uid, gid));
            }
            if !env.iter().any(|(name, _)| name == "HOME") {
                env.push(("HOME".to_owned(), home.unwrap_or_else(|| "/".to_owned())));
            }
        }
        Ok(Run {
            words,
            env,
            mounts: Vec::new(),
            interactive: false,
            no_net: said.network == Some("none"),
            user,
            workdir: state.workdir(),
        })
    }

    /// A shell where a command has failed, if that is asked for.
    fn offer_shell(&mut self, state: &State, run: &mut Run, scratch: &Scratch) -> Result<()> {
        if !self.options().shell_on_failure {
            return Ok(());
        }
        // The shell has the terminal.
        self.watch().done();
        self.watch().output(b"the command failed: a shell where it ran; exit ends the build\n");
        run.words = vec![state.shell.first().cloned().unwrap_or_else(|| "/bin/sh".to_owned())];
        run.interactive = true;
        // The kernel does not mount a volatile overlay twice (overlayfs.rst).
        let work = scratch.overlay().join("work");
        runtime::as_root(self.sub_ids(), || std::fs::remove_dir_all(&work).is_ok())?;
        let last = std::mem::take(&mut self.last_output);
        self.execute(state, run, scratch)?;
        self.last_output = last;
        Ok(())
    }

    /// Runs the command in a process of its own; its exit code.
    pub(crate) fn execute(&mut self, state: &State, run: &Run, scratch: &Scratch) -> Result<i32> {
        let words = run.words.iter().map(OsString::from).collect();
        let root = RootSource::Squashfs { parts: state.parts.clone() };
        let command = Command::Exec { args: words };
        let mut request = RunRequest::new("build", root.clone(), ImageConfig::default(), command);
        request.identity = Identity::Root;
        request.root_emulation = self.options().root_emulation;
        request.emulated_user = run.user;
        request.isolation = Isolation { ipc: true, no_net: run.no_net, ..Isolation::contain_all() };
        request.skip =
            Skip { tmp: true, cwd: true, accounts: true, localtime: true, ..Skip::default() };
        request.overlays = vec![(scratch.overlay(), false)];
        // What a crash leaves of it is thrown away.
        request.volatile = true;
        request.mounts.clone_from(&run.mounts);
        request.env = run.env.iter().map(|(n, v)| (n.into(), v.into())).collect();
        request.home = HomeChoice::None;
        request.workdir = Some(run.workdir.clone());
        let resolved = engine::Resolved {
            name: "build".to_owned(),
            root,
            config: ImageConfig::default(),
            stored: None,
            scripts: false,
            sif: Default::default(),
        };
        let container = self.engine().prepare_apart(request, &resolved)?;
        self.warn(&container.plan().warnings);
        let (output, end) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|e| BuildError::Fork(e.into()))?;
        match fork().map_err(BuildError::Fork)? {
            Fork::Child => {
                let attached = if run.interactive { Ok(()) } else { attach(&end) };
                let code = match attached.map(|()| container.launch()) {
                    Ok(Ok(code)) => code,
                    Ok(Err(error)) => tell(&error),
                    Err(error) => tell(&error),
                };
                exit_now(code)
            }
            Fork::Parent(child) => {
                drop((end, container));
                self.listen(output);
                let status = waitpid(Some(child), WaitOptions::empty());
                let status = status.map_err(|e| BuildError::Fork(e.into()))?;
                let status = status.map(|(_, status)| status);
                let signal =
                    |s: rustix::process::WaitStatus| s.terminating_signal().map(|n| 128 + n);
                let code = status.and_then(|s| s.exit_status().or_else(|| signal(s)));
                Ok(code.unwrap_or(1))
            }
        }
    }

    /// Passes on what the command says, until nobody is left to say anything.
    fn listen(&mut self, output: OwnedFd) {
        let mut output = File::from(output);
        let mut last = VecDeque::new();
        let mut buffer = vec![0; 1 << 14];
        loop {
            match output.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => {
                    self.watch().output(&buffer[..got]);
                    last.extend(&buffer[..got]);
                    let more = last.len().saturating_sub(LAST_OUTPUT);
                    last.drain(..more);
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                // The command is over, whatever it said.
                Err(_) => break,
            }
        }
        self.last_output = last.into();
    }
}

/// Standard streams of a command: nothing in, one pipe out. It ends with the
/// build.
fn attach(end: &OwnedFd) -> std::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(end)?;
    rustix::stdio::dup2_stderr(end)?;
    Ok(())
}

/// In the command's process: its output is the only way to say something.
pub(crate) fn tell(error: &dyn std::error::Error) -> i32 {
    let mut text = format!("error: {error}\n");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!("  caused by: {cause}\n"));
        source = cause.source();
    }
    // Whoever listens has gone; there is nobody else.
    let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
    125
}

/// The words of a RUN. A document alone is a script; another one is the
/// shell's, behind the command.
fn words(state: &State, said: &RunArguments<'_>) -> Vec<String> {
    let Words::Shell(text) = said.command else { return state.command(said.command) };
    let [first, ..] = said.heredocs else { return state.command(said.command) };
    let alone = text.starts_with("<<") && text.split_whitespace().count() == 1;
    if !alone {
        let mut all = text.clone();
        for document in said.heredocs {
            all.push_str(&format!("\n{}{}", document.content, document.name));
        }
        all.push('\n');
        return state.command(&Words::Shell(all));
    }
    if first.content.starts_with("#!") {
        // Its own interpreter reads it from a file that goes with the shell.
        let run = "f=$(mktemp) && printf '%s' \"$0\" >$f && chmod +x $f && $f; c=$?; \
                   rm -f $f; exit $c";
        return ["/bin/sh", "-c", run, &first.content].map(str::to_owned).to_vec();
    }
    state.command(&Words::Shell(first.content.clone()))
}

/// Where a command writes: the upper directory of its overlay. Its name says whose it
/// is, as another machine or PID namespace may have the same directory for scratch.
pub(crate) struct Scratch {
    dir: PathBuf,
    sub_ids: Option<SubIds>,
}

impl Scratch {
    pub(crate) fn new(builder: &Builder<'_>) -> Result<Self> {
        let dir = builder.scratch().join(store::temporary_name("step"));
        let scratch = Self { dir, sub_ids: builder.sub_ids().cloned() };
        let failed = |source| BuildError::Write { path: scratch.dir.clone(), source };
        std::fs::create_dir_all(&scratch.dir).map_err(failed)?;
        // A list that the host's directory passes on is none of the image's.
        let _ = rustix::fs::removexattr(&scratch.dir, ACL_NOTES[1].0);
        std::fs::create_dir_all(scratch.overlay()).map_err(failed)?;
        Ok(scratch)
    }

    /// A path for something of this step.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A new directory for something of this step.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.file(name);
        std::fs::create_dir(&path)
            .map_err(|source| BuildError::Write { path: path.clone(), source })?;
        Ok(path)
    }

    fn overlay(&self) -> PathBuf {
        self.dir.join("overlay")
    }

    pub(crate) fn upper(&self) -> PathBuf {
        self.overlay().join("upper")
    }

    fn untouched(&self) -> bool {
        std::fs::read_dir(self.upper()).is_ok_and(|mut list| list.next().is_none())
    }

    /// Writes what has changed as a layer.
    pub(crate) fn commit(&self, file: File, options: &ConvertOptions) -> Result<()> {
        commit(&self.upper(), self.sub_ids.as_ref(), file, options)
    }

    /// Removes everything; what a command closed even to itself is opened.
    fn remove(&self) {
        if !self.dir.exists() || std::fs::remove_dir_all(&self.dir).is_ok() {
            return;
        }
        // What stays is removed by the next build.
        let _ = runtime::as_root(self.sub_ids.as_ref(), || {
            let _ = std::fs::remove_dir_all(&self.dir);
            true
        });
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Writes an upper directory as a layer, past all permission bits.
pub(crate) fn commit(
    upper: &Path,
    sub_ids: Option<&SubIds>,
    file: File,
    options: &ConvertOptions,
) -> Result<()> {
    let done = runtime::as_root(sub_ids, || {
        let source = TreeSource::Upper { path: upper, owned: sub_ids.is_some() };
        let copied = image::copy(source, file, options, &[]);
        if let Err(error) = &copied {
            tell(error);
        }
        copied.is_ok()
    })?;
    if done { Ok(()) } else { Err(BuildError::Commit) }
}

/// Removes what builds that were killed have left.
pub(crate) fn clean(engine: &Engine, scratch: &Path) {
    let Ok(list) = std::fs::read_dir(scratch) else { return };
    for entry in list.flatten() {
        if store::is_left(&entry.path(), engine::LONGEST_STEP) {
            let mut left = Scratch { dir: entry.path(), sub_ids: None };
            left.remove();
            if left.dir.exists() {
                // Some of it belongs to subordinate ids, if the caller has any.
                left.sub_ids = engine.sub_ids().ok().flatten();
            }
        }
    }
}
