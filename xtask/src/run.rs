//! Running commands.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// Where things that last are kept.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}

pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command to its end; its failure is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let text = text(command);
    let status =
        command.status().map_err(|source| Error::Start { command: text.clone(), source })?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::Failed { command: text, status: status.to_string() })
    }
}

/// The output of a command that must succeed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let text = text(command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| Error::Start { command: text.clone(), source })?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(Error::Failed { command: text, status: output.status.to_string() })
    }
}

fn text(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let text: Vec<_> = words.map(|w| w.to_string_lossy()).collect();
    let text = text.join(" ");
    text.chars().take(200).collect()
}

/// A shell script as root: directly, or by sudo.
pub(crate) fn root_shell(script: &str) -> Command {
    let is_root = output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    let mut command = if is_root {
        Command::new("bash")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("bash");
        sudo
    };
    command.args(["-euo", "pipefail", "-c", script]);
    command
}

/// A shell script as the ordinary user, in its home, with nothing of this
/// environment.
pub(crate) fn user_shell(user: &str, script: &str) -> Command {
    let drop = format!(
        "cd ~{user} && exec setpriv --reuid={user} --regid={user} --init-groups env -i \
         HOME=\"$PWD\" USER={user} PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 \
         bash -euo pipefail -c \"$1\""
    );
    let mut command = root_shell(&drop);
    command.args(["user-shell", script]);
    command
}
