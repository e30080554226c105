//! What happens to a step on a node: everything but the talk with Slurm.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::StepError;
use crate::flags::{ContainerName, Existence, Options};
use crate::named::Named;
use crate::programs;
use crate::words::words;

/// Where sampan is unless plugstack.conf says otherwise.
const SAMPAN: &str = "/usr/bin/sampan";

/// The kernel reads 256 bytes of a script's first line, and older ones 128.
const LONGEST_PATH: usize = 100;

/// What kind of step it is (`slurm.h`, special step identifiers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// srun's.
    Srun,
    /// The script of sbatch.
    Batch,
}

/// What Slurm says about a step.
#[derive(Debug)]
pub struct Facts {
    /// Its kind.
    pub kind: Kind,
    /// The job.
    pub job: u32,
    /// The step.
    pub step: u32,
    /// Tasks on this node.
    pub local_tasks: u32,
    /// Tasks on all nodes.
    pub tasks: u32,
    /// The command's words, before Slurm has looked the program up on the node.
    pub argv: Vec<OsString>,
    /// The job's variables, `NAME=VALUE`.
    pub env: Vec<OsString>,
}

/// A variable among `NAME=VALUE`.
#[must_use]
pub fn variable<'a>(env: &'a [OsString], name: &str) -> Option<&'a OsStr> {
    env.iter().find_map(|pair| {
        let rest = pair.as_bytes().strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"=").map(OsStr::from_bytes)
    })
}

/// Starts commands as the job's user.
pub trait AsUser {
    /// Makes the command's process the user's.
    fn drop_to_user(&self, command: &mut Command);
}

/// Where a container is saved.
#[derive(Debug)]
struct Save {
    file: PathBuf,
    /// The overlay directory exists for the sake of this alone.
    unnamed: bool,
}

/// A step whose tasks run in a container.
#[derive(Debug)]
pub struct Step {
    sampan: PathBuf,
    /// The command line of sampan, up to the command.
    words: Vec<OsString>,
    /// The command, before Slurm has looked the program up on the node.
    argv: Vec<OsString>,
    named: Option<(String, Named)>,
    save: Option<Save>,
    env: Vec<OsString>,
    job: u32,
    /// Whether each task has a program of its own.
    several: bool,
    /// Whether a container that runs is entered.
    joins: bool,
}

/// Finds sampan: where plugstack.conf says, or else in its usual place or
/// along the job's PATH.
fn find_sampan(argument: Option<&Path>, env: &[OsString]) -> Result<PathBuf, StepError> {
    let path = match argument {
        Some(path) => Some(path.to_owned()).filter(|path| path.is_file()),
        None => {
            let along = variable(env, "PATH").map(|path| std::env::split_paths(path).collect());
            let along: Vec<PathBuf> = along.unwrap_or_default();
            let along = along.into_iter().filter(|dir| dir.is_absolute());
            let all = std::iter::once(SAMPAN.into()).chain(along.map(|dir| dir.join("sampan")));
            all.into_iter().find(|path| path.is_file())
        }
    };
    let wanted = || argument.unwrap_or(Path::new(SAMPAN)).to_owned();
    let path = path.ok_or_else(|| StepError::NoSampan(wanted()))?;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() > LONGEST_PATH || bytes.iter().any(u8::is_ascii_whitespace) {
        return Err(StepError::SampanPath(path));
    }
    Ok(path)
}

/// A path relative to the job's directory means the same in later steps.
fn lasting(image: &str) -> String {
    if !image.starts_with('.') {
        return image.to_owned();
    }
    std::path::absolute(image).map_or(image.to_owned(), |path| path.to_string_lossy().into_owned())
}

