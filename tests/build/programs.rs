//! Programs of every kind under emulated root: of musl, without a C library, of
//! i386, and a package tool's calls.

use harness::Place;

use crate::emulation::compiled;
use crate::{build, unpacked};

/// No C library and no start files: system calls alone.
const RAW: &str = "-nostdlib -ffreestanding -fno-stack-protector -fno-pie -no-pie";

/// What `raw.c` prints where everything works; its numbers are from a run by the
/// host's root.
const SEEN: &str = "fstat 70001 70002 100640 0 0 
stat 70001 5 100640 0 0 
lstat 6 7 120777 0 0 
fstatat 8 9 20644 1 3 
statx 8 9 20644 
ids 4 100000 70000 7 7 70000 7 8 
mkdir 7 8 40755 0 0 
refused
done
";

/// Static programs that make their system calls themselves, as those of Go do, and
/// programs of i386 are answered like any other.
#[test]
fn programs_without_a_c_library_see_the_same() {
    let place = Place::new();
    compiled(&place, &format!("gcc {RAW}"), "raw.c", "raw-x86-64");
    compiled(&place, &format!("gcc -m32 {RAW}"), "raw.c", "raw-i386");
    compiled(&place, &format!("gcc -m32 -DNARROW {RAW}"), "raw.c", "raw-narrow");
    for program in ["raw-x86-64", "raw-i386", "raw-narrow"] {
        // What does not fit in 16 bits is cut on its way in.
        let cut = |text: &str| match program {
            "raw-narrow" => {
                let text = text.replace("70000", "4464").replace("70001", "4465");
                text.replace("70002", "4466").replace("100000", "34464")
            }
            _ => text.to_owned(),
        };
        let text = format!(
            "ARG BASE\nFROM $BASE\nCOPY {program} /program\n\
             RUN mkdir -m 777 /own && cd /own && /program\n\
             RUN stat -c 'later %n %u:%g' /own/*\n"
        );
        let ran = build(&place, &text, &[]);
        assert_eq!(ran.code, 0, "{program}: {}", ran.err);
        assert!(ran.err.contains(&cut(SEEN)), "{program}: {}", ran.err);
        let later = "later /own/device 8:9\nlater /own/directory 7:8\nlater /own/link 6:7\n\
                     later /own/plain 70001:5\n";
        assert!(ran.err.contains(&cut(later)), "{program}: {}", ran.err);
        // Without records everything is said to have been done, and nothing is.
        let fast = build(&place, &text, &["--root-emulation=fast"]);
        assert!(fast.err.contains("fstat 0 0 100640"), "{program}: {}", fast.err);
        assert!(fast.err.contains("failed: 2 "), "no device, so no rename: {}", fast.err);
    }
}

/// Attributes by directory and path, permission bits of a descriptor; and no ring, whose
/// requests nobody would look at.
#[test]
fn calls_of_newer_kernels_are_answered() {
    let place = Place::new();
    compiled(&place, "gcc", "newer.c", "newer");
    let text = "ARG BASE\nFROM $BASE\nCOPY newer /\nRUN cd /tmp && /newer\n";
    let said = "list kept\nname system.posix_acl_access\nremoved yes\nmode 100600\n";
    let ran = build(&place, text, &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains(&format!("{said}ring none\ndone\n")), "{}", ran.err);
}

/// The same for the kernel's own doing, where a device alone is emulated; ids are
/// within a range of 65536.
#[test]
fn programs_without_a_c_library_see_the_same_with_subordinate_ids() {
    let place = Place::of(&harness::required("SAMPAN_TEST_SUBID_USER"));
    let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/build/raw.c"));
    let small = |text: &str| text.replace("100000", "10000").replace("7000", "700");
    crate::context(&place);
    let path = place.write("work/ctx/small.c", small(&source.unwrap()));
    for flags in ["-m64", "-m32"] {
        let mut gcc = std::process::Command::new("gcc");
        gcc.args([flags, "-static", "-O1", "-o"]).arg(place.path("work/ctx/program"));
        let _ = harness::run(gcc.args(RAW.split(' ')).arg(&path)).ok();
        let text = "ARG BASE\nFROM $BASE\nCOPY program /program\n\
                    RUN mkdir -m 777 /own && cd /own && /program\n";
        let ran = build(&place, text, &["--root-emulation=subid"]);
        assert_eq!(ran.code, 0, "{flags}: {}", ran.err);
        assert!(ran.err.contains(&small(SEEN)), "{flags}: {}", ran.err);
    }
}

/// `apk.c` is a static program of musl; its calls are those of apk-tools, which no
/// package source of the tests has.
#[test]
fn the_calls_of_apk_install_a_package() {
    let place = Place::new();
    compiled(&place, "musl-gcc", "apk.c", "apk");
    let text = "ARG BASE\nFROM $BASE\nRUN busybox --install -s /bin\nCOPY apk /bin/\n\
                RUN apk add /\nRUN cat /var/lib/probe/said\n\
                RUN mkdir -p /other/tmp && busybox cp -a /bin /etc /other && \
                    busybox sed -i /probe/d /other/etc/passwd /other/etc/group && \
                    apk add --root /other && rm /srv/plain\n";
    let ran = build(&place, text, &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("probe:probe 640\n611\n"), "{}", ran.err);
    let all = unpacked(&place, "made");
    for top in [".", "./other"] {
        for line in [
            "/srv directory 2750 611:612 0,0",
            "/srv/hard regular file 640 611:612 0,0",
            "/srv/suid regular file 6755 0:612 0,0",
            "/srv/link symbolic link 777 611:0 0,0",
            "/srv/fifo fifo 600 0:612 0,0",
            "/srv/null character special file 666 0:3 1,3",
            "/srv/disk block special file 660 0:6 8,1",
            "/srv/cap cap_net_raw=ep",
            "/etc/marker regular file 644 611:612 0,0",
            "/var/lib/probe directory 755 611:0 0,0",
            "/tmp/mine regular empty file 644 611:612 0,0",
        ] {
            let line = format!("{top}{line}");
            assert!(all.lines().any(|found| found == line), "{line}\n{all}");
        }
    }
}
