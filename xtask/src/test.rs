//! `cargo xtask test`: everything that has to hold.

use std::process::Command;

use crate::error::Result;
use crate::registry::Registry;
use crate::run::{cargo, run as execute};
use crate::{fixtures, layers, setup, spank};

pub(crate) fn run() -> Result<()> {
    setup::run()?;
    println!("== format");
    execute(cargo().args(["fmt", "--all", "--check"]))?;
    println!("== layers");
    layers::check()?;
    // The network makes the fixtures wait, the compiler the lints.
    println!("== lints, and fixtures meanwhile");
    let images = std::thread::scope(|scope| {
        let making = scope.spawn(fixtures::make);
        lint()?;
        making.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    if Command::new("cargo-deny").arg("--version").output().is_ok_and(|o| o.status.success()) {
        println!("== cargo-deny");
        execute(cargo().args(["deny", "--offline", "check", "bans", "licenses", "sources"]))?;
    } else {
        println!("== cargo-deny: skipped, it is not installed");
    }
    let registry = Registry::start(&images)?;
    println!("== release binary");
    let binary = setup::binary()?;
    println!("== Slurm plugin");
    let plugin = spank::build()?;
    println!("== unit tests, and damaged bytes for a second each");
    execute(
        cargo()
            .args(["test", "--quiet", "--workspace", "--exclude", "sampan-tests"])
            .env("SAMPAN_TEST_TOOLS", images.join("tools")),
    )?;
    spank::test()?;
    println!("== end-to-end tests, as user {}", setup::USER);
    execute(
        cargo()
            .args(["test", "--package", "sampan-tests", "--no-fail-fast", "--", "--test-threads=4"])
            .env("SAMPAN_BIN", &binary)
            .env("SAMPAN_SPANK", &plugin)
            .env("SAMPAN_TEST_USER", setup::USER)
            .env("SAMPAN_TEST_SUBID_USER", setup::SUBID_USER)
            .env("SAMPAN_TEST_REGISTRY", &registry.address)
            .env("SAMPAN_TEST_HOSTS", setup::hosts(&images)?),
    )
}

fn lint() -> Result<()> {
    execute(cargo().args([
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    spank::lint()
}
