//! Devices as the Container Device Interface describes them.
//!
//! A driver's tools write specs, JSON or YAML files, into a few directories;
//! each names devices `vendor/class=name` and what a container needs that has
//! one: nodes, mounts, variables, hooks.
//!
//! ```text
//! directories ─ Registry::load ─→ Registry ─ select ─→ Selection ─ probe ─→ HostPaths
//!                                                          └────── edits ──────┴─→ Edits
//! ```
//!
//! A spec that cannot be read spoils nothing but itself: it is named when a
//! device is not found. Of two specs with the same device, the one in the later
//! directory counts; within a directory they are in conflict, and the device
//! cannot be had (SPEC.md, "Error Handling").
//!
//! Source: Container Device Interface Specification, SPEC.md of versions 0.3.0
//! to 1.1.0.

mod apply;
mod error;
mod name;
mod nvidia_hook;
mod paths;
mod spec;
mod version;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use apply::edits;
pub use error::{CdiError, NameError, Problem};
pub use name::QualifiedName;
pub(crate) use paths::look;
pub use paths::{HostPath, HostPaths, PathKind, probe};
pub use spec::{
    ContainerEdits, Device, DeviceNode, Format, IntelRdt, Mount, NetDevice, Spec, SpecHook,
};

/// Largest spec that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// The name that means every device of a kind.
const ALL: &str = "all";

/// A spec and where it was found.
#[derive(Clone, Debug)]
struct Loaded {
    path: PathBuf,
    spec: Spec,
}

/// Where a device is described.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Index of the directory; a later one wins.
    priority: usize,
    /// Index of the spec.
    spec: usize,
    /// Index of the device in it.
    device: usize,
    /// Another spec of the same directory that describes it too.
    rival: Option<usize>,
}

/// What the directories hold.
#[derive(Debug, Default)]
pub struct Registry {
    specs: Vec<Loaded>,
    devices: BTreeMap<QualifiedName, Place>,
    broken: Vec<CdiError>,
}

/// A device, for a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// `vendor/class=name`.
    pub name: QualifiedName,
    /// The spec's file.
    pub spec: PathBuf,
    /// Version of the specification that the file follows.
    pub version: String,
    /// Annotations of the device.
    pub annotations: BTreeMap<String, String>,
}

/// Reads one spec; the reader's last word on whether a file is good.
///
/// # Errors
/// Everything that is wrong with the file, at least one error.
pub fn validate(path: &Path) -> Result<Spec, Vec<CdiError>> {
    let text = crate::bounded(path, LIMIT)
        .map_err(|source| vec![CdiError::Read { path: path.to_owned(), source }])?;
    // A file that is given by name may have any; JSON is what YAML's flow style is.
    let format = Format::of(path).unwrap_or(Format::Yaml);
    let error = |problem| CdiError::Spec { path: path.to_owned(), problem };
    Spec::parse(&text, format).map_err(|problems| problems.into_iter().map(error).collect())
}

