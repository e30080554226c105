//! Hosts and images of a few libraries each, made by the C compiler.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::DirectoryTree;
use crate::ldcache::{self, Entry};

/// A root file system with libraries in /usr/lib.
struct Root(tempfile::TempDir);

impl Root {
    /// With a C library that knows versions up to 2.36.
    fn glibc() -> Self {
        let root = Self::empty();
        root.library("libc.so.6", "libc.so.6", &["GLIBC_2.17", "GLIBC_2.36"], &[]);
        root
    }

    fn empty() -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(root.path("usr/lib")).unwrap();
        fs::create_dir_all(root.path("etc")).unwrap();
        symlink("usr/lib", root.path("lib")).unwrap();
        root
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A library with versions of symbols, linked with others, and a link of the
    /// soname's name.
    fn library(&self, file: &str, soname: &str, versions: &[&str], needed: &[&Path]) {
        let lib = self.path("usr/lib");
        let (source, script) = (self.path("etc/x.c"), self.path("etc/x.map"));
        let name = |version: &str| format!("f_{}", version.replace('.', "_"));
        let code: String =
            versions.iter().map(|v| format!("int {}(void) {{ return 1; }}\n", name(v))).collect();
        let uses: String = needed
            .iter()
            .map(|_| "int f_GLIBC_2_36(void);\nint use(void) { return f_GLIBC_2_36(); }\n")
            .collect();
        fs::write(&source, code + &uses).unwrap();
        let nodes: String =
            versions.iter().map(|v| format!("{v} {{ global: {}; }};\n", name(v))).collect();
        fs::write(&script, nodes).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-nostdlib", "-o"]).arg(lib.join(file)).arg(&source);
        cc.arg(format!("-Wl,-soname,{soname}"));
        if !versions.is_empty() {
            cc.arg(format!("-Wl,--version-script={}", script.display()));
        }
        cc.args(needed);
        assert!(cc.status().expect("a C compiler, which Rust needs too").success());
        if file != soname {
            let _ = fs::remove_file(lib.join(soname));
            symlink(file, lib.join(soname)).unwrap();
        }
    }

    fn mpi(self, file: &str) -> Self {
        let words: Vec<&str> = file.split('.').collect();
        self.library(file, &words[..3].join("."), &[], &[]);
        self
    }

    /// A cache that names what is not there.
    fn stale(self) -> Self {
        let entry = Entry {
            name: "libmpi.so.12".into(),
            path: "/gone/libmpi.so.12".into(),
            flags: 0x303,
            hwcap: 0,
        };
        fs::write(self.path("etc/ld.so.cache"), ldcache::write(&[entry])).unwrap();
        self
    }
}

fn checked(host: &Root, image: &Root, policy: Policy) -> Check {
    let trees = [host, image].map(|root| DirectoryTree::open(root.0.path()).unwrap());
    let [host, image] = [&trees[0], &trees[1]].map(|tree| Libraries::new(tree, vec![]));
    check(&host, &image, &[], policy)
}

/// What a policy says: nothing, a warning, or an error.
fn verdict(host: &Root, image: &Root, policy: Policy) -> String {
    let check = checked(host, image, policy);
    match (&check.error, check.warnings.is_empty()) {
        (Some(error), _) => format!("{error:?}").split([' ', '{', '(']).next().unwrap().to_owned(),
        (None, true) => "ok".to_owned(),
        (None, false) => "warning".to_owned(),
    }
}

#[test]
fn every_pair_of_host_and_image_under_every_policy() {
    let host = || Root::glibc().mpi("libmpi.so.12.3.0");
    let musl = Root::empty();
    fs::write(musl.path("usr/lib/ld-musl-x86_64.so.1"), "").unwrap();
    let cases: [(&str, Root, Root, [&str; 3]); 8] = [
        ("compatible", host(), Root::glibc().mpi("libmpi.so.12.3.1"), ["ok"; 3]),
        ("older image", host(), Root::glibc().mpi("libmpi.so.12.1.0"), ["ok", "ok", "Strict"]),
        (
            "newer minor",
            host(),
            Root::glibc().mpi("libmpi.so.12.4.0"),
            ["warning", "Minor", "Strict"],
        ),
        (
            "other major",
            Root::glibc().mpi("libmpi.so.40.30.4"),
            Root::glibc().mpi("libmpi.so.20.10.1"),
            ["Major"; 3],
        ),
        ("other family", host(), Root::glibc().mpi("libmpi.so.40.30.4"), ["Family"; 3]),
        ("none", host(), Root::glibc(), ["NoImage"; 3]),
        ("stale cache", host(), Root::glibc().mpi("libmpi.so.12.3.0").stale(), ["ok"; 3]),
        ("musl", host(), musl, ["Libc"; 3]),
    ];
    for (name, host, image, expected) in &cases {
        let policies = [Policy::Major, Policy::Full, Policy::Strict];
        let found = policies.map(|policy| verdict(host, image, policy));
        assert_eq!(found, *expected, "{name}");
    }
    assert_eq!(verdict(&Root::glibc(), &host(), Policy::Major), "NoHost");
}

