//! From devices and what this host has to what a container needs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use plan::{FileSpec, MountFlags, MountSource, MountSpec, SkeletonKind};
use types::ByteSize;

use super::error::CdiError;
use super::nvidia_hook::{Action, actions};
use super::spec::{DeviceNode, Mount, SpecHook};
use super::{HostPath, HostPaths, Part, PathKind, Selection};
use crate::edits::Edits;
use crate::hooks::{Hook, Stage, StageError};

/// Options of a mount that change nothing here: what they allow is allowed, or
/// it concerns later mounts of the host.
const WITHOUT_EFFECT: [&str; 22] = [
    "rw",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "sync",
    "async",
    "relatime",
    "norelatime",
    "strictatime",
    "noatime",
    "nodiratime",
    "private",
    "rprivate",
    "slave",
    "rslave",
    "shared",
    "rshared",
    "unbindable",
    "runbindable",
    "defaults",
];

/// What a container needs that has these devices.
///
/// What cannot be had without privilege is a warning: groups beside the
/// caller's own, classes of resctrl, interfaces of the network. Device nodes
/// are the host's own, bound: their owner and mode stay, and no device cgroup
/// narrows what may be done with them.
///
/// # Errors
/// When a node or a mount's source is not on this host.
pub fn edits(selection: &Selection<'_>, host: &HostPaths) -> Result<Edits, CdiError> {
    let mut edits = Edits::new(&format!("CDI: {}", selection.names()));
    let mut modes = Modes::new();
    for part in selection.parts() {
        for text in &part.edits.env {
            if let Some((name, value)) = text.split_once('=') {
                edits.set(name, value);
            }
        }
        for (index, node) in part.edits.device_nodes.iter().enumerate() {
            let place = Place { part: &part, field: format!("deviceNodes[{index}]") };
            device_node(node, &place, host, &mut edits)?;
        }
        for (index, one) in part.edits.mounts.iter().enumerate() {
            let place = Place { part: &part, field: format!("mounts[{index}]") };
            mount(one, &place, host, &mut edits)?;
        }
        for (index, one) in part.edits.hooks.iter().enumerate() {
            let place = Place { part: &part, field: format!("hooks[{index}]") };
            hook(one, &place, &mut edits, &mut modes)?;
        }
        unavailable(&part, host, &mut edits);
    }
    // A link where a file is mounted would be followed by the mount.
    let Edits { files, mounts, .. } = &mut edits;
    files.retain(|file| !mounts.iter().any(|mount| mount.target == file.path));
    set_modes(modes, &mut edits);
    Ok(edits)
}

/// A field, for messages.
struct Place<'a> {
    part: &'a Part<'a>,
    field: String,
}

impl Place<'_> {
    fn error(&self, name: &str, path: impl Into<PathBuf>, reason: impl Into<String>) -> CdiError {
        CdiError::Host {
            spec: self.part.spec.to_owned(),
            field: format!("{}.{}.{name}", self.part.field, self.field),
            path: path.into(),
            reason: reason.into(),
        }
    }
}

fn device_node(
    node: &DeviceNode,
    place: &Place<'_>,
    host: &HostPaths,
    edits: &mut Edits,
) -> Result<(), CdiError> {
    let (name, source) = match node.host_path.as_str() {
        "" => ("path", &node.path),
        _ => ("hostPath", &node.host_path),
    };
    let absent = "is not on this host, and making a node takes privilege";
    let Some(found) = host.paths.get(Path::new(source)) else {
        return Err(place.error(name, source, absent));
    };
    let (wanted, what) = match node.kind.as_str() {
        "b" => (Some(PathKind::Block), "block device"),
        "c" | "u" => (Some(PathKind::Character), "character device"),
        "p" => (Some(PathKind::Fifo), "FIFO"),
        _ => (None, "device"),
    };
    let device = matches!(found.kind, PathKind::Block | PathKind::Character | PathKind::Fifo);
    if wanted.is_some_and(|kind| kind != found.kind) || !device {
        return Err(place.error(name, source, format!("is no {what}")));
    }
    let numbers = (i64::from(found.device.0), i64::from(found.device.1));
    if (node.major, node.minor) != (0, 0) && (node.major, node.minor) != numbers {
        edits.warn(format!(
            "{source} is device {}:{}, not {}:{} as {} has it: the host's is used",
            numbers.0,
            numbers.1,
            node.major,
            node.minor,
            place.part.spec.display()
        ));
    }
    if let Some(text) = closed(source, found, &node.permissions) {
        edits.warn(text);
    }
    edits.mount(bound(source, &node.path, MountFlags { read_only: false, recursive: false }));
    Ok(())
}

/// A warning about a node that the caller may not open.
fn closed(path: &str, found: &HostPath, permissions: &str) -> Option<String> {
    let writes = permissions.is_empty() || permissions.contains('w');
    let reads = permissions.is_empty() || permissions.contains('r');
    if (found.writable || !writes) && (found.readable || !reads) {
        return None;
    }
    Some(format!(
        "you may not open {path} (mode {:04o}, group {}): the device will not work",
        found.mode, found.gid
    ))
}

fn bound(source: &str, target: &str, flags: MountFlags) -> MountSpec {
    let (source, target) = (MountSource::File(source.into()), target.into());
    MountSpec { source, target, flags, optional: false }
}

