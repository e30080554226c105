//! Nodes with networks, and images that know others.

use std::ffi::OsString;
use std::fs;

use plan::MountSource;

use super::*;
use crate::companions::{Companions, with_companions};
use crate::fixture::Root;
use crate::inject::Injection;

fn exchanged(host: &Root, image: &Root, env: &[(&str, &str)]) -> (Injection, Companions) {
    let trees = [host.tree(), image.tree()];
    let [host, image] = [&trees[0], &trees[1]].map(|tree| Libraries::new(tree, vec![]));
    let env: Vec<(OsString, OsString)> =
        env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    with_companions(&host, &image, &env, wanted(&host, &image)).unwrap()
}

fn names(injection: &Injection) -> Vec<&str> {
    injection.taken.iter().map(|taken| taken.name.as_str()).collect()
}

fn mounts(companions: &Companions) -> Vec<(&str, &str)> {
    fn pair(mount: &plan::MountSpec) -> (&str, &str) {
        match &mount.source {
            MountSource::File(path) | MountSource::Directory(path) => {
                (path.to_str().unwrap(), mount.target.to_str().unwrap())
            }
            MountSource::Tmpfs { .. } => panic!("{mount:?}"),
        }
    }
    companions.mounts.iter().map(pair).collect()
}

/// UCX in the parts that its packages have.
fn ucx(root: Root, minor: u32, needs: &[&str]) -> Root {
    let file = |name: &str| format!("usr/lib/lib{name}.so.0.{minor}.0");
    root.lib(&file("ucm"), &[])
        .lib(&file("ucs"), &[&["libucm.so.0"], needs].concat())
        .lib(&file("uct"), &["libucs.so.0"])
        .lib(&file("ucp"), &["libuct.so.0", "libucs.so.0"])
        .lib("usr/lib/ucx/libuct_ib.so.0.0.0", &["libuct.so.0", "libibverbs.so.1"])
}

/// rdma-core: the provider is a link to the library beside the directory.
fn verbs(root: Root, minor: u32, needs: &[&str]) -> Root {
    let mlx5 = format!("usr/lib/libmlx5.so.1.{minor}.0");
    root.lib(&format!("usr/lib/libibverbs.so.1.{minor}.0"), needs)
        .lib(&format!("usr/lib/librdmacm.so.1.{minor}.0"), &["libibverbs.so.1"])
        .lib(&mlx5, &["libibverbs.so.1"])
        .link("usr/lib/libibverbs/libmlx5-rdmav34.so", &mlx5.replace("usr/lib", ".."))
        .file("etc/libibverbs.d/mlx5.driver")
}

#[test]
fn ucx_and_verbs_of_the_host_come_with_their_plugins() {
    let host = ucx(verbs(Root::glibc(), 24, &[]), 15, &[]);
    let image = ucx(verbs(Root::glibc(), 11, &[]), 10, &[]);
    let (injection, companions) = exchanged(&host, &image, &[]);
    assert_eq!(injection.warnings, [""; 0]);
    assert_eq!(
        names(&injection),
        [
            "libibverbs.so.1",
            "libmlx5.so.1",
            "librdmacm.so.1",
            "libucm.so.0",
            "libucp.so.0",
            "libucs.so.0",
            "libuct.so.0"
        ]
    );
    assert!(injection.taken.iter().all(|taken| taken.replaces.len() == 1));
    assert_eq!(
        mounts(&companions),
        [
            ("/usr/lib/ucx", "/usr/lib/ucx"),
            ("/usr/lib/libibverbs", "/usr/lib/libibverbs"),
            // Where the provider's link leads.
            ("/usr/lib/libmlx5.so.1.24.0", "/usr/lib/libmlx5.so.1.24.0"),
            ("/etc/libibverbs.d", "/etc/libibverbs.d"),
        ]
    );
    assert_eq!(companions.env, [("UCX_MODULE_DIR".into(), Some("/usr/lib/ucx".into()))]);
}

#[test]
fn an_image_in_which_a_part_cannot_be_loaded_runs_as_it_is() {
    let image = || ucx(verbs(Root::old(), 11, &[]), 10, &[]);
    let new = "libc.so.6@GLIBC_2.36";
    // UCX needs a newer C library in one part: the others stay out too.
    let host = ucx(verbs(Root::glibc(), 24, &[]), 15, &[new]);
    let (injection, companions) = exchanged(&host, &image(), &[]);
    assert_eq!(names(&injection), ["libibverbs.so.1", "libmlx5.so.1", "librdmacm.so.1"]);
    assert!(mounts(&companions).iter().all(|(_, target)| *target != "/usr/lib/ucx"));
    assert_eq!(companions.env, []);
    // What a library needs, needs it.
    let host = verbs(Root::glibc(), 24, &["libnl-3.so.200"]);
    let host = host.lib("usr/lib/libnl-3.so.200.26.0", &[new]);
    let (injection, companions) = exchanged(&host, &image(), &[]);
    assert_eq!((names(&injection), mounts(&companions)), (vec![], vec![]));
    assert!(injection.warnings.iter().any(|text| text.contains("libibverbs.so.1 was left out")
        && text.contains("libnl-3.so.200")
        && text.contains("GLIBC_2.36")));
}