/// The name that the step's files go by.
fn named(
    options: &Options,
    facts: &Facts,
    start: &dyn Fn(&[&OsStr]) -> Result<String, StepError>,
) -> Result<Option<(ContainerName, Named)>, StepError> {
    let unnamed = || ContainerName {
        // A dot is what no name of a person begins with.
        name: format!(".save-{}", facts.step),
        existence: Existence::Any,
    };
    let Some(name) = options.name.clone().or_else(|| options.save.is_some().then(unnamed)) else {
        return Ok(None);
    };
    if options.edf.is_some() && options.image.is_none() {
        let flag = if options.name.is_some() { "--container-name" } else { "--container-save" };
        return Err(StepError::EdfImage(flag));
    }
    let job = facts.job.to_string();
    let words = ["slurm", "state", &job, &name.name].map(OsStr::new);
    let dir = PathBuf::from(start(&words)?.trim_end());
    let writes = facts.local_tasks == 1 || options.save.is_some();
    let writable = options.writable.unwrap_or(writes);
    let image = options.image.as_deref().map(lasting);
    let held = Named::open(&dir, &name, image.as_deref(), writable)?;
    Ok(Some((name, held)))
}

/// The words that enter a container of the job that runs; None where one is made.
fn joining(
    options: &Options,
    job: u32,
    start: &dyn Fn(&[&OsStr]) -> Result<String, StepError>,
) -> Result<Option<Vec<OsString>>, StepError> {
    let may =
        |name: &&ContainerName| matches!(name.existence, Existence::Auto | Existence::Running);
    let Some(name) = options.name.as_ref().filter(may) else { return Ok(None) };
    let must = name.existence == Existence::Running;
    let fixed = [
        (must && options.image.is_some(), "--container-image"),
        (options.edf.is_some(), "--edf"),
        (!options.mounts.is_empty(), "--container-mounts"),
        (options.save.is_some(), "--container-save"),
        (options.root.is_some(), "--container-remap-root"),
        (options.writable.is_some(), "--container-writable or --container-readonly"),
    ];
    if let Some((_, flag)) = fixed.iter().find(|(given, _)| *given) {
        return if must { Err(StepError::Fixed(flag)) } else { Ok(None) };
    }
    let job = job.to_string();
    let dir = start(&["slurm", "state", &job, &name.name].map(OsStr::new))?;
    let dir = Path::new(dir.trim_end());
    let image = options.image.as_deref().map(lasting);
    if !must && !Named::runs(dir, image.as_deref()) {
        return Ok(None);
    }
    let process = Named::process(dir);
    let (process, started) = process.ok_or_else(|| StepError::NotRunning(name.name.clone()))?;
    let mut words: Vec<OsString> = ["slurm", "join"].map(OsString::from).to_vec();
    if let Some(dir) = &options.workdir {
        words.extend(["--workdir", dir].map(OsString::from));
    }
    words.extend([process, started, "--".to_owned()].map(OsString::from));
    Ok(Some(words))
}

impl Step {
    /// Decides the container of a step; None when the step has none. Runs once
    /// on each node, and does nothing that may take long: Slurm cannot cancel
    /// a step meanwhile.
    ///
    /// # Errors
    /// When the step cannot have its container: no task must be started.
    pub fn decide(
        options: &Options,
        argument: Option<&Path>,
        facts: Facts,
        user: &dyn AsUser,
    ) -> Result<Option<Self>, StepError> {
        if options.image.is_none() && options.edf.is_none() && options.name.is_none() {
            return match options.first_about_container() {
                Some(flag) => Err(StepError::NoImage(flag)),
                None => Ok(None),
            };
        }
        if options.save.is_some() && facts.tasks != facts.local_tasks {
            return Err(StepError::Save(facts.tasks));
        }
        if options.save.is_some() && options.writable == Some(false) {
            return Err(StepError::SaveReadOnly);
        }
        let mut facts = facts;
        let several = programs::are(&facts.argv);
        if several {
            // Whether the image has it is asked; each task's own program comes from Slurm.
            facts.argv = vec![programs::first(&facts.argv).ok_or(StepError::MultiProg)?];
        }
        let program = facts.argv.first().ok_or(StepError::NoProgram)?.clone();
        let sampan = find_sampan(argument, &facts.env)?;
        let start = |words: &[&OsStr]| Ok(sampan_output(&sampan, words, &facts.env, user)?.0);
        if let Some(words) = joining(options, facts.job, &start)? {
            let (argv, env, job) = (facts.argv, facts.env, facts.job);
            return Ok(Some(Self {
                sampan,
                words,
                argv,
                named: None,
                save: None,
                env,
                job,
                several,
                joins: true,
            }));
        }
        let named = named(options, &facts, &start)?;
        let image = named.as_ref().map(|(_, held)| held.image.clone());
        let image = image.or_else(|| options.image.clone());
        let overlay = named.as_ref().and_then(|(_, held)| held.overlay());
        let mut words = words(options, image.as_deref(), overlay.as_ref(), facts.local_tasks);
        if facts.kind == Kind::Batch {
            // slurmd keeps the script in a directory of its own.
            words.splice(1..1, ["--bind".into(), bind(&program)]);
        }
        // When the task has ended, slurmstepd is in another directory.
        let save = options.save.as_deref().map(|file| {
            let file = std::path::absolute(file).unwrap_or(file.to_owned());
            Save { file, unnamed: options.name.is_none() }
        });
        Ok(Some(Self {
            sampan,
            words,
            argv: facts.argv,
            named: named.map(|(name, held)| (name.name, held)),
            save,
            env: facts.env,
            job: facts.job,
            several,
            joins: false,
        }))
    }

