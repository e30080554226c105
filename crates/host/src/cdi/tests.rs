//! From directories of specs to edits, on a root that is a directory.

use std::os::unix::fs::symlink;

use plan::{MountSource, SkeletonKind};

use super::spec::tests::{AMD, NVIDIA};
use super::*;
use crate::hooks::Stage;

/// A host. Device nodes are links to /dev/null, which is device 1:3.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(self, path: &str, text: &str) -> Self {
        let file = crate::below(self.0.path(), Path::new(path));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
        self
    }

    fn node(self, path: &str) -> Self {
        let file = crate::below(self.0.path(), Path::new(path));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        symlink("/dev/null", file).unwrap();
        self
    }

    fn registry(&self) -> Registry {
        Registry::load(self.0.path(), &["/etc/cdi".into(), "/var/run/cdi".into()])
    }

    fn edits(&self, names: &[&str]) -> Result<crate::edits::Edits, CdiError> {
        let registry = self.registry();
        let names: Vec<_> = names.iter().map(|name| name.parse().unwrap()).collect();
        let selection = registry.select(&names)?;
        edits(&selection, &probe(self.0.path(), &selection))
    }
}

/// A host with the driver that the fixture's spec is for.
fn nvidia() -> Host {
    let mut host = Host::new().file("/etc/cdi/nvidia.yaml", NVIDIA);
    for name in
        ["nvidia-modeset", "nvidia-uvm", "nvidia-uvm-tools", "nvidiactl", "nvidia0", "nvidia1"]
    {
        host = host.node(&format!("/dev/{name}"));
    }
    host = host.node("/dev/dri/card1").node("/dev/dri/renderD128");
    for path in [
        "/usr/bin/nvidia-smi",
        "/usr/lib/x86_64-linux-gnu/libcuda.so.535.129.03",
        "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.535.129.03",
        "/lib/firmware/nvidia/535.129.03/gsp_tu10x.bin",
        "/run/nvidia-persistenced/socket",
    ] {
        host = host.file(path, "");
    }
    host
}

/// A spec with one device that has these edits.
fn one(kind: &str, name: &str, edits: &str) -> String {
    format!(
        r#"{{"cdiVersion":"1.1.0","kind":"{kind}","devices":[{{"name":"{name}","containerEdits":{{{edits}}}}}]}}"#
    )
}

#[test]
fn a_spec_of_nvidia_is_honoured_without_its_hooks_being_run() {
    let edits = nvidia().edits(&["nvidia.com/gpu=0"]).unwrap();
    assert_eq!(edits.reason, "CDI: nvidia.com/gpu=0");
    let mount = |target: &str| edits.mounts.iter().find(|m| m.target == Path::new(target));
    assert!(mount("/dev/nvidia0").is_some() && mount("/dev/nvidia1").is_none());
    assert!(!mount("/dev/nvidia0").unwrap().flags.read_only);
    let cuda = mount("/usr/lib/x86_64-linux-gnu/libcuda.so.535.129.03").unwrap();
    assert!(cuda.flags.read_only && !cuda.flags.recursive);
    assert!(mount("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.535.129.03").unwrap().flags.recursive);
    let firmware = mount("/lib/firmware/nvidia/535.129.03").unwrap();
    assert!(matches!(firmware.source, MountSource::Directory(_)));
    assert_eq!(edits.env, [("NVIDIA_VISIBLE_DEVICES".into(), Some("void".into()))]);
    let link = |path: &str| edits.files.iter().find(|file| file.path == Path::new(path));
    assert_eq!(
        link("/usr/lib/x86_64-linux-gnu/libcuda.so").unwrap().kind,
        SkeletonKind::Symlink("libcuda.so.1".into())
    );
    assert!(link("/dev/dri/by-path/pci-0000:06:00.0-card").is_some());
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu/vdpau"];
    assert_eq!(edits.cache_folders, folders.map(PathBuf::from));
    assert!(edits.hooks.is_empty());
    assert_eq!(edits.warnings.len(), 1, "{:?}", edits.warnings);
    assert!(edits.warnings[0].contains("noexec"));
}

