//! From request and facts to the plan.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::env::{EnvFacts, environment};
use crate::files::Accounts;
use crate::mounts::{Home, defaults, dev_ops, home, proc_ops, protect_ops, sys_ops};
use crate::process::{argv, find_shell, image_workdir, process};
use crate::scripts::Scripts;
use crate::{
    Command, Contribution, Entry, EntryKind, EnvVar, FileSpec, HostFacts, IdMap, Identity,
    ImageMount, MountFlags, MountSource, MountSpec, Namespaces, Op, Plan, PlanError, PlanOp,
    Process, Rank, RootEmulation, RootSource, RootTree, Rootfs, RunRequest, Skeleton, SkeletonKind,
    SubIds, Upper, Writable, merge, resolve,
};

/// Decides a container.
///
/// # Errors
/// When the request contradicts itself or the image; see [`PlanError`].
pub fn build(
    request: &RunRequest,
    host: &HostFacts,
    tree: &dyn RootTree,
    contributions: Vec<Contribution>,
) -> Result<Plan, PlanError> {
    if request.root_emulation.supervised() && !request.isolation.pid {
        let mut with_pid = request.clone();
        with_pid.isolation.pid = true;
        return build(&with_pid, host, tree, contributions);
    }
    let accounts = Accounts::read(tree)?;
    let (ids, is_caller) = identity(request, host, &accounts)?;
    let image_home = accounts.home(ids.uid);
    let own_home = if is_caller && request.isolation.contain { None } else { image_home };
    let home = home(request, host, own_home.as_deref());
    let words = Words::find(request, tree)?;

    let mut all = defaults(request, host, &home);
    all.extend(contributions);
    all.extend(user_mounts(request)?);
    let merged = merge(all)?;

    let mut layout = Layout::new(tree, request.writable == Writable::InPlace);
    layout.system(request, host, &accounts, ids, &home, &words.shell, &merged.mounts)?;
    for (spec, _, reason) in merged.mounts.values() {
        layout.mount(spec, reason)?;
    }
    for (file, _, reason) in merged.files.values() {
        layout.contributed(file, reason)?;
    }
    if let Some(dir) = image_workdir(request) {
        layout.directory(&dir, "the image's working directory")?;
    }
    layout.ops.extend(namespace_ops(request));
    layout.ops.extend(protect_ops(request));

    let env = environment(request, host, &merged, &words.facts(&home.path))?;
    let process = process(request, host, words.argv, &home.path);
    // Real root needs none.
    let root_emulation = if host.real_root { RootEmulation::None } else { request.root_emulation };
    let sub_ids = match root_emulation {
        RootEmulation::Subid => Some(host.sub_ids.clone().ok_or(PlanError::NoSubIds)?),
        _ => None,
    };
    layout.warnings.extend(sub_ids.as_ref().and_then(few_ids));
    let rootfs = rootfs(request, host, layout.skeleton.into_values().collect(), &process.argv)?;
    Ok(Plan {
        rootfs,
        namespaces: Namespaces {
            user: !host.real_root,
            pid: request.isolation.pid,
            ipc: request.isolation.ipc,
            uts: request.isolation.uts || request.hostname.is_some(),
            net: request.isolation.no_net,
        },
        id_map: ids,
        sub_ids,
        root_emulation,
        emulated_user: request.emulated_user,
        ops: layout.ops,
        env,
        process,
        hooks: Vec::new(),
        remote: None,
        one: false,
        annotations: request.annotations.clone(),
        warnings: layout.warnings,
    })
}

/// What runs in a container that is there already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exec {
    /// The process.
    pub process: Process,
    /// Its environment, in the order of names.
    pub env: Vec<EnvVar>,
}

/// Decides what runs in a container that is there already: `tree` is the
/// container's own, and so is `home`. `contributions` are those to the container's
/// environment.
///
/// # Errors
/// As [`build`].
pub fn exec(
    request: &RunRequest,
    host: &HostFacts,
    tree: &dyn RootTree,
    home: &Path,
    contributions: Vec<Contribution>,
) -> Result<Exec, PlanError> {
    let words = Words::find(request, tree)?;
    let env = environment(request, host, &merge(contributions)?, &words.facts(home))?;
    Ok(Exec { process: process(request, host, words.argv, home), env })
}