    /// Has sampan check everything, which fetches the image. Runs in one
    /// task's process while the node's others wait. `say` takes what sampan
    /// warns of.
    ///
    /// # Errors
    /// What sampan says is wrong.
    pub fn check(&self, user: &dyn AsUser, say: &dyn Fn(&str)) -> Result<(), StepError> {
        if self.joins {
            // There is nothing to fetch, and each task sees by itself whether it runs.
            return Ok(());
        }
        let mut words: Vec<&OsStr> = self.words.iter().map(OsString::as_os_str).collect();
        words.insert(1, OsStr::new("--dry-run"));
        words.extend(self.argv.iter().map(OsString::as_os_str));
        let (_, said) = sampan_output(&self.sampan, &words, &self.env, user)?;
        // Of a thousand nodes nobody wants to read how each one waited.
        said.lines().filter(|line| line.starts_with("warning: ")).for_each(say);
        match &self.named {
            Some((name, held)) => held.keep(name),
            None => Ok(()),
        }
    }

    /// A script that makes its process sampan with this step's words; what the
    /// process has of arguments follows.
    ///
    /// First line for the kernel, then words, each with a zero behind it.
    #[must_use]
    pub fn script(&self) -> Vec<u8> {
        let mut script = [b"#!", self.sampan.as_os_str().as_bytes(), b" slurm-task\n"].concat();
        // Fetched and warned of already.
        let (first, rest) = self.words.split_at(1);
        let more = ["--quiet", "--pull", "never"].map(OsString::from);
        let more = if self.joins { &[][..] } else { &more };
        let program = self.argv.first().filter(|_| !self.several);
        for word in first.iter().chain(more).chain(rest).chain(program) {
            script.extend(word.as_bytes());
            script.push(0);
        }
        script
    }

    /// Whether each task has a program of its own, which follows the script's path.
    #[must_use]
    pub fn several(&self) -> bool {
        self.several
    }

    /// Writes the container to its file, once its tasks have ended.
    ///
    /// # Errors
    /// When sampan says why not.
    pub fn save(&self, step: u32, user: &dyn AsUser) -> Result<(), StepError> {
        let (Some(save), Some((_, named))) = (&self.save, &self.named) else { return Ok(()) };
        let image = format!("localhost/slurm-save:{}.{step}", self.job);
        let start = |words: &[&OsStr]| sampan_output(&self.sampan, words, &self.env, user);
        let mut file = OsString::from("squashfs:");
        file.push(&save.file);
        let directory = named.directory();
        let commit = [OsStr::new("commit"), directory.as_os_str()];
        let words = [&commit[..], &[OsStr::new(&named.image), OsStr::new(&image)]].concat();
        let written = start(&words).and_then(|_| {
            let convert = ["convert", "--quiet", "--force", &image].map(OsStr::new);
            let written = start(&[&convert[..], &[&file]].concat());
            start(&["rm", "--quiet", &image].map(OsStr::new)).and(written)
        });
        if save.unnamed {
            let (job, name) = (self.job.to_string(), format!(".save-{step}"));
            start(&["slurm", "forget", &job, &name].map(OsStr::new))?;
        }
        written?;
        Ok(())
    }
}

