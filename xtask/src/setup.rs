//! The machine: packages, the ordinary user, /dev/fuse.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result, file};
use crate::run::{cargo, output, root, root_shell, run as execute, target};

/// The ordinary user: no privilege, no subuid range, a home of its own.
pub(crate) const USER: &str = "sampan-test";

/// A user with a range of subordinate ids, for `--root-emulation=subid` and the
/// tools that cannot do without.
pub(crate) const SUBID_USER: &str = "sampan-subid";

/// What the commands need beside Rust.
const PACKAGES: &[&str] = &[
    "build-essential",
    "mmdebstrap",
    "busybox-static",
    "docker-registry",
    "skopeo",
    "umoci",
    "squashfs-tools",
    "squashfuse",
    "bubblewrap",
    "buildah",
    "charliecloud",
    "crun",
    "podman",
    "e2fsprogs",
    "fuse3",
    "util-linux",
    "procps",
    "attr",
    "acl",
    "libcap2-bin",
    "zstd",
    "apache2-utils",
    "curl",
    "git",
    "gnupg",
    "rpm",
    "createrepo-c",
    "pacman-package-manager",
    "makepkg",
    "archlinux-keyring",
    "libarchive-tools",
    "mpich",
    "libmpich-dev",
    "openmpi-bin",
    "libopenmpi-dev",
    "python3-pip",
    "musl",
    "musl-tools",
    "openssl",
    "jq",
    "uidmap",
    "time",
    "python3",
    "slurmd",
    "slurmctld",
    "slurm-client",
    "slurm-wlm-basic-plugins",
    "munge",
    "libslurm-dev",
    "libpmix2",
    "lmod",
];

/// Runs a script as root, without its output.
fn run_quietly(script: &str) -> Result<()> {
    execute(root_shell(script).stdout(Stdio::null()))
}

/// Prepares the machine, saying what is done.
pub(crate) fn run() -> Result<()> {
    let missing: Vec<&str> = PACKAGES.iter().copied().filter(|name| !installed(name)).collect();
    if missing.is_empty() {
        println!("setup: all Debian packages are there");
    } else {
        println!("setup: installing from Debian: {}", missing.join(" "));
        let script = format!(
            "export DEBIAN_FRONTEND=noninteractive; apt-get update -qq; \
             apt-get install -y -qq --no-install-recommends {} >/dev/null",
            missing.join(" ")
        );
        run_quietly(&script)?;
    }
    let user = format!(
        "id {USER} >/dev/null 2>&1 || useradd --create-home --shell /bin/bash {USER}; \
         for file in /etc/subuid /etc/subgid; do \
           [ ! -e $file ] || sed -i '/^{USER}:/d' $file; done; \
         id {SUBID_USER} >/dev/null 2>&1 || useradd --create-home --shell /bin/bash {SUBID_USER}; \
         for file in /etc/subuid /etc/subgid; do \
           grep -qs '^{SUBID_USER}:' $file || echo '{SUBID_USER}:200000:65536' >>$file; done; \
         [ ! -e /dev/fuse ] || chmod 0666 /dev/fuse"
    );
    println!(
        "setup: user {USER} without subuid range, {SUBID_USER} with one; /dev/fuse with mode 0666, as udev sets it"
    );
    run_quietly(&user)
}

fn installed(name: &str) -> bool {
    let query = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", name]).output();
    query.is_ok_and(|o| o.stdout == b"installed")
}

/// Builds the static release binary and puts it where everybody reaches it.
pub(crate) fn binary() -> Result<PathBuf> {
    execute(cargo().args([
        "build",
        "--quiet",
        "--release",
        "--locked",
        "--package",
        "sampan-cli",
    ]))?;
    let built = target().join("x86_64-unknown-linux-gnu/release/sampan");
    let ldd = Command::new("ldd").arg(&built).output();
    let text = ldd.map_or_else(
        |e| e.to_string(),
        |o| {
            let both = [o.stdout, o.stderr].concat();
            String::from_utf8_lossy(&both).into_owned()
        },
    );
    if !text.contains("statically linked") && !text.contains("not a dynamic") {
        return Err(Error::Dynamic(text));
    }
    let place = own()?.join("sampan");
    // A running copy is replaced, not overwritten.
    let fresh = place.with_extension("new");
    std::fs::copy(&built, &fresh).map_err(file(&fresh))?;
    std::fs::rename(&fresh, &place).map_err(file(&place))?;
    Ok(place)
}

/// Puts the MPIs of other hosts where everybody reaches them.
pub(crate) fn hosts(fixtures: &Path) -> Result<PathBuf> {
    let (from, place) = (fixtures.join("hosts"), own()?.join("hosts"));
    // Links where they can be.
    let script = format!(
        "rm -rf '{to}'; cp -al '{from}' '{to}' 2>/dev/null || {{ rm -rf '{to}'; cp -a '{from}' '{to}'; }}",
        from = from.display(),
        to = place.display()
    );
    run_quietly(&script)?;
    Ok(place)
}

/// A directory that the ordinary user can reach: the checkout itself may lie
/// in a home that is closed to others.
pub(crate) fn shared() -> Result<PathBuf> {
    let id = output(Command::new("id").arg("-u"))?;
    let dir = Path::new("/var/tmp").join(format!("sampan-{}", id.trim()));
    std::fs::create_dir_all(&dir).map_err(file(&dir))?;
    Ok(dir)
}

/// The part of it that is of this checkout alone: another one may be tested
/// at the same time.
pub(crate) fn own() -> Result<PathBuf> {
    let mut hash = DefaultHasher::new();
    root().hash(&mut hash);
    let dir = shared()?.join(format!("{:016x}", hash.finish()));
    std::fs::create_dir_all(&dir).map_err(file(&dir))?;
    Ok(dir)
}
