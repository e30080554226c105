//! Where builds write: file systems that lack what a layer needs.

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::Place;

use crate::{base, context, unpacked};

/// A mount of the host, gone at the end.
struct Mount(PathBuf);

impl Mount {
    fn new(place: &Place, words: &[&str]) -> Self {
        let at = place.path("mount");
        std::fs::create_dir(&at).unwrap();
        let _ = harness::run(Command::new("mount").args(words).arg(&at)).ok();
        place.give(&at);
        Self(at)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// overlayfs does not write to itself, as it does not to file systems of a network.
#[test]
fn another_directory_is_taken_where_a_layer_cannot_be_written() {
    let place = Place::new();
    context(&place);
    for dir in ["lower", "upper", "overlay-work"] {
        std::fs::create_dir(place.path(dir)).unwrap();
    }
    let [lower, upper, work] =
        ["lower", "upper", "overlay-work"].map(|name| place.path(name).display().to_string());
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let mount = Mount::new(&place, &["-t", "overlay", "overlay", "-o", &options]);
    let file =
        place.write("work/Dockerfile", "ARG BASE\nFROM $BASE\nRUN busybox chown 5:6 /etc/marker\n");
    place.give(&file);
    let base = format!("BASE={}", base(&place));
    let args = ["build", "-t", "made", "-f", "Dockerfile", "--build-arg", &base, "ctx"];
    let mut command = place.sampan_command(&args);
    let temporary = place.path("scratch");
    let command = command.env("SAMPAN_SCRATCH", mount.path()).env("TMPDIR", &temporary);
    let ran = harness::run(command);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let said = format!(
        "{} takes no upper directory of an overlay: the build writes to {}",
        mount.path().display(),
        temporary.display()
    );
    assert_eq!(ran.err.matches(&said).count(), 1, "{}", ran.err);
    assert!(unpacked(&place, "made").contains("./etc/marker regular file 644 5:6"));
    let doctor =
        harness::run(place.sampan_command(&["doctor"]).env("SAMPAN_SCRATCH", mount.path()));
    let told = format!("overlayfs cannot write to {}", mount.path().display());
    assert!(doctor.out.contains(&told), "{}", doctor.out);
}

/// ramfs has no extended attributes, as tmpfs has none for users before Linux 6.6.
#[test]
fn owners_are_kept_beside_a_layer_without_attributes() {
    let place = Place::new();
    let mount = Mount::new(&place, &["-t", "ramfs", "ramfs"]);
    let overlay = mount.path().join("over");
    std::fs::create_dir(&overlay).unwrap();
    place.give(&overlay);
    let image = place.image_file();
    let overlay = overlay.display().to_string();
    let run = |script: &str| {
        let mode = "--root-emulation=consistent";
        let flags = ["exec", "--root", mode, "--contain", "--overlay", &overlay];
        place.sampan(&[&flags[..], &[&image, "sh", "-c", script]].concat()).ok()
    };
    let list = "stat -c '%n %u:%g %a %F' /srv/* /etc /etc/marker";
    let made = format!(
        "mkdir -p /srv/d; cd /srv; touch f plain; busybox chown 5:7 f; busybox chown 42:43 d; \
         busybox chmod 2775 d; touch d/of-its-group; busybox mv f moved; busybox ln moved hard; \
         busybox mknod null c 1 3; busybox chown :9 null; busybox mkfifo p; busybox chown 3:4 p; \
         busybox chown 1:2 /etc /etc/marker; busybox su app -c 'echo x >/tmp/x; \
         mkdir /srv/d/his' 2>/dev/null; {list} d/*"
    );
    let first = run(&made);
    for line in [
        "/srv/d 42:43 2775 directory",
        "/srv/moved 5:7 644 regular empty file",
        "/srv/hard 5:7 644 regular empty file",
        "/srv/plain 0:0 644 regular empty file",
        "/srv/null 0:9 644 character special file",
        "/srv/p 3:4 644 fifo",
        "/etc 1:2 755 directory",
        "/etc/marker 1:2 644 regular file",
        "d/of-its-group 0:43 644 regular empty file",
    ] {
        assert!(first.lines().any(|found| found == line), "{line}\n{first}");
    }
    // Another supervisor reads what the first has written.
    let again = run(list);
    assert!(first.starts_with(&again), "{first}\n{again}");
    let _ = place.sampan(&["commit", &overlay, &image, "kept"]).ok();
    let all = unpacked(&place, "kept");
    for line in [
        "./srv/d directory 2775 42:43 0,0",
        "./srv/d/of-its-group regular empty file 644 0:43 0,0",
        "./srv/moved regular empty file 644 5:7 0,0",
        "./srv/null character special file 644 0:9 1,3",
        "./srv/p fifo 644 3:4 0,0",
        "./etc directory 755 1:2 0,0",
        "./etc/marker regular file 644 1:2 0,0",
    ] {
        assert!(all.lines().any(|found| found == line), "{line}\n{all}");
    }
}
