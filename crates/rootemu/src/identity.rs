//! Who each process believes to be.
//!
//! All begin as root. What a process changes, its children inherit; as in the
//! kernel, who is no longer root may only take ids that it still has
//! (credentials(7)): apt checks that it cannot become root again.

use std::collections::HashMap;
use std::io;

const KEEP: u32 = u32::MAX;
const EPERM: i32 = 1;

/// Real, effective and saved id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) real: u32,
    pub(crate) effective: u32,
    pub(crate) saved: u32,
}

impl Ids {
    fn has(self, id: u32) -> bool {
        id == KEEP || [self.real, self.effective, self.saved].contains(&id)
    }

    fn all(id: u32) -> Self {
        Self { real: id, effective: id, saved: id }
    }
}

/// What a process has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: Ids,
    pub(crate) group: Ids,
    /// None while nothing was set.
    pub(crate) groups: Option<Vec<u32>>,
    /// The program whose capabilities outlive setuid(2): device and inode. setpriv(1)
    /// becomes the user first and then the group. No other program has them.
    keeps: Option<(u64, u64)>,
}

/// Which of the two kinds of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    User,
    Group,
}

impl Identity {
    pub(crate) fn of(&mut self, which: Which) -> &mut Ids {
        match which {
            Which::User => &mut self.user,
            Which::Group => &mut self.group,
        }
    }

    fn root(&self) -> bool {
        self.user.effective == 0
    }

    /// Whether it may have any group.
    fn may(&self, which: Which) -> bool {
        self.root() || which == Which::Group && self.keeps.is_some()
    }

    /// Whether everything that it makes is root's.
    pub(crate) fn is_root(&self) -> bool {
        (self.user.effective, self.group.effective) == (0, 0)
    }

    /// setuid(2) and setgid(2).
    pub(crate) fn set(&mut self, which: Which, id: u32) -> Result<(), i32> {
        let root = self.may(which);
        let ids = self.of(which);
        if root {
            *ids = Ids::all(id);
        } else if ids.has(id) {
            ids.effective = id;
        } else {
            return Err(EPERM);
        }
        Ok(())
    }

    /// setreuid(2): the saved id follows when the real one is set, or the
    /// effective one to something else than the real one.
    pub(crate) fn set_two(&mut self, which: Which, real: u32, effective: u32) -> Result<(), i32> {
        let root = self.may(which);
        let ids = self.of(which);
        let old = ids.real;
        if !(root || ids.has(real) && ids.has(effective)) {
            return Err(EPERM);
        }
        if real != KEEP {
            ids.real = real;
        }
        if effective != KEEP {
            ids.effective = effective;
        }
        if real != KEEP || (effective != KEEP && effective != old) {
            ids.saved = ids.effective;
        }
        Ok(())
    }

    /// setresuid(2).
    pub(crate) fn set_three(&mut self, which: Which, new: [u32; 3]) -> Result<(), i32> {
        let root = self.may(which);
        let ids = self.of(which);
        if !root && !new.iter().all(|id| ids.has(*id)) {
            return Err(EPERM);
        }
        for (old, new) in [&mut ids.real, &mut ids.effective, &mut ids.saved].into_iter().zip(new) {
            if new != KEEP {
                *old = new;
            }
        }
        Ok(())
    }

    /// setgroups(2).
    pub(crate) fn set_groups(&mut self, mut groups: Vec<u32>) -> Result<(), i32> {
        if !self.may(Which::Group) {
            return Err(EPERM);
        }
        // As the kernel keeps them.
        groups.sort_unstable();
        self.groups = Some(groups);
        Ok(())
    }
}

/// The processes that are no longer plain root, and their children. A number
/// may be given to another process, so the time of its start belongs to it.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    known: HashMap<u32, (u64, Identity)>,
    /// How many of them are somebody else than root.
    others: usize,
    /// Questions since the dead were looked for.
    asked: u32,
}

/// What proc_pid_stat(5) says of a thread.
struct Process {
    parent: u32,
    group: u32,
    started: u64,
}

/// After so many questions, dead processes are forgotten: most builds have somebody
/// else for a short time only, and nobody else costs nothing.
const PATIENCE: u32 = 1024;

impl Process {
    /// When a thread started, and its parent.
    fn stat(pid: u32) -> io::Result<(u64, u64)> {
        let mut buffer = [0; 1024];
        let mut file = std::fs::File::open(format!("/proc/{pid}/stat"))?;
        // The kernel gives all of it at once.
        let got = std::io::Read::read(&mut file, &mut buffer)?;
        let text = String::from_utf8_lossy(&buffer[..got]);
        // The name in parentheses may hold anything.
        let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        let field = |index: usize| rest.split_whitespace().nth(index)?.parse::<u64>().ok();
        Ok(field(1).zip(field(19)).ok_or(io::ErrorKind::InvalidData)?)
    }

    fn started(pid: u32) -> io::Result<u64> {
        Self::stat(pid).map(|(_, started)| started)
    }

    fn of(pid: u32) -> io::Result<Self> {
        let (parent, started) = Self::stat(pid)?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
        let group = group.and_then(|text| text.trim().parse().ok()).unwrap_or(pid);
        Ok(Self { parent: parent as u32, group, started })
    }
}

