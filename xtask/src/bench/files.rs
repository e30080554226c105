//! The image's file system against the kernel's own and squashfuse.
//!
//! All three serve the same file and run the image's own programs: the kernel
//! and squashfuse_ll as root by chroot(8) into their mount, sampan as the
//! ordinary user in a container that joins one that is there. *Cold* means
//! that caches were dropped and the file mounted afresh right before.

use std::path::PathBuf;

use super::Job;
use super::peers::{Bar, Tool, Work};
use crate::error::Result;
use crate::run::{root_shell, run};
use crate::setup::USER;

/// Key, title, what is done, and the bars against the kernel's own: cold, warm.
const WORKS: [(&str, &str, &str, f64, f64); 5] = [
    ("find", "find, with every inode", "find / -xdev -size +1; true", 2.0, 1.2),
    ("cat", "read all files", "find / -xdev -type f -print0 | xargs -0 cat; true", 1.1, 1.1),
    (
        "cat4",
        "read all files, four at once",
        "find / -xdev -type f -print0 | xargs -0 -n 64 -P 4 cat; true",
        0.7,
        1.1,
    ),
    (
        "import",
        "import numpy, pandas, sympy",
        "python3 -c 'import numpy, pandas, sympy'",
        1.1,
        1.05,
    ),
    (
        "random",
        "4,000 random reads of 4 KiB",
        "python3 -c 'import os,random\n\
         random.seed(7)\n\
         f=[p for d,_,n in os.walk(\"/usr/lib\") for p in (d+\"/\"+x for x in sorted(n)) if os.path.isfile(p) and os.path.getsize(p)>1<<20]\n\
         h=[(os.open(p,0),os.path.getsize(p)) for p in sorted(f)]\n\
         for i in range(4000):\n  d,s=random.choice(h); os.pread(d,4096,random.randrange(s))'",
        1.5,
        1.5,
    ),
];

/// Ends what a run has left mounted.
const CLEAN: &str = r#"
umount -l "$M/kernel" "$M/fuse" 2>/dev/null || true
pkill -KILL -u "$USER" -xf "sleep 98765" || true; pkill -KILL -u "$USER" -x sampan-serve || true
mkdir -p "$M/kernel" "$M/fuse"
"#;

fn clean(job: &Job) -> String {
    format!("M='{}'; USER={USER}\n{CLEAN}", job.dir.join("mounts").display())
}

/// Leaves nothing of the rows behind.
pub(super) fn end(job: &Job) -> Result<()> {
    run(&mut root_shell(&clean(job)))
}

/// The rows, cold and warm.
pub(super) fn works(job: &Job, image: &str) -> Vec<Work> {
    let dir = job.dir.join("mounts");
    let (mounts, sampan) = (dir.display(), job.sampan.display());
    let store = job.dir.join("store");
    let file = format!("$(ls {}/images/*.sqfs | head -1)", store.display());
    let drop = format!("setpriv --reuid={USER} --regid={USER} --init-groups");
    let clean = clean(job);
    let enter = format!("{sampan} --store {} exec {image}", store.display());
    let home = format!("HOME=/home/{USER} SAMPAN_SCRATCH=/home/{USER}");
    let start = [
        ("kernel squashfs", format!("mount -o loop,ro {file} {mounts}/kernel")),
        ("squashfuse_ll", format!("squashfuse_ll -o allow_other {file} {mounts}/fuse")),
        (
            "sampan",
            format!(
                "env {home} {drop} {enter} sleep 98765 & while ! pgrep -xf 'sleep 98765' >/dev/null; do sleep 0.01; done; sleep 0.2"
            ),
        ),
    ];
    let command = |name: &str, work: &str| -> Vec<String> {
        let shell = match name {
            "kernel squashfs" => format!("exec chroot {mounts}/kernel /bin/sh -c \"$0\""),
            "squashfuse_ll" => format!("exec chroot {mounts}/fuse /bin/sh -c \"$0\""),
            _ => format!("exec env {home} {drop} {enter} /bin/sh -c \"$0\""),
        };
        ["bash", "-c", &shell, work].map(str::to_owned).to_vec()
    };
    let mut rows = Vec::new();
    for (key, title, work, cold, warm) in WORKS {
        for (state, most) in [("cold", cold), ("warm", warm)] {
            let tool = |(name, start): &(&'static str, String)| {
                let fresh = format!("{clean}sync; echo 3 >/proc/sys/vm/drop_caches\n{start}");
                // Warm: mounted and read once, then left as it is.
                let argv = command(name, work);
                let quoted: Vec<String> =
                    argv.iter().map(|w| format!("'{}'", w.replace('\'', r"'\''"))).collect();
                let before = match state {
                    "cold" => fresh,
                    _ => format!("{fresh}\n{} >/dev/null", quoted.join(" ")),
                };
                Tool {
                    name,
                    user: "root",
                    argv,
                    env: vec![(
                        "PATH".to_owned(),
                        "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".to_owned(),
                    )],
                    cwd: PathBuf::from("/"),
                    before: Some(before),
                }
            };
            rows.push(Work {
                key: format!("{key}-{state}"),
                title: format!("{title}, {state}"),
                tools: start.iter().map(tool).collect(),
                bars: vec![
                    Bar { ours: "sampan", most, peer: "kernel squashfs" },
                    Bar { ours: "sampan", most: 1.0, peer: "squashfuse_ll" },
                ],
            });
        }
    }
    rows
}
