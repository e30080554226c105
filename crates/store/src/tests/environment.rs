//! Stores on file systems that are full, read only, or poor in features.

use super::*;

/// Runs in a mount namespace of its own, on a file system of 512 KiB.
pub(super) fn fill_the_disk(store: &Store) {
    put(store, 'b', &[NAME]);
    put(store, 'c', &[]);
    let mut ticket = begin(store, &id('a'));
    let (mut file, _) = ticket.create_file().unwrap();
    file.write_all(&vec![1; 64 << 10]).unwrap();
    let ballast = store.root().join("ballast");
    let mut big = File::create(&ballast).unwrap();
    while big.write(&[1; 4096]).is_ok() {}
    drop(big);
    let error = ticket.commit(record(&id('a'))).unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error:?}");
    assert!(store.image(&id('a')).unwrap().is_none());
    assert_eq!(names(&store.root().join("images")).len(), 4);
    assert!(names(&store.root().join("tmp")).is_empty());
    assert!(names(&store.root().join("locks")).is_empty());
    // What frees space needs none; the ballast grows into what the ticket freed.
    let mut big = File::options().append(true).open(&ballast).unwrap();
    while big.write(&[1; 4096]).is_ok() {}
    drop(big);
    store.remove(&RemoveTarget::Image(id('c')), false).unwrap();
    let all = PruneOptions { all: true, ..PruneOptions::default() };
    assert_eq!(store.prune(&all).unwrap().removed.len(), 2);
    let error = store.blob_put(&[7; 64 << 10]).unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error:?}");
    fs::remove_file(ballast).unwrap();
    put(store, 'a', &[NAME]);
    println!("client done");
}

/// Runs a client in a mount namespace in which `mount` has prepared the store,
/// whose root is its `$1`. Says so where the machine cannot do that.
fn in_mount_namespace(test: &str, what: &str, store: &Store, mount: &str) {
    let root = rustix::process::geteuid().is_root();
    let output = Command::new("unshare")
        .arg(if root { "-m" } else { "-Urm" })
        .args(["sh", "-c", &format!("set -e; {mount}; shift; exec \"$@\""), "sh"])
        .arg(store.root())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "tests::a_client_process", "--nocapture", "--test-threads=1"])
        .env(CHILD, what)
        .env(ROOT, store.root())
        .output();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output {
        Ok(output) if output.status.success() => {
            assert!(text(&output.stdout).contains("client done"));
        }
        Ok(output) if text(&output.stdout).contains("running 1 test") => {
            panic!("{}{}", text(&output.stdout), text(&output.stderr));
        }
        // A machine without user namespaces, file system or util-linux.
        other => eprintln!("SKIPPED {test}: {other:?}"),
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let (_dir, store) = new_store();
    fs::create_dir_all(store.root()).unwrap();
    let mount = "mount -t tmpfs -o size=512k,mode=0700 none \"$1\"";
    in_mount_namespace("a_full_disk_is_said_and_leaves_nothing", "full", &store, mount);
}

#[test]
fn a_read_only_store_is_read() {
    let (_dir, store) = new_store();
    put(&store, 'a', &[NAME]);
    let mount = "mount --bind \"$1\" \"$1\"; mount -o remount,bind,ro \"$1\"";
    in_mount_namespace("a_read_only_store_is_read", "read-only", &store, mount);
}

/// The body of [`a_read_only_store_is_read`].
pub(super) fn read_only(store: &Store) {
    let found = store.resolve(NAME, &platform()).unwrap().unwrap();
    assert_eq!(fs::read(&found.path).unwrap(), b"squashfs");
    assert_eq!(store.images().unwrap().len(), 1);
    assert!(matches!(store.begin(&id('a'), &|_| ()).unwrap(), Begin::Present(_)));
    assert!(!store.lease(&id('a')).unwrap().is_held());
    assert!(store.begin(&id('b'), &|_| ()).is_err());
    assert!(store.remove(&RemoveTarget::Image(id('a')), true).is_err());
    assert!(store.resolve(NAME, &platform()).unwrap().is_some());
    println!("client done");
}