/// The files of a directory that are specs by their names, in order.
///
/// # Errors
/// When the directory is there and cannot be read.
pub fn spec_files(dir: &Path) -> Result<Vec<PathBuf>, CdiError> {
    let failed = |source| CdiError::Directory { path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(failed(e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if Format::of(&path).is_some() && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

impl Registry {
    /// Reads every spec of the directories, which are paths below `root`. What
    /// cannot be read is kept as an error.
    #[must_use]
    pub fn load(root: &Path, dirs: &[PathBuf]) -> Self {
        let mut registry = Self::default();
        for (priority, dir) in dirs.iter().enumerate() {
            match spec_files(&crate::below(root, dir)) {
                Ok(files) => files.iter().for_each(|path| registry.add(path, priority)),
                Err(error) => registry.broken.push(error),
            }
        }
        registry
    }

    fn add(&mut self, path: &Path, priority: usize) {
        match validate(path) {
            Ok(spec) => self.insert(path.to_owned(), spec, priority),
            Err(errors) => self.broken.extend(errors.into_iter().next()),
        }
    }

    fn insert(&mut self, path: PathBuf, spec: Spec, priority: usize) {
        let index = self.specs.len();
        for (device, one) in spec.devices.iter().enumerate() {
            let name = QualifiedName { kind: spec.kind.clone(), device: one.name.clone() };
            let mut place = Place { priority, spec: index, device, rival: None };
            match self.devices.get(&name) {
                Some(old) if old.priority == priority => place.rival = Some(old.spec),
                _ => {}
            }
            self.devices.insert(name, place);
        }
        self.specs.push(Loaded { path, spec });
    }

    /// The specs and directories that could not be read, each with its cause.
    #[must_use]
    pub fn broken(&self) -> Vec<String> {
        self.broken.iter().map(CdiError::with_cause).collect()
    }

    /// The devices that two specs of one directory describe.
    #[must_use]
    pub fn conflicts(&self) -> Vec<String> {
        let conflicts = self.devices.iter().filter_map(|(name, place)| self.conflict(name, place));
        conflicts.map(|error| error.to_string()).collect()
    }

    /// Every device, by name.
    #[must_use]
    pub fn devices(&self) -> Vec<Listed> {
        let listed = |(name, place): (&QualifiedName, &Place)| {
            let Loaded { path, spec } = &self.specs[place.spec];
            Listed {
                name: name.clone(),
                spec: path.clone(),
                version: spec.cdi_version.clone(),
                annotations: spec.devices[place.device].annotations.clone(),
            }
        };
        self.devices.iter().map(listed).collect()
    }

    /// The names of a kind's devices.
    #[must_use]
    pub fn names(&self, kind: &str) -> Vec<&str> {
        let same = self.devices.keys().filter(|name| name.kind == kind);
        same.map(|name| name.device.as_str()).collect()
    }

    /// Finds devices. `vendor/class=all` is a device where a spec has one of
    /// that name, and every device of the kind where none has.
    ///
    /// # Errors
    /// When there is no such device, or two specs claim it.
    pub fn select(&self, names: &[QualifiedName]) -> Result<Selection<'_>, CdiError> {
        let mut chosen: Vec<(&QualifiedName, &Place)> = Vec::new();
        for name in names {
            let found: Vec<_> = match self.devices.get_key_value(name) {
                Some(one) => vec![one],
                None if name.device == ALL => {
                    self.devices.iter().filter(|(other, _)| other.kind == name.kind).collect()
                }
                None => Vec::new(),
            };
            if found.is_empty() {
                return Err(self.unknown(name));
            }
            for (name, place) in found {
                if let Some(error) = self.conflict(name, place) {
                    return Err(error);
                }
                if !chosen.iter().any(|(other, _)| *other == name) {
                    chosen.push((name, place));
                }
            }
        }
        let one = |(name, place): (&QualifiedName, &Place)| {
            let Loaded { path, spec } = &self.specs[place.spec];
            Selected { name: name.clone(), path, spec, index: place.device }
        };
        Ok(Selection { devices: chosen.into_iter().map(one).collect() })
    }

    fn conflict(&self, name: &QualifiedName, place: &Place) -> Option<CdiError> {
        let path = |index: usize| self.specs[index].path.clone();
        let (first, second) = (path(place.rival?), path(place.spec));
        Some(CdiError::Conflict { name: name.clone(), first, second })
    }

    fn unknown(&self, name: &QualifiedName) -> CdiError {
        let mut known: Vec<String> =
            self.devices.keys().filter(|o| o.kind == name.kind).map(ToString::to_string).collect();
        if known.is_empty() {
            known = self.devices.keys().map(ToString::to_string).collect();
        }
        let broken = self.broken();
        CdiError::Unknown { name: name.clone(), known, broken }
    }
}

/// A device that was asked for and found.
#[derive(Clone, Debug)]
struct Selected<'a> {
    name: QualifiedName,
    path: &'a Path,
    spec: &'a Spec,
    /// Which device of the spec.
    index: usize,
}

/// Devices that were asked for and found, in the order of asking.
#[derive(Clone, Debug)]
pub struct Selection<'a> {
    devices: Vec<Selected<'a>>,
}

/// Edits of a spec with their place, for messages.
struct Part<'a> {
    spec: &'a Path,
    field: String,
    edits: &'a ContainerEdits,
}

impl Selection<'_> {
    /// What counts, in order: each device's, and before the first one of a
    /// spec the spec's own.
    fn parts(&self) -> Vec<Part<'_>> {
        let mut seen: Vec<&Path> = Vec::new();
        let mut parts = Vec::new();
        for Selected { path, spec, index, .. } in &self.devices {
            if !seen.contains(path) {
                seen.push(path);
                let edits = &spec.container_edits;
                parts.push(Part { spec: path, field: "containerEdits".to_owned(), edits });
            }
            let edits = &spec.devices[*index].container_edits;
            let field = format!("devices[{index}].containerEdits");
            parts.push(Part { spec: path, field, edits });
        }
        parts
    }

    /// The names, for a reason.
    fn names(&self) -> String {
        self.devices.iter().map(|d| d.name.to_string()).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests;
