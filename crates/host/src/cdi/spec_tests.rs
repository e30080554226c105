//! What is read as a spec, and what is wrong with others.

use super::*;

/// As `nvidia-ctk cdi generate` writes it, shortened.
pub(crate) const NVIDIA: &str = include_str!("../../../../fuzz/corpus/cdi/nvidia.yaml");

/// As `amd-ctk cdi generate` writes it, shortened.
pub(crate) const AMD: &str = include_str!("../../../../fuzz/corpus/cdi/amd.json");

fn yaml(text: &str) -> Result<Spec, Vec<Problem>> {
    Spec::parse(text.as_bytes(), Format::Yaml)
}

fn messages(result: Result<Spec, Vec<Problem>>) -> Vec<String> {
    result.unwrap_err().iter().map(ToString::to_string).collect()
}

/// Every field of the specification.
const EVERYTHING: &str = include_str!("../../../../fuzz/corpus/cdi/every-field.json");

#[test]
fn every_field_is_read_from_json_and_yaml() {
    let spec = Spec::parse(EVERYTHING.as_bytes(), Format::Json).unwrap();
    assert_eq!(yaml(EVERYTHING).unwrap(), spec);
    let edits = &spec.devices[0].container_edits;
    let node = &edits.device_nodes[0];
    assert_eq!((node.major, node.minor, node.file_mode), (195, 255, Some(0o666)));
    assert_eq!((node.uid, node.gid), (Some(0), Some(44)));
    assert_eq!(edits.hooks[0].timeout, Some(5));
    assert_eq!(edits.mounts[0].kind, "bind");
    assert_eq!(edits.additional_gids, [44, 109]);
    assert_eq!(edits.intel_rdt.as_ref().unwrap().clos_id, "c");
    assert_eq!(edits.net_devices[0].host_interface_name, "eth1");
}

#[test]
fn the_files_of_the_vendors_tools() {
    let spec = yaml(NVIDIA).unwrap();
    let names: Vec<&str> = spec.devices.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["0", "GPU-8dcd427f-483b-b48f-d7e5-75fb19a52b76", "all"]);
    assert_eq!(spec.container_edits.mounts.len(), 5);
    let spec = Spec::parse(AMD.as_bytes(), Format::Json).unwrap();
    assert_eq!(spec.kind, "amd.com/gpu");
    assert_eq!(spec.devices[0].container_edits.device_nodes[1].path, "/dev/dri/card1");
}

#[test]
fn yaml_has_names_that_look_like_numbers_octal_modes_and_nulls() {
    let spec = yaml(
        "cdiVersion: 0.5.0\nkind: a.b/c\ndevices:\n- name: 0\n  containerEdits:\n    mounts: null\n    \
         deviceNodes:\n    - path: /dev/x\n      fileMode: 0660\n    - path: /dev/y\n      fileMode: 432\n",
    )
    .unwrap();
    assert_eq!(spec.devices[0].name, "0");
    let modes: Vec<_> =
        spec.devices[0].container_edits.device_nodes.iter().map(|n| n.file_mode).collect();
    assert_eq!(modes, [Some(0o660), Some(0o660)]);
}