#[test]
fn several_devices_share_what_their_spec_needs() {
    let host = nvidia();
    let both = host.edits(&["nvidia.com/gpu=0", "nvidia.com/gpu=all", "nvidia.com/gpu=0"]).unwrap();
    assert_eq!(both.reason, "CDI: nvidia.com/gpu=0, nvidia.com/gpu=all");
    let targets: Vec<_> = both.mounts.iter().map(|m| &m.target).collect();
    let mut unique = targets.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(targets.len(), unique.len());
    assert!(unique.contains(&&PathBuf::from("/dev/nvidia1")));
}

#[test]
fn all_is_every_device_where_no_device_has_that_name() {
    let host = Host::new()
        .file("/etc/cdi/a.json", &one("v.com/x", "a", r#""env":["A=1"]"#))
        .file("/etc/cdi/b.json", &one("v.com/x", "b", r#""env":["B=1"]"#))
        .file("/etc/cdi/c.json", &one("v.com/y", "c", r#""env":["C=1"]"#));
    let edits = host.edits(&["v.com/x=all"]).unwrap();
    assert_eq!(edits.env.len(), 2);
    let amd = Host::new()
        .file("/etc/cdi/amd.json", AMD)
        .node("/dev/kfd")
        .node("/dev/dri/card1")
        .node("/dev/dri/renderD128");
    assert_eq!(amd.edits(&["amd.com/gpu=all"]).unwrap().mounts.len(), 3);
}

#[test]
fn the_later_directory_wins_and_equals_are_in_conflict() {
    let spec = |value: &str| one("v.com/x", "a", &format!(r#""env":["A={value}"]"#));
    let host =
        Host::new().file("/etc/cdi/a.json", &spec("etc")).file("/var/run/cdi/a.json", &spec("run"));
    assert_eq!(host.edits(&["v.com/x=a"]).unwrap().env[0].1, Some("run".into()));
    assert!(host.registry().conflicts().is_empty() && host.registry().broken().is_empty());
    let listed = host.registry().devices();
    assert_eq!(listed.len(), 1);
    assert!(listed[0].spec.ends_with("var/run/cdi/a.json"));

    let host = host.file("/var/run/cdi/b.yaml", &spec("other"));
    let error = host.edits(&["v.com/x=a"]).unwrap_err();
    assert!(matches!(error, CdiError::Conflict { .. }));
    let text = error.to_string();
    assert!(text.contains("a.json") && text.contains("b.yaml"), "{text}");
    assert_eq!(host.registry().conflicts(), [text]);

    // In the first directory alone, the conflict is settled by the second.
    let host = Host::new()
        .file("/etc/cdi/a.json", &spec("1"))
        .file("/etc/cdi/b.json", &spec("2"))
        .file("/var/run/cdi/c.json", &spec("3"));
    assert_eq!(host.edits(&["v.com/x=a"]).unwrap().env[0].1, Some("3".into()));
}

#[test]
fn what_cannot_be_read_spoils_nothing_else() {
    let host = Host::new()
        .file("/etc/cdi/bad.yaml", "cdiVersion: 9.0.0\nkind: a/b\n")
        .file("/etc/cdi/good.json", &one("v.com/x", "a", r#""env":["A=1"]"#))
        .file("/etc/cdi/notes.txt", "no spec")
        .file("/etc/cdi/dir.json/inner.json", "{");
    assert!(host.edits(&["v.com/x=a"]).is_ok());
    assert_eq!(host.registry().broken().len(), 1);
    let error = host.edits(&["v.com/x=b"]).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("there is v.com/x=a") && text.contains("bad.yaml"), "{text}");
    assert!(text.contains("cdiVersion"), "{text}");
    assert!(error.hint().unwrap().contains("cdi list"));
    let error = Host::new().edits(&["v.com/x=b"]).unwrap_err().to_string();
    assert_eq!(error, "there is no CDI device v.com/x=b");
}

#[test]
fn a_spec_that_is_too_large_is_not_read() {
    let host = Host::new().file("/etc/cdi/large.json", &" ".repeat((1 << 20) + 1));
    let text = host.edits(&["v.com/x=b"]).unwrap_err().to_string();
    assert!(text.contains("large.json"), "{text}");
}

#[test]
fn what_is_not_on_this_host_is_an_error_with_file_and_field() {
    let host = nvidia();
    fs::remove_file(host.0.path().join("usr/lib/x86_64-linux-gnu/libcuda.so.535.129.03")).unwrap();
    let error = host.edits(&["nvidia.com/gpu=0"]).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("nvidia.yaml: containerEdits.mounts[1].hostPath"), "{text}");
    assert!(error.hint().unwrap().contains("nvidia-ctk cdi generate"));

    let host = nvidia();
    fs::remove_file(host.0.path().join("dev/nvidia1")).unwrap();
    assert!(host.edits(&["nvidia.com/gpu=0"]).is_ok());
    let text = host.edits(&["nvidia.com/gpu=all"]).unwrap_err().to_string();
    assert!(text.contains("devices[2].containerEdits.deviceNodes[1].path"), "{text}");

    let node = |edits: &str| {
        let spec = one("v.com/x", "a", &format!(r#""deviceNodes":[{{{edits}}}]"#));
        Host::new().file("/etc/cdi/a.json", &spec).node("/dev/real").edits(&["v.com/x=a"])
    };
    assert!(
        node(r#""path":"/dev/a","hostPath":"/dev/real","type":"c","major":1,"minor":3"#)
            .unwrap()
            .warnings
            .is_empty()
    );
    let text = node(r#""path":"/dev/real","type":"b""#).unwrap_err().to_string();
    assert!(text.contains("is no block device"), "{text}");
    let edits = node(r#""path":"/dev/real","type":"c","major":195,"minor":0"#).unwrap();
    assert!(edits.warnings[0].contains("1:3, not 195:0"), "{:?}", edits.warnings);
    assert_eq!(edits.mounts.len(), 1);
}

#[test]
fn what_takes_privilege_is_a_warning() {
    let spec = one(
        "v.com/x",
        "a",
        r#""additionalGids":[0,7,4294967294],"intelRdt":{"closID":"c"},
           "netDevices":[{"hostInterfaceName":"eth1"}]"#,
    );
    let host = Host::new().file("/etc/cdi/a.json", &spec);
    let registry = host.registry();
    let selection = registry.select(&["v.com/x=a".parse().unwrap()]).unwrap();
    let facts = HostPaths { groups: vec![7], ..HostPaths::default() };
    let edits = edits(&selection, &facts).unwrap();
    assert!(edits.is_empty());
    assert_eq!(edits.warnings.len(), 3, "{:?}", edits.warnings);
    for (text, word) in edits.warnings.iter().zip(["group 4294967294", "resctrl", "eth1"]) {
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn nodes_that_are_closed_to_the_caller_are_told() {
    let spec = one("v.com/x", "a", r#""deviceNodes":[{"path":"/dev/kfd","fileMode":438}]"#);
    let host = Host::new().file("/etc/cdi/a.json", &spec);
    let registry = host.registry();
    let selection = registry.select(&["v.com/x=a".parse().unwrap()]).unwrap();
    let node = HostPath {
        kind: PathKind::Character,
        device: (234, 0),
        mode: 0o660,
        gid: 109,
        readable: false,
        writable: false,
    };
    let facts = HostPaths { paths: [("/dev/kfd".into(), node)].into(), groups: vec![] };
    let text = edits(&selection, &facts).unwrap().warnings.remove(0);
    assert!(text.contains("/dev/kfd (mode 0660, group 109)"), "{text}");
}

#[test]
fn other_hooks_are_kept_to_be_run_and_tmpfs_is_memory() {
    let spec = one(
        "v.com/x",
        "a",
        r#""hooks":[{"hookName":"createRuntime","path":"/opt/v/hook","args":["hook","-x"],
                     "env":["A=1"],"timeout":3}],
           "mounts":[{"hostPath":"tmpfs","containerPath":"/scratch","type":"tmpfs",
                      "options":["size=1M","mode=700","nosuid","odd"]}]"#,
    );
    let host = Host::new().file("/etc/cdi/a.json", &spec);
    let edits = host.edits(&["v.com/x=a"]).unwrap();
    let hook = &edits.hooks[0];
    assert_eq!((hook.stage, hook.path.as_path()), (Stage::CreateRuntime, Path::new("/opt/v/hook")));
    assert_eq!(hook.timeout, Some(std::time::Duration::from_secs(3)));
    assert!(hook.origin.ends_with("etc/cdi/a.json"));
    assert_eq!(edits.mounts[0].source, MountSource::Tmpfs { size: Some(1 << 20), mode: 0o700 });
    assert!(edits.warnings[0].contains("odd"));
    let spec = spec.replace("\"type\":\"tmpfs\"", "\"type\":\"overlay\"");
    let host = Host::new().file("/etc/cdi/a.json", &spec);
    let text = host.edits(&["v.com/x=a"]).unwrap_err().to_string();
    assert!(text.contains("mounts[0].type") && text.contains("overlay"), "{text}");
}

#[test]
fn a_link_at_a_mounts_place_gives_way() {
    let spec = one(
        "v.com/x",
        "a",
        r#""hooks":[{"hookName":"createContainer","path":"/usr/bin/nvidia-cdi-hook",
                     "args":["nvidia-cdi-hook","create-symlinks","--link","b::/lib/a"]}],
           "mounts":[{"hostPath":"/lib/a","containerPath":"/lib/a"}]"#,
    );
    let edits = Host::new()
        .file("/etc/cdi/a.json", &spec)
        .file("/lib/a", "")
        .edits(&["v.com/x=a"])
        .unwrap();
    assert!(edits.files.is_empty() && edits.mounts.len() == 1);
}

/// A hook of NVIDIA's toolkit.
fn toolkit(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    format!(
        r#"{{"hookName":"createContainer","path":"/usr/bin/nvidia-cdi-hook",
           "args":["nvidia-cdi-hook",{}]}}"#,
        words.join(",")
    )
}

#[test]
fn modes_are_changed_where_the_path_is_the_containers() {
    let chmod = |path| toolkit(&["chmod", "--mode", "711", "--path", path]);
    let hooks = ["/opt/v", "/opt/v/lib.so", "/etc/image.conf", "/dev/dri"].map(chmod).join(",");
    let edit = format!(
        r#""mounts":[{{"hostPath":"/lib/v.so","containerPath":"/opt/v/lib.so"}}],"hooks":[{hooks}]"#
    );
    let host =
        Host::new().file("/etc/cdi/a.json", &one("v.com/x", "a", &edit)).file("/lib/v.so", "");
    let edits = host.edits(&["v.com/x=a"]).unwrap();
    let kind = SkeletonKind::Directory;
    assert_eq!(edits.files, [plan::FileSpec { path: "/opt/v".into(), kind, mode: 0o711 }]);
    assert_eq!(edits.warnings.len(), 2, "{:?}", edits.warnings);
    for (text, path) in edits.warnings.iter().zip(["/opt/v/lib.so", "/etc/image.conf"]) {
        assert!(text.contains(path), "{text}");
    }
}

#[test]
fn newer_libraries_of_the_images_cuda_are_asked_for_with_the_drivers_version() {
    let spec = |words: &[&str]| {
        let edit = format!(r#""hooks":[{}]"#, toolkit(words));
        let host = Host::new().file("/etc/cdi/a.json", &one("v.com/x", "a", &edit));
        host.edits(&["v.com/x=a"]).unwrap()
    };
    let edits = spec(&["enable-cuda-compat", "--host-driver-version=535.129.03"]);
    assert_eq!(edits.cuda_compat.as_deref(), Some("535.129.03"));
    assert!(!edits.is_empty() && edits.warnings.is_empty());
    let edits = spec(&["enable-cuda-compat"]);
    assert_eq!((edits.cuda_compat, edits.warnings.len()), (None, 1));
}
