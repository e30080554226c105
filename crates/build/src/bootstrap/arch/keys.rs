//! Who may sign packages: a keyring as `pacman-key --populate` takes it.
//!
//! Beside the certificates in `NAME.gpg`, `NAME-trusted` lists owners who vouch for
//! others (`FINGERPRINT:4:` marginally, `5` and more fully, as gpg's ownertrust), and
//! `NAME-revoked` the fingerprints of keys that must not be used. A key counts when
//! its owner is listed, or when one of its user IDs is certified by one owner who is
//! fully trusted or by three who are marginally: gpg's classic rule, one step deep,
//! which is how distributions certify their packagers. Where there is no list of
//! owners all certificates count.

use std::path::{Path, PathBuf};

use trust::{Keyring, OwnerTrust, Owners};

use crate::bootstrap::error::BootstrapError;
use crate::bootstrap::{files_in, keyring};
use crate::error::{BuildError, Result};

/// Where pacman and Debian's archlinux-keyring keep keyrings.
const PACMAN_KEYRINGS: &str = "/usr/share/pacman/keyrings";
const DEBIAN_KEYRING: &str = "/usr/share/keyrings/archlinux.gpg";

/// The keyrings of this host.
pub(super) fn host_keyrings() -> Vec<PathBuf> {
    let mut all = files_in(Path::new(PACMAN_KEYRINGS), &["gpg"]);
    if all.is_empty() {
        all.extend(Some(PathBuf::from(DEBIAN_KEYRING)).filter(|path| path.exists()));
    }
    all
}

/// The lists beside a keyring, if they are there.
pub(super) fn lists(path: &Path) -> [PathBuf; 2] {
    ["trusted", "revoked"].map(|what| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        path.with_file_name(format!("{stem}-{what}"))
    })
}

/// The certificates of these keyrings that may sign.
pub(super) fn valid(paths: &[PathBuf], url: &str) -> Result<Keyring> {
    let mut all = Vec::new();
    for path in paths {
        let certificates = keyring(std::slice::from_ref(path), url)?;
        let [trusted, revoked] = lists(path);
        let read = |path: &Path| match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(BuildError::Read { path: path.to_owned(), source }),
        };
        let owners = read(&trusted)?.map(|text| owners(&text));
        let revoked = read(&revoked)?.unwrap_or_default();
        let revoked: Vec<&str> = lines(&revoked).collect();
        all.extend(certificates.valid(owners.as_ref(), &revoked));
    }
    let joined = Keyring::join(all);
    Ok(joined.ok_or_else(|| BootstrapError::NoKeyring { url: url.to_owned() })?)
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// `FINGERPRINT:LEVEL:` in lines.
fn owners(text: &str) -> Owners {
    let pairs = lines(text).filter_map(|line| {
        let mut words = line.split(':');
        let (print, level) = (words.next()?, words.next()?.parse::<u8>().ok()?);
        let trust = match level {
            4 => OwnerTrust::Marginal,
            5.. => OwnerTrust::Full,
            // Unknown, undefined, never.
            _ => return None,
        };
        Some((print.to_ascii_lowercase(), trust))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_read_as_gpg_writes_them() {
        let read = owners("# c\nAB:4:\n\ncd:6:\nEF:3:\nnonsense\n12:x:\n");
        let expected = [("ab", OwnerTrust::Marginal), ("cd", OwnerTrust::Full)];
        assert_eq!(read, expected.map(|(print, trust)| (print.to_owned(), trust)).into());
    }

    /// Of Arch Linux's keyring as Debian has it: five owners, and whom they vouch for.
    #[test]
    fn packagers_count_by_who_vouches_for_them() {
        let path = PathBuf::from(DEBIAN_KEYRING);
        let all = keyring(std::slice::from_ref(&path), "x").unwrap().count();
        let valid = valid(&[path], "x").unwrap().count();
        assert!(valid > 20 && valid < all, "{valid} of {all}");
    }

    #[test]
    fn lists_stand_beside_their_keyring() {
        let [trusted, revoked] = lists(Path::new("/k/archlinux.gpg"));
        assert_eq!(trusted, Path::new("/k/archlinux-trusted"));
        assert_eq!(revoked, Path::new("/k/archlinux-revoked"));
    }
}
