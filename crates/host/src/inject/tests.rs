//! What is taken, what is not, and what of it is said.

use super::*;
use crate::fixture::Root;

fn injected(host: &Root, image: &Root, names: &[(&str, bool)]) -> Result<Injection, InjectError> {
    let trees = [host.tree(), image.tree()];
    let [host, image] = [&trees[0], &trees[1]].map(|tree| Libraries::new(tree, vec![]));
    let want = |(name, required): &(&str, bool)| {
        Wanted::new(host.find(name).unwrap(), *required, "a test".to_owned())
    };
    inject(&host, &image, &names.iter().map(want).collect::<Vec<_>>())
}

fn names(injection: &Injection) -> Vec<&str> {
    injection.taken.iter().map(|taken| taken.name.as_str()).collect()
}

const NEW: &str = "libc.so.6@GLIBC_2.36";

/// `liba` needs `libb`, which needs `libc`, which needs a newer C library.
fn chain() -> Root {
    Root::glibc()
        .lib("usr/lib/liba.so.1.2.0", &["libb.so.1", "libz.so.1"])
        .lib("usr/lib/libb.so.1.2.0", &["libnew.so.1", "liba.so.1"])
        .lib("usr/lib/libnew.so.1.2.0", &[NEW])
        .lib("usr/lib/libz.so.1.2.0", &[])
        .lib("usr/lib/libother.so.1.2.0", &["libz.so.1"])
}

#[test]
fn a_library_is_taken_with_all_that_it_needs_or_not_at_all() {
    let image = Root::old().lib("usr/lib/liba.so.1.0.0", &[]).lib("usr/lib/libb.so.1.0.0", &[]);
    let wanted = [("liba.so.1", false), ("libother.so.1", false), ("libb.so.1", false)];
    let injection = injected(&chain(), &image, &wanted).unwrap();
    assert_eq!(names(&injection), ["libother.so.1", "libz.so.1"]);
    assert_eq!(injection.kept, []);
    assert_eq!(injection.warnings.len(), 2);
    for (text, name) in injection.warnings.iter().zip(["liba.so.1", "libb.so.1"]) {
        assert!(text.starts_with(&format!("{name} was left out")), "{text}");
        assert!(text.contains("libnew.so.1") && text.contains("GLIBC_2.36"), "{text}");
    }
    let injection = injected(&chain(), &Root::glibc(), &wanted).unwrap();
    assert_eq!(names(&injection).len(), 5);
}

#[test]
fn what_a_required_library_needs_is_required_whoever_asks_first() {
    let wanted = [("liba.so.1", false), ("libb.so.1", true)];
    let error = injected(&chain(), &Root::old(), &wanted).unwrap_err();
    assert!(matches!(error, InjectError::Glibc { library, .. } if library.contains("libnew")));
}

#[test]
fn a_required_library_brings_those_of_its_build_where_it_can() {
    let host = Root::glibc()
        .lib("usr/lib/libibverbs.so.1.14.0", &[])
        .lib("usr/lib/librdmacm.so.1.14.0", &["libibverbs.so.1"])
        .lib("usr/lib/libmpi.so.12.1.0", &["libibverbs.so.1"]);
    let image = || Root::glibc().lib("usr/lib/librdmacm.so.1.3.0", &[]);
    let injection = injected(&host, &image(), &[("libmpi.so.12", true)]).unwrap();
    assert_eq!(names(&injection), ["libibverbs.so.1", "libmpi.so.12", "librdmacm.so.1"]);
    std::fs::remove_file(host.path("usr/lib/librdmacm.so.1")).unwrap();
    let injection = injected(&host, &image(), &[("libmpi.so.12", true)]).unwrap();
    assert_eq!(names(&injection), ["libibverbs.so.1", "libmpi.so.12"]);
    assert!(injection.warnings[0].contains("librdmacm.so.1"), "{:?}", injection.warnings);
}

#[test]
fn files_that_are_spared_stay() {
    let host = Root::glibc().lib("usr/lib/liba.so.1.2.0", &[]);
    let image = Root::glibc().lib("usr/lib/liba.so.1.0.0", &[]);
    let trees = [host.tree(), image.tree()];
    let [host, image] = [&trees[0], &trees[1]].map(|tree| Libraries::new(tree, vec![]));
    let plain = Wanted::new(host.find("liba.so.1").unwrap(), false, "a test".to_owned());
    let spared = vec![PathBuf::from("/usr/lib/liba.so.1.0.0")];
    let injection = inject(&host, &image, &[Wanted { spared, ..plain }]).unwrap();
    assert!(injection.taken[0].replaces.is_empty());
}

#[test]
fn an_image_that_is_written_in_place_gets_mounts_for_links() {
    let host = Root::glibc().lib("usr/lib/liba.so.1.2.0", &[]);
    let root = Root::glibc().lib("usr/lib/liba.so.1.0.0", &[]).cache(&["/usr/lib/liba.so.1"]);
    let injection = injected(&host, &root, &[("liba.so.1", false)]).unwrap();
    let tree = root.tree();
    let image = Libraries::new(&tree, vec![]);
    let all = injection.contribution(&image, &[], Some("/opt/lib"), true);
    assert_eq!(all.files, []);
    let path = "/.sampan/lib:/opt/lib";
    assert_eq!(all.env, [("LD_LIBRARY_PATH".into(), Some(path.into()))]);
    let targets: Vec<_> = all.mounts.iter().map(|mount| mount.target.to_str().unwrap()).collect();
    let expected = ["/.sampan/lib", "/.sampan/lib/liba.so.1", "/usr/lib/liba.so.1.0.0"];
    assert_eq!(targets, expected);
    assert!(matches!(all.mounts[0].source, MountSource::Tmpfs { .. }));
    let linked = injection.contribution(&image, &[], Some("/opt/lib"), false);
    assert_eq!((linked.files.len(), linked.env.len(), linked.mounts.len()), (2, 0, 1));
}
