//! Plans for hosts and images in memory.

use super::*;
use crate::tree::fake::FakeTree;
use crate::{HomeChoice, Isolation, MountRequest, NamedUser, render_text};
use types::ImageConfig;

fn image() -> FakeTree {
    FakeTree::new(&[
        "/bin -> usr/bin",
        "/usr/",
        "/usr/bin/",
        "/usr/bin/sh=elf",
        "/proc/",
        "/sys/",
        "/dev/",
        "/tmp/",
        "/var/",
        "/var/tmp/",
        "/home/",
        "/etc/",
        "/etc/resolv.conf -> ../run/x",
        "/etc/passwd=root:x:0:0:root:/root:/bin/sh\napp:x:999:998::/app:/bin/sh\n",
        "/run/",
    ])
}

fn host() -> HostFacts {
    HostFacts {
        user: NamedUser { id: 1234, name: "alice".into() },
        groups: vec![NamedUser { id: 100, name: "users".into() }],
        home: Some("/home/alice".into()),
        cwd: Some("/scratch/run".into()),
        env: vec![("PATH".into(), "/opt/host".into()), ("FOO".into(), "1".into())],
        resolv_conf: Some(b"nameserver 10.0.0.1\n".to_vec()),
        ..HostFacts::default()
    }
}

fn request(args: &[&str]) -> RunRequest {
    let args = args.iter().map(Into::into).collect();
    let root = RootSource::squashfs("/i.sqfs".into(), 0);
    let config = ImageConfig::default();
    RunRequest::new("i", root, config, Command::Run { entrypoint: None, args })
}

fn plan(request: &RunRequest) -> Plan {
    build(request, &host(), &image(), vec![]).unwrap()
}

fn targets(plan: &Plan) -> Vec<String> {
    let target = |op: &PlanOp| match &op.op {
        Op::Bind { target, .. } | Op::Tmpfs { target, .. } | Op::Proc { target } => {
            Some(target.display().to_string())
        }
        _ => None,
    };
    plan.ops.iter().filter_map(target).collect()
}

#[test]
fn the_default_container_shares_the_host() {
    let plan = plan(&request(&["true"]));
    assert_eq!(
        targets(&plan),
        ["/proc", "/sys", "/dev", "/home/alice", "/scratch/run", "/tmp", "/var/tmp"]
    );
    assert_eq!(plan.id_map, IdMap { uid: 1234, gid: 100, host_uid: 1234, host_gid: 100 });
    assert!(plan.namespaces.user && !plan.namespaces.pid);
    let added: Vec<_> = plan.rootfs.skeleton.iter().map(|s| s.path.to_str().unwrap()).collect();
    assert!(added.contains(&"/home/alice") && added.contains(&"/scratch/run"), "{added:?}");
    // The link in the image is hidden, so its dangling target is not made.
    assert!(added.contains(&"/etc/resolv.conf") && !added.contains(&"/run/x"), "{added:?}");
    assert!(plan.rootfs.overlay());
    assert_eq!(plan.process.cwd[0], PathBuf::from("/scratch/run"));
}

#[test]
fn the_server_shows_additions_where_nobody_else_looks_and_nobody_writes() {
    let with = |change: &dyn Fn(&mut RunRequest)| {
        let mut request = request(&["true"]);
        change(&mut request);
        plan(&request).view()
    };
    assert!(with(&|_| ()));
    assert!(with(&|request| request.isolation.pid = true));
    assert!(!with(&|request| request.writable = Writable::Tmpfs));
    assert!(!with(&|request| request.overlays = vec![("/o".into(), true)]));
    assert!(!with(&|request| request.instance = Some("i".into())));
    assert!(!with(&|request| request.root_emulation = RootEmulation::Fast));
    assert!(!with(&|request| request.root = RootSource::Directory { path: "/d".into() }));
    for words in [&["python3", "-c", "1"][..], &["sh", "-c", "exec perl x"], &["/opt/a.py"]] {
        assert!(!plan(&request(words)).view(), "{words:?}");
    }
    let mut plan = plan(&request(&["true"]));
    plan.rootfs.skeleton.clear();
    assert!(!plan.view() && !plan.rootfs.overlay(), "there is nothing to show");
    plan.rootfs.overlaid = true;
    assert!(!plan.view() && plan.rootfs.overlay(), "somebody needs it all the same");
}