#[test]
fn a_part_that_the_host_lacks_keeps_the_others_out() {
    let image = ucx(Root::glibc(), 10, &[]);
    let host = ucx(Root::glibc(), 15, &[]);
    fs::remove_file(host.path("usr/lib/libucp.so.0")).unwrap();
    let (injection, _) = exchanged(&host, &image, &[]);
    assert_eq!(names(&injection), [""; 0]);
    assert!(injection.warnings[0].contains("libucp.so.0"), "{:?}", injection.warnings);
    // A library of a provider is asked for by the provider alone.
    let image = verbs(Root::glibc(), 11, &[]).lib("usr/lib/libefa.so.1.3.0", &[]);
    let (injection, _) = exchanged(&verbs(Root::glibc(), 24, &[]), &image, &[]);
    assert_eq!(names(&injection), ["libibverbs.so.1", "libmlx5.so.1", "librdmacm.so.1"]);
}

#[test]
fn verbs_without_a_provider_that_can_be_loaded_are_not_taken() {
    let new = "libc.so.6@GLIBC_2.36";
    let host = |needs: &[&str]| {
        Root::glibc()
            .lib("usr/lib/libibverbs.so.1.24.0", &[])
            .named("usr/lib/libibverbs/libx-rdmav34.so", "libx-rdmav34.so", needs, &[])
            .named("usr/lib/libibverbs/liby-rdmav34.so", "liby-rdmav34.so", &["liby.so.1"], &[])
    };
    let image = || Root::old().lib("usr/lib/libibverbs.so.1.11.0", &[]);
    let (injection, companions) = exchanged(&host(&[new]), &image(), &[]);
    assert_eq!((names(&injection), companions), (vec![], Companions::default()));
    let text = injection.warnings.join("\n");
    assert!(text.contains("libibverbs.so.1 was left out") && text.contains("GLIBC_2.36"), "{text}");
    let (injection, companions) = exchanged(&host(&[]), &image(), &[]);
    assert_eq!(names(&injection), ["libibverbs.so.1"]);
    assert_eq!(mounts(&companions), [("/usr/lib/libibverbs", "/usr/lib/libibverbs")]);
    let [text] = &injection.warnings[..] else { panic!("{:?}", injection.warnings) };
    assert!(text.starts_with("liby-rdmav34.so cannot be loaded"), "{text}");
    // libfabric has providers in itself.
    let host = Root::glibc().lib("usr/lib/libfabric.so.1.20.0", &[]).named(
        "usr/lib/libfabric/libx-fi.so",
        "libx-fi.so",
        &[new],
        &[],
    );
    let image = Root::old().lib("usr/lib/libfabric.so.1.1.0", &[]);
    assert_eq!(names(&exchanged(&host, &image, &[]).0), ["libfabric.so.1"]);
}

#[test]
fn providers_are_where_the_hosts_variable_says() {
    let host = Root::glibc()
        .lib("usr/lib/libfabric.so.1.20.0", &[])
        .named("usr/lib/libfabric/libtcp-fi.so", "libtcp-fi.so", &[], &[])
        .named("opt/site/a/libcxi-fi.so", "libcxi-fi.so", &["libcxi.so.1"], &[])
        .named("opt/site/b/libx-fi.so", "libx-fi.so", &[], &[])
        .lib("usr/lib/libcxi.so.1.5.0", &[]);
    let image = Root::glibc().lib("usr/lib/libfabric.so.1.1.0", &[]).named(
        "usr/lib/libfabric/libverbs-fi.so",
        "libverbs-fi.so",
        &[],
        &[],
    );
    let value = "@/opt/site/a:/opt/site/b/libx-fi.so:relative:/gone";
    let (injection, companions) = exchanged(&host, &image, &[("FI_PROVIDER_PATH", value)]);
    assert_eq!(names(&injection), ["libcxi.so.1", "libfabric.so.1"]);
    assert_eq!(companions.env, [("FI_PROVIDER_PATH".into(), Some(value.into()))]);
    assert_eq!(
        mounts(&companions),
        [
            ("/opt/site/a", "/opt/site/a"),
            ("/opt/site/b/libx-fi.so", "/opt/site/b/libx-fi.so"),
            // The image's own are hidden.
            ("/opt/site/a", "/usr/lib/libfabric"),
        ]
    );
    for value in ["", "/gone", "relative"] {
        let (_, companions) = exchanged(&host, &image, &[("FI_PROVIDER_PATH", value)]);
        let beside = Some("/usr/lib/libfabric".into());
        assert_eq!(companions.env, [("FI_PROVIDER_PATH".into(), beside)], "{value}");
    }
}

