//! The Slurm plugin: a workspace of its own, as it is a dynamic library.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Result, file};
use crate::run::{cargo, root, run as execute, target};
use crate::setup;

/// cargo in the plugin's workspace. A plugin cannot have +crt-static, and the
/// variable replaces what the configuration says of flags.
fn plugin_cargo(command: &str) -> Command {
    let mut cargo = cargo();
    cargo.current_dir(root().join("crates/spank")).arg(command);
    cargo.env("RUSTFLAGS", "-C target-feature=-crt-static");
    cargo.env("CARGO_TARGET_DIR", target().join("spank"));
    cargo
}

/// Builds it and puts it where slurmd reaches it.
pub(crate) fn build() -> Result<PathBuf> {
    execute(plugin_cargo("build").args(["--quiet", "--release", "--locked"]))?;
    let built = target().join("spank/x86_64-unknown-linux-gnu/release/libspank_sampan.so");
    let place = setup::own()?.join("spank_sampan.so");
    replace(&built, &place)?;
    Ok(place)
}

/// A daemon that has the old one loaded keeps it.
fn replace(from: &Path, to: &Path) -> Result<()> {
    let fresh = to.with_extension("new");
    std::fs::copy(from, &fresh).map_err(file(&fresh))?;
    std::fs::rename(&fresh, to).map_err(file(to))
}

/// Format and lints, as of everything else.
pub(crate) fn lint() -> Result<()> {
    execute(plugin_cargo("fmt").arg("--check"))?;
    let lints = ["--quiet", "--locked", "--all-targets", "--", "-D", "warnings"];
    execute(plugin_cargo("clippy").args(lints))
}

/// Unit tests: they need nothing of Slurm.
pub(crate) fn test() -> Result<()> {
    execute(plugin_cargo("test").args(["--quiet", "--locked"]))
}

/// `cargo xtask spank`.
pub(crate) fn run() -> Result<()> {
    setup::run()?;
    println!("{}", build()?.display());
    Ok(())
}
