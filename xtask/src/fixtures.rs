//! Images made from Debian packages, as OCI layouts under target/fixtures.
//!
//! | image | what |
//! |---|---|
//! | busybox | busybox-static and a link for each applet |
//! | base | Debian, minbase |
//! | numpy | the same with Python 3, numpy, pandas, sympy, pip and MPICH, in three layers |

use std::path::{Path, PathBuf};

use crate::error::{Result, file};
use crate::run::{root_shell, run, target};

/// Changing a recipe makes the images anew.
const RECIPE: &str = "3";

const SCRIPT: &str = r#"
mkdir -p "$OUT"; cd "$OUT"
rm -rf work oci; mkdir -p work oci
sources() { grep -rhE '^(deb|URIs|Types|Suites|Components|Signed-By)' /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources 2>/dev/null || true; }
tarball() { tar --sort=name --numeric-owner --xattrs --xattrs-include='*' -C "$1" -cf - "${@:2}"; }
layout() { umoci init --layout "oci/$1"; umoci new --image "oci/$1:latest"; }
add() { umoci raw add-layer --image "oci/$1:latest" "$2"; }

# busybox
mkdir -p work/bb/{bin,etc,proc,sys,dev,tmp,var/tmp,home,root}; chmod 1777 work/bb/tmp work/bb/var/tmp
cp /bin/busybox work/bb/bin/; for a in $(/bin/busybox --list); do [ $a = busybox ] || ln -s busybox work/bb/bin/$a; done
echo 'root:x:0:0:root:/root:/bin/sh' >work/bb/etc/passwd; echo 'root:x:0:' >work/bb/etc/group
layout busybox; tarball work/bb . >work/bb.tar; add busybox work/bb.tar
umoci config --image oci/busybox:latest --config.cmd /bin/sh

# base
list=/etc/apt/sources.list.d/debian.sources; [ -e $list ] || list=/etc/apt/sources.list
TMPDIR=/var/tmp mmdebstrap --quiet --variant=minbase bookworm work/root "$list"
layout base; tarball work/root --exclude=./dev/* --exclude=./proc/* --exclude=./sys/* . >work/base.tar
add base work/base.tar; umoci config --image oci/base:latest --config.cmd /bin/bash

# numpy: the packages on top, each set a layer of its own
layout numpy; add numpy work/base.tar
step() {
  touch work/stamp; find work/root -xdev -printf '%P\n' | sort >work/before
  DEBIAN_FRONTEND=noninteractive chroot work/root apt-get install -y -qq --no-install-recommends "${@:2}" >/dev/null 2>&1
  rm -rf work/root/var/cache/apt/archives/*.deb
  (cd work/root; find . -xdev -cnewer ../stamp ! -path './proc/*' ! -path './sys/*' ! -path './dev/*' ! -type s -print0) >work/changed
  tar --null --no-recursion --numeric-owner --sort=name -C work/root -T work/changed -cf work/$1.tar
  add numpy work/$1.tar
}
cp /etc/resolv.conf work/root/etc/ 2>/dev/null || true
for f in /etc/apt/apt.conf.d/*proxy* /etc/apt/apt.conf; do [ ! -e "$f" ] || cp "$f" work/root/etc/apt/apt.conf.d/; done
chroot work/root apt-get update -qq >/dev/null 2>&1
step python python3 python3-numpy python3-pandas python3-sympy python3-pip
step mpich mpich
umoci config --image oci/numpy:latest --config.cmd /bin/bash --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# A directory image of the same, for the benchmarks.
rm -rf rootfs; mv work/root rootfs
rm -rf work
chmod -R a+rX oci
"#;

/// Makes the images unless they are there; their directory.
pub(crate) fn make() -> Result<PathBuf> {
    let dir = target().join("fixtures");
    let stamp = dir.join("stamp");
    if std::fs::read_to_string(&stamp).is_ok_and(|text| text == RECIPE) {
        println!("fixtures: there already");
        return Ok(dir);
    }
    println!("fixtures: making images from Debian packages (a few minutes)");
    std::fs::create_dir_all(&dir).map_err(file(&dir))?;
    let script = format!("OUT='{}'\n{SCRIPT}", dir.display());
    run(&mut root_shell(&script))?;
    std::fs::write(&stamp, RECIPE).map_err(file(&stamp))?;
    Ok(dir)
}

/// The OCI layout of an image.
pub(crate) fn layout(dir: &Path, name: &str) -> PathBuf {
    dir.join("oci").join(name)
}