#[test]
fn the_environment_is_literal_and_ordered() {
    let mut request = request(&["true"]);
    request.config.env = vec!["FOO=image".into(), "BAR=$HOME `id`".into()];
    request.env = vec![("BAZ".into(), "a b".into()), ("BAZ".into(), "$(id)".into())];
    let plan = plan(&request);
    let get = |name: &str| {
        let var = plan.env.iter().find(|v| v.name == name);
        var.map(|v| v.value.to_str().unwrap().to_owned())
    };
    assert_eq!(get("FOO").as_deref(), Some("image"));
    assert_eq!(get("BAR").as_deref(), Some("$HOME `id`"));
    assert_eq!(get("BAZ").as_deref(), Some("$(id)"));
    assert_eq!(get("HOME").as_deref(), Some("/home/alice"));
    assert!(!get("PATH").unwrap().contains("/opt/host"));
}

#[test]
fn the_images_process_is_honoured_by_run_alone() {
    let mut request = request(&[]);
    request.config.entrypoint = vec!["/entry".into()];
    request.config.cmd = vec!["word".into()];
    request.config.working_dir = Some("/app".into());
    request.config.user = Some("app".into());
    let run = plan(&request);
    assert_eq!(run.process.argv, ["/entry", "word"]);
    assert_eq!(run.process.cwd, [PathBuf::from("/app")]);
    assert_eq!((run.id_map.uid, run.id_map.gid, run.id_map.host_uid), (999, 998, 1234));
    request.command = Command::Exec { args: vec!["id".into()] };
    let exec = plan(&request);
    assert_eq!(exec.process.argv, ["id"]);
    assert_eq!(exec.id_map.uid, 1234);
    request.command = Command::Run { entrypoint: Some(vec!["/e".into()]), args: vec![] };
    assert_eq!(plan(&request).process.argv, ["/e"]);
}

#[test]
fn isolation_shares_nothing() {
    let mut request = request(&["true"]);
    request.isolation = Isolation::isolate();
    let plan = plan(&request);
    let n = plan.namespaces;
    assert!(n.user && n.pid && n.ipc && n.uts && n.net);
    let binds_home = plan
        .ops
        .iter()
        .any(|o| matches!(&o.op, Op::Bind { source, .. } if !source.starts_with("/dev")));
    assert!(!binds_home, "{:?}", plan.ops);
    assert!(plan.ops.iter().any(|o| matches!(o.op, Op::Mask { .. })));
    assert!(!plan.env.iter().any(|v| v.name == "FOO"));
}

#[test]
fn a_mount_inside_a_mount_is_made_there() {
    let mut request = request(&["true"]);
    let bind = |target: &str| MountRequest {
        source: MountSource::Directory("/src".into()),
        target: target.into(),
        flags: MountFlags::default(),
        origin: format!("--bind /src:{target}"),
    };
    request.mounts = vec![bind("/data/inner"), bind("/data")];
    let plan = plan(&request);
    let binds: Vec<_> = plan
        .ops
        .iter()
        .filter_map(|o| match &o.op {
            Op::Bind { target, create, .. } if target.starts_with("/data") => {
                Some((target.to_str().unwrap(), *create))
            }
            _ => None,
        })
        .collect();
    assert_eq!(binds, [("/data", false), ("/data/inner", true)]);
}