/// Device and inode of what a thread executes.
fn program(pid: u32) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// The process that a thread belongs to.
///
/// # Errors
/// When it has gone.
pub(crate) fn leader(pid: u32) -> io::Result<u32> {
    Process::of(pid).map(|process| process.group)
}

impl Identities {
    /// Who a thread is.
    pub(crate) fn get(&mut self, pid: u32) -> Identity {
        if self.others == 0 {
            return Identity::default();
        }
        self.asked += 1;
        if self.asked > PATIENCE {
            self.asked = 0;
            self.known.retain(|pid, (started, _)| {
                Process::started(*pid).is_ok_and(|now| now == *started)
            });
            self.count();
        }
        self.find(pid, 0)
    }

    fn count(&mut self) {
        let root = Identity::default();
        self.others = self.known.values().filter(|(_, identity)| *identity != root).count();
    }

    /// Its own, its process's, or that of the nearest ancestor that has one.
    /// What was found is kept: looking up costs more than a call.
    fn find(&mut self, pid: u32, depth: u32) -> Identity {
        // Deeper than any tree of processes in a build.
        if pid == 0 || depth > 256 {
            return Identity::default();
        }
        let Ok(started) = Process::started(pid) else { return Identity::default() };
        if let Some((known, identity)) = self.known.get(&pid)
            && *known == started
        {
            return identity.clone();
        }
        let Ok(process) = Process::of(pid) else { return Identity::default() };
        let above = if process.group == pid { process.parent } else { process.group };
        let identity = self.find(above, depth + 1);
        self.known.insert(pid, (started, identity.clone()));
        identity
    }

    /// Notes whether its capabilities outlive setuid(2) (PR_SET_KEEPCAPS).
    pub(crate) fn keep_capabilities(&mut self, pid: u32, keep: bool) {
        let program = program(pid).filter(|_| keep);
        // A caller that has gone needs none.
        let _ = self.change(pid, |identity| {
            identity.keeps = program;
            Ok(())
        });
    }

    /// Changes who a thread is.
    pub(crate) fn change(
        &mut self,
        pid: u32,
        change: impl FnOnce(&mut Identity) -> Result<(), i32>,
    ) -> Result<(), i32> {
        let mut identity = self.get(pid);
        let before = identity.clone();
        if identity.keeps.is_some() && identity.keeps != program(pid) {
            identity.keeps = None;
        }
        change(&mut identity)?;
        if identity != before
            && let Ok(process) = Process::of(pid)
        {
            self.known.insert(pid, (process.started, identity));
            self.count();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_given_root_up_does_not_get_it_back() {
        let mut me = Identity::default();
        me.set_groups(vec![65534]).unwrap();
        me.set_three(Which::Group, [100; 3]).unwrap();
        me.set_three(Which::User, [42; 3]).unwrap();
        assert_eq!(me.set(Which::User, 0), Err(EPERM));
        assert_eq!(me.set(Which::Group, 0), Err(EPERM));
        assert_eq!(me.set_two(Which::User, KEEP, 0), Err(EPERM));
        assert_eq!(me.set_groups(Vec::new()), Err(EPERM));
        assert_eq!((me.user, me.group), (Ids::all(42), Ids::all(100)));
    }

    #[test]
    fn a_saved_id_leads_back() {
        let mut me = Identity::default();
        me.set_three(Which::User, [KEEP, 42, KEEP]).unwrap();
        assert_eq!(me.user, Ids { real: 0, effective: 42, saved: 0 });
        me.set_two(Which::User, KEEP, 0).unwrap();
        assert_eq!(me.user, Ids::default());
        me.set_two(Which::User, 7, 8).unwrap();
        assert_eq!(me.user, Ids { real: 7, effective: 8, saved: 8 });
    }

    #[test]
    fn capabilities_that_are_kept_are_good_for_groups() {
        let mut all = Identities::default();
        let me = std::process::id();
        all.change(me, |id| id.set(Which::User, 42)).unwrap();
        assert_eq!(all.change(me, |id| id.set(Which::Group, 43)), Err(EPERM));
        let mut all = Identities::default();
        all.keep_capabilities(me, true);
        all.change(me, |id| id.set(Which::User, 42)).unwrap();
        all.change(me, |id| id.set_three(Which::Group, [43; 3])).unwrap();
        all.change(me, |id| id.set_groups(vec![4])).unwrap();
        assert_eq!(all.change(me, |id| id.set(Which::User, 0)), Err(EPERM));
        // Another program has none of them.
        let mut child = std::process::Command::new("sleep").arg("10").spawn().unwrap();
        while program(child.id()) == program(me) {
            std::thread::yield_now();
        }
        assert_eq!(all.get(child.id()).group, Ids::all(43));
        assert_eq!(all.change(child.id(), |id| id.set(Which::Group, 0)), Err(EPERM));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn threads_and_children_inherit() {
        let mut all = Identities::default();
        let me = std::process::id();
        assert_eq!(all.get(me), Identity::default());
        all.change(me, |id| id.set(Which::User, 42)).unwrap();
        let mut child = std::process::Command::new("sleep").arg("10").spawn().unwrap();
        assert_eq!(all.get(child.id()).user, Ids::all(42));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(all.get(1).user, Ids::default());
    }
}