fn mount(
    mount: &Mount,
    place: &Place<'_>,
    host: &HostPaths,
    edits: &mut Edits,
) -> Result<(), CdiError> {
    let has = |name: &str| mount.options.iter().any(|option| option == name);
    let target = mount.container_path.as_str();
    if mount.kind == "tmpfs" {
        let source = tmpfs(&mount.options, place, edits);
        let flags = MountFlags { read_only: has("ro"), recursive: false };
        edits.mount(MountSpec { source, target: target.into(), flags, optional: false });
        return Ok(());
    }
    if !matches!(mount.kind.as_str(), "" | "bind" | "none") {
        let reason = format!("is a mount of type {:?}, which takes privilege", mount.kind);
        return Err(place.error("type", target, reason));
    }
    let source = mount.host_path.as_str();
    let Some(found) = host.paths.get(Path::new(source)) else {
        return Err(place.error("hostPath", source, "is not on this host"));
    };
    let read_only = has("ro") || has("rro");
    // Plain "bind" leaves the mounts below out.
    let flags = MountFlags { read_only, recursive: has("rbind") || !has("bind") };
    for option in &mount.options {
        let known = ["ro", "rro", "bind", "rbind"].contains(&option.as_str());
        if !known && !WITHOUT_EFFECT.contains(&option.as_str()) {
            edits.warn(ignored(option, target, place));
        }
    }
    let mut spec = bound(source, target, flags);
    if found.kind == PathKind::Directory {
        spec.source = MountSource::Directory(source.into());
    }
    edits.mount(spec);
    Ok(())
}

fn ignored(option: &str, target: &str, place: &Place<'_>) -> String {
    let spec = place.part.spec.display();
    format!("mount option {option:?} for {target} of {spec} is not honoured")
}

fn tmpfs(options: &[String], place: &Place<'_>, edits: &mut Edits) -> MountSource {
    let (mut size, mut mode) = (None, 0o1777);
    for option in options {
        let known = match option.split_once('=') {
            Some(("size", text)) => {
                let parsed = text.parse::<ByteSize>().ok();
                size = parsed.map(|bytes| bytes.0).or(size);
                parsed.is_some()
            }
            Some(("mode", text)) => {
                let parsed = u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o7777);
                mode = parsed.unwrap_or(mode);
                parsed.is_some()
            }
            _ => option == "ro" || WITHOUT_EFFECT.contains(&option.as_str()),
        };
        if !known {
            edits.warn(ignored(option, "tmpfs", place));
        }
    }
    MountSource::Tmpfs { size, mode }
}

/// Paths whose permission bits hooks change, the bits, and the hooks' spec.
type Modes = Vec<(PathBuf, u32, String)>;

/// Changes permission bits where the container's own memory has the path: of files
/// that are made in it, and of directories above what is shown. Others are the
/// host's or the image's.
fn set_modes(modes: Modes, edits: &mut Edits) {
    for (path, mode, spec) in modes {
        if let Some(file) = edits
            .files
            .iter_mut()
            .find(|file| file.path == path && !matches!(file.kind, SkeletonKind::Symlink(_)))
        {
            file.mode = mode;
            continue;
        }
        let below = |other: &Path| other != path && other.starts_with(&path);
        let mounts = edits.mounts.iter().map(|mount| &*mount.target);
        if mounts.chain(edits.files.iter().map(|file| &*file.path)).any(below) {
            edits.file(FileSpec { path, kind: SkeletonKind::Directory, mode });
        } else {
            edits.warn(format!(
                "the mode of {} is left as it is (chmod of {spec}): it is a file of the host or \
                 the image",
                path.display()
            ));
        }
    }
}

fn hook(
    hook: &SpecHook,
    place: &Place<'_>,
    edits: &mut Edits,
    modes: &mut Modes,
) -> Result<(), CdiError> {
    let Some(list) = actions(hook) else {
        let stage: Stage = hook
            .hook_name
            .parse()
            .map_err(|e: StageError| place.error("hookName", &hook.path, e.to_string()))?;
        edits.hooks.push(Hook {
            stage,
            path: hook.path.clone().into(),
            args: hook.args.clone(),
            env: hook.env.clone(),
            timeout: hook.timeout.map(|seconds| Duration::from_secs(seconds.unsigned_abs())),
            origin: place.part.spec.to_owned(),
        });
        return Ok(());
    };
    for action in list.map_err(|reason| place.error("args", &hook.path, format!(": {reason}")))? {
        match action {
            Action::Link { to, path } => {
                edits.file(FileSpec { path, kind: SkeletonKind::Symlink(to), mode: 0o777 });
            }
            Action::CacheFolder(folder) => edits.cache_folder(folder),
            // Directories made for device nodes are open to all, which is what
            // this hook is for.
            Action::Mode { path, .. } if path.starts_with("/dev") => {}
            Action::Mode { path, mode } => {
                let spec = place.part.spec.display().to_string();
                modes.push((path, mode, spec));
            }
            Action::Compat(Some(version)) => edits.cuda_compat = Some(version),
            Action::Compat(None) => edits.warn(format!(
                "{} wants the image's CUDA libraries where they are newer than the driver's, and \
                 does not say which version that is: the driver's are used",
                place.part.spec.display()
            )),
        }
    }
    Ok(())
}

/// What takes privilege and has no substitute.
fn unavailable(part: &Part<'_>, host: &HostPaths, edits: &mut Edits) {
    let spec = part.spec.display();
    for gid in part.edits.additional_gids.iter().filter(|gid| **gid != 0) {
        // Groups of the caller stay in force inside, under whatever name.
        if !host.groups.contains(gid) {
            edits.warn(format!(
                "{spec} wants group {gid}, of which you are no member: a container of yours \
                 cannot have it"
            ));
        }
    }
    if part.edits.intel_rdt.is_some() {
        edits.warn(format!("{spec} wants a class of resctrl (intelRdt): that takes privilege"));
    }
    for device in &part.edits.net_devices {
        edits.warn(format!(
            "{spec} wants the network interface {:?} moved into the container: it stays where it is",
            device.host_interface_name
        ));
    }
}
