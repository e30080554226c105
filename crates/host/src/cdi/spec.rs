//! One CDI spec: its fields, how it is read, and what it must satisfy.
//!
//! Source: Container Device Interface Specification, SPEC.md of versions 0.3.0
//! to 1.1.0.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Deserializer};

use super::error::Problem;
use super::name::{check_device, check_kind};
use super::version::{Version, required};

/// A spec: the devices of one kind, and what each needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Spec {
    /// Version of the specification that it follows.
    pub cdi_version: String,
    /// `vendor/class`.
    pub kind: String,
    /// For programs; since 0.6.0.
    #[serde(default, deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
    /// The devices.
    #[serde(default, deserialize_with = "nullable")]
    pub devices: Vec<Device>,
    /// What every container needs that has one of the devices.
    #[serde(default, deserialize_with = "nullable")]
    pub container_edits: ContainerEdits,
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Device {
    /// Its name within the kind.
    pub name: String,
    /// For programs; since 0.6.0.
    #[serde(default, deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
    /// What a container needs that has it.
    #[serde(default, deserialize_with = "nullable")]
    pub container_edits: ContainerEdits,
}

/// What a container needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ContainerEdits {
    /// Variables, `NAME=VALUE`.
    #[serde(default, deserialize_with = "nullable")]
    pub env: Vec<String>,
    /// Device nodes.
    #[serde(default, deserialize_with = "nullable")]
    pub device_nodes: Vec<DeviceNode>,
    /// Interfaces of the host's network; since 1.1.0.
    #[serde(default, deserialize_with = "nullable")]
    pub net_devices: Vec<NetDevice>,
    /// Programs to run.
    #[serde(default, deserialize_with = "nullable")]
    pub hooks: Vec<SpecHook>,
    /// Mounts.
    #[serde(default, deserialize_with = "nullable")]
    pub mounts: Vec<Mount>,
    /// Classes of Intel's Resource Director Technology; since 0.7.0.
    #[serde(default)]
    pub intel_rdt: Option<IntelRdt>,
    /// Groups of the process; since 0.7.0.
    #[serde(default, rename = "additionalGids", deserialize_with = "nullable")]
    pub additional_gids: Vec<u32>,
}

/// A device node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DeviceNode {
    /// Path in the container.
    pub path: String,
    /// Path on the host, where it differs; since 0.5.0.
    #[serde(default, deserialize_with = "nullable")]
    pub host_path: String,
    /// `b`, `c`, `u` or `p`; empty for whatever the host has.
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    /// Major number.
    #[serde(default, deserialize_with = "nullable")]
    pub major: i64,
    /// Minor number.
    #[serde(default, deserialize_with = "nullable")]
    pub minor: i64,
    /// Permission bits.
    #[serde(default)]
    pub file_mode: Option<u32>,
    /// What the device cgroup allows: letters of `rwm`.
    #[serde(default, deserialize_with = "nullable")]
    pub permissions: String,
    /// Owner.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Group.
    #[serde(default)]
    pub gid: Option<u32>,
}

/// An interface of the host's network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NetDevice {
    /// Its name on the host.
    pub host_interface_name: String,
    /// Its name in the container.
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
}

/// A program to run while the container is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SpecHook {
    /// The stage, by its name in the OCI runtime specification.
    pub hook_name: String,
    /// The program.
    pub path: String,
    /// Its words, with its own name first.
    #[serde(default, deserialize_with = "nullable")]
    pub args: Vec<String>,
    /// Its whole environment.
    #[serde(default, deserialize_with = "nullable")]
    pub env: Vec<String>,
    /// Seconds after which it is ended.
    #[serde(default)]
    pub timeout: Option<i64>,
}

/// A mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mount {
    /// Path on the host.
    pub host_path: String,
    /// Path in the container.
    pub container_path: String,
    /// Options as those of mount(8).
    #[serde(default, deserialize_with = "nullable")]
    pub options: Vec<String>,
    /// Type; since 0.4.0. Empty for a bind.
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub kind: String,
}

/// Classes of Intel's Resource Director Technology.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // The fields are resctrl's own, and none is honoured.
pub struct IntelRdt {
    #[serde(default, rename = "closID", deserialize_with = "nullable")]
    pub clos_id: String,
    #[serde(default, rename = "l3CacheSchema", deserialize_with = "nullable")]
    pub l3_cache_schema: String,
    #[serde(default, rename = "memBwSchema", deserialize_with = "nullable")]
    pub mem_bw_schema: String,
    #[serde(default)]
    pub schemata: Option<Vec<String>>,
    #[serde(default, rename = "enableCMT", deserialize_with = "nullable")]
    pub enable_cmt: bool,
    #[serde(default, rename = "enableMBM", deserialize_with = "nullable")]
    pub enable_mbm: bool,
    #[serde(default, rename = "enableMonitoring", deserialize_with = "nullable")]
    pub enable_monitoring: bool,
}

