//! Hosts and images of a few libraries each.

use std::fs;
use std::path::Path;

use super::*;
use crate::fixture::Root;
use crate::ldcache;

impl Root {
    fn mpi(self, file: &str) -> Self {
        self.lib(&format!("usr/lib/{file}"), &[])
    }

    /// A cache that names what is not there.
    fn stale(self) -> Self {
        self.cache(&["/gone/libmpi.so.12"])
    }
}

fn checked(host: &Root, image: &Root, policy: Policy) -> Check {
    checked_with(host, image, &[], policy)
}

/// With variables of the host's environment.
fn checked_with(host: &Root, image: &Root, env: &[(&str, &str)], policy: Policy) -> Check {
    let trees = [host.tree(), image.tree()];
    let env: Vec<(OsString, OsString)> =
        env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let path = env.iter().find(|(name, _)| name == "LD_LIBRARY_PATH");
    let search = host_search(&trees[0], &[], path.and_then(|(_, value)| value.to_str()), None);
    let host = Libraries::new(&trees[0], search);
    let image = Libraries::new(&trees[1], vec![]).with_apart(packages(&trees[1]));
    check(&host, &image, &env, &[], policy)
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
    let cases: [(&str, Root, Root, [&str; 3]); 9] = [
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
        (
            "no second number",
            host(),
            Root::glibc().mpi("libmpi.so.12"),
            ["ok", "Unnumbered", "Unnumbered"],
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
    let tree = image.tree();
    let added = check.injection.contribution(&Libraries::new(&tree, vec![]), &[], None, false);
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
    let host = Root::glibc().lib("usr/lib/libmpi.so.12.3.0", &["libc.so.6@GLIBC_2.36"]);
    let old = Root::old().mpi("libmpi.so.12.1.0");
    let check = checked(&host, &old, Policy::Major);
    let text = check.error.expect("it cannot work").to_string();
    for part in ["libmpi.so.12", "GLIBC_2.36", "libc.so.6", "glibc 2.17"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(verdict(&host, &Root::glibc().mpi("libmpi.so.12.1.0"), Policy::Major), "ok");
}

#[test]
fn what_a_host_library_needs_comes_along_unless_the_image_has_it_as_new() {
    let host = Root::glibc()
        .lib("usr/lib/libnet.so.1.5.0", &[])
        .lib("usr/lib/libz.so.1.2.0", &[])
        .lib("usr/lib/libmpi.so.12.1.0", &["libnet.so.1", "libz.so.1"]);
    let image = Root::glibc().mpi("libmpi.so.12.1.0").mpi("libz.so.1.3.0");
    let check = checked(&host, &image, Policy::Major);
    assert_eq!(check.error, None);
    let taken: Vec<_> = check.injection.taken.iter().map(|taken| taken.name.as_str()).collect();
    assert_eq!(taken, ["libmpi.so.12", "libnet.so.1"]);
    assert_eq!(check.replaced(), 1);
    let kept: Vec<_> = check.injection.kept.iter().map(|kept| kept.version.to_string()).collect();
    assert_eq!(kept, ["1.3.0"]);
    // The image has none, and the host neither.
    fs::remove_file(host.path("usr/lib/libnet.so.1")).unwrap();
    assert_eq!(verdict(&host, &image, Policy::Major), "Inject");
}

/// The names of what is taken, and the files of the image that it replaces.
fn taken(check: &Check) -> Vec<(&str, Vec<&str>)> {
    assert_eq!(check.error, None);
    let all = check.injection.taken.iter();
    all.map(|taken| {
        (taken.name.as_str(), taken.replaces.iter().map(|path| path.to_str().unwrap()).collect())
    })
    .collect()
}

#[test]
fn of_the_hosts_installations_the_fitting_one_is_chosen() {
    let host = Root::glibc().mpi("libmpi.so.40.30.4").lib("opt/old/lib/libmpi.so.20.10.1", &[]);
    let image = Root::glibc().mpi("libmpi.so.20.10.1");
    let apart = [("LD_LIBRARY_PATH", "/opt/old/lib")];
    for env in [&apart[..], &[("LD_LIBRARY_PATH", "/usr/lib:/opt/old/lib")]] {
        let check = checked_with(&host, &image, env, Policy::Strict);
        assert_eq!(taken(&check), [("libmpi.so.20", vec!["/usr/lib/libmpi.so.20.10.1"])]);
    }
    // None fits: the first one is named.
    let other = Root::glibc().mpi("libmpi.so.50.1.0");
    let check = checked_with(&host, &other, &apart, Policy::Major);
    assert!(check.error.unwrap().to_string().contains("libmpi.so.20 20.10.1"));
}

#[test]
fn a_host_that_cannot_be_loaded_makes_way_for_one_that_can() {
    let host = Root::glibc()
        .lib("opt/new/lib/libmpi.so.12.9.0", &["libc.so.6@GLIBC_2.36"])
        .mpi("libmpi.so.12.2.0");
    let image = Root::old().mpi("libmpi.so.12.1.0");
    let check = checked_with(&host, &image, &[("LD_LIBRARY_PATH", "/opt/new/lib")], Policy::Major);
    assert_eq!(check.injection.taken[0].source, Path::new("/usr/lib/libmpi.so.12.2.0"));
}

#[test]
fn an_old_copy_apart_in_the_image_refuses_nothing_and_stays() {
    let host = Root::glibc().mpi("libmpi.so.40.30.4");
    let image =
        Root::glibc().mpi("libmpi.so.40.20.1").lib("opt/ompi-1.10/lib/libmpi.so.20.1.0", &[]);
    let check = checked(&host, &image, Policy::Major);
    assert_eq!(taken(&check), [("libmpi.so.40", vec!["/usr/lib/libmpi.so.40.20.1"])]);
    assert!(check.warnings[0].contains("/opt/ompi-1.10/lib/libmpi.so.20"), "{:?}", check.warnings);
    // Of the same name, and too new for the policy.
    let image = Root::glibc().mpi("libmpi.so.40.20.1").lib("opt/new/lib/libmpi.so.40.40.1", &[]);
    let check = checked(&host, &image, Policy::Full);
    assert_eq!(taken(&check), [("libmpi.so.40", vec!["/usr/lib/libmpi.so.40.20.1"])]);
    // Where it is the only one, it is the one that counts.
    let image = Root::glibc().lib("opt/ompi-1.10/lib/libmpi.so.20.1.0", &[]);
    assert_eq!(verdict(&host, &image, Policy::Major), "Major");
    let image =
        Root::glibc().lib("opt/a/lib/libmpi.so.20.1.0", &[]).lib("opt/b/lib/libmpi.so.40.1.0", &[]);
    let check = checked(&host, &image, Policy::Major);
    assert_eq!(taken(&check), [("libmpi.so.40", vec!["/opt/b/lib/libmpi.so.40.1.0"])]);
}

#[test]
fn the_family_that_programs_find_comes_first() {
    let host = Root::glibc().mpi("libmpi.so.40.30.4").lib("opt/mpich/lib/libmpi.so.12.1.0", &[]);
    let image = Root::glibc().mpi("libmpi.so.12.1.0").lib("opt/ompi/lib/libmpi.so.40.1.0", &[]);
    let env = [("LD_LIBRARY_PATH", "/usr/lib:/opt/mpich/lib")];
    let check = checked_with(&host, &image, &env, Policy::Major);
    assert_eq!(check.chosen, Some(Family::Mpich));
    assert_eq!(taken(&check), [("libmpi.so.12", vec!["/usr/lib/libmpi.so.12.1.0"])]);
}

/// A node of a Cray with its module of the MPICH ABI.
fn cray() -> Root {
    Root::glibc()
        .named(
            "opt/cray/pe/mpich/8.1/ofi/gnu/9.1/lib/libmpi_gnu_91.so.12.0.0",
            "libmpi_gnu_91.so.12",
            &["libfabric.so.1", "libpmi.so.0", "libpmi2.so.0", "libc.so.6@GLIBC_2.17"],
            &[],
        )
        .link(
            "opt/cray/pe/mpich/8.1/ofi/gnu/9.1/lib-abi-mpich/libmpi.so.12",
            "../lib/libmpi_gnu_91.so.12",
        )
        .lib(
            "opt/cray/pe/mpich/8.1/ofi/gnu/9.1/lib/libmpifort_gnu_91.so.12.0.0",
            &["libmpi_gnu_91.so.12"],
        )
        .link(
            "opt/cray/pe/mpich/8.1/ofi/gnu/9.1/lib-abi-mpich/libmpifort.so.12",
            "../lib/libmpifort_gnu_91.so.12",
        )
        .lib("opt/cray/libfabric/1.15/lib64/libfabric.so.1.18.1", &["libcxi.so.1"])
        .lib("opt/cray/pe/pmi/6.1/lib/libpmi.so.0.6.0", &["libpals.so.0"])
        .lib("opt/cray/pe/pmi/6.1/lib/libpmi2.so.0.6.0", &["libpals.so.0"])
        .lib("opt/cray/pals/1.3/lib/libpals.so.0.0.0", &[])
        .lib("usr/lib64/libcxi.so.1.5.0", &[])
        .cache(&[
            "/opt/cray/libfabric/1.15/lib64/libfabric.so.1",
            "/opt/cray/pe/pmi/6.1/lib/libpmi.so.0",
            "/opt/cray/pe/pmi/6.1/lib/libpmi2.so.0",
            "/opt/cray/pals/1.3/lib/libpals.so.0",
            "/usr/lib64/libcxi.so.1",
        ])
}

const CRAY: [(&str, &str); 1] =
    [("LD_LIBRARY_PATH", "/opt/cray/pe/mpich/8.1/ofi/gnu/9.1/lib-abi-mpich")];

fn mvapich2() -> Root {
    Root::glibc()
        .lib("opt/mvapich2/lib/libmpi.so.12.1.1", &["libibverbs.so.1"])
        .lib("opt/mvapich2/lib/libmpifort.so.12.1.1", &["libmpi.so.12"])
        .lib("usr/lib64/libibverbs.so.1.14.0", &[])
}

const MVAPICH2: [(&str, &str); 1] = [("LD_LIBRARY_PATH", "/opt/mvapich2/lib")];

fn intel() -> Root {
    Root::glibc()
        .lib("opt/intel/mpi/lib/release/libmpi.so.12.0.0", &["libfabric.so.1"])
        .lib("opt/intel/mpi/lib/libmpifort.so.12.0.0", &["libmpi.so.12"])
        .lib("opt/intel/mpi/libfabric/lib/libfabric.so.1", &[])
        .named("opt/intel/mpi/libfabric/lib/prov/libtcp-fi.so", "libtcp-fi.so", &[], &[])
}

const INTEL: [(&str, &str); 2] = [
    (
        "LD_LIBRARY_PATH",
        "/opt/intel/mpi/libfabric/lib:/opt/intel/mpi/lib/release:/opt/intel/mpi/lib",
    ),
    ("FI_PROVIDER_PATH", "/opt/intel/mpi/libfabric/lib/prov"),
];

fn standard() -> Root {
    Root::glibc().mpi("libmpi_abi.so.0.0.0").lib("usr/lib/libmpifort_abi.so.0.0.0", &[])
}

#[test]
fn every_kind_of_host_with_every_kind_of_image() {
    let images: [(&str, Root); 5] = [
        ("MPICH", Root::glibc().mpi("libmpi.so.12.0.0").mpi("libmpifort.so.12.0.0")),
        ("Debian's MPICH", Root::glibc().mpi("libmpich.so.12.0.0").mpi("libmpichfort.so.12.0.0")),
        ("Intel", Root::glibc().lib("opt/intel/lib/libmpi.so.12.0.0", &[])),
        ("Open MPI", Root::glibc().mpi("libmpi.so.40.30.4")),
        ("standard", standard()),
    ];
    type Env = &'static [(&'static str, &'static str)];
    let hosts: [(&str, Root, Env, [&str; 5]); 5] = [
        ("Cray", cray(), &CRAY, ["ok", "ok", "ok", "Family", "Family"]),
        ("MVAPICH2", mvapich2(), &MVAPICH2, ["ok", "ok", "ok", "Family", "Family"]),
        ("Intel", intel(), &INTEL, ["ok", "ok", "ok", "Family", "Family"]),
        (
            "Open MPI",
            Root::glibc().mpi("libmpi.so.40.30.4"),
            &[],
            ["Family", "Family", "Family", "ok", "Family"],
        ),
        ("standard", standard(), &[], ["Family", "Family", "Family", "Family", "ok"]),
    ];
    for (host_name, host, env, expected) in &hosts {
        for ((name, image), expected) in images.iter().zip(expected) {
            let check = checked_with(host, image, env, Policy::Major);
            let found = check.error.as_ref().map_or("ok".to_owned(), |e| format!("{e:?}"));
            assert!(found.starts_with(expected), "{name} on {host_name}: {found}");
            assert!(check.warnings.is_empty(), "{name} on {host_name}: {:?}", check.warnings);
        }
    }
}

#[test]
fn a_crays_mpi_is_known_by_the_names_of_the_image() {
    let image = Root::glibc()
        .mpi("libmpi.so.12.0.0")
        .mpi("libmpifort.so.12.0.0")
        .lib("usr/lib/libfabric.so.1.20.0", &[]);
    let check = checked_with(&cray(), &image, &CRAY, Policy::Major);
    assert_eq!(
        taken(&check),
        [
            ("libcxi.so.1", vec![]),
            // The fabric's library is the host's, however old it is.
            ("libfabric.so.1", vec!["/usr/lib/libfabric.so.1.20.0"]),
            ("libmpi_gnu_91.so.12", vec!["/usr/lib/libmpi.so.12.0.0"]),
            ("libmpifort_gnu_91.so.12", vec!["/usr/lib/libmpifort.so.12.0.0"]),
            ("libpals.so.0", vec![]),
            ("libpmi.so.0", vec![]),
            ("libpmi2.so.0", vec![]),
        ]
    );
    let aliases: Vec<_> = check.injection.taken.iter().flat_map(|t| &t.aliases).collect();
    assert_eq!(aliases, ["libmpi.so.12", "libmpifort.so.12"]);
    assert_eq!(check.replaced(), 3);
}

#[test]
fn parts_that_the_host_has_not_are_named() {
    let host = Root::glibc().mpi("libmpi.so.12.3.0");
    let image = Root::glibc().mpi("libmpi.so.12.1.0").mpi("libmpicxx.so.12.1.0");
    let check = checked(&host, &image, Policy::Major);
    assert_eq!(taken(&check), [("libmpi.so.12", vec!["/usr/lib/libmpi.so.12.1.0"])]);
    let [text] = &check.warnings[..] else { panic!("{:?}", check.warnings) };
    assert!(text.contains("libmpicxx.so.12"), "{text}");
}

#[test]
fn intels_providers_are_where_its_variable_says() {
    let image = Root::glibc().mpi("libmpi.so.12.0.0");
    let check = checked_with(&intel(), &image, &INTEL, Policy::Major);
    let dir = "/opt/intel/mpi/libfabric/lib/prov";
    assert_eq!(check.companions.env, [("FI_PROVIDER_PATH".into(), Some(dir.into()))]);
    assert_eq!(check.mounts()[0].target, Path::new(dir));
}
