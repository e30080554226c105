//! Promise: a Dockerfile builds here as it does for root elsewhere, with the
//! owners, devices and capabilities that root's build would have had.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod arch;
mod bootstrap;
mod cache;
mod debian;
mod definition;
mod emulation;
mod inputs;
mod mirrors;
mod outputs;
mod programs;
mod recipes;
mod rpm;
mod scratch;
mod sharing;
mod subid;

use std::path::Path;

use harness::{Place, Ran};

/// The context that the recipes copy from.
fn context(place: &Place) {
    for (path, text) in [
        ("a.txt", "a\n"),
        ("sp ace.txt", "space\n"),
        ("dir/b.txt", "b\n"),
        ("dir/sub/c.txt", "c\n"),
        ("dir/b.o", "object\n"),
        ("exec.sh", "#!/bin/sh\necho executed\n"),
        ("ignored/x.txt", "x\n"),
        ("ignored/keep.txt", "keep\n"),
        (".dockerignore", "ignored\n!ignored/keep.txt\n**/*.secret\n"),
        ("dir/sub/k.secret", "secret\n"),
    ] {
        place.write(&format!("work/ctx/{path}"), text);
    }
    let ctx = place.path("work/ctx");
    std::os::unix::fs::symlink("a.txt", ctx.join("link")).unwrap();
    std::os::unix::fs::symlink("b.txt", ctx.join("dir/inner")).unwrap();
    std::fs::hard_link(ctx.join("dir/b.txt"), ctx.join("dir/hard")).unwrap();
    std::fs::create_dir_all(ctx.join("dir/empty")).unwrap();
    let mode = |path: &str, mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(ctx.join(path), mode).unwrap();
    };
    mode("exec.sh", 0o755);
    mode("a.txt", 0o640);
    let script = "cd ctx && tar -czf archive.tar.gz --owner=7 --group=8 dir/sub/c.txt a.txt";
    place.give(&place.path("work"));
    let _ = place.shell(script).ok();
}

/// The busybox image, as a name for FROM.
fn base(place: &Place) -> String {
    let dir = place.path("base");
    if dir.exists() {
        return format!("oci:{}:base", dir.display());
    }
    harness::Layout::new(dir).busybox().finish("base")
}

/// Builds the image `made` from a Dockerfile; `$BASE` is the busybox image.
fn build(place: &Place, dockerfile: &str, flags: &[&str]) -> Ran {
    if !place.path("work/ctx").exists() {
        context(place);
    }
    let file = place.write("work/Dockerfile", dockerfile);
    place.give(&file);
    let base = format!("BASE={}", base(place));
    let mut args = vec!["build", "-t", "made", "-f", "Dockerfile", "--build-arg", &base];
    args.extend(flags);
    args.push("ctx");
    place.sampan(&args)
}

/// The SHA-256 that a build printed.
fn id(ran: Ran) -> String {
    let out = ran.ok();
    let id = out.lines().last().unwrap_or_default().to_owned();
    assert!(id.starts_with("sha256:"), "{out}");
    id
}

/// Files of an image as root sees them by way of an OCI layout and umoci.
fn unpacked(place: &Place, image: &str) -> String {
    let _ = place.shell(&format!("rm -rf lay; $sampan convert {image} oci:lay:x")).ok();
    let (layout, bundle) = (place.path("work/lay"), place.path("bundle"));
    let _ = std::fs::remove_dir_all(&bundle);
    let [layout, bundle] =
        [layout, bundle].map(|path: std::path::PathBuf| path.display().to_string());
    let mut umoci = std::process::Command::new("umoci");
    let _ = harness::run(umoci.args(["unpack", "--image", &format!("{layout}:x"), &bundle])).ok();
    listing(&Path::new(&bundle).join("rootfs"))
}

/// Path, type, mode, owner, device and link of every file, capabilities, and
/// access control lists.
fn listing(root: &Path) -> String {
    let script = "find . -mindepth 1 | sort | while read -r p; do stat -c '%n %F %a %u:%g %t,%T' \"$p\"; \
                  [ ! -L \"$p\" ] || readlink \"$p\"; done; getcap -r . | sort; getfacl -Rnps .";
    let mut command = std::process::Command::new("sh");
    harness::run(command.args(["-c", script]).current_dir(root)).ok()
}