/// Programs in Go write `null` for an empty list.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// How a spec is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.json`.
    Json,
    /// `.yaml`.
    Yaml,
}

impl Format {
    /// By a file's name; None for a file that is no spec.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "json" => Some(Self::Json),
            "yaml" => Some(Self::Yaml),
            _ => None,
        }
    }
}

impl Spec {
    /// Reads a spec; the caller bounds the text's size.
    ///
    /// # Errors
    /// Everything that is wrong with it: at least one problem.
    pub fn parse(text: &[u8], format: Format) -> Result<Self, Vec<Problem>> {
        let spec = match format {
            Format::Json => from_json(text),
            Format::Yaml => from_yaml(text),
        };
        let spec = spec.map_err(|problem| vec![problem])?;
        let problems = spec.problems();
        if problems.is_empty() { Ok(spec) } else { Err(problems) }
    }

    /// What the specification forbids, in the order of the fields.
    fn problems(&self) -> Vec<Problem> {
        let mut list = Vec::new();
        match self.cdi_version.parse::<Version>() {
            Err(reason) => list.push(Problem::new("cdiVersion", reason)),
            Ok(version) => list.extend(required(self, version)),
        }
        list.extend(check_kind(&self.kind).err().map(|reason| Problem::new("kind", reason)));
        annotations("annotations", &self.annotations, &mut list);
        if self.devices.is_empty() {
            list.push(Problem::new("devices", "there is no device"));
        }
        let mut names = BTreeSet::new();
        for (index, device) in self.devices.iter().enumerate() {
            let field = |name: &str| format!("devices[{index}].{name}");
            if let Err(reason) = check_device(&device.name) {
                list.push(Problem::new(field("name"), reason));
            } else if !names.insert(&device.name) {
                let reason = format!("there are two devices {:?}", device.name);
                list.push(Problem::new(field("name"), reason));
            }
            annotations(&field("annotations"), &device.annotations, &mut list);
            if device.container_edits == ContainerEdits::default() {
                list.push(Problem::new(field("containerEdits"), "the device changes nothing"));
            }
            device.container_edits.check(&field("containerEdits"), &mut list);
        }
        self.container_edits.check("containerEdits", &mut list);
        list
    }
}

/// A path in the container: absolute, and no way out of it.
fn container_path(path: &str) -> Result<(), String> {
    absolute(path)?;
    match path.split('/').any(|word| word == "..") {
        true => Err(format!("{path:?} has a ..")),
        false => Ok(()),
    }
}

fn absolute(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(format!("{path:?} is not an absolute path"));
    }
    if path.contains('\0') { Err("the path has a NUL".to_owned()) } else { Ok(()) }
}

fn variable(text: &str) -> Result<(), String> {
    match text.find('=') {
        None | Some(0) => Err(format!("{text:?} is not NAME=VALUE")),
        Some(_) if text.contains('\0') => Err("the variable has a NUL".to_owned()),
        Some(_) => Ok(()),
    }
}

