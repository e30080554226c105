//! From a driver's libraries to a plan, on root file systems in directories.

use std::fs;
use std::os::unix::fs::symlink;

use host::ldcache::{self, Entry};
use plan::{Command, Op, Plan};

use super::*;

/// This machine's C library, and a program that needs it.
const PROGRAM: &str = "/bin/true";

fn libc() -> PathBuf {
    let all = devices::host_cache();
    all.into_iter().find(|one| one.soname == "libc.so.6").expect("a GNU C library").path
}

fn root(files: &[(&str, &Path)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, from) in files {
        let file = dir.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::copy(from, file).unwrap();
    }
    for path in ["usr/bin", "etc", "proc", "sys", "dev", "tmp", "home"] {
        fs::create_dir_all(dir.path().join(path)).unwrap();
    }
    symlink("usr/lib", dir.path().join("lib")).unwrap();
    dir
}

/// What a host with a driver's library adds to a container of an image.
fn added(image: &Path, edits: &Edits) -> (Answer, Plan) {
    let host = root(&[("usr/lib/libcuda.so.1", Path::new(PROGRAM))]);
    let trees = [host.path(), image].map(|dir| DirectoryTree::open(dir).unwrap());
    let engine = Engine::new(Config::load_from(&|_: &str| None, &[]).unwrap());
    let source = RootSource::Directory { path: image.to_owned() };
    let command = Command::Run { entrypoint: None, args: vec!["true".into()] };
    let request = RunRequest::new("i", source, ImageConfig::default(), command);
    let facts = HostFacts::default();
    let edits = std::slice::from_ref(edits);
    let answer = engine.libraries(&request, &facts, &trees[1], &trees[0], edits).unwrap();
    let plan = plan::build(&request, &facts, &trees[1], answer.contributions.clone()).unwrap();
    (answer, plan)
}

fn driver() -> Edits {
    let mut edits = Edits::new("a driver");
    let library =
        HostLibrary { path: "/usr/lib/libcuda.so.1".into(), soname: "libcuda.so.1".into() };
    edits.libraries.push(library);
    edits
}

fn bound(plan: &Plan) -> Vec<&Path> {
    let all = plan.ops.iter().filter_map(|op| match &op.op {
        Op::Bind { target, .. } => Some(target.as_path()),
        _ => None,
    });
    all.filter(|target| target.starts_with("/.sampan")).collect()
}

#[test]
fn a_drivers_library_that_the_image_cannot_load_leaves_it_as_it_is_and_is_told() {
    // A C library that offers nothing is older than every host's.
    let program = Path::new(PROGRAM);
    let image = root(&[
        ("usr/lib/libc.so.6", program),
        ("usr/lib/libcuda.so.1", program),
        ("usr/bin/true", program),
    ]);
    let (answer, plan) = added(image.path(), &driver());
    let [text] = &answer.warnings[..] else { panic!("{:?}", answer.warnings) };
    for part in ["libcuda.so.1 was left out", "GLIBC_", "libc.so.6"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(bound(&plan).is_empty());
    let replaced = |made: &plan::Skeleton| made.path.ends_with("libcuda.so.1");
    assert!(!plan.rootfs.skeleton.iter().any(replaced));
}

#[test]
fn a_drivers_library_takes_the_place_of_the_images() {
    let (libc, program) = (libc(), Path::new(PROGRAM));
    let files = [
        ("usr/lib/libc.so.6", &*libc),
        ("usr/lib/libcuda.so.1", program),
        ("usr/bin/true", program),
    ];
    let image = root(&files);
    let (answer, plan) = added(image.path(), &driver());
    assert_eq!(answer.warnings, [""; 0]);
    assert_eq!(bound(&plan), [Path::new("/.sampan/lib/libcuda.so.1")]);
    let link =
        plan.rootfs.skeleton.iter().find(|made| made.path == Path::new("/usr/lib/libcuda.so.1"));
    let to = SkeletonKind::Symlink("/.sampan/lib/libcuda.so.1".into());
    assert_eq!(link.map(|made| &made.kind), Some(&to));
    let counted = answer.contributions.iter().find(|one| one.reason.contains("1 taken, 1 of"));
    assert!(counted.is_some(), "{:?}", answer.contributions);
}

#[test]
fn newer_libraries_of_the_images_cuda_go_before_the_drivers() {
    let (libc, program) = (libc(), Path::new(PROGRAM));
    let image = root(&[
        ("usr/lib/libc.so.6", &*libc),
        ("usr/bin/true", program),
        ("usr/local/cuda/compat/libcuda.so.550.54.14", program),
    ]);
    let compat = "usr/local/cuda/compat/libcuda.so.1";
    symlink("libcuda.so.550.54.14", image.path().join(compat)).unwrap();
    let old = Entry { name: "libcuda.so.1".into(), path: "/x".into(), flags: 0, hwcap: 0 };
    fs::write(image.path().join("etc/ld.so.cache"), ldcache::write(&[old])).unwrap();
    for (version, place) in [("535.129.03", "/usr/local/cuda/compat"), ("560.1.1", "/.sampan/lib")]
    {
        let edits = Edits { cuda_compat: Some(version.to_owned()), ..driver() };
        let (answer, _) = added(image.path(), &edits);
        let mut files = answer.contributions.iter().flat_map(|one| &one.files);
        let cache = files.find_map(|file| match &file.kind {
            SkeletonKind::File(bytes) => Some(ldcache::parse(bytes).unwrap()),
            _ => None,
        });
        let found = cache.unwrap().into_iter().filter(|entry| entry.flags != 0);
        let paths: Vec<String> = found.map(|entry| entry.path).collect();
        assert_eq!(paths, [format!("{place}/libcuda.so.1")], "{version}");
    }
}