#[test]
fn plugins_in_another_directory_of_the_image_are_hidden() {
    let host = Root::glibc()
        .lib("usr/lib64/libibverbs.so.1.14.0", &[])
        .lib("usr/lib64/libmlx5.so.1.24.0", &["libibverbs.so.1"])
        .link("usr/lib64/libibverbs/libmlx5-rdmav34.so", "../libmlx5.so.1.24.0");
    let image = verbs(Root::glibc(), 11, &[]);
    fs::remove_file(image.path("usr/lib/librdmacm.so.1")).unwrap();
    fs::remove_file(image.path("usr/lib/librdmacm.so.1.11.0")).unwrap();
    let (_, companions) = exchanged(&host, &image, &[]);
    assert_eq!(
        mounts(&companions),
        [
            ("/usr/lib64/libibverbs", "/usr/lib64/libibverbs"),
            ("/usr/lib64/libmlx5.so.1.24.0", "/usr/lib64/libmlx5.so.1.24.0"),
            ("/usr/lib64/libibverbs", "/usr/lib/libibverbs"),
            ("/usr/lib64/libmlx5.so.1.24.0", "/usr/lib/libmlx5.so.1.24.0"),
        ]
    );
}

#[test]
fn psm_is_exchanged_by_name() {
    let host = Root::glibc()
        .lib("usr/lib/libpsm2.so.2.2.0", &["libnuma.so.1"])
        .lib("usr/lib/libnuma.so.1.0.0", &[])
        .lib("usr/lib/libpsm_infinipath.so.1.16.0", &[]);
    let image = Root::glibc().lib("usr/lib/libpsm2.so.2.1.0", &[]);
    assert_eq!(names(&exchanged(&host, &image, &[]).0), ["libnuma.so.1", "libpsm2.so.2"]);
    assert_eq!(names(&exchanged(&host, &Root::glibc(), &[]).0), [""; 0]);
}

#[test]
fn devices_are_those_of_networks() {
    let names = ["cxi0", "hfi1_0", "infiniband/uverbs0", "knem", "null", "xpmem", "sda"];
    let host = names.iter().fold(Root::empty(), |root, name| root.file(&format!("dev/{name}")));
    let tree = host.tree();
    let found = devices(&Libraries::new(&tree, vec![]));
    let expected = ["/dev/cxi0", "/dev/hfi1_0", "/dev/infiniband", "/dev/knem", "/dev/xpmem"];
    assert_eq!(found, expected.map(PathBuf::from));
}

#[test]
fn an_older_network_library_is_measured_by_what_the_image_asks_for() {
    let fabric = |root: Root, path: &str, versions: &[&str]| root.offers(path, &[], versions);
    let host =
        || fabric(Root::glibc(), "usr/lib/libfabric.so.1.11.3", &["FABRIC_1.0", "FABRIC_1.4"]);
    let image = |asks: &str| {
        let versions = ["FABRIC_1.0", "FABRIC_1.4", "FABRIC_1.6", "FABRIC_1.7"];
        let root = fabric(Root::glibc(), "usr/lib/libfabric.so.1.20.1", &versions);
        root.lib("usr/lib/libmpi.so.12.2.0", &[&format!("libfabric.so.1@{asks}")])
    };
    let (injection, _) = exchanged(&host(), &image("FABRIC_1.4"), &[]);
    assert_eq!(names(&injection), ["libfabric.so.1"]);
    assert_eq!(
        injection.warnings,
        ["the host's /usr/lib/libfabric.so.1 lacks FABRIC_1.6, FABRIC_1.7, \
          which the image's has: a program that asks for it will not start"]
    );
    let (injection, _) = exchanged(&host(), &image("FABRIC_1.6"), &[]);
    assert_eq!(injection.taken, []);
    assert_eq!(
        injection.warnings,
        ["libfabric.so.1 was left out: the host's /usr/lib/libfabric.so.1 lacks FABRIC_1.6, \
          which the image's /usr/lib/libmpi.so.12 asks for"]
    );
}
