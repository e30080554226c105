//! A second for each target; `cargo xtask fuzz` does it for longer, and with other seeds.
#![allow(missing_docs, clippy::expect_used, reason = "tests")]

use std::process::Command;

#[test]
fn damaged_bytes_for_a_second() {
    // Kilobytes of address space, as xtask has it.
    let script = "ulimit -v 2000000; exec \"$0\" --seconds 1 --seed 1 --crashes \"$1\"";
    let crashes = concat!(env!("CARGO_TARGET_TMPDIR"), "/crashes");
    let mut fuzz = Command::new("bash");
    fuzz.args(["-c", script, env!("CARGO_BIN_EXE_sampan-fuzz"), crashes]);
    let output = fuzz.output().expect("bash starts");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
}