#[test]
fn newer_fields_need_a_newer_version() {
    let fields = |version: &str| -> Vec<String> {
        let text = EVERYTHING.replace("\"1.1.0\"", &format!("\"{version}\""));
        match Spec::parse(text.as_bytes(), Format::Json) {
            Ok(_) => Vec::new(),
            Err(list) => list.into_iter().map(|p| p.field).collect(),
        }
    };
    assert!(fields("1.1.0").is_empty() && fields("v1.1.0").is_empty());
    let edits = "devices[0].containerEdits";
    let newest: Vec<String> = ["intelRdt.schemata", "intelRdt.enableMonitoring", "netDevices"]
        .map(|f| format!("{edits}.{f}"))
        .into();
    for version in ["1.0.0", "0.8.0", "0.7.0"] {
        assert_eq!(fields(version), newest, "{version}");
    }
    let oldest = fields("0.3.0");
    for field in ["kind", "annotations", "devices[0].annotations", "devices[0].name"] {
        assert!(oldest.iter().any(|f| f == field), "{field}: {oldest:?}");
    }
    for field in ["mounts[0].type", "deviceNodes[0].hostPath", "additionalGids", "intelRdt"] {
        assert!(oldest.contains(&format!("{edits}.{field}")), "{field}: {oldest:?}");
    }
    for unknown in ["0.2.0", "0.9.0", "2.0.0", "1.0", "", "1.0.0-rc1"] {
        assert_eq!(fields(unknown)[0], "cdiVersion", "{unknown}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_field() {
    let edits = "devices[0].containerEdits";
    for (from, to, field) in [
        ("vendor.com/class.x", "vendor.com", "kind"),
        ("vendor.com/class.x", "-vendor/class", "kind"),
        ("vendor.com/a", "Vendor.com/a", "annotations[\"Vendor.com/a\"]"),
        ("\"name\": \"0\"", "\"name\": \"0=\"", "devices[0].name"),
        ("\"A=b\"", "\"A\"", "devices[0].containerEdits.env[0]"),
        ("\"C=\"", "\"=C\"", "devices[0].containerEdits.env[1]"),
        ("\"/dev/a\"", "\"dev/a\"", "deviceNodes[0].path"),
        ("\"/dev/a\"", "\"/dev/../a\"", "deviceNodes[0].path"),
        ("\"type\": \"c\"", "\"type\": \"x\"", "deviceNodes[0].type"),
        ("\"rwm\"", "\"rwx\"", "deviceNodes[0].permissions"),
        ("\"major\": 195", "\"major\": \"195\"", "deviceNodes[0].major"),
        ("\"gid\": 44", "\"gid\": -1", "deviceNodes[0].gid"),
        ("\"createContainer\"", "\"createContainers\"", "hooks[0].hookName"),
        ("\"path\": \"/h\"", "\"path\": \"h\"", "hooks[0].path"),
        ("\"E=f\"", "\"E\"", "hooks[0].env[0]"),
        ("\"timeout\": 5", "\"timeout\": 0", "hooks[0].timeout"),
        ("\"hostPath\": \"/a\"", "\"hostPath\": \"\"", "mounts[0].hostPath"),
        ("\"containerPath\": \"/b\"", "\"containerPath\": \"b\"", "mounts[0].containerPath"),
        ("\"eth1\"", "\"\"", "netDevices[0].hostInterfaceName"),
        ("\"closID\": \"c\"", "\"closID\": \"a/b\"", "intelRdt.closID"),
        ("\"options\": [\"ro\"]", "\"options\": \"ro\"", "mounts[0].options"),
        ("\"options\"", "\"option\"", "mounts[0]"),
    ] {
        assert!(EVERYTHING.contains(from), "{from}");
        let text = EVERYTHING.replacen(from, to, 1);
        for format in [Format::Json, Format::Yaml] {
            // A number in quotes is a number to a reader of YAML.
            if format == Format::Yaml && to.contains("\"195\"") {
                continue;
            }
            let list = messages(Spec::parse(text.as_bytes(), format));
            assert!(list.iter().any(|m| m.contains(field)), "{edits} {to}: {field}: {list:?}");
        }
    }
}

#[test]
fn documents_that_are_no_spec() {
    for text in
        ["", "null", "[]", "just text", "{", "a: b: c", "cdiVersion: 0.5.0\n", "\u{0}", "\t"]
    {
        for format in [Format::Json, Format::Yaml] {
            let problems = Spec::parse(text.as_bytes(), format).unwrap_err();
            assert!(!problems.is_empty() && !problems[0].reason.is_empty(), "{text:?}");
        }
    }
    assert!(Spec::parse(b"\xff\xfe\x00", Format::Yaml).is_err());
    let two = format!("{EVERYTHING}\n---\n{EVERYTHING}");
    assert!(yaml(&two).is_err());
    let list = messages(yaml("cdiVersion: 0.5.0\nkind: a/b\ndevices: []\n"));
    assert_eq!(list, ["devices: there is no device"]);
    let list = messages(yaml("cdiVersion: 0.5.0\nkind: a/b\ndevices: [{name: x}]\n"));
    assert_eq!(list, ["devices[0].containerEdits: the device changes nothing"]);
    let twice = "cdiVersion: 0.5.0\nkind: a/b\ndevices:\n- &d\n  name: x\n  containerEdits: {env: [A=b]}\n- *d\n";
    assert_eq!(messages(yaml(twice)), ["devices[1].name: there are two devices \"x\""]);
}

#[test]
fn a_small_file_cannot_become_a_large_one() {
    // Ten to the ninth strings, if aliases were expanded without a bound.
    let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..9 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(",");
        text += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    text += "cdiVersion: 0.5.0\nkind: a/b\n";
    assert!(yaml(&text).is_err());
    let text = text.replace("a0:", "annotations:");
    assert!(yaml(&text).is_err());
    let deep = "[".repeat(200_000);
    assert!(yaml(&deep).is_err() && yaml(&format!("devices: {deep}")).is_err());
    assert!(Spec::parse(deep.as_bytes(), Format::Json).is_err());
}

#[test]
fn damaged_specs_are_errors_and_no_panics() {
    // xorshift64, so that a failure can be repeated.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    let words: [&[u8]; 12] = [
        b"null",
        b"[",
        b"}",
        b"\"",
        b": ",
        b"- ",
        b"&a ",
        b"*a ",
        b"!!binary ",
        b"-1",
        b"\xff",
        b"1e999",
    ];
    for _ in 0..3000 {
        let (source, format) = match random(3) {
            0 => (NVIDIA, Format::Yaml),
            1 => (AMD, Format::Json),
            _ => (EVERYTHING, if random(2) == 0 { Format::Json } else { Format::Yaml }),
        };
        let mut bytes = source.as_bytes().to_vec();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes.truncate(at),
                1 => bytes[at] = random(256) as u8,
                2 => drop(bytes.splice(at..at, words[random(words.len())].iter().copied())),
                _ => drop(bytes.drain(at..(at + random(40)).min(bytes.len()))),
            }
            if bytes.is_empty() {
                bytes.push(b' ');
            }
        }
        if let Err(problems) = Spec::parse(&bytes, format) {
            assert!(!problems.is_empty());
        }
    }
}
