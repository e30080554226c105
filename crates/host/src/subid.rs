//! The caller's subordinate ids (subuid(5), subgid(5)), and who may map them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use plan::{HostFacts, IdRange, NamedUser, SubIds};

/// A line for each of many users.
const LIMIT: u64 = 64 << 20;
/// Most ranges of a map (user_namespaces(7)).
const MOST: usize = 340;
/// Where helpers are beside PATH, which may lack the directories of programs
/// that belong to root.
const DIRS: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin"];

/// Why there are no subordinate ids.
#[derive(Debug, thiserror::Error)]
pub enum SubIdError {
    /// The file has no range for the caller.
    #[error("{file:?} gives {name} (user id {id}) no range of subordinate ids")]
    NoRange {
        /// `/etc/subuid` or `/etc/subgid`.
        file: PathBuf,
        /// The caller's name.
        name: String,
        /// The caller's number.
        id: u32,
    },
    /// The file cannot be read.
    #[error("cannot read {file:?}, which gives subordinate ids")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program that maps them is not installed.
    #[error("{0} is not installed, and only it may map subordinate ids")]
    NoHelper(&'static str),
}

impl SubIdError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoHelper(_) => {
                "ask the administrator for it (package uidmap on Debian, shadow-utils elsewhere); \
                 --root-emulation=consistent needs neither it nor ranges"
            }
            _ => {
                "ask the administrator for a range: usermod --add-subuids 100000-165535 \
                 --add-subgids 100000-165535 USER; --root-emulation=consistent needs none"
            }
        }
    }
}

/// The ids that the caller's container may have.
///
/// # Errors
/// When there is no range, or nobody to map it.
pub fn find(facts: &HostFacts) -> Result<SubIds, SubIdError> {
    let ranges = |file: &str, flag| {
        let file = Path::new(file);
        let text = match crate::bounded(file, LIMIT) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(source) if source.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(SubIdError::Read { file: file.to_owned(), source }),
        };
        let NamedUser { name, id } = &facts.user;
        let mut found = parse(&text, &facts.user);
        if found.is_empty() {
            // A directory service may know more (nsswitch.conf(5), subid).
            found = parse_listing(&getsubids(flag, name));
        }
        let none = || SubIdError::NoRange { file: file.to_owned(), name: name.clone(), id: *id };
        if found.is_empty() { Err(none()) } else { Ok(found) }
    };
    let (users, groups) = (ranges("/etc/subuid", None)?, ranges("/etc/subgid", Some("-g"))?);
    let own_group = facts.groups.first().map_or(facts.user.id, |group| group.id);
    Ok(SubIds {
        uids: layout(facts.user.id, &users),
        gids: layout(own_group, &groups),
        newuidmap: helper("newuidmap")?,
        newgidmap: helper("newgidmap")?,
    })
}

fn helper(name: &'static str) -> Result<PathBuf, SubIdError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(DIRS.map(PathBuf::from));
    let mut files = dirs.filter(|dir| dir.is_absolute()).map(|dir| dir.join(name));
    files.find(|file| file.is_file()).ok_or(SubIdError::NoHelper(name))
}

/// Why a program that maps ids may not do so: it needs to be root's by its setuid bit or a
/// capability (capabilities(7)), on a file system that honours them. None where it may.
#[must_use]
pub fn lacks_privilege(helper: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    // linux/capability.h; newgidmap(1) has the one for groups.
    let setid: u32 = if helper.ends_with("newgidmap") { 1 << 6 } else { 1 << 7 };
    let said = |reason: &str| Some(format!("{} {reason}", helper.display()));
    let Ok(meta) = std::fs::metadata(helper) else { return said("cannot be read") };
    let mut value = [0; 24];
    let got = rustix::fs::getxattr(helper, "security.capability", &mut value[..]).unwrap_or(0);
    // vfs_cap_data: a word of revision and flags, then the low half of what is permitted.
    let permitted = match value[..got] {
        [_, _, _, _, a, b, c, d, ..] => u32::from_le_bytes([a, b, c, d]),
        _ => 0,
    };
    let setuid = meta.uid() == 0 && meta.mode() & 0o4000 != 0;
    if !setuid && permitted & setid == 0 {
        return said("is neither setuid root nor has it the capability to map ids");
    }
    let nosuid = rustix::fs::statvfs(helper)
        .is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID));
    if nosuid { said("is on a file system that is mounted nosuid") } else { None }
}

