//! Writing an image from a directory, against mksquashfs: the same codec, the
//! same level, the same processors.

use std::path::PathBuf;

use super::Job;
use super::peers::{Bar, Measure, Tool, Work};
use crate::setup::USER;

/// The default of either program, and what mksquashfs takes for the other.
const CODECS: [(&str, u32); 3] = [("zstd", 3), ("zstd", 15), ("gzip", 9)];

/// A row for each codec.
pub(super) fn works(job: &Job, home: &str) -> Vec<Work> {
    let (tree, sampan) = (job.dir.join("rootfs"), job.sampan.display());
    let tree = tree.display();
    let out = job.dir.join("written.sqfs");
    let out = out.display();
    let tool = |name, line: String| Tool {
        name,
        user: USER,
        argv: format!("/usr/bin/time --quiet --format=resident_%M {line}")
            .split(' ')
            .map(|word| word.replace("resident_", "resident "))
            .collect(),
        env: vec![
            ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
            ("HOME".to_owned(), home.to_owned()),
        ],
        cwd: PathBuf::from(home),
        before: Some(format!("rm -f {out}")),
        after: Some(format!("stat -c 'bytes %s' {out}")),
    };
    let row = |(codec, level): (&str, u32)| {
        let bar = |most, of| Bar { ours: "sampan", most, peer: "mksquashfs", of };
        Work {
            key: format!("write-{codec}{level}"),
            title: format!("write a squashfs file, {codec} level {level}"),
            tools: vec![
                tool(
                    "mksquashfs",
                    format!(
                        "mksquashfs {tree} {out} -noappend -quiet -no-progress -comp {codec} \
                         -Xcompression-level {level}"
                    ),
                ),
                tool(
                    "sampan",
                    format!("{sampan} convert --compression {codec}:{level} {tree} {out}"),
                ),
            ],
            bars: vec![
                bar(1.0, Measure::Time),
                bar(1.02, Measure::Size),
                bar(1.0 / 3.0, Measure::Memory),
            ],
        }
    };
    CODECS.into_iter().map(row).collect()
}