/// The words of the process, and what the image has to do with them.
struct Words {
    argv: Vec<OsString>,
    /// The image's shell.
    shell: PathBuf,
    /// What the image's scripts are told.
    variables: Vec<(&'static str, String)>,
}

impl Words {
    fn find(request: &RunRequest, tree: &dyn RootTree) -> Result<Self, PlanError> {
        let shell = find_shell(tree)?;
        let scripts = Scripts::find(request, tree)?;
        let plain = || argv(request, shell.as_deref());
        let argv = match &scripts {
            Some(scripts) => scripts.argv(request, plain)?,
            None => plain()?,
        };
        let variables = scripts.map(|scripts| scripts.variables(request)).unwrap_or_default();
        let shell = shell.unwrap_or_else(|| PathBuf::from("/bin/sh"));
        Ok(Self { argv, shell, variables })
    }

    fn facts<'a>(&'a self, home: &'a Path) -> EnvFacts<'a> {
        EnvFacts { home, shell: &self.shell, image: &self.variables }
    }
}

/// Distributions count on ids up to that of nobody, 65534.
fn few_ids(ids: &SubIds) -> Option<String> {
    let (users, groups) = ids.counts();
    let few = users.min(groups);
    (few <= 65_534).then(|| {
        format!(
            "there are subordinate ids for {users} users and {groups} groups: packages that need \
             ids from {few} on fail; ask the administrator for 65536 in /etc/subuid and /etc/subgid"
        )
    })
}

/// The ids inside, and whether they are the caller's own.
fn identity(
    request: &RunRequest,
    host: &HostFacts,
    accounts: &Accounts,
) -> Result<(IdMap, bool), PlanError> {
    let host_uid = host.user.id;
    let host_gid = host.groups.first().map_or(host_uid, |g| g.id);
    let image_user = match (&request.identity, &request.command, &request.config.user) {
        (Identity::User(spec), _, _) => Some(accounts.ids(spec)?),
        (Identity::Root, _, _) => Some((0, 0)),
        (Identity::Default, Command::Run { .. }, Some(user)) => {
            // An image that names root means "no particular user": the caller.
            let spec = user.parse().map_err(|_| PlanError::UnknownUser(user.clone()))?;
            Some(accounts.ids(&spec)?).filter(|(uid, _)| *uid != 0)
        }
        _ => None,
    };
    let (uid, gid) = image_user.unwrap_or((host_uid, host_gid));
    Ok((IdMap { uid, gid, host_uid, host_gid }, image_user.is_none()))
}

/// The user's mounts as contributions, in the order given.
fn user_mounts(request: &RunRequest) -> Result<Vec<Contribution>, PlanError> {
    let one = |m: &crate::MountRequest| {
        if !m.target.is_absolute() {
            let (target, origin) = (m.target.clone(), m.origin.clone());
            return Err(PlanError::RelativeTarget { target, origin });
        }
        let spec = MountSpec {
            source: m.source.clone(),
            target: m.target.components().collect(),
            flags: m.flags,
            optional: false,
        };
        Ok(Contribution { mounts: vec![spec], ..Contribution::new(Rank::User, &m.origin) })
    };
    request.mounts.iter().map(one).collect()
}

fn namespace_ops(request: &RunRequest) -> Vec<PlanOp> {
    let mut ops = Vec::new();
    if let Some(name) = &request.hostname {
        let op = Op::Hostname { name: name.clone() };
        ops.push(PlanOp { op, reason: "--hostname".to_owned() });
    } else if request.isolation.protect {
        let op = Op::Hostname { name: "sampan".to_owned() };
        ops.push(PlanOp { op, reason: "--isolate hides the host's name".to_owned() });
    }
    if request.isolation.no_net {
        let reason = "loopback of the network namespace".to_owned();
        ops.push(PlanOp { op: Op::LoopbackUp, reason });
    }
    ops
}

fn rootfs(
    request: &RunRequest,
    host: &HostFacts,
    skeleton: Vec<Skeleton>,
    argv: &[OsString],
) -> Result<Rootfs, PlanError> {
    let mount = match (&request.root, host.real_root) {
        (RootSource::Directory { .. }, _) => ImageMount::Bind,
        (RootSource::Squashfs { .. }, true) => ImageMount::KernelSquashfs,
        (RootSource::Squashfs { .. }, false) => ImageMount::Fuse,
    };
    let in_place = request.writable == Writable::InPlace;
    if in_place && mount != ImageMount::Bind {
        return Err(PlanError::WritableFile);
    }
    let mut writable = request.overlays.iter().filter(|(_, read_only)| !read_only);
    let mut upper = match writable.next() {
        Some((path, _)) => Upper::Directory { path: path.clone(), volatile: request.volatile },
        None => Upper::None,
    };
    let several = writable.next().is_some();
    if request.writable == Writable::Tmpfs {
        if upper != Upper::None {
            return Err(PlanError::TwoUppers);
        }
        upper = Upper::Tmpfs;
    }
    if several || (in_place && upper != Upper::None) {
        return Err(PlanError::TwoUppers);
    }
    let lowers =
        request.overlays.iter().filter(|(_, ro)| *ro).map(|(dir, _)| dir.clone()).collect();
    // Processes of the host look into an instance, and FUSE does not answer them.
    let overlaid = request.instance.is_some() || argv.iter().any(|word| interprets(word));
    let source = request.root.clone();
    Ok(Rootfs { source, mount, skeleton, lowers, upper, in_place, overlaid })
}

/// Whether a word of a command speaks of an interpreter that asks of each file that it
/// opens whether it is a terminal (ioctl(2)): overlayfs answers that by itself, and FUSE
/// asks the server.
fn interprets(word: &OsStr) -> bool {
    let word = word.as_encoded_bytes();
    let holds = |part: &str| word.windows(part.len()).any(|at| at == part.as_bytes());
    ["python", "perl", ".py"].into_iter().any(holds)
}

/// Where apt finds its configuration (apt.conf(5)).
const APT: &str = "/etc/apt/apt.conf.d";

/// Finds each mount its place in the image, and adds what is missing there.
struct Layout<'a> {
    tree: &'a dyn RootTree,
    in_place: bool,
    skeleton: BTreeMap<PathBuf, Skeleton>,
    /// Where something is mounted already.
    mounted: Vec<PathBuf>,
    /// A `/dev` that is the container's own.
    own_dev: Option<PathBuf>,
    ops: Vec<PlanOp>,
    warnings: Vec<String>,
}