/// `PATH:PATH:ro`, escaped.
fn bind(path: &OsStr) -> OsString {
    let mut escaped = Vec::new();
    for byte in path.as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(*byte);
    }
    OsStr::from_bytes(&[&escaped[..], b":", &escaped, b":ro"].concat()).to_owned()
}

/// Runs sampan to its end: its output, and what it says.
fn sampan_output(
    sampan: &Path,
    words: &[&OsStr],
    env: &[OsString],
    user: &dyn AsUser,
) -> Result<(String, String), StepError> {
    let mut command = Command::new(sampan);
    command.args(words).env_clear().stdin(Stdio::null());
    for pair in env {
        let bytes = pair.as_bytes();
        if let Some(at) = bytes.iter().position(|byte| *byte == b'=').filter(|at| *at > 0) {
            command.env(OsStr::from_bytes(&bytes[..at]), OsStr::from_bytes(&bytes[at + 1..]));
        }
    }
    user.drop_to_user(&mut command);
    let failed = |source| StepError::Start { program: sampan.to_owned(), source };
    let output = command.output().map_err(failed)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        let silent = || format!("{} ended with {}", sampan.display(), output.status);
        return Err(StepError::Sampan(if said.trim().is_empty() { silent() } else { said }));
    }
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), said))
}

/// Removes what a job's named containers have written on this node.
///
/// # Errors
/// When sampan says why not.
pub fn forget(
    argument: Option<&Path>,
    job: u32,
    env: &[OsString],
    user: &dyn AsUser,
) -> Result<(), StepError> {
    let (sampan, job) = (find_sampan(argument, env)?, job.to_string());
    let words = ["slurm", "forget", &job].map(OsStr::new);
    sampan_output(&sampan, &words, env, user).map(drop)
}

/// A text for C; what is behind a zero is lost.
#[must_use]
pub fn c_text(text: &str) -> CString {
    let upto = text.split('\0').next().unwrap_or_default();
    CString::new(upto).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_starts_sampan_and_lists_its_words() {
        let step = Step {
            sampan: "/opt/sampan".into(),
            words: vec!["exec".into(), "--".into(), "img".into()],
            argv: vec!["a b".into(), "c".into()],
            named: None,
            save: None,
            env: Vec::new(),
            job: 1,
            several: false,
            joins: false,
        };
        let words = b"exec\0--quiet\0--pull\0never\0--\0img\0a b\0";
        assert_eq!(step.script(), [b"#!/opt/sampan slurm-task\n", &words[..]].concat());
        let step = Step { several: true, ..step };
        let words = b"exec\0--quiet\0--pull\0never\0--\0img\0";
        assert_eq!(step.script(), [b"#!/opt/sampan slurm-task\n", &words[..]].concat());
        let words = vec!["slurm".into(), "join".into()];
        let step = Step { joins: true, several: false, words, ..step };
        let words = b"slurm\0join\0a b\0";
        assert_eq!(step.script(), [b"#!/opt/sampan slurm-task\n", &words[..]].concat());
    }

    #[test]
    fn sampan_must_fit_into_a_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("with space");
        std::fs::write(&path, "").unwrap();
        let env = [OsString::from(format!("PATH=:{}", dir.path().display()))];
        assert!(matches!(find_sampan(Some(&path), &env), Err(StepError::SampanPath(_))));
        let absent = find_sampan(Some(Path::new("/no/such")), &env).unwrap_err().to_string();
        assert!(absent.contains("/no/such"), "{absent}");
        let own = dir.path().join("sampan");
        std::fs::write(&own, "").unwrap();
        let found = find_sampan(None, &env).unwrap();
        assert!(found == own || found == Path::new(SAMPAN));
    }

    #[test]
    fn paths_for_binds() {
        assert_eq!(bind(OsStr::new("/a:b")), OsStr::new("/a\\:b:/a\\:b:ro"));
        assert_eq!(lasting("img:tag"), "img:tag");
        assert!(lasting("./x").starts_with('/'));
    }
}
