//! passwd and group files that name the caller (passwd(5), group(5)).

use std::path::Path;

use crate::{HostFacts, IdMap, PlanError, RootTree, TreeError, UserSpec};

/// More than any site's accounts files hold inside an image.
const LIMIT: usize = 1 << 20;

/// The image's accounts.
pub(crate) struct Accounts {
    passwd: Vec<u8>,
    group: Vec<u8>,
}

impl Accounts {
    pub(crate) fn read(tree: &dyn RootTree) -> Result<Self, TreeError> {
        let file = |path: &str| -> Result<Vec<u8>, TreeError> {
            let (path, entry) = crate::resolve(tree, Path::new(path))?;
            match entry {
                Some(_) => Ok(tree.read(&path, LIMIT)?.unwrap_or_default()),
                None => Ok(Vec::new()),
            }
        };
        Ok(Self { passwd: file("/etc/passwd")?, group: file("/etc/group")? })
    }

    /// uid and gid of a user specification; a bare number that the image does
    /// not know has group 0, as in Docker.
    pub(crate) fn ids(&self, spec: &UserSpec) -> Result<(u32, u32), PlanError> {
        let (uid, default_gid) = match spec.user.parse::<u32>() {
            Ok(uid) => {
                let id = uid.to_string();
                let gid = self.user(|f| f[2] == id.as_bytes()).and_then(|f| number(f[3]));
                (uid, gid.unwrap_or(0))
            }
            Err(_) => {
                let unknown = || PlanError::UnknownUser(spec.user.clone());
                let f = self.user(|f| f[0] == spec.user.as_bytes()).ok_or_else(unknown)?;
                (number(f[2]).ok_or_else(unknown)?, number(f[3]).ok_or_else(unknown)?)
            }
        };
        let gid = match &spec.group {
            None => default_gid,
            Some(group) => match group.parse::<u32>() {
                Ok(gid) => gid,
                Err(_) => self.gid(group).ok_or_else(|| PlanError::UnknownGroup(group.clone()))?,
            },
        };
        Ok((uid, gid))
    }

    /// The home directory that the image gives a user.
    pub(crate) fn home(&self, uid: u32) -> Option<String> {
        let id = uid.to_string();
        let fields = self.user(|f| f[2] == id.as_bytes())?;
        let home = std::str::from_utf8(fields[5]).ok()?;
        home.starts_with('/').then(|| home.to_owned())
    }