impl ContainerEdits {
    fn check(&self, field: &str, list: &mut Vec<Problem>) {
        let mut add = |name: String, result: Result<(), String>| {
            list.extend(result.err().map(|reason| Problem::new(format!("{field}.{name}"), reason)));
        };
        for (i, text) in self.env.iter().enumerate() {
            add(format!("env[{i}]"), variable(text));
        }
        for (i, node) in self.device_nodes.iter().enumerate() {
            let at = |name: &str| format!("deviceNodes[{i}].{name}");
            add(at("path"), container_path(&node.path));
            if !node.host_path.is_empty() {
                add(at("hostPath"), absolute(&node.host_path));
            }
            add(at("type"), one_of(&node.kind, &["", "b", "c", "u", "p"]));
            let bad = node.permissions.chars().any(|c| !"rwm".contains(c));
            let reason = || format!("{:?} has letters other than r, w and m", node.permissions);
            add(at("permissions"), if bad { Err(reason()) } else { Ok(()) });
        }
        for (i, mount) in self.mounts.iter().enumerate() {
            let at = |name: &str| format!("mounts[{i}].{name}");
            add(at("containerPath"), container_path(&mount.container_path));
            if mount.host_path.is_empty() {
                add(at("hostPath"), Err("it is empty".to_owned()));
            } else if matches!(mount.kind.as_str(), "" | "bind" | "none") {
                add(at("hostPath"), absolute(&mount.host_path));
            }
        }
        for (i, hook) in self.hooks.iter().enumerate() {
            let at = |name: &str| format!("hooks[{i}].{name}");
            let stage = hook.hook_name.parse::<crate::hooks::Stage>();
            add(at("hookName"), stage.map(|_| ()).map_err(|e| e.to_string()));
            add(at("path"), absolute(&hook.path));
            for (k, text) in hook.env.iter().enumerate() {
                add(format!("hooks[{i}].env[{k}]"), variable(text));
            }
            let positive = hook.timeout.is_none_or(|seconds| seconds > 0);
            let reason = || Err("it is not a positive number of seconds".to_owned());
            add(at("timeout"), if positive { Ok(()) } else { reason() });
        }
        for (i, device) in self.net_devices.iter().enumerate() {
            if device.host_interface_name.is_empty() {
                add(format!("netDevices[{i}].hostInterfaceName"), Err("it is empty".to_owned()));
            }
        }
        if let Some(rdt) = &self.intel_rdt {
            let id = rdt.clos_id.as_str();
            let bad = id.len() >= 4096 || id == "." || id == ".." || id.contains(['/', '\n']);
            let reason = || Err("it is not the name of a directory".to_owned());
            add("intelRdt.closID".to_owned(), if bad { reason() } else { Ok(()) });
        }
    }
}

fn one_of(text: &str, known: &[&str]) -> Result<(), String> {
    if known.contains(&text) {
        return Ok(());
    }
    let known: Vec<&str> = known.iter().copied().filter(|word| !word.is_empty()).collect();
    Err(format!("{text:?} is none of {}", known.join(", ")))
}

/// Most bytes of all keys and values together, as Kubernetes has it, whose
/// rules for annotations CDI takes over.
const MOST_ANNOTATIONS: usize = 256 << 10;

fn annotations(field: &str, map: &BTreeMap<String, String>, list: &mut Vec<Problem>) {
    for key in map.keys() {
        if let Err(reason) = annotation_key(key) {
            list.push(Problem::new(format!("{field}[{key:?}]"), reason));
        }
    }
    if map.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > MOST_ANNOTATIONS {
        list.push(Problem::new(field, "the annotations have more than 256 KiB"));
    }
}

/// `[prefix/]name`: a DNS name, and at most 63 letters, digits, `-`, `_` and `.`.
fn annotation_key(key: &str) -> Result<(), &'static str> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let word = |c: char| c.is_ascii_alphanumeric();
    let inner = |c: char| word(c) || matches!(c, '-' | '_' | '.');
    let named = name.starts_with(word) && name.ends_with(word) && name.chars().all(inner);
    if !named || name.len() > 63 {
        return Err("the name is not 1 to 63 letters, digits, -, _ and .");
    }
    let label = |label: &str| {
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let good = label.chars().all(|c| word(c) || c == '-');
        label.starts_with(word) && label.ends_with(word) && good
    };
    match prefix {
        Some(prefix) if prefix.len() > 253 || !prefix.split('.').all(label) => {
            Err("what stands before the / is no DNS name in lower case")
        }
        _ => Ok(()),
    }
}

fn from_json(text: &[u8]) -> Result<Spec, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let spec: Spec = serde_path_to_error::deserialize(&mut reader)
        .map_err(|e| Problem::new(field_of(e.path()), e.inner().to_string()))?;
    reader.end().map_err(|e| Problem::new("", e.to_string()))?;
    Ok(spec)
}

fn from_yaml(text: &[u8]) -> Result<Spec, Problem> {
    // Octal modes are written in the way of YAML 1.1, which Go's reader knows.
    let options = serde_saphyr::options! { legacy_octal_numbers: true, with_snippet: false };
    let mut field = String::new();
    let slot = &mut field;
    let spec = serde_saphyr::with_deserializer_from_slice_with_options(text, options, |reader| {
        serde_path_to_error::deserialize(reader).map_err(|e| {
            *slot = field_of(e.path());
            e.into_inner()
        })
    });
    spec.map_err(|e| Problem::new(field, e.without_snippet().to_string()))
}

/// The field, where the reader had come to one.
fn field_of(path: &serde_path_to_error::Path) -> String {
    let text = path.to_string();
    if text == "." || text == "?" { String::new() } else { text }
}

#[cfg(test)]
#[path = "spec_tests.rs"]
pub(super) mod tests;
