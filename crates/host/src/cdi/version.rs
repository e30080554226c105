//! Versions of the CDI specification, and what each added.

use std::str::FromStr;

use super::error::Problem;
use super::spec::{ContainerEdits, Spec};

/// The versions that are read, oldest first. The specification's own table
/// "Released versions"; 0.1.0 and 0.2.0 were never in use.
const KNOWN: [(u8, u8); 8] = [(0, 3), (0, 4), (0, 5), (0, 6), (0, 7), (0, 8), (1, 0), (1, 1)];

/// A version of the specification: major and minor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u8, u8);

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = text.strip_prefix('v').unwrap_or(text);
        let known = KNOWN.iter().find(|(major, minor)| plain == format!("{major}.{minor}.0"));
        known.map(|(major, minor)| Self(*major, *minor)).ok_or_else(|| {
            format!("{text:?} is no version of the CDI specification from 0.3.0 to 1.1.0")
        })
    }
}

/// The fields that need a newer version than the spec claims.
pub(super) fn required(spec: &Spec, version: Version) -> Vec<Problem> {
    let mut list = Vec::new();
    let mut need = |major, minor, field: String, used: bool| {
        if used && version < Version(major, minor) {
            let reason =
                format!("it needs cdiVersion {major}.{minor}.0, this is {}", spec.cdi_version);
            list.push(Problem::new(field, reason));
        }
    };
    let class = spec.kind.split_once('/').map_or("", |(_, class)| class);
    need(0, 6, "kind".to_owned(), class.contains('.'));
    need(0, 6, "annotations".to_owned(), !spec.annotations.is_empty());
    for (index, device) in spec.devices.iter().enumerate() {
        let digit = device.name.starts_with(|c: char| c.is_ascii_digit());
        need(0, 5, format!("devices[{index}].name"), digit);
        let annotations = !device.annotations.is_empty();
        need(0, 6, format!("devices[{index}].annotations"), annotations);
        edits(&device.container_edits, &format!("devices[{index}].containerEdits"), &mut need);
    }
    edits(&spec.container_edits, "containerEdits", &mut need);
    list
}

fn edits(edits: &ContainerEdits, field: &str, need: &mut dyn FnMut(u8, u8, String, bool)) {
    for (i, mount) in edits.mounts.iter().enumerate() {
        need(0, 4, format!("{field}.mounts[{i}].type"), !mount.kind.is_empty());
    }
    for (i, node) in edits.device_nodes.iter().enumerate() {
        need(0, 5, format!("{field}.deviceNodes[{i}].hostPath"), !node.host_path.is_empty());
    }
    need(0, 7, format!("{field}.additionalGids"), !edits.additional_gids.is_empty());
    need(0, 7, format!("{field}.intelRdt"), edits.intel_rdt.is_some());
    if let Some(rdt) = &edits.intel_rdt {
        need(1, 1, format!("{field}.intelRdt.schemata"), rdt.schemata.is_some());
        need(1, 1, format!("{field}.intelRdt.enableMonitoring"), rdt.enable_monitoring);
    }
    need(1, 1, format!("{field}.netDevices"), !edits.net_devices.is_empty());
}
