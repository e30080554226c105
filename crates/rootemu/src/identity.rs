//! Who each process believes to be.
//!
//! All begin as root. What a process changes, its children inherit; as in the
//! kernel, who is no longer root may only take ids that it still has
//! (credentials(7)): apt checks that it cannot become root again.
//!
//! Each identity has a number, which the process carries in a place that fork(2) and
//! execve(2) hand on like its ids: the resource limit RLIMIT_LOCKS, which no kernel
//! since 2.4.25 enforces (getrlimit(2)), lies below its maximum by that number. So
//! nobody has to be told of new processes, and a daemon whose parent has ended is
//! still who it was. The filter lets nobody else set that limit.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;

const KEEP: u32 = u32::MAX;
const EPERM: i32 = 1;
const EAGAIN: i32 = 11;
const EINVAL: i32 = 22;
/// So many identities in one container, and so many groups in all of them: their
/// lists are the processes' own.
const MOST: usize = 1 << 16;
const MOST_GROUPS: usize = 1 << 22;

/// Real, effective and saved id, and that for files (setfsuid(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Ids {
    pub(crate) real: u32,
    pub(crate) effective: u32,
    pub(crate) saved: u32,
    pub(crate) files: u32,
}

impl Ids {
    fn has(self, id: u32) -> bool {
        id == KEEP || [self.real, self.effective, self.saved].contains(&id)
    }

    fn all(id: u32) -> Self {
        Self { real: id, effective: id, saved: id, files: id }
    }

    fn act_as(&mut self, id: u32) {
        (self.effective, self.files) = (id, id);
    }
}

