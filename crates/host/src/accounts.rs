//! Users and groups: the files, then `getent`, then the environment.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use plan::NamedUser;

/// A line of passwd(5).
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) user: NamedUser,
    pub(crate) gecos: String,
    pub(crate) home: Option<PathBuf>,
    pub(crate) shell: Option<PathBuf>,
}

pub(crate) fn user(uid: u32) -> Account {
    let file = std::fs::read("/etc/passwd").unwrap_or_default();
    passwd_line(&file, uid)
        .or_else(|| passwd_line(&getent("passwd", uid), uid))
        .unwrap_or_else(|| nameless(uid))
}

/// A user that no database knows, as batch systems sometimes make them.
fn nameless(uid: u32) -> Account {
    let name = ["USER", "LOGNAME"].iter().find_map(|n| std::env::var(n).ok());
    let name = name.filter(|n| !n.is_empty()).unwrap_or_else(|| format!("u{uid}"));
    Account { user: NamedUser { id: uid, name }, ..Account::default() }
}

pub(crate) fn group(gid: u32) -> NamedUser {
    let file = std::fs::read("/etc/group").unwrap_or_default();
    let name = group_line(&file, gid).or_else(|| group_line(&getent("group", gid), gid));
    NamedUser { id: gid, name: name.unwrap_or_else(|| format!("g{gid}")) }
}

fn getent(database: &str, id: u32) -> Vec<u8> {
    let output = Command::new("getent")
        .args([database, &id.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    output.map(|o| o.stdout).unwrap_or_default()
}

fn passwd_line(file: &[u8], uid: u32) -> Option<Account> {
    let text = String::from_utf8_lossy(file);
    let id = uid.to_string();
    let fields: Vec<&str> = text
        .lines()
        .map(|l| l.split(':').collect::<Vec<_>>())
        .find(|f| f.len() >= 7 && f[2] == id)?;
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    Some(Account {
        user: NamedUser { id: uid, name: fields[0].to_owned() },
        gecos: fields[4].to_owned(),
        home: path(fields[5]),
        shell: path(fields[6]),
    })
}

fn group_line(file: &[u8], gid: u32) -> Option<String> {
    let text = String::from_utf8_lossy(file);
    let id = gid.to_string();
    let line = text.lines().map(|l| l.split(':').collect::<Vec<_>>());
    line.into_iter().find(|f| f.len() >= 3 && f[2] == id).map(|f| f[0].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_number() {
        let file = b"root:x:0:0:root:/root:/bin/bash\nbad line\nann:x:12:7:Ann,,:/h/ann:/bin/zsh\n";
        let ann = passwd_line(file, 12).unwrap();
        assert_eq!((ann.user.name.as_str(), ann.gecos.as_str()), ("ann", "Ann,,"));
        assert_eq!(ann.home, Some("/h/ann".into()));
        assert_eq!(passwd_line(file, 13), None);
        assert_eq!(group_line(b"adm:x:4:ann\n", 4).as_deref(), Some("adm"));
        assert_eq!(group_line(b"adm:x:4:ann\n", 5), None);
    }
}
