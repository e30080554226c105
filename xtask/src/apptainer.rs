//! Apptainer, from Debian sid: bookworm has none.
//!
//! Its C library is newer than this machine's, so it lives in a private root
//! that is entered by pivot_root in a mount namespace of its own; in a chroot
//! no user namespace could be made.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::error::{Error, Result, file};
use crate::run::{root_shell, run, target};

/// The root, made once. Sid's Release file may have expired.
const MAKE: &str = r#"
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null |
  grep -E '^(URIs:|deb) ' | grep -oE 'https?://[^ ]+' | head -1 || true)
rm -rf "$ROOT"
TMPDIR=/var/tmp mmdebstrap --quiet --variant=apt --aptopt='Acquire::Check-Valid-Until "false"' \
  --include=apptainer,squashfuse,mount,util-linux,ca-certificates sid "$ROOT" "deb $mirror sid main"
touch "$ROOT/.done"
"#;

/// Enters the root and stays there, so that others can join.
const ENTER: &str = r#"
exec unshare --mount --propagation private bash -euo pipefail -c '
  mount --bind "$0" "$0"; cd "$0"
  for dir in proc sys dev tmp var/tmp home; do mount --rbind /$dir $dir; done
  for name in passwd group subuid subgid resolv.conf hosts localtime; do
    [ ! -e /etc/$name ] || cp -L /etc/$name etc/$name; done
  mkdir -p .old; pivot_root . .old; cd /; umount -l /.old
  echo ready; exec sleep infinity' "$ROOT"
"#;

pub(crate) fn root() -> PathBuf {
    target().join("apptainer")
}

fn script(text: &str) -> String {
    format!("ROOT='{}'\n{text}", root().display())
}

/// Makes the root unless it is there.
pub(crate) fn prepare() -> Result<()> {
    if !root().join(".done").exists() {
        println!("installing Apptainer from Debian sid into {}", root().display());
        run(&mut root_shell(&script(MAKE)))?;
    }
    Ok(())
}

/// The mount namespace with Apptainer; it ends with this value.
pub(crate) struct Namespace {
    child: Child,
}

impl Namespace {
    /// Enters the root.
    pub(crate) fn enter() -> Result<Self> {
        let command = "the namespace of Apptainer";
        let mut child = root_shell(&script(ENTER))
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Start { command: command.to_owned(), source })?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).map_err(file(Path::new("stdout")))?;
        }
        let namespace = Self { child };
        if line.trim() == "ready" {
            return Ok(namespace);
        }
        let status = "no answer".to_owned();
        Err(Error::Failed { command: command.to_owned(), status })
    }

    /// What nsenter(1) is told to enter it.
    pub(crate) fn mount(&self) -> String {
        format!("--mount=/proc/{}/ns/mnt", self.child.id())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It only sleeps.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