/// What a process has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) user: Ids,
    pub(crate) group: Ids,
    /// None while nothing was set.
    pub(crate) groups: Option<Rc<[u32]>>,
    /// Whether its capabilities outlive setuid(2): setpriv(1) becomes the user first
    /// and then the group. The next program has none of them.
    keeps: bool,
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
        self.root() || which == Which::Group && self.keeps
    }

    /// Whether everything that it makes is root's.
    pub(crate) fn is_root(&self) -> bool {
        (self.user.files, self.group.files) == (0, 0)
    }

    /// Whether it is of a group, or does not have to be.
    pub(crate) fn is_in(&self, group: u32) -> bool {
        self.owns_all()
            || self.group.files == group
            || self.groups.as_ref().is_some_and(|groups| groups.contains(&group))
    }

    /// Whether it has CAP_CHOWN, which goes with either id (capabilities(7)).
    fn owns_all(&self) -> bool {
        self.root() && self.user.files == 0
    }

    /// Whether it may give a file to an owner (chown(2)).
    pub(crate) fn may_give(&self, of: (u32, u32), to: (u32, u32)) -> bool {
        let own = self.user.files == of.0;
        let user = to.0 == KEEP || own && to.0 == of.0;
        let group = to.1 == KEEP || own && (to.1 == of.1 || self.is_in(to.1));
        self.owns_all() || user && group
    }

    /// setuid(2) and setgid(2).
    pub(crate) fn set(&mut self, which: Which, id: u32) -> Result<(), i32> {
        if id == KEEP {
            return Err(EINVAL);
        }
        let root = self.may(which);
        let ids = self.of(which);
        if root {
            *ids = Ids::all(id);
        } else if [ids.real, ids.saved].contains(&id) {
            ids.act_as(id);
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
        let may_real = [KEEP, ids.real, ids.effective].contains(&real);
        if !(root || may_real && ids.has(effective)) {
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
        ids.files = ids.effective;
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
        ids.files = ids.effective;
        Ok(())
    }

    /// setfsuid(2) and setfsgid(2), which tell of no failure.
    pub(crate) fn set_files(&mut self, which: Which, id: u32) {
        let root = self.may(which);
        let ids = self.of(which);
        if id != KEEP && (root || ids.has(id)) {
            ids.files = id;
        }
    }

    /// setgroups(2).
    pub(crate) fn set_groups(&mut self, mut groups: Vec<u32>) -> Result<(), i32> {
        if !self.may(Which::Group) {
            return Err(EPERM);
        }
        // As the kernel keeps them.
        groups.sort_unstable();
        self.groups = Some(groups.into());
        Ok(())
    }

    /// PR_SET_KEEPCAPS of prctl(2).
    pub(crate) fn keep_capabilities(&mut self, keep: bool) {
        self.keeps = keep;
    }

    /// execve(2) of a program that gives these ids.
    pub(crate) fn execute(&mut self, user: Option<u32>, group: Option<u32>) {
        self.keeps = false;
        for (ids, given) in [(&mut self.user, user), (&mut self.group, group)] {
            let id = given.unwrap_or(ids.effective);
            ids.act_as(id);
            ids.saved = id;
        }
    }
}

/// The identities of a container by their numbers; the first is root.
#[derive(Debug)]
pub(crate) struct Identities {
    all: Vec<Identity>,
    numbers: HashMap<Identity, u64>,
    /// Groups in all of them.
    groups: usize,
}

impl Default for Identities {
    fn default() -> Self {
        let root = Identity::default();
        Self { all: vec![root.clone()], numbers: HashMap::from([(root, 0)]), groups: 0 }
    }
}

/// The number that a process carries.
fn number(pid: u32) -> io::Result<u64> {
    sys::process::lock_limit(pid).map(|limit| limit.maximum - limit.current.min(limit.maximum))
}

/// Makes this process root. What the limit was before says nothing.
///
/// # Errors
/// As prlimit(2).
pub fn begin() -> io::Result<()> {
    let me = std::process::id();
    let limit = sys::process::lock_limit(me)?;
    sys::process::set_lock_limit(me, sys::process::Limit { current: limit.maximum, ..limit })
}

impl Identities {
    /// Whether nobody was ever anything but root.
    pub(crate) fn only_root(&self) -> bool {
        self.all.len() == 1
    }

    /// Who a process is.
    pub(crate) fn get(&self, pid: u32) -> Identity {
        if self.only_root() {
            return Identity::default();
        }
        // One that has gone needs no answer.
        let number = number(pid).ok().and_then(|number| usize::try_from(number).ok());
        number.and_then(|number| self.all.get(number)).cloned().unwrap_or_default()
    }

    /// Changes who a process is.
    pub(crate) fn change(
        &mut self,
        pid: u32,
        change: impl FnOnce(&mut Identity) -> Result<(), i32>,
    ) -> Result<(), i32> {
        let before = self.get(pid);
        let mut identity = before.clone();
        change(&mut identity)?;
        if identity == before {
            return Ok(());
        }
        let number = self.number_of(identity).ok_or(EAGAIN)?;
        let marked = sys::process::lock_limit(pid).and_then(|limit| {
            let current = limit.maximum.checked_sub(number).ok_or(io::ErrorKind::InvalidInput)?;
            sys::process::set_lock_limit(pid, sys::process::Limit { current, ..limit })
        });
        // A process that has gone hears nothing of it. One whose site has set a maximum
        // too low is told what setuid(2) says where there is no room.
        marked.map_err(|_| EAGAIN)
    }

    /// The number of an identity, a new one if need be; None where there are too many.
    fn number_of(&mut self, identity: Identity) -> Option<u64> {
        if let Some(number) = self.numbers.get(&identity) {
            return Some(*number);
        }
        let groups = self.groups + identity.groups.as_ref().map_or(0, |groups| groups.len());
        if self.all.len() >= MOST || groups > MOST_GROUPS {
            return None;
        }
        self.groups = groups;
        let number = self.all.len() as u64;
        self.all.push(identity.clone());
        self.numbers.insert(identity, number);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn who_has_given_root_up_does_not_get_it_back() {
        let mut me = Identity::default();
        me.set_groups(vec![65534]).unwrap();
        me.set_three(Which::Group, [100; 3]).unwrap();
        me.set_three(Which::User, [42; 3]).unwrap();
        assert_eq!(me.set(Which::User, 0), Err(EPERM));
        assert_eq!(me.set(Which::Group, 0), Err(EPERM));
        assert_eq!(me.set(Which::User, KEEP), Err(EINVAL));
        assert_eq!(me.set_two(Which::User, KEEP, 0), Err(EPERM));
        assert_eq!(me.set_groups(Vec::new()), Err(EPERM));
        me.set_files(Which::User, 0);
        assert_eq!((me.user, me.group), (Ids::all(42), Ids::all(100)));
    }

    #[test]
    fn a_saved_id_leads_back() {
        let mut me = Identity::default();
        me.set_three(Which::User, [KEEP, 42, KEEP]).unwrap();
        assert_eq!(me.user, Ids { real: 0, effective: 42, saved: 0, files: 42 });
        me.set_two(Which::User, KEEP, 0).unwrap();
        assert_eq!(me.user, Ids::default());
        me.set_two(Which::User, 7, 8).unwrap();
        assert_eq!(me.user, Ids { real: 7, effective: 8, saved: 8, files: 8 });
    }

    #[test]
    fn files_are_made_as_another_for_a_time() {
        let mut me = Identity::default();
        me.set_files(Which::Group, 9);
        me.set_files(Which::User, 42);
        assert_eq!(me.user, Ids { files: 42, ..Ids::default() });
        assert!(!me.is_root() && !me.may_give((0, 0), (1, 1)));
        me.set_files(Which::User, KEEP);
        me.set_files(Which::User, 0);
        me.set_files(Which::Group, 0);
        assert!(me.is_root());
        // Whoever takes another effective id makes files with it again.
        me.set_files(Which::User, 5);
        me.set_three(Which::User, [KEEP, 0, KEEP]).unwrap();
        assert_eq!(me, Identity::default());
    }

    #[test]
    fn files_are_given_away_by_root_and_to_own_groups() {
        let root = Identity::default();
        assert!(root.may_give((5, 6), (7, 8)));
        let mut me = Identity::default();
        me.set_groups(vec![9, 4]).unwrap();
        me.set(Which::Group, 8).unwrap();
        me.set(Which::User, 7).unwrap();
        for (of, to, may) in [
            ((7, 8), (KEEP, 9), true),
            ((7, 3), (7, 8), true),
            ((7, 3), (7, 3), true),
            ((7, 8), (KEEP, 5), false),
            ((7, 8), (0, KEEP), false),
            ((0, 8), (7, KEEP), false),
            ((0, 0), (KEEP, 8), false),
            ((0, 0), (0, KEEP), false),
            ((0, 0), (KEEP, KEEP), true),
        ] {
            assert_eq!(me.may_give(of, to), may, "{of:?} {to:?}");
        }
    }

    #[test]
    fn programs_give_ids_and_take_capabilities() {
        let mut me = Identity::default();
        me.keep_capabilities(true);
        me.set(Which::User, 42).unwrap();
        me.set_three(Which::Group, [43; 3]).unwrap();
        me.set_groups(vec![4]).unwrap();
        assert_eq!(me.set(Which::User, 0), Err(EPERM));
        me.execute(None, None);
        assert_eq!(me.set(Which::Group, 0), Err(EPERM));
        me.execute(Some(0), Some(5));
        assert_eq!(me.user, Ids { real: 42, effective: 0, saved: 0, files: 0 });
        assert_eq!(me.group, Ids { real: 43, effective: 5, saved: 5, files: 5 });
        me.set(Which::User, 0).unwrap();
        assert_eq!(me.user, Ids::default());
    }

    /// A shell that does what it is told by lines.
    fn shell() -> Child {
        let mut command = Command::new("sh");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// A daemon's parent ends before anybody asks who it is.
    #[test]
    fn children_inherit_also_from_those_who_have_ended() {
        let mut all = Identities::default();
        let mut parent = shell();
        assert_eq!(all.get(parent.id()), Identity::default());
        all.change(parent.id(), |id| id.set(Which::User, 42)).unwrap();
        assert_eq!(all.change(parent.id(), |id| id.set(Which::User, 0)), Err(EPERM));
        let mut lines = BufReader::new(parent.stdout.take().unwrap());
        parent.stdin.take().unwrap().write_all(b"sleep 60 >/dev/null & echo $!\n").unwrap();
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        parent.wait().unwrap();
        let daemon: u32 = line.trim().parse().unwrap();
        assert_eq!(all.get(daemon).user, Ids::all(42));
        let daemon = rustix::process::Pid::from_raw(daemon.cast_signed()).unwrap();
        rustix::process::kill_process(daemon, rustix::process::Signal::KILL).unwrap();
        assert_eq!(all.get(std::process::id()), Identity::default());
    }

    #[test]
    fn there_are_so_many_identities_and_no_more() {
        let mut all = Identities::default();
        let mut one = shell();
        all.groups = MOST_GROUPS;
        assert_eq!(all.change(one.id(), |id| id.set_groups(vec![1])), Err(EAGAIN));
        all.change(one.id(), |id| id.set(Which::User, 1)).unwrap();
        assert_eq!(all.get(one.id()).user, Ids::all(1));
        one.kill().unwrap();
        one.wait().unwrap();
    }
}
