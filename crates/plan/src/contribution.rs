//! What the image, the site, the host integrations and the user each add.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{MountFlags, MountSource, PlanError, SkeletonKind};

/// Who contributes. A higher rank wins over a lower one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Rank {
    /// The engine's own defaults.
    Default,
    /// The image.
    Image,
    /// The site's configuration.
    Site,
    /// A host integration: MPI, GPU, scheduler.
    Host,
    /// The user.
    User,
    /// What the site lets nobody leave out.
    Forced,
}

/// A mount that is contributed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// What.
    pub source: MountSource,
    /// Where in the container, absolute.
    pub target: PathBuf,
    /// How.
    pub flags: MountFlags,
    /// Pass over a source that cannot be bound.
    pub optional: bool,
}

/// A file, link or directory that is contributed, in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSpec {
    /// Path inside the container, absolute.
    pub path: PathBuf,
    /// What it is.
    pub kind: SkeletonKind,
    /// Permission bits.
    pub mode: u32,
}

/// What one party adds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contribution {
    /// Who.
    pub rank: Rank,
    /// Why, for `--explain` and for conflicts.
    pub reason: String,
    /// Mounts.
    pub mounts: Vec<MountSpec>,
    /// Variables; None unsets.
    pub env: Vec<(OsString, Option<OsString>)>,
    /// Files in memory, over those of the image.
    pub files: Vec<FileSpec>,
}

impl Contribution {
    /// Nothing yet.
    #[must_use]
    pub fn new(rank: Rank, reason: &str) -> Self {
        let reason = reason.to_owned();
        Self { rank, reason, mounts: Vec::new(), env: Vec::new(), files: Vec::new() }
    }
}

/// The sum of all contributions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Mounts by target, parents before children, each with rank and reason.
    pub mounts: BTreeMap<PathBuf, (MountSpec, Rank, String)>,
    /// Variables, each with rank and reason.
    pub env: BTreeMap<OsString, (Option<OsString>, Rank, String)>,
    /// Files by path, parents before children, each with rank and reason.
    pub files: BTreeMap<PathBuf, (FileSpec, Rank, String)>,
}

/// Adds contributions up: the higher rank wins, equal ones agree.
///
/// # Errors
/// When two of equal rank want different things for one target or variable.
pub fn merge(contributions: Vec<Contribution>) -> Result<Merged, PlanError> {
    let mut merged = Merged::default();
    for Contribution { rank, reason, mounts, env, files } in contributions {
        for mount in mounts {
            let key = mount.target.clone();
            let label = || mount.target.display().to_string();
            let old = merged.mounts.get(&key);
            if takes(old, &mount, rank, &reason, label)? {
                merged.mounts.insert(key, (mount, rank, reason.clone()));
            }
        }
        for file in files {
            let label = || file.path.display().to_string();
            if takes(merged.files.get(&file.path), &file, rank, &reason, label)? {
                merged.files.insert(file.path.clone(), (file, rank, reason.clone()));
            }
        }
        for (name, value) in env {
            let label = || name.to_string_lossy().into_owned();
            if takes(merged.env.get(&name), &value, rank, &reason, label)? {
                merged.env.insert(name, (value, rank, reason.clone()));
            }
        }
    }
    Ok(merged)
}

/// Whether `new` replaces `old`.
fn takes<T: PartialEq>(
    old: Option<&(T, Rank, String)>,
    new: &T,
    rank: Rank,
    reason: &str,
    label: impl Fn() -> String,
) -> Result<bool, PlanError> {
    match old {
        Some((_, other, _)) if *other > rank => Ok(false),
        Some((value, other, first)) if *other == rank => {
            if value == new {
                return Ok(false);
            }
            Err(PlanError::Conflict {
                target: label(),
                first: first.clone(),
                second: reason.to_owned(),
            })
        }
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(rank: Rank, source: &str, reason: &str) -> Contribution {
        let mount = MountSpec {
            source: MountSource::Directory(source.into()),
            target: "/data".into(),
            flags: MountFlags::default(),
            optional: false,
        };
        Contribution { mounts: vec![mount], ..Contribution::new(rank, reason) }
    }

    #[test]
    fn the_higher_rank_wins_in_any_order() {
        let site = bind(Rank::Site, "/a", "site");
        let user = bind(Rank::User, "/b", "user");
        for order in [vec![site.clone(), user.clone()], vec![user, site]] {
            let merged = merge(order).unwrap();
            assert_eq!(merged.mounts[&PathBuf::from("/data")].2, "user");
        }
    }

    #[test]
    fn equal_ranks_that_differ_name_both() {
        let error = merge(vec![bind(Rank::User, "/a", "-B /a"), bind(Rank::User, "/b", "-B /b")]);
        let text = error.unwrap_err().to_string();
        assert!(text.contains("-B /a") && text.contains("-B /b"), "{text}");
        let same = vec![bind(Rank::User, "/a", "x"), bind(Rank::User, "/a", "y")];
        assert!(merge(same).is_ok());
    }
}
