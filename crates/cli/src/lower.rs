//! From flags to a request: the second stage of reading the command line.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use engine::bind::{Bind, Mount, MountSyntaxError, Tmpfs, parse_binds, parse_mount, parse_tmpfs};
use engine::{Devices, GpuChoice, Resolved, mount_source};
use plan::{
    Command, HomeChoice, Identity, Isolation, MountFlags, MountRequest, MountSource, RunRequest,
    Skip, UserSpecError, Writable,
};

use crate::args::{ContainerArgs, Net};

/// Why flags make no request.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// A mount that cannot be read.
    #[error(transparent)]
    Mount(#[from] MountSyntaxError),
    /// A mount whose source cannot be used.
    #[error(transparent)]
    Source(#[from] engine::Error),
    /// A user that is none.
    #[error(transparent)]
    User(#[from] UserSpecError),
    /// A file of variables.
    #[error("cannot read {path:?} (--env-file)")]
    EnvFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of a file of variables.
    #[error("{}:{line}: a line must be NAME=VALUE, NAME, or a comment", path.display())]
    EnvLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A path that must be absolute.
    #[error("{flag} {path:?} is not a path in the container: it must start with /")]
    Relative {
        /// The flag.
        flag: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// An annotation that is none.
    #[error("--annotation {0:?} is not NAME=VALUE")]
    Annotation(String),
    /// A host name that is none.
    #[error("--hostname {0:?} is not a host name: expected 1 to 64 bytes without spaces")]
    Hostname(String),
    /// A flag that makes a container, for one that runs.
    #[error("{0} says what a container is to be, and an instance is one already")]
    Running(&'static str),
    /// An instance in place of an image.
    #[error("{0:?} is an instance: expected an image")]
    Instance(String),
    /// An instance without a name.
    #[error("there is no name: expected sampan instance start [OPTIONS] {{IMAGE|--edf NAME}} NAME")]
    NoInstanceName,
    /// An instance's name that is not UTF-8.
    #[error("the instance's name {0:?} is not UTF-8")]
    InstanceName(OsString),
    /// An image's name that is not UTF-8.
    #[error("the image's name {0:?} is not UTF-8")]
    ImageName(OsString),
    /// An environment definition file without an image.
    #[error("{path:?} names no image, and neither does --image")]
    EdfImage {
        /// The file.
        path: PathBuf,
    },
    /// `exec` without anything to execute.
    #[error("there is no command: expected sampan exec [OPTIONS] {{IMAGE|--edf NAME}} COMMAND")]
    NoCommand,
    /// A path that has no absolute form.
    #[error("cannot find {path:?} from the working directory")]
    Cwd {
        /// The path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The image's name and the words after it.
pub fn split_words(words: &[OsString]) -> Result<(&str, Vec<OsString>), LowerError> {
    let image = words.first().map(OsString::as_os_str).unwrap_or_default();
    let name = image.to_str().ok_or_else(|| LowerError::ImageName(image.to_owned()))?;
    Ok((name, words.get(1..).unwrap_or_default().to_vec()))
}

/// `--entrypoint` as words: none where it is empty.
pub fn entrypoint(flag: Option<&OsString>) -> Option<Vec<OsString>> {
    flag.map(|word| if word.is_empty() { Vec::new() } else { vec![word.clone()] })
}

/// The request that flags make for an image.
pub fn request(
    args: &ContainerArgs,
    resolved: &Resolved,
    command: Command,
    skip: Skip,
) -> Result<RunRequest, LowerError> {
    let base =
        RunRequest::new(&resolved.name, resolved.root.clone(), resolved.config.clone(), command);
    let workdir = args.workdir.as_deref().map(|dir| inside("--workdir", dir)).transpose()?;
    Ok(RunRequest {
        identity: identity(args)?,
        // clap has checked the word.
        root_emulation: args
            .root_emulation
            .as_deref()
            .and_then(|m| m.parse().ok())
            .unwrap_or_default(),
        isolation: isolation(args),
        writable: writable(args),
        overlays: args.overlay.iter().map(|text| overlay(text)).collect::<Result<_, _>>()?,
        mounts: mounts(args)?,
        env: environment(args, &|name| std::env::var_os(name))?,
        workdir,
        home: home(args)?,
        hostname: args.hostname.as_deref().map(hostname).transpose()?,
        name_servers: args.dns.clone(),
        skip,
        scripts: resolved.scripts,
        app: args.app.clone(),
        one: args.sharens,
        annotations: args
            .annotation
            .iter()
            .map(|text| annotation(text))
            .collect::<Result<_, _>>()?,
        ..base
    })
}

/// The first flag that a container which runs cannot follow.
pub fn of_start(args: &ContainerArgs) -> Option<&'static str> {
    let given = [
        (args.user.is_some(), "--user"),
        (args.root_emulation.is_some(), "--root-emulation"),
        (args.contain, "--contain"),
        (args.containall, "--containall"),
        (args.isolate, "--isolate"),
        (args.pid, "--pid"),
        (args.ipc, "--ipc"),
        (args.uts, "--uts"),
        (args.net.is_some(), "--net"),
        (args.hostname.is_some(), "--hostname"),
        (args.sharens, "--sharens"),
        (args.writable_tmpfs, "--writable-tmpfs"),
        (args.writable, "--writable"),
        (!args.overlay.is_empty(), "--overlay"),
        (!args.bind.is_empty(), "--bind"),
        (!args.mount.is_empty(), "--mount"),
        (!args.tmpfs.is_empty(), "--tmpfs"),
        (args.home.is_some(), "--home"),
        (args.no_home, "--no-home"),
        (!args.no_mount.is_empty(), "--no-mount"),
        (!args.device.is_empty(), "--device"),
        (args.gpu.is_some(), "--gpu"),
        (args.nv, "--nv"),
        (args.rocm, "--rocm"),
        (args.mpi.is_some(), "--mpi"),
        (args.mpi_policy.is_some(), "--mpi-policy"),
        (args.fabric.is_some(), "--fabric"),
        (!args.annotation.is_empty(), "--annotation"),
        (args.platform.is_some(), "--platform"),
        (args.dry_run.is_some(), "--dry-run"),
        (args.explain, "--explain"),
    ];
    given.iter().find(|(given, _)| *given).map(|(_, flag)| *flag)
}

/// The devices that flags ask for; none is looked for.
pub fn devices(args: &ContainerArgs) -> Devices {
    let gpu = match (args.nv, args.rocm) {
        (true, true) => Some(GpuChoice::All),
        (true, false) => Some(GpuChoice::Nvidia),
        (false, true) => Some(GpuChoice::Amd),
        // clap has checked the word.
        (false, false) => args.gpu.as_deref().and_then(|word| word.parse().ok()),
    };
    Devices { devices: args.device.clone(), gpu }
}

fn annotation(text: &str) -> Result<(String, String), LowerError> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = pair.ok_or_else(|| LowerError::Annotation(text.to_owned()))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn identity(args: &ContainerArgs) -> Result<Identity, LowerError> {
    Ok(match &args.user {
        _ if args.root => Identity::Root,
        Some(user) => Identity::User(user.parse()?),
        None => Identity::Default,
    })
}

/// The sum of all flags: `--contain --pid` is both.
fn isolation(args: &ContainerArgs) -> Isolation {
    let base = if args.isolate {
        Isolation::isolate()
    } else if args.containall || args.compat {
        Isolation::contain_all()
    } else if args.contain {
        Isolation::contain()
    } else {
        Isolation::default()
    };
    Isolation {
        clean_env: base.clean_env || args.cleanenv,
        pid: base.pid || args.pid,
        ipc: base.ipc || args.ipc,
        uts: base.uts || args.uts,
        no_net: match args.net {
            Some(net) => net == Net::None,
            None => base.no_net,
        },
        ..base
    }
}

fn writable(args: &ContainerArgs) -> Writable {
    if args.writable {
        Writable::InPlace
    } else if args.writable_tmpfs || args.compat {
        Writable::Tmpfs
    } else {
        Writable::No
    }
}

/// The absolute form of a path of the host.
fn outside(path: &Path) -> Result<PathBuf, LowerError> {
    std::path::absolute(path).map_err(|source| LowerError::Cwd { path: path.to_owned(), source })
}

fn inside(flag: &'static str, path: &Path) -> Result<PathBuf, LowerError> {
    if path.is_absolute() {
        Ok(path.to_owned())
    } else {
        Err(LowerError::Relative { flag, path: path.to_owned() })
    }
}

fn overlay(text: &str) -> Result<(PathBuf, bool), LowerError> {
    let (dir, read_only) = match text.rsplit_once(':') {
        Some((dir, "ro")) => (dir, true),
        Some((dir, "rw")) => (dir, false),
        _ => (text, false),
    };
    let path = outside(Path::new(dir))?;
    mount_source(&path, &format!("--overlay {text}"))?;
    Ok((path, read_only))
}

fn mounts(args: &ContainerArgs) -> Result<Vec<MountRequest>, LowerError> {
    let mut list = Vec::new();
    for text in &args.bind {
        for one in parse_binds(text)? {
            list.push(bind(one, format!("--bind {text}"))?);
        }
    }
    for text in &args.mount {
        let origin = format!("--mount {text}");
        list.push(match parse_mount(text)? {
            Mount::Bind(one) => bind(one, origin)?,
            Mount::Tmpfs(one) => tmpfs(one, origin),
        });
    }
    for text in &args.tmpfs {
        list.push(tmpfs(parse_tmpfs(text)?, format!("--tmpfs {text}")));
    }
    Ok(list)
}

fn bind(bind: Bind, origin: String) -> Result<MountRequest, LowerError> {
    let path = outside(&bind.source)?;
    let source = mount_source(&path, &origin)?;
    Ok(MountRequest { source, target: bind.target.unwrap_or(path), flags: bind.flags, origin })
}

fn tmpfs(tmpfs: Tmpfs, origin: String) -> MountRequest {
    let source = MountSource::Tmpfs { size: tmpfs.size, mode: tmpfs.mode };
    MountRequest { source, target: tmpfs.target, flags: MountFlags::default(), origin }
}

fn home(args: &ContainerArgs) -> Result<HomeChoice, LowerError> {
    if args.no_home {
        return Ok(HomeChoice::None);
    }
    let Some(text) = &args.home else { return Ok(HomeChoice::Host) };
    let (source, target) = match text.split_once(':') {
        Some((source, target)) => (Some(outside(Path::new(source))?), target),
        None => (None, text.as_str()),
    };
    if let Some(source) = &source {
        mount_source(source, &format!("--home {text}"))?;
    }
    Ok(HomeChoice::At { source, target: inside("--home", Path::new(target))? })
}

fn hostname(name: &str) -> Result<String, LowerError> {
    let good = !name.is_empty()
        && name.len() <= 64
        && !name.contains(|c: char| c.is_whitespace() || c.is_control());
    if good { Ok(name.to_owned()) } else { Err(LowerError::Hostname(name.to_owned())) }
}

type Variables<'a> = &'a dyn Fn(&OsStr) -> Option<OsString>;

/// Files first, then flags: the later one wins.
fn environment(
    args: &ContainerArgs,
    vars: Variables<'_>,
) -> Result<Vec<(OsString, OsString)>, LowerError> {
    let mut list = Vec::new();
    for path in &args.env_file {
        let bytes = std::fs::read(path)
            .map_err(|source| LowerError::EnvFile { path: path.clone(), source })?;
        for (index, line) in bytes.split(|b| *b == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            if line.starts_with(b"=") {
                return Err(LowerError::EnvLine { path: path.clone(), line: index + 1 });
            }
            list.extend(variable(OsStr::from_bytes(line), vars));
        }
    }
    list.extend(args.env.iter().filter_map(|text| variable(text, vars)));
    Ok(list)
}

/// `NAME=VALUE`, or `NAME` with the caller's own value if there is one.
fn variable(text: &OsStr, vars: Variables<'_>) -> Option<(OsString, OsString)> {
    let bytes = text.as_bytes();
    match bytes.iter().position(|b| *b == b'=') {
        Some(at) => {
            let (name, value) = (&bytes[..at], &bytes[at + 1..]);
            Some((OsStr::from_bytes(name).to_owned(), OsStr::from_bytes(value).to_owned()))
        }
        None => vars(text).map(|value| (text.to_owned(), value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_gpus() {
        let gpu = |gpu: Option<&str>, nv, rocm| {
            let gpu = gpu.map(str::to_owned);
            devices(&ContainerArgs { gpu, nv, rocm, ..Default::default() }).gpu
        };
        assert_eq!(gpu(None, false, false), None);
        assert_eq!(gpu(Some("none"), false, false), Some(GpuChoice::None));
        assert_eq!(gpu(Some("all"), false, false), Some(GpuChoice::All));
        assert_eq!(gpu(None, true, false), Some(GpuChoice::Nvidia));
        assert_eq!(gpu(None, false, true), Some(GpuChoice::Amd));
        assert_eq!(gpu(None, true, true), Some(GpuChoice::All));
    }

    #[test]
    fn isolation_adds_up() {
        let args = ContainerArgs { contain: true, pid: true, ..Default::default() };
        let sum = isolation(&args);
        assert!(sum.contain && sum.pid && !sum.ipc && !sum.clean_env);
        let args = ContainerArgs { isolate: true, net: Some(Net::Host), ..Default::default() };
        let sum = isolation(&args);
        assert!(sum.protect && sum.uts && sum.clean_env && !sum.no_net);
    }

    #[test]
    fn variables_from_files_and_flags() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        std::fs::write(&file, "A=1\n# no\n\nB=two words=x\r\nHOST\nABSENT\n").unwrap();
        let args = ContainerArgs {
            env_file: vec![file.clone()],
            env: vec!["A=2".into(), "HOST".into(), "E=".into()],
            ..Default::default()
        };
        let vars = |name: &OsStr| (name == "HOST").then(|| OsString::from("h"));
        let list = environment(&args, &vars).unwrap();
        let pairs: Vec<_> =
            list.iter().map(|(k, v)| (k.to_str().unwrap(), v.to_str().unwrap())).collect();
        assert_eq!(
            pairs,
            [("A", "1"), ("B", "two words=x"), ("HOST", "h"), ("A", "2"), ("HOST", "h"), ("E", "")]
        );
        std::fs::write(&file, "A=1\n=x\n").unwrap();
        let error = environment(&args, &vars).unwrap_err().to_string();
        assert!(error.contains(":2:"), "{error}");
    }

    #[test]
    fn homes() {
        let choice =
            |text: &str| home(&ContainerArgs { home: Some(text.into()), ..Default::default() });
        assert_eq!(choice("/h").unwrap(), HomeChoice::At { source: None, target: "/h".into() });
        assert_eq!(
            choice("/tmp:/h").unwrap(),
            HomeChoice::At { source: Some("/tmp".into()), target: "/h".into() }
        );
        assert!(choice("h").is_err() && choice("/no/such/dir:/h").is_err());
    }

    #[test]
    fn mounts_of_all_kinds_in_one_list() {
        let args = ContainerArgs {
            bind: vec!["/etc/passwd:/p:ro,/tmp".into()],
            mount: vec!["type=tmpfs,target=/t,tmpfs-size=1M".into()],
            tmpfs: vec!["/u".into()],
            ..Default::default()
        };
        let list = mounts(&args).unwrap();
        assert_eq!(list[0].source, MountSource::File("/etc/passwd".into()));
        assert!(list[0].flags.read_only);
        assert_eq!(list[1].source, MountSource::Directory("/tmp".into()));
        assert_eq!(list[1].target, Path::new("/tmp"));
        assert_eq!(list[2].source, MountSource::Tmpfs { size: Some(1 << 20), mode: 0o1777 });
        assert_eq!(list.len(), 4);
        let missing = ContainerArgs { bind: vec!["/no/such:/x".into()], ..Default::default() };
        assert!(mounts(&missing).unwrap_err().to_string().contains("/no/such"));
    }

    #[test]
    fn host_names_and_entrypoints() {
        assert!(hostname("boat-1").is_ok());
        assert!(
            hostname("").is_err() && hostname("a b").is_err() && hostname(&"x".repeat(65)).is_err()
        );
        assert_eq!(entrypoint(Some(&"".into())), Some(vec![]));
        assert_eq!(entrypoint(None), None);
    }
}