#[test]
fn contradictions_are_errors() {
    let mut request = request(&["true"]);
    request.writable = Writable::InPlace;
    let error = |r: &RunRequest| build(r, &host(), &image(), vec![]).unwrap_err();
    assert!(matches!(error(&request), PlanError::WritableFile));
    request.writable = Writable::Tmpfs;
    request.overlays = vec![("/o".into(), false)];
    assert!(matches!(error(&request), PlanError::TwoUppers));
    request.overlays.clear();
    request.mounts = vec![MountRequest {
        source: MountSource::File("/f".into()),
        target: "/etc".into(),
        flags: MountFlags::default(),
        origin: "-B /f:/etc".into(),
    }];
    assert!(matches!(error(&request), PlanError::KindMismatch { .. }));
    request.mounts[0].target = "/".into();
    assert!(matches!(error(&request), PlanError::TargetIsRoot(_)));
    request.mounts.clear();
    request.command = Command::Run { entrypoint: None, args: vec![] };
    assert!(matches!(error(&request), PlanError::NoCommand));
}

#[test]
fn root_without_a_namespace_uses_the_kernel() {
    let host = HostFacts { real_root: true, ..host() };
    let plan = build(&request(&["true"]), &host, &image(), vec![]).unwrap();
    assert_eq!(plan.rootfs.mount, ImageMount::KernelSquashfs);
    assert!(!plan.namespaces.user);
}

#[test]
fn the_text_gives_reasons_when_asked() {
    let mut request = request(&["echo", "a b"]);
    request.home = HomeChoice::None;
    let plan = plan(&request);
    assert!(!render_text(&plan, false).contains('#'));
    let text = render_text(&plan, true);
    assert!(text.contains("# devices of the host"), "{text}");
    assert!(text.contains("exec echo 'a b'"), "{text}");
}

/// What a device wants in /dev: links beside nodes, and one where a file is.
fn links() -> Contribution {
    let link = |path: &str| FileSpec {
        path: path.into(),
        kind: SkeletonKind::Symlink("../card0".into()),
        mode: 0o777,
    };
    let files = ["/dev/dri/by-path/x", "/dev/stdin", "/dev/host/x"].map(link).to_vec();
    let mounts = vec![MountSpec {
        source: MountSource::Directory("/dev/host".into()),
        target: "/dev/host".into(),
        flags: MountFlags::default(),
        optional: false,
    }];
    Contribution { files, mounts, ..Contribution::new(Rank::Host, "a device") }
}

#[test]
fn a_dev_of_the_containers_own_takes_links() {
    let mut request = request(&["sh"]);
    request.isolation.contain = true;
    let plan = build(&request, &host(), &image(), vec![links()]).unwrap();
    let made: Vec<&Op> =
        plan.ops.iter().filter(|op| op.reason == "a device").map(|op| &op.op).collect();
    let target = PathBuf::from("/dev/dri/by-path/x");
    let parent = target.parent().unwrap().to_owned();
    assert_eq!(
        made[1..],
        [
            &Op::Mkdir { target: parent, mode: 0o755 },
            &Op::Symlink { to: "../card0".into(), target }
        ]
    );
    // What lies in a mount of the host's stays as it is.
    assert!(plan.warnings.iter().any(|text| text.contains("/dev/host/x")), "{:?}", plan.warnings);
    request.isolation.contain = false;
    let plan = build(&request, &host(), &image(), vec![links()]).unwrap();
    assert!(!plan.ops.iter().any(|op| matches!(op.op, Op::Symlink { .. })));
    assert_eq!(plan.warnings.len(), 3, "{:?}", plan.warnings);
}

#[test]
fn a_contributed_directory_has_its_own_mode() {
    let kind = SkeletonKind::Directory;
    let files = ["/usr/bin", "/opt/v"].map(|path| FileSpec {
        path: path.into(),
        kind: kind.clone(),
        mode: 0o711,
    });
    let all = Contribution { files: files.to_vec(), ..Contribution::new(Rank::Host, "modes") };
    let plan = build(&request(&["sh"]), &host(), &image(), vec![all]).unwrap();
    for path in ["/usr/bin", "/opt/v"] {
        let made = plan.rootfs.skeleton.iter().find(|made| made.path == Path::new(path)).unwrap();
        assert_eq!((&made.kind, made.mode), (&SkeletonKind::Directory, 0o711), "{path}");
    }
}