/// A seccomp program (seccomp(2)) for x86-64 that makes every file system one
/// without hard links, O_TMPFILE and locks: eight bytes per instruction, as
/// `struct sock_filter` of linux/filter.h has them.
fn poor_file_system() -> Vec<u8> {
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    let program: [(u16, u8, u8, u32); 25] = [
        (LOAD, 0, 0, 4),               // 0: architecture
        (EQUAL, 0, 7, 0xc000_003e),    // 1: not x86-64: allow
        (LOAD, 0, 0, 0),               // 2: system call
        (EQUAL, 18, 0, 86),            // 3: link: EPERM
        (EQUAL, 17, 0, 265),           // 4: linkat: EPERM
        (EQUAL, 17, 0, 73),            // 5: flock: ENOLCK
        (EQUAL, 3, 0, 72),             // 6: fcntl
        (EQUAL, 8, 0, 257),            // 7: openat
        (EQUAL, 10, 0, 2),             // 8: open
        (RETURN, 0, 0, ALLOW),         // 9
        (LOAD, 0, 0, 24),              // 10: fcntl's command
        (EQUAL, 11, 0, 6),             // 11: F_SETLK: ENOLCK
        (EQUAL, 10, 0, 7),             // 12: F_SETLKW
        (EQUAL, 9, 0, 37),             // 13: F_OFD_SETLK
        (EQUAL, 8, 0, 38),             // 14: F_OFD_SETLKW
        (RETURN, 0, 0, ALLOW),         // 15
        (LOAD, 0, 0, 32),              // 16: openat's flags
        (ANY_BIT, 6, 0, 0o20_000_000), // 17: O_TMPFILE: EOPNOTSUPP
        (RETURN, 0, 0, ALLOW),         // 18
        (LOAD, 0, 0, 24),              // 19: open's flags
        (ANY_BIT, 3, 0, 0o20_000_000), // 20: O_TMPFILE: EOPNOTSUPP
        (RETURN, 0, 0, ALLOW),         // 21
        (RETURN, 0, 0, ERRNO | 1),     // 22
        (RETURN, 0, 0, ERRNO | 37),    // 23
        (RETURN, 0, 0, ERRNO | 95),    // 24
    ];
    let mut bytes = Vec::new();
    for (code, yes, no, value) in program {
        bytes.extend(code.to_le_bytes());
        bytes.extend([yes, no]);
        bytes.extend(value.to_le_bytes());
    }
    bytes
}

#[test]
fn a_store_without_flock_and_hard_links() {
    let test = "a_store_without_flock_and_hard_links";
    if cfg!(not(target_arch = "x86_64")) {
        eprintln!("SKIPPED {test}: its seccomp program is for x86-64");
        return;
    }
    let (dir, store) = new_store();
    let program = dir.path().join("program");
    fs::write(&program, poor_file_system()).unwrap();
    let run = |arguments: &[&str]| {
        Command::new("bwrap")
            .args(["--dev-bind", "/", "/", "--seccomp", "0"])
            .args(arguments)
            .env(CHILD, "no-locks")
            .env(ROOT, store.root())
            .stdin(File::open(&program).unwrap())
            .output()
    };
    match run(&["true"]) {
        Ok(output) if output.status.success() => {}
        // A machine without bubblewrap or user namespaces.
        other => {
            eprintln!("SKIPPED {test}: {other:?}");
            return;
        }
    }
    let own = std::env::current_exe().unwrap();
    let arguments = ["--exact", "tests::a_client_process", "--nocapture", "--test-threads=1"];
    let output = run(&[&[own.to_str().unwrap()], &arguments[..]].concat()).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("client done"));
}

/// The body of [`a_store_without_flock_and_hard_links`].
pub(super) fn without_locks(store: &Store) {
    let parent = store.root().parent().unwrap();
    fs::create_dir_all(parent).unwrap();
    let log = parent.join("builds");
    fs::write(&log, b"").unwrap();
    // The file system is as poor as the test says.
    let errno =
        rustix::fs::flock(File::open(&log).unwrap(), rustix::fs::FlockOperation::LockShared);
    assert_eq!(errno, Err(rustix::io::Errno::NOLCK));
    let errno = rustix::fs::fcntl_lock(
        File::open(&log).unwrap(),
        rustix::fs::FlockOperation::NonBlockingUnlock,
    );
    assert_eq!(errno, Err(rustix::io::Errno::NOLCK));
    assert!(fs::hard_link(&log, parent.join("link")).is_err());
    let dir = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR;
    assert!(rustix::fs::open(parent, dir, rustix::fs::Mode::RWXU).is_err());

    let children: Vec<Child> = (0..10).map(|_| spawn("pull", store.root(), "")).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(fs::read(&log).unwrap(), b"b");
    let ticket = begin(store, &id('b'));
    ticket.spool().unwrap().write_all(b"layer").unwrap();
    assert!(names(&store.root().join("tmp")).is_empty(), "the spool has no name");
    build(ticket, b"squashfs");
    let _lease = store.lease(&id('a')).unwrap();
    assert!(store.remove(&RemoveTarget::Image(id('a')), false).is_err());
    store.remove(&RemoveTarget::Image(id('b')), false).unwrap();
    assert!(names(&store.root().join("locks")).is_empty());
    println!("client done");
}
