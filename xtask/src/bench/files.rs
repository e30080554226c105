//! The image's file system against the kernel's own and squashfuse.
//!
//! All serve the same file and run the image's own programs: the kernel
//! and squashfuse_ll as root by chroot(8) into their mount, sampan as the
//! ordinary user in a container that joins one that is there. *Cold* means
//! that caches were dropped and the file mounted afresh right before.

use std::path::PathBuf;

use super::Job;
use super::peers::{Bar, Measure, Tool, Work};
use crate::apptainer;
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
umount -l "$M/kernel" "$M/fuse" "$M/fuse5" 2>/dev/null || true
pkill -KILL -u "$USER" -xf "sleep 98765" || true; pkill -KILL -u "$USER" -x sampan-serve || true
pkill -KILL -f "^[^ ]*(squashfuse_ll|ld-linux-[^ ]* .*squashfuse_ll) .*$M/fuse5?\$" || true
mkdir -p "$M/kernel" "$M/fuse" "$M/fuse5"
"#;

/// What a server has used since it began: fields 14 and 15 of proc_pid_stat(5)
/// in ticks of 10 ms, and its peak memory.
const USED: &str = r#"
# A process that the server has begun may end meanwhile.
for pid in $(pgrep -f "$SERVER"); do
  awk '{print "server_cpu_ms", ($14+$15)*10}' /proc/$pid/stat || true
  awk '/^VmHWM/{print "server_kb", $2}' /proc/$pid/status || true
done 2>/dev/null
"#;

fn clean(job: &Job) -> String {
    format!("M='{}'; USER={USER}\n{CLEAN}", job.dir.join("mounts").display())
}

/// Leaves nothing of the rows behind.
pub(super) fn end(job: &Job) -> Result<()> {
    run(&mut root_shell(&clean(job)))
}

/// The images that are served: how a key begins, what a title says, and the
/// file, in the shell's words.
const IMAGES: [(&str, &str, &str); 2] =
    [("", "", "$(ls $DIR/store/images/*.sqfs | head -1)"), ("gzip-", "gzip: ", "$DIR/image.sqfs")];

/// The rows, cold and warm, of both images.
pub(super) fn works(job: &Job) -> Vec<Work> {
    let mut rows = Vec::new();
    for (prefix, of, file) in IMAGES {
        for (key, title, work, cold, warm) in WORKS {
            for (state, most) in [("cold", cold), ("warm", warm)] {
                let mut bars = vec![Bar::time("sampan", most, "kernel squashfs")];
                for peer in ["squashfuse_ll", "squashfuse_ll of sid"] {
                    bars.push(Bar::time("sampan", 1.0, peer));
                    if (key, state) == ("cat", "cold") {
                        bars.push(Bar { ours: "sampan", most: 0.8, peer, of: Measure::ServerCpu });
                    }
                }
                rows.push(Work {
                    key: format!("{prefix}{key}-{state}"),
                    title: format!("{of}{title}, {state}"),
                    tools: servers(job, file).iter().map(|s| s.tool(job, work, state)).collect(),
                    bars,
                });
            }
        }
    }
    rows
}

/// One way to serve an image.
struct Server {
    name: &'static str,
    /// Mounts it.
    start: String,
    /// Runs a script, `$0`, in it.
    run: String,
    /// What pgrep(1) finds its process by; none in the kernel.
    process: Option<String>,
}

fn servers(job: &Job, file: &str) -> Vec<Server> {
    let (mounts, sampan) = (job.dir.join("mounts"), job.sampan.display());
    let mounts = mounts.display();
    let file = file.replace("$DIR", &job.dir.display().to_string());
    let drop = format!("setpriv --reuid={USER} --regid={USER} --init-groups");
    let home = format!("HOME=/home/{USER} SAMPAN_SCRATCH=/home/{USER}");
    let enter = format!("env {home} {drop} {sampan} exec {file}");
    let chroot = |mount: &str| format!("exec chroot {mounts}/{mount} /bin/sh -c \"$0\"");
    let mut all = vec![
        Server {
            name: "kernel squashfs",
            start: format!("mount -o loop,ro {file} {mounts}/kernel"),
            run: chroot("kernel"),
            process: None,
        },
        Server {
            name: "squashfuse_ll",
            start: format!("squashfuse_ll -o allow_other {file} {mounts}/fuse"),
            run: chroot("fuse"),
            process: Some(format!("^squashfuse_ll .*{mounts}/fuse$")),
        },
        Server {
            name: "sampan",
            start: format!(
                "{enter} sleep 98765 & while ! pgrep -xf 'sleep 98765' >/dev/null; do \
                 sleep 0.01; done; sleep 0.2"
            ),
            run: format!("exec {enter} /bin/sh -c \"$0\""),
            process: Some(format!("^{sampan} exec .* sleep 98765$")),
        },
    ];
    // A newer one, in the root that Apptainer is installed in.
    let sid = apptainer::root();
    if sid.join("usr/bin/squashfuse_ll").exists() {
        let sid = sid.display();
        let loader = format!(
            "{sid}/lib64/ld-linux-x86-64.so.2 --library-path {sid}/usr/lib/x86_64-linux-gnu"
        );
        all.push(Server {
            name: "squashfuse_ll of sid",
            start: format!(
                "{loader} {sid}/usr/bin/squashfuse_ll -o allow_other {file} {mounts}/fuse5"
            ),
            run: chroot("fuse5"),
            process: Some(format!("squashfuse_ll .*{mounts}/fuse5$")),
        });
    }
    all
}

impl Server {
    fn tool(&self, job: &Job, work: &str, state: &str) -> Tool {
        let argv = ["bash", "-c", &self.run, work].map(str::to_owned).to_vec();
        let clean = clean(job);
        let fresh = format!("{clean}sync; echo 3 >/proc/sys/vm/drop_caches\n{}", self.start);
        // Warm: mounted and read once, then left as it is.
        let quoted: Vec<String> =
            argv.iter().map(|w| format!("'{}'", w.replace('\'', r"'\''"))).collect();
        let before = match state {
            "cold" => fresh,
            _ => format!("{fresh}\n{} >/dev/null", quoted.join(" ")),
        };
        let path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
        Tool {
            name: self.name,
            user: "root",
            argv,
            env: vec![("PATH".to_owned(), path.to_owned())],
            cwd: PathBuf::from("/"),
            before: Some(before),
            after: self.process.as_ref().map(|process| format!("SERVER='{process}'\n{USED}")),
        }
    }
}
