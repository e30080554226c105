//! The hook for PBS, against a module that follows the documented interface.

use std::path::Path;
use std::process::Command;

#[test]
fn the_pbs_hook() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/pbs");
    let mut python = Command::new("python3");
    python.args(["-B", "-m", "unittest", "-v", "test_sampan_hook"]).current_dir(dir);
    let output = python.output().expect("python3 is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("Ran ") && !said.contains("Ran 0 tests"), "{said}");
}