fn getsubids(flag: Option<&str>, user: &str) -> String {
    let mut command = Command::new("getsubids");
    let output = command.args(flag).arg(user).stdin(Stdio::null()).stderr(Stdio::null()).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
}

/// First id and count of a user's lines, `USER:FIRST:COUNT`, the user by name
/// or number. As newuidmap(1) does, other lines are passed over.
fn parse(text: &str, user: &NamedUser) -> Vec<(u32, u32)> {
    let id = user.id.to_string();
    let fields = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let range = |fields: Vec<&str>| match fields[..] {
        [who, first, count] if who == user.name || who == id => {
            first.trim().parse().ok().zip(count.trim().parse().ok())
        }
        _ => None,
    };
    fields.filter_map(range).collect()
}

/// The same of what getsubids(1) prints: `0: USER FIRST COUNT`.
fn parse_listing(text: &str) -> Vec<(u32, u32)> {
    let range = |line: &str| {
        let mut words = line.split_whitespace().skip(2);
        words.next()?.parse().ok().zip(words.next()?.parse().ok())
    };
    text.lines().filter_map(range).collect()
}

/// Root is the caller, and the ranges follow in their order. What a range has
/// in common with one before it, or with the caller, is left out: the kernel
/// maps no id twice.
fn layout(own: u32, ranges: &[(u32, u32)]) -> Vec<IdRange> {
    let mut all = vec![IdRange { inside: 0, host: own, count: 1 }];
    let mut inside = 1_u32;
    for (first, count) in ranges {
        let end = u64::from(*first) + u64::from(*count);
        // The last id means none (chown(2)).
        let end = end.min(u64::from(u32::MAX)) as u32;
        let mut at = *first;
        while at < end {
            let within = |r: &&IdRange| r.host <= at && at - r.host < r.count;
            if let Some(taken) = all.iter().find(within) {
                at = taken.host.saturating_add(taken.count);
                continue;
            }
            let next = all.iter().map(|range| range.host).filter(|host| *host > at).min();
            let count = (next.unwrap_or(end).min(end) - at).min(u32::MAX - inside);
            if count == 0 || all.len() == MOST {
                return all;
            }
            all.push(IdRange { inside, host: at, count });
            inside += count;
            at += count;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> NamedUser {
        NamedUser { id: 1000, name: "ann".into() }
    }

    #[test]
    fn lines_are_found_by_name_and_number() {
        let text = "bob:1:2\nann:100000:65536\n# ann:1:1\n1000:300000:10\nann:x:1\nann:1\nann:1:2:3\n\
                    annette:5:5\nann:99999999999:1\n";
        assert_eq!(parse(text, &ann()), [(100_000, 65_536), (300_000, 10)]);
        let listing = "0: ann 100000 65536\n1: ann 300000 10\nError fetching ranges\n";
        assert_eq!(parse_listing(listing), [(100_000, 65_536), (300_000, 10)]);
    }

    #[test]
    fn no_id_is_mapped_twice() {
        let range = |inside, host, count| IdRange { inside, host, count };
        let own = range(0, 1000, 1);
        assert_eq!(layout(1000, &[(100, 5), (200, 5)]), [own, range(1, 100, 5), range(6, 200, 5)]);
        // The caller's own id in the middle, a range inside another, one that overlaps.
        let some = layout(1000, &[(998, 5), (999, 1), (1001, 4), (7, 0)]);
        let expected = [own, range(1, 998, 2), range(3, 1001, 2), range(5, 1003, 2)];
        assert_eq!(some, expected);
        // More than there are.
        let all = layout(0, &[(1, u32::MAX), (1, u32::MAX)]);
        assert_eq!(all, [range(0, 0, 1), range(1, 1, u32::MAX - 1)]);
        let many: Vec<_> = (0..1000).map(|n| (n * 10 + 5000, 1)).collect();
        assert_eq!(layout(0, &many).len(), MOST);
    }
}