impl<'a> Layout<'a> {
    fn new(tree: &'a dyn RootTree, in_place: bool) -> Self {
        Self {
            tree,
            in_place,
            skeleton: BTreeMap::new(),
            mounted: Vec::new(),
            own_dev: None,
            ops: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// /proc, /sys, /dev, and the files that tie the container to its host.
    #[allow(clippy::too_many_arguments, reason = "one caller, no state worth a struct")]
    fn system(
        &mut self,
        request: &RunRequest,
        host: &HostFacts,
        accounts: &Accounts,
        ids: IdMap,
        home: &Home,
        shell: &Path,
        claimed: &BTreeMap<PathBuf, (MountSpec, Rank, String)>,
    ) -> Result<(), PlanError> {
        type Make = fn(&RunRequest, &Path) -> Vec<PlanOp>;
        let system: [(&str, bool, Make); 3] = [
            ("/proc", request.skip.proc, proc_ops),
            ("/sys", request.skip.sys, sys_ops),
            ("/dev", request.skip.dev, dev_ops),
        ];
        for (path, skip, make) in system {
            if skip || claimed.contains_key(Path::new(path)) {
                continue;
            }
            let (target, _) = self.point(Path::new(path), true, path)?;
            self.mounted.push(target.clone());
            self.ops.extend(make(request, &target));
            if path == "/dev" && request.isolation.contain {
                self.own_dev = Some(target);
            }
        }
        let accounts_files = (!request.skip.accounts && !self.in_place).then(|| {
            let passwd = accounts.passwd_for(host, ids, &home.path, shell);
            [("/etc/passwd", passwd), ("/etc/group", accounts.group_for(host, ids))]
        });
        for (path, bytes) in accounts_files.into_iter().flatten() {
            self.file(path, bytes, "names the caller")?;
        }
        if request.root_emulation == RootEmulation::Fast && !host.real_root {
            // apt gives root up and looks whether it has: here it has not.
            let (dir, entry) = resolve(self.tree, Path::new(APT))?;
            if entry.is_some_and(|entry| entry.kind == EntryKind::Directory) {
                let path = dir.join("zz-sampan");
                let text = b"APT::Sandbox::User \"root\";\n".to_vec();
                self.file(&path.to_string_lossy(), text, "for apt without a user of its own")?;
            }
        }
        let network = !request.skip.network_files && !request.isolation.no_net;
        let servers = &request.name_servers;
        if !servers.is_empty() {
            let lines: String = servers.iter().map(|at| format!("nameserver {at}\n")).collect();
            self.file("/etc/resolv.conf", lines.into_bytes(), "--dns")?;
        }
        let files = [
            ("/etc/resolv.conf", &host.resolv_conf, network && servers.is_empty()),
            ("/etc/hosts", &host.hosts, network),
            (
                "/etc/localtime",
                &host.localtime,
                !request.skip.localtime && !request.isolation.contain,
            ),
        ];
        for (path, bytes, on) in files {
            if let (true, Some(bytes)) = (on, bytes) {
                self.host_file(path, bytes)?;
            }
        }
        Ok(())
    }

    /// A file of the host. In an image that is written in place, the host's
    /// file is bound over the image's, which stays as it is.
    fn host_file(&mut self, path: &str, bytes: &[u8]) -> Result<(), PlanError> {
        let reason = format!("the host's {path}");
        if !self.in_place {
            return self.file(path, bytes.to_vec(), &reason);
        }
        let (target, entry) = resolve(self.tree, Path::new(path))?;
        if entry.is_some_and(|e| e.kind == EntryKind::File) {
            let flags = MountFlags { read_only: true, recursive: false };
            let source = PathBuf::from(path);
            let op = Op::Bind { source, target, flags, create: false, optional: true };
            self.ops.push(PlanOp { op, reason });
        }
        Ok(())
    }

    /// Adds a file with contents. A symbolic link of the image at its place is
    /// hidden, not followed.
    fn file(&mut self, path: &str, bytes: Vec<u8>, reason: &str) -> Result<(), PlanError> {
        let path = Path::new(path);
        let (parent, name) = (path.parent().unwrap_or(path), path.file_name().unwrap_or_default());
        let (parent, _) = self.point(parent, true, reason)?;
        let kind = SkeletonKind::File(bytes);
        let path = parent.join(name);
        self.parents(&path, reason)?;
        self.add(path, kind, 0o644, reason);
        Ok(())
    }

    /// A file that somebody contributes. An image that is written in place
    /// keeps its own.
    fn contributed(&mut self, file: &FileSpec, reason: &str) -> Result<(), PlanError> {
        let path = file.path.as_path();
        if self.in_place {
            let left = format!(
                "{} was left out ({reason}): --writable writes to the image itself",
                path.display()
            );
            self.warnings.push(left);
            return Ok(());
        }
        if file.kind == SkeletonKind::Directory {
            let (real, _) = self.point(path, true, reason)?;
            // What is mounted there has its own mode.
            if self.over(&real).is_none() {
                self.parents(&real, reason)?;
                self.add(real, SkeletonKind::Directory, file.mode, reason);
            }
            return Ok(());
        }
        let (parent, name) = (path.parent().unwrap_or(path), path.file_name().unwrap_or_default());
        let (parent, below_mount) = self.point(parent, true, reason)?;
        let path = parent.join(name);
        let in_own_dev = self.own_dev.is_some() && self.over(&path) == self.own_dev.as_ref();
        if let (SkeletonKind::Symlink(to), true) = (&file.kind, in_own_dev) {
            self.link_in_dev(parent, path, to, reason);
            return Ok(());
        }
        if below_mount || self.over(&path).is_some() {
            let left = format!("{} was left out ({reason}): it lies in a mount", path.display());
            self.warnings.push(left);
            return Ok(());
        }
        self.parents(&path, reason)?;
        self.add(path, file.kind.clone(), file.mode, reason);
        Ok(())
    }

    /// The innermost mount that holds a path.
    fn over(&self, path: &Path) -> Option<&PathBuf> {
        let holding = self.mounted.iter().filter(|mount| path.starts_with(mount));
        holding.max_by_key(|mount| mount.as_os_str().len())
    }

    /// Adds a link to a `/dev` of the container's own, where nothing is yet.
    fn link_in_dev(&mut self, parent: PathBuf, path: PathBuf, to: &Path, reason: &str) {
        let there = |op: &PlanOp| match &op.op {
            Op::Symlink { target, .. } | Op::Bind { target, .. } => *target == path,
            _ => false,
        };
        if self.ops.iter().any(there) {
            return;
        }
        let link = Op::Symlink { to: to.to_owned(), target: path };
        for op in [Op::Mkdir { target: parent, mode: 0o755 }, link] {
            self.ops.push(PlanOp { op, reason: reason.to_owned() });
        }
    }

    /// Makes sure that a directory is there.
    fn directory(&mut self, path: &Path, reason: &str) -> Result<(), PlanError> {
        if !self.in_place {
            self.point(path, true, reason)?;
        }
        Ok(())
    }

    /// The real place of a mount point, made if the image lacks it. The
    /// second value says that the runtime has to make it, because it lies in
    /// another mount or in an image that is written in place.
    fn point(
        &mut self,
        path: &Path,
        directory: bool,
        reason: &str,
    ) -> Result<(PathBuf, bool), PlanError> {
        if let Some(Skeleton { kind, .. }) = self.skeleton.get(path) {
            check_kind(path, *kind == SkeletonKind::Directory, directory, reason)?;
            return Ok((path.to_owned(), false));
        }
        let (real, entry) = resolve(self.tree, path)?;
        if real == Path::new("/") {
            return Err(PlanError::TargetIsRoot(reason.to_owned()));
        }
        if self.mounted.iter().any(|mount| real.starts_with(mount) && &real != mount) {
            return Ok((real, true));
        }
        match entry {
            Some(Entry { kind, .. }) => {
                check_kind(path, kind == EntryKind::Directory, directory, reason)?;
                Ok((real, false))
            }
            None if self.in_place => Ok((real, true)),
            None => {
                let kind =
                    if directory { SkeletonKind::Directory } else { SkeletonKind::File(vec![]) };
                self.parents(&real, reason)?;
                let mode = if directory { 0o755 } else { 0o644 };
                self.add(real.clone(), kind, mode, &format!("mount point for {reason}"));
                Ok((real, false))
            }
        }
    }

    /// The directories above an addition, with the modes they have in the
    /// image: the topmost layer's attributes are the ones that count.
    fn parents(&mut self, path: &Path, reason: &str) -> Result<(), PlanError> {
        for parent in path.ancestors().skip(1).filter(|p| *p != Path::new("/")) {
            if self.skeleton.contains_key(parent) {
                continue;
            }
            let mode = match self.tree.entry(parent)? {
                Some(Entry { kind: EntryKind::Directory, mode }) => mode,
                None => 0o755,
                Some(_) => return check_kind(parent, false, true, reason),
            };
            self.add(parent.to_owned(), SkeletonKind::Directory, mode, reason);
        }
        Ok(())
    }

    fn add(&mut self, path: PathBuf, kind: SkeletonKind, mode: u32, reason: &str) {
        let reason = reason.to_owned();
        self.skeleton.insert(path.clone(), Skeleton { path, kind, mode, reason });
    }

    fn mount(&mut self, spec: &MountSpec, reason: &str) -> Result<(), PlanError> {
        let directory = !matches!(spec.source, MountSource::File(_));
        let (target, create) = self.point(&spec.target, directory, reason)?;
        self.mounted.push(target.clone());
        let op = match &spec.source {
            MountSource::Directory(source) | MountSource::File(source) => Op::Bind {
                source: source.clone(),
                target,
                flags: spec.flags,
                create,
                optional: spec.optional,
            },
            MountSource::Tmpfs { size, mode } => {
                Op::Tmpfs { target, size: *size, mode: *mode, create }
            }
        };
        self.ops.push(PlanOp { op, reason: reason.to_owned() });
        Ok(())
    }
}

/// A directory is mounted on a directory, anything else on a file.
fn check_kind(path: &Path, found: bool, wanted: bool, reason: &str) -> Result<(), PlanError> {
    if found == wanted {
        return Ok(());
    }
    let expected = if wanted { "a directory" } else { "a file" };
    let (origin, target) = (reason.to_owned(), path.to_owned());
    Err(PlanError::KindMismatch { origin, target, expected })
}

#[cfg(test)]
mod tests;