    fn user<'a>(&'a self, wanted: impl Fn(&[&'a [u8]]) -> bool) -> Option<Vec<&'a [u8]>> {
        lines(&self.passwd).map(fields).find(|f| f.len() >= 7 && wanted(f))
    }

    fn gid(&self, name: &str) -> Option<u32> {
        let f = lines(&self.group).map(fields).find(|f| f.len() >= 3 && f[0] == name.as_bytes())?;
        number(f[2])
    }

    /// The image's passwd with the caller's line in front, so that the
    /// caller's name is found first for the id; lines of the same name go.
    pub(crate) fn passwd_for(
        &self,
        host: &HostFacts,
        ids: IdMap,
        home: &Path,
        shell: &Path,
    ) -> Vec<u8> {
        let known = self.user(|f| number(f[2]) == Some(ids.uid)).map(|f| f[0].to_vec());
        let is_caller = ids.uid == ids.host_uid;
        let name = match known {
            Some(name) if !is_caller => name,
            _ => clean(&host.user.name, &format!("u{}", ids.uid)).into_bytes(),
        };
        let mut out = name.clone();
        let gecos = if is_caller { clean(&host.gecos, "") } else { String::new() };
        out.extend(format!(":x:{}:{}:{gecos}:", ids.uid, ids.gid).bytes());
        out.extend(clean(&home.to_string_lossy(), "/").bytes());
        out.push(b':');
        out.extend(clean(&shell.to_string_lossy(), "/bin/sh").bytes());
        out.push(b'\n');
        without(&self.passwd, &name, &mut out);
        out
    }

    /// The image's group with the caller's group in front.
    pub(crate) fn group_for(&self, host: &HostFacts, ids: IdMap) -> Vec<u8> {
        let known =
            lines(&self.group).map(fields).find(|f| f.len() >= 3 && number(f[2]) == Some(ids.gid));
        if ids.gid != ids.host_gid && known.is_some() {
            return self.group.clone();
        }
        let own = host.groups.first().map_or("", |g| g.name.as_str());
        let name = clean(own, &format!("g{}", ids.gid));
        let mut out = format!("{name}:x:{}:\n", ids.gid).into_bytes();
        without(&self.group, name.as_bytes(), &mut out);
        out
    }
}

/// Text that is safe as one field; the default when nothing is left.
fn clean(text: &str, default: &str) -> String {
    let safe: String = text.chars().filter(|c| !c.is_control() && *c != ':').collect();
    if safe.is_empty() { default.to_owned() } else { safe }
}

fn without(file: &[u8], name: &[u8], out: &mut Vec<u8>) {
    for line in lines(file).filter(|line| fields(line)[0] != name) {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|b| *b == b'\n').filter(|line| !line.is_empty())
}

fn fields(line: &[u8]) -> Vec<&[u8]> {
    line.split(|b| *b == b':').collect()
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NamedUser;
    use crate::tree::fake::FakeTree;

    fn accounts() -> Accounts {
        Accounts::read(&FakeTree::new(&[
            "/etc/",
            "/etc/passwd=root:x:0:0:root:/root:/bin/bash\nubuntu:x:1000:1000::/home/ubuntu:/bin/sh\n",
            "/etc/group=root:x:0:\nadm:x:4:\n",
        ]))
        .unwrap()
    }

    #[test]
    fn users_and_groups_resolve_in_the_image() {
        let ids = |s: &str| accounts().ids(&s.parse().unwrap());
        assert_eq!(ids("ubuntu").unwrap(), (1000, 1000));
        assert_eq!(ids("ubuntu:adm").unwrap(), (1000, 4));
        assert_eq!(ids("7").unwrap(), (7, 0));
        assert!(matches!(ids("nobody"), Err(PlanError::UnknownUser(_))));
        assert!(matches!(ids("0:none"), Err(PlanError::UnknownGroup(_))));
        assert_eq!(accounts().home(1000).as_deref(), Some("/home/ubuntu"));
    }

    #[test]
    fn the_caller_is_named_first() {
        let host = HostFacts {
            user: NamedUser { id: 1000, name: "alice".into() },
            groups: vec![NamedUser { id: 1000, name: "users".into() }],
            gecos: "Alice: the\nfirst".into(),
            ..HostFacts::default()
        };
        let ids = IdMap { uid: 1000, gid: 1000, host_uid: 1000, host_gid: 1000 };
        let passwd = accounts().passwd_for(&host, ids, "/home/alice".as_ref(), "/bin/sh".as_ref());
        let text = String::from_utf8(passwd).unwrap();
        assert_eq!(
            text.lines().next(),
            Some("alice:x:1000:1000:Alice thefirst:/home/alice:/bin/sh")
        );
        assert_eq!(text.lines().count(), 3);
        let group = String::from_utf8(accounts().group_for(&host, ids)).unwrap();
        assert!(group.starts_with("users:x:1000:\n"));
    }

    #[test]
    fn root_keeps_the_images_name() {
        let ids = IdMap { uid: 0, gid: 0, host_uid: 1000, host_gid: 1000 };
        let passwd =
            accounts().passwd_for(&HostFacts::default(), ids, "/h".as_ref(), "/bin/sh".as_ref());
        let text = String::from_utf8(passwd).unwrap();
        assert!(text.starts_with("root:x:0:0::/h:/bin/sh\n"), "{text}");
        assert_eq!(text.matches("root:").count(), 1);
    }
}