#[test]
fn debians_name_of_mpich_is_replaced_and_known_by_both() {
    let host = Root::glibc().mpi("libmpi.so.12.3.0");
    let image = Root::glibc().mpi("libmpich.so.12.2.2").stale();
    let check = checked(&host, &image, Policy::Major);
    assert_eq!(check.error, None);
    let [taken] = &check.injection.taken[..] else { panic!("{:?}", check.injection) };
    assert_eq!(taken.replaces, [Path::new("/usr/lib/libmpich.so.12.2.2")]);
    assert_eq!(taken.aliases, ["libmpich.so.12"]);
    let tree = DirectoryTree::open(image.0.path()).unwrap();
    let added = check.injection.contribution(&Libraries::new(&tree, vec![]), &[], None);
    let cache = added.files.iter().find_map(|file| match &file.kind {
        plan::SkeletonKind::File(bytes) => Some(ldcache::parse(bytes).unwrap()),
        _ => None,
    });
    let mut names: Vec<_> =
        cache.unwrap().into_iter().map(|entry| (entry.name, entry.path)).collect();
    names.sort();
    let ours = "/.sampan/lib/libmpi.so.12".to_owned();
    assert_eq!(
        names,
        [("libmpi.so.12".to_owned(), ours.clone()), ("libmpich.so.12".to_owned(), ours)]
    );
    assert!(added.env.is_empty());
}

#[test]
fn a_host_library_that_needs_a_newer_c_library_is_refused_by_name() {
    let host = Root::glibc();
    host.library("libmpi.so.12.3.0", "libmpi.so.12", &[], &[&host.path("usr/lib/libc.so.6")]);
    let old = Root::empty();
    old.library("libc.so.6", "libc.so.6", &["GLIBC_2.17"], &[]);
    let old = old.mpi("libmpi.so.12.1.0");
    let check = checked(&host, &old, Policy::Major);
    let text = check.error.expect("it cannot work").to_string();
    for part in ["libmpi.so.12", "GLIBC_2.36", "libc.so.6", "glibc 2.17"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(verdict(&host, &Root::glibc().mpi("libmpi.so.12.1.0"), Policy::Major), "ok");
}

#[test]
fn what_a_host_library_needs_comes_along_unless_the_image_has_it_as_new() {
    let host = Root::glibc();
    host.library("libnet.so.1.5.0", "libnet.so.1", &[], &[]);
    host.library("libz.so.1.2.0", "libz.so.1", &[], &[]);
    let needed = ["libnet.so.1", "libz.so.1"].map(|name| host.path("usr/lib").join(name));
    let needed: Vec<&Path> = needed.iter().map(PathBuf::as_path).collect();
    fs::write(host.path("etc/y.c"), "").unwrap();
    let mut cc = Command::new("cc");
    cc.args([
        "-shared",
        "-fPIC",
        "-nostdlib",
        "-Wl,--no-as-needed",
        "-Wl,-soname,libmpi.so.12",
        "-o",
    ]);
    cc.arg(host.path("usr/lib/libmpi.so.12")).arg(host.path("etc/y.c")).args(&needed);
    assert!(cc.status().unwrap().success());
    let image = Root::glibc().mpi("libmpi.so.12.1.0").mpi("libz.so.1.3.0");
    let check = checked(&host, &image, Policy::Major);
    assert_eq!(check.error, None);
    let taken: Vec<_> = check.injection.taken.iter().map(|taken| taken.name.as_str()).collect();
    assert_eq!(taken, ["libmpi.so.12", "libnet.so.1"]);
    let kept: Vec<_> = check.injection.kept.iter().map(|kept| kept.version.to_string()).collect();
    assert_eq!(kept, ["1.3.0"]);
    // The image has none, and the host neither.
    fs::remove_file(host.path("usr/lib/libnet.so.1")).unwrap();
    assert_eq!(verdict(&host, &image, Policy::Major), "Inject");
}
