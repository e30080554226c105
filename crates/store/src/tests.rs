//! Tests of the store as a whole, by threads and by processes: this test
//! program starts itself again with [`CHILD`] set and is then a client of the
//! store that may be killed.

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use types::ImageConfig;

use super::*;

mod environment;

const CHILD: &str = "SAMPAN_STORE_TEST_CHILD";
const ROOT: &str = "SAMPAN_STORE_TEST_ROOT";
const DIE_AT: &str = "SAMPAN_STORE_TEST_DIE_AT";
const NAME: &str = "h.example:5000/tools/python:3.11";

/// Kills this process without notice when it was started to die here.
pub(crate) fn die_at(step: &str) {
    if std::env::var(DIE_AT).is_ok_and(|at| at == step) {
        let pid = rustix::process::getpid();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}

fn id(digit: char) -> ImageId {
    ImageId::from_hex(&digit.to_string().repeat(64)).unwrap()
}

fn platform() -> Platform {
    "linux/amd64".parse().unwrap()
}

fn record(id: &ImageId) -> ImageRecord {
    ImageRecord {
        id: id.clone(),
        reference: NAME.to_owned(),
        platform: platform(),
        config: ImageConfig { cmd: vec!["sh".to_owned()], ..ImageConfig::default() },
        layers: Vec::new(),
        blobs: Vec::new(),
        size: 0,
        created_at: unix_now(),
        format: 1,
    }
}

fn open(root: &Path) -> Store {
    Store::open(StoreOptions { root: root.to_owned(), site: Vec::new() }).unwrap()
}

/// A store in a directory that does not exist yet.
fn new_store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(&dir.path().join("a/store"));
    store.timing.grace = Duration::ZERO;
    (dir, store)
}

fn build(ticket: Ticket, content: &[u8]) -> StoredImage {
    let mut ticket = ticket;
    let (mut file, _) = ticket.create_file().unwrap();
    file.write_all(content).unwrap();
    let record = record(ticket.id());
    ticket.commit(record).unwrap()
}

fn begin(store: &Store, id: &ImageId) -> Ticket {
    match store.begin(id, &|_| ()).unwrap() {
        Begin::Build(ticket) => ticket,
        Begin::Present(image) => panic!("{} is there", image.id),
    }
}

fn put(store: &Store, digit: char, names: &[&str]) -> ImageId {
    let id = id(digit);
    build(begin(store, &id), b"squashfs");
    for name in names {
        store.set_ref(name, &platform(), &id).unwrap();
    }
    id
}

fn names(path: &Path) -> Vec<String> {
    files::list(path).unwrap().into_iter().map(|(name, _)| name).collect()
}

fn spawn(what: &str, root: &Path, die_at: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::a_client_process", "--nocapture", "--test-threads=1"])
        .env(CHILD, what)
        .env(ROOT, root)
        .env(DIE_AT, die_at)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The body of the processes that other tests start; nothing on its own.
#[test]
fn a_client_process() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let store = open(Path::new(&std::env::var(ROOT).unwrap()));
    match what.as_str() {
        "pull" => match store.begin(&id('a'), &|_| ()).unwrap() {
            Begin::Present(image) => assert_eq!(fs::read(image.path).unwrap(), b"squashfs"),
            Begin::Build(mut ticket) => {
                let mut log =
                    File::options().append(true).open(store.root().join("../builds")).unwrap();
                log.write_all(b"b").unwrap();
                die_at("locked");
                let (mut file, _) = ticket.create_file().unwrap();
                let scratch = ticket.scratch().unwrap();
                fs::write(scratch.join("layer"), b"layer").unwrap();
                die_at("created");
                file.write_all(b"squashfs").unwrap();
                die_at("written");
                std::thread::sleep(Duration::from_millis(50));
                ticket.commit(record(&id('a'))).unwrap();
            }
        },
        "lease" => {
            let lease = store.lease(&id('a')).unwrap();
            assert!(lease.is_held());
            println!("leased");
            std::io::stdin().read_line(&mut String::new()).unwrap();
            drop(lease);
        }
        "full" => environment::fill_the_disk(&store),
        "read-only" => environment::read_only(&store),
        "no-locks" => environment::without_locks(&store),
        other => panic!("{other}"),
    }
}

#[test]
fn fifty_processes_convert_an_image_once() {
    let (dir, store) = new_store();
    fs::create_dir_all(dir.path().join("a")).unwrap();
    fs::write(dir.path().join("a/builds"), b"").unwrap();
    let children: Vec<Child> = (0..50).map(|_| spawn("pull", store.root(), "")).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // `..` of the store is `a`; it was made before.
    assert_eq!(fs::read(dir.path().join("a/builds")).unwrap(), b"b");
    assert!(names(&store.root().join("tmp")).is_empty());
    assert!(names(&store.root().join("locks")).is_empty());
}

#[test]
fn fifty_processes_replace_a_killed_converter_by_one() {
    let (dir, store) = new_store();
    fs::create_dir_all(dir.path().join("a")).unwrap();
    fs::write(dir.path().join("a/builds"), b"").unwrap();
    store.root.ensure("tmp").unwrap();
    let dead = spawn("pull", store.root(), "created").wait_with_output().unwrap();
    assert_eq!(dead.status.signal(), Some(9));
    let children: Vec<Child> = (0..50).map(|_| spawn("pull", store.root(), "")).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(fs::read(dir.path().join("a/builds")).unwrap(), b"bb");
    assert!(names(&store.root().join("tmp")).is_empty());
    assert!(names(&store.root().join("locks")).is_empty());
}

#[test]
fn many_threads_convert_each_image_once() {
    let (_dir, store) = new_store();
    let builds = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for n in 0..48 {
            let (store, builds) = (&store, &builds);
            scope.spawn(move || {
                let id = id(['a', 'b', 'c'][n % 3]);
                match store.begin(&id, &|_| ()).unwrap() {
                    Begin::Present(image) => assert_eq!(image.id, id),
                    Begin::Build(ticket) => {
                        builds.fetch_add(1, Ordering::Relaxed);
                        build(ticket, b"squashfs");
                    }
                }
            });
        }
    });
    assert_eq!(builds.into_inner(), 3);
    assert_eq!(store.images().unwrap().len(), 3);
}

#[test]
fn a_waiter_gets_its_turn_when_the_holder_gives_up() {
    let (_dir, store) = new_store();
    let ticket = begin(&store, &id('a'));
    let (told, tells) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let begun = store.begin(&id('a'), &move |state| {
                let _ = told.send(state);
            });
            matches!(begun.unwrap(), Begin::Build(_))
        });
        let state = tells.recv().unwrap();
        assert_eq!(state.holder.unwrap().pid, std::process::id());
        drop(ticket);
        assert!(waiter.join().unwrap());
    });
}

#[test]
fn a_killed_converter_leaves_nothing_that_is_taken_for_whole() {
    for step in [
        "locked",
        "created",
        "written",
        "before-rename",
        "after-rename",
        "before-record",
        "after-record",
    ] {
        let (dir, store) = new_store();
        fs::create_dir_all(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/builds"), b"").unwrap();
        store.root.ensure("tmp").unwrap();
        let output = spawn("pull", store.root(), step).wait_with_output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{step}");
        let whole = step == "after-record";
        assert_eq!(store.image(&id('a')).unwrap().is_some(), whole, "{step}");
        assert_eq!(store.images().unwrap().len(), usize::from(whole), "{step}");
        // Prune alone cleans.
        let copy = dir.path().join("copy");
        let status = Command::new("cp").arg("-a").arg(store.root()).arg(&copy).status().unwrap();
        assert!(status.success());
        let pruned = open(&copy);
        let report = pruned.prune(&PruneOptions::default()).unwrap();
        assert!(!report.removed.is_empty(), "{step}");
        for part in ["tmp", "locks"] {
            assert!(names(&copy.join(part)).is_empty(), "{step} {part}");
        }
        let images = names(&copy.join("images"));
        assert_eq!(images.len(), if whole { 2 } else { 0 }, "{step} {images:?}");
        // So does the next conversion.
        match store.begin(&id('a'), &|_| ()).unwrap() {
            Begin::Present(_) => assert!(whole, "{step}"),
            Begin::Build(ticket) => {
                assert!(!whole, "{step}");
                assert!(names(&store.root().join("tmp")).is_empty(), "{step}");
                build(ticket, b"another length");
            }
        }
        let image = store.image(&id('a')).unwrap().unwrap();
        let content: &[u8] = if whole { b"squashfs" } else { b"another length" };
        assert_eq!(fs::read(&image.path).unwrap(), content, "{step}");
        store.prune(&PruneOptions::default()).unwrap();
        assert!(names(&store.root().join("locks")).is_empty(), "{step}");
    }
}

#[test]
fn a_dropped_ticket_leaves_nothing() {
    let (_dir, store) = new_store();
    let mut ticket = begin(&store, &id('a'));
    let (_file, path) = ticket.create_file().unwrap();
    let scratch = ticket.scratch().unwrap();
    fs::write(scratch.join("x"), b"x").unwrap();
    let mut spool = ticket.spool().unwrap();
    spool.write_all(b"layer").unwrap();
    assert!(path.exists());
    assert_eq!(names(&store.root().join("tmp")).len(), 2, "the spool has no name");
    drop(ticket);
    assert!(names(&store.root().join("tmp")).is_empty());
    assert!(names(&store.root().join("locks")).is_empty());
    assert!(store.image(&id('a')).unwrap().is_none());
}

#[test]
fn commits_that_cannot_be_right_are_refused() {
    let (_dir, store) = new_store();
    let no_file = begin(&store, &id('a')).commit(record(&id('a')));
    assert!(matches!(no_file, Err(Error::NoFile { .. })));
    let mut ticket = begin(&store, &id('a'));
    ticket.create_file().unwrap();
    assert!(matches!(ticket.commit(record(&id('b'))), Err(Error::WrongRecord { .. })));
    assert!(names(&store.root().join("tmp")).is_empty());
}

#[test]
fn what_a_commit_finds_in_its_place() {
    let (_dir, store) = new_store();
    // Rests of a crash are replaced, a damaged record with them.
    let images = store.root.ensure("images").unwrap();
    fs::write(sqfs_path(&store.root, &id('a')), b"half").unwrap();
    fs::write(record_path(&store.root, &id('a')), b"{").unwrap();
    put(&store, 'a', &[]);
    assert_eq!(fs::read(images.join(format!("{}.sqfs", id('a').hex()))).unwrap(), b"squashfs");
    // An image that another has committed stays: it may be running.
    let mut ticket = begin(&store, &id('b'));
    for (_, lock) in files::list(&store.root().join("locks")).unwrap() {
        fs::remove_file(lock).unwrap();
    }
    put(&store, 'b', &[]);
    let before = fs::metadata(sqfs_path(&store.root, &id('b'))).unwrap();
    let (mut file, _) = ticket.create_file().unwrap();
    file.write_all(b"squashfs").unwrap();
    ticket.commit(record(&id('b'))).unwrap();
    let after = fs::metadata(sqfs_path(&store.root, &id('b'))).unwrap();
    assert_eq!(
        std::os::unix::fs::MetadataExt::ino(&before),
        std::os::unix::fs::MetadataExt::ino(&after)
    );
    assert!(names(&store.root().join("tmp")).is_empty());
}

#[test]
fn references_resolve_per_platform() {
    let (_dir, store) = new_store();
    let a = put(&store, 'a', &[NAME]);
    let b = put(&store, 'b', &[]);
    let arm: Platform = "linux/arm64".parse().unwrap();
    store.set_ref(NAME, &arm, &b).unwrap();
    let found = store.resolve(NAME, &platform()).unwrap().unwrap();
    assert_eq!((found.id, found.writable), (a.clone(), true));
    assert_eq!(found.record.size, 8);
    assert_eq!(store.resolve(NAME, &arm).unwrap().unwrap().id, b);
    assert!(store.resolve("h.example/other:1", &platform()).unwrap().is_none());
    // A tag that moves on.
    store.set_ref(NAME, &platform(), &b).unwrap();
    assert_eq!(store.resolve(NAME, &platform()).unwrap().unwrap().id, b);
    assert!(matches!(store.set_ref(NAME, &arm, &id('e')), Err(Error::NoImage { .. })));
    let long = format!("h.example/{}:{}", "a/".repeat(120) + "a", "t".repeat(128));
    store.set_ref(&long, &platform(), &a).unwrap();
    assert_eq!(store.resolve(&long, &platform()).unwrap().unwrap().id, a);
    let other = format!("{long}x");
    assert!(store.resolve(&other, &platform()).unwrap().is_none());
    assert_eq!(store.find("aa").unwrap(), Some(a.clone()));
    assert_eq!(store.find("sha256:aa").unwrap(), Some(a));
    assert_eq!(store.find("c").unwrap(), None);
}

#[test]
fn a_prefix_of_two_images_is_ambiguous() {
    let (_dir, store) = new_store();
    for tail in ['1', '2'] {
        let id = ImageId::from_hex(&format!("{}{tail}", "a".repeat(63))).unwrap();
        build(begin(&store, &id), b"x");
    }
    assert!(matches!(store.find("aaaa"), Err(Error::Ambiguous { count: 2, .. })));
}

#[test]
fn damaged_files_count_as_absent_and_heal() {
    let (_dir, store) = new_store();
    let a = put(&store, 'a', &[NAME]);
    let ref_path = store.root().join("refs").join(&names(&store.root().join("refs"))[0]);
    let record_path = record_path(&store.root, &a);
    for (path, bytes) in
        [(&ref_path, &b""[..]), (&record_path, b"{\"id\":"), (&record_path, b"\xff")]
    {
        let good = fs::read(path).unwrap();
        fs::write(path, bytes).unwrap();
        assert!(store.resolve(NAME, &platform()).unwrap().is_none());
        fs::write(path, good).unwrap();
        assert!(store.resolve(NAME, &platform()).unwrap().is_some());
    }
    // What is no file at all: neither waited for nor fatal.
    let good = fs::read(&ref_path).unwrap();
    fs::remove_file(&ref_path).unwrap();
    fs::create_dir(&ref_path).unwrap();
    assert!(store.resolve(NAME, &platform()).unwrap().is_none());
    fs::remove_dir(&ref_path).unwrap();
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, &ref_path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(store.resolve(NAME, &platform()).unwrap().is_none());
    fs::remove_file(&ref_path).unwrap();
    fs::write(&ref_path, good).unwrap();
    // A truncated image, and the record of another.
    fs::write(sqfs_path(&store.root, &a), b"squash").unwrap();
    assert!(store.resolve(NAME, &platform()).unwrap().is_none());
    put(&store, 'a', &[]);
    assert!(store.resolve(NAME, &platform()).unwrap().is_some());
    fs::copy(&record_path, crate::record_path(&store.root, &id('b'))).unwrap();
    assert!(store.image(&id('b')).unwrap().is_none());
    fs::write(&ref_path, b"[]").unwrap();
    let report = store.prune(&PruneOptions::default()).unwrap();
    let broken = report.removed.iter().filter(|r| r.kind == PrunedKind::Broken).count();
    assert_eq!(broken, 2, "{report:?}");
}

#[test]
fn blobs_are_verified() {
    let (_dir, store) = new_store();
    let digest = store.blob_put(b"manifest").unwrap();
    assert_eq!(store.blob_get(&digest).unwrap().as_deref(), Some(&b"manifest"[..]));
    let path = store.root().join("blobs/sha256").join(digest.hex());
    fs::write(&path, b"manifesT").unwrap();
    assert_eq!(store.blob_get(&digest).unwrap(), None);
    store.blob_put(b"manifest").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"manifest");
    assert_eq!(store.blob_get(id('f').digest()).unwrap(), None);
}

#[test]
fn formats() {
    let (_dir, store) = new_store();
    put(&store, 'a', &[]);
    let format = store.root().join("format");
    assert_eq!(fs::read(&format).unwrap(), b"sampan-store 1\n");
    let open = |site: bool| {
        let root = store.root().to_owned();
        let absent = root.join("absent");
        Store::open(if site {
            StoreOptions { root: absent, site: vec![root] }
        } else {
            StoreOptions { root, site: Vec::new() }
        })
    };
    for site in [false, true] {
        fs::write(&format, b"sampan-store 2\n").unwrap();
        let error = open(site).unwrap_err();
        assert!(matches!(error, Error::NewerFormat { found: 2, supported: 1, .. }));
        for bad in ["", "sampan-store 0\n", "sampan-store x\n", "other 1\n", &"x".repeat(999)] {
            fs::write(&format, bad).unwrap();
            assert!(matches!(open(site), Err(Error::NotAStore { .. })), "{bad}");
        }
        fs::write(&format, b"sampan-store 1\n").unwrap();
        assert!(open(site).is_ok());
    }
}

#[test]
fn an_absent_store_is_read_as_an_empty_one_and_not_made() {
    let (_dir, store) = new_store();
    assert!(store.resolve(NAME, &platform()).unwrap().is_none());
    assert!(store.images().unwrap().is_empty());
    assert!(store.find("a").unwrap().is_none());
    assert!(store.blob_get(id('a').digest()).unwrap().is_none());
    assert_eq!(store.prune(&PruneOptions::default()).unwrap(), PruneReport::default());
    assert!(!store.root().parent().unwrap().exists());
}

#[test]
fn modes_follow_the_root() {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (_dir, store) = new_store();
    let own = put(&store, 'a', &[NAME]);
    assert_eq!(mode(store.root()), 0o700);
    assert_eq!(mode(&sqfs_path(&store.root, &own)), 0o600);
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o775)).unwrap();
    let store = open(dir.path());
    put(&store, 'a', &[NAME]);
    assert_eq!(mode(&dir.path().join("images")), 0o775);
    assert_eq!(mode(&sqfs_path(&store.root, &own)), 0o664);
    assert_eq!(mode(&record_path(&store.root, &own)), 0o664);
}

/// A user's store above a site's that holds `a` as [`NAME`].
fn stacked() -> (tempfile::TempDir, Store, Store) {
    let (dir, site) = new_store();
    put(&site, 'a', &[NAME]);
    let mut store = Store::open(StoreOptions {
        root: dir.path().join("user"),
        site: vec![dir.path().join("absent"), site.root().to_owned()],
    })
    .unwrap();
    store.timing.grace = Duration::ZERO;
    (dir, store, site)
}

#[test]
fn a_site_store_is_read_and_never_written() {
    let (dir, store, site) = stacked();
    let a = id('a');
    let found = store.resolve(NAME, &platform()).unwrap().unwrap();
    assert!(!found.writable && found.root == site.root() && found.path.exists());
    assert!(matches!(store.begin(&a, &|_| ()).unwrap(), Begin::Present(_)));
    assert!(!store.lease(&a).unwrap().is_held());
    let entries = store.images().unwrap();
    assert!(entries.len() == 1 && entries[0].site && entries[0].references.len() == 1);
    let by_image = store.remove(&RemoveTarget::Image(a.clone()), true).unwrap_err();
    let by_name = RemoveTarget::Reference { reference: NAME.to_owned(), platform: None };
    for error in [by_image, store.remove(&by_name, true).unwrap_err()] {
        assert!(matches!(&error, Error::SiteStore { root, .. } if root == site.root()), "{error}");
    }
    store.prune(&PruneOptions { all: true, ..PruneOptions::default() }).unwrap();
    assert!(!dir.path().join("user").exists(), "nothing so far needed the user's store");
    // The user's own name for the site's image goes without it.
    store.set_ref("mine:1", &platform(), &a).unwrap();
    assert_eq!(store.images().unwrap()[0].references.len(), 2);
    let mine = RemoveTarget::Reference { reference: "mine:1".to_owned(), platform: None };
    let removed = store.remove(&mine, false).unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted.len()), (1, 0));
    assert!(site.image(&a).unwrap().is_some());
    // The user's reference hides the site's.
    let b = put(&store, 'b', &[NAME]);
    assert_eq!(store.resolve(NAME, &platform()).unwrap().unwrap().id, b);
    let entries = store.images().unwrap();
    let of = |site: bool| entries.iter().find(|e| e.site == site).unwrap().references.len();
    assert_eq!((of(false), of(true)), (1, 0));
}

#[test]
fn removal_goes_by_the_last_reference() {
    let (_dir, store) = new_store();
    let a = put(&store, 'a', &[NAME, "other:1"]);
    let target = |name: &str| RemoveTarget::Reference {
        reference: name.to_owned(),
        platform: Some(platform()),
    };
    let removed = store.remove(&target(NAME), false).unwrap();
    assert!(removed.deleted.is_empty() && removed.untagged[0].reference == NAME);
    assert!(store.image(&a).unwrap().is_some());
    assert!(matches!(store.remove(&target(NAME), false), Err(Error::NoReference { .. })));
    let removed = store.remove(&target("other:1"), false).unwrap();
    assert_eq!(removed.deleted, std::slice::from_ref(&a));
    assert!(removed.bytes > 8);
    assert!(names(&store.root().join("images")).is_empty());
    assert!(names(&store.root().join("tmp")).is_empty());
    let gone = store.remove(&RemoveTarget::Image(a.clone()), false);
    assert!(matches!(gone, Err(Error::NoImage { .. })));
    put(&store, 'a', &[NAME, "other:1"]);
    let removed = store.remove(&RemoveTarget::Image(a), false).unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted.len()), (2, 1));
    assert!(names(&store.root().join("refs")).is_empty());
}

#[test]
fn a_leased_image_stays_until_its_process_has_gone() {
    let (_dir, store) = new_store();
    let a = put(&store, 'a', &[NAME]);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::a_client_process", "--nocapture", "--test-threads=1"])
        .env(CHILD, "lease")
        .env(ROOT, store.root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().ends_with("leased")));
    // However old it looks: its process is seen to live.
    let (_, lease) = files::list(&store.root().join("leases").join(a.hex())).unwrap().remove(0);
    File::open(&lease).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let error = store.remove(&RemoveTarget::Image(a.clone()), false).unwrap_err();
    assert!(
        matches!(&error, Error::Leased { holders, .. }
        if holders.ends_with(&child.id().to_string())),
        "{error}"
    );
    let all = PruneOptions { all: true, ..PruneOptions::default() };
    let report = store.prune(&all).unwrap();
    assert_eq!((report.leased, report.removed), (vec![a.clone()], vec![]));
    assert!(store.delete_image(&a, false).is_err(), "the second look finds it as well");
    assert!(store.resolve(NAME, &platform()).unwrap().is_some(), "and puts the image back");
    child.kill().unwrap();
    child.wait().unwrap();
    let report = store.prune(&all).unwrap();
    let kinds: HashSet<_> = report.removed.iter().map(|r| r.kind).collect();
    let expected = [PrunedKind::Lease, PrunedKind::Image, PrunedKind::Reference];
    assert_eq!(kinds, HashSet::from(expected));
    assert!(names(&store.root().join("leases")).is_empty());
}

#[test]
fn a_lease_of_another_machine_counts_while_it_is_touched() {
    let (_dir, mut store) = new_store();
    let a = put(&store, 'a', &[NAME]);
    let lease = store.lease(&a).unwrap();
    let (_, path) = files::list(&store.root().join("leases").join(a.hex())).unwrap().remove(0);
    let mut owner = Owner::current();
    owner.host.push('x');
    fs::write(&path, serde_json::to_vec(&owner).unwrap()).unwrap();
    assert!(store.remove(&RemoveTarget::Image(a.clone()), false).is_err());
    File::open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert!(store.leases(&a).unwrap().is_empty());
    lease.touch().unwrap();
    assert_eq!(store.leases(&a).unwrap(), [owner]);
    let error = store.remove(&RemoveTarget::Image(a.clone()), false).unwrap_err();
    assert!(matches!(error, Error::Leased { .. }));
    store.timing.lease = Duration::ZERO;
    assert!(store.remove(&RemoveTarget::Image(a.clone()), false).is_ok());
    drop(lease);
    assert!(names(&store.root().join("leases")).is_empty());
    assert!(matches!(store.lease(&a), Err(Error::NoImage { .. })));
}

#[test]
fn force_removes_what_is_leased() {
    let (_dir, store) = new_store();
    let a = put(&store, 'a', &[NAME]);
    let lease = store.lease(&a).unwrap();
    assert_eq!(store.remove(&RemoveTarget::Image(a), true).unwrap().deleted.len(), 1);
    drop(lease);
}

#[test]
fn prune_takes_what_nothing_names() {
    let (_dir, mut store) = new_store();
    let manifest = store.blob_put(b"manifest").unwrap();
    let named = ImageId::new(manifest);
    let config = store.blob_put(b"config").unwrap();
    let stray = store.blob_put(b"stray").unwrap();
    let mut ticket = begin(&store, &named);
    ticket.create_file().unwrap();
    let mut with_blobs = record(&named);
    with_blobs.blobs.push(config.clone());
    ticket.commit(with_blobs).unwrap();
    store.set_ref(NAME, &platform(), &named).unwrap();
    let b = put(&store, 'b', &[]);
    // Dangling.
    put(&store, 'c', &["gone:1"]);
    fs::remove_file(record_path(&store.root, &id('c'))).unwrap();
    // Young ones stay.
    store.timing.grace = Duration::from_secs(300);
    let report = store.prune(&PruneOptions::default()).unwrap();
    assert!(
        report
            .removed
            .iter()
            .all(|r| r.path.to_string_lossy().contains(id('c').hex()) || r.name == "gone:1"),
        "{report:?}"
    );
    assert!(store.image(&b).unwrap().is_some() && store.blob_get(&stray).unwrap().is_some());
    store.timing.grace = Duration::ZERO;
    let hour = Some(Duration::from_secs(3600));
    let dry = PruneOptions { all: true, dry_run: true, ..PruneOptions::default() };
    let kept = PruneOptions { keep_images: true, dry_run: true, ..PruneOptions::default() };
    let report = store.prune(&kept).unwrap();
    assert!(report.removed.iter().all(|r| r.kind == PrunedKind::Blob), "{report:?}");
    let report = store.prune(&PruneOptions { older_than: hour, ..dry }).unwrap();
    assert!(report.removed.iter().all(|r| r.kind == PrunedKind::Blob), "{report:?}");
    let less = PruneOptions { dry_run: true, ..PruneOptions::default() };
    let said = store.prune(&less).unwrap();
    assert!(store.image(&b).unwrap().is_some());
    let report = store.prune(&PruneOptions::default()).unwrap();
    assert_eq!(said, report);
    let gone: Vec<_> = report.removed.iter().map(|r| (r.kind, r.name.clone())).collect();
    let expected = [(PrunedKind::Image, b.to_string()), (PrunedKind::Blob, stray.hex().to_owned())];
    assert_eq!(gone, expected);
    assert_eq!(report.bytes, report.removed.iter().map(|r| r.bytes).sum::<u64>());
    assert!(store.resolve(NAME, &platform()).unwrap().is_some());
    assert!(store.blob_get(&config).unwrap().is_some());
    let all = PruneOptions { all: true, ..PruneOptions::default() };
    assert_eq!(store.prune(&dry).unwrap(), store.prune(&all).unwrap());
    assert!(store.images().unwrap().is_empty());
    assert!(names(&store.root().join("blobs/sha256")).is_empty());
}

#[test]
fn profiles_go_with_their_image_or_when_they_are_old() {
    let (_dir, mut store) = new_store();
    let (a, gone) = (put(&store, 'a', &[NAME]), id('b'));
    for image in [a.hex(), gone.hex(), "fe00-1-2", "../x", ""] {
        store.keep_profile(image, "0123", b"notes").unwrap();
    }
    assert_eq!(store.profile(a.hex(), "0123").as_deref(), Some(&b"notes"[..]));
    assert_eq!(store.profile(a.hex(), "4567"), None);
    assert_eq!(names(&store.root().join("profiles")).len(), 3, "no name leads elsewhere");
    let removed = |store: &Store| {
        let report = store.prune(&PruneOptions::default()).unwrap();
        assert!(report.removed.iter().all(|r| r.kind == PrunedKind::Profile), "{report:?}");
        report.removed.into_iter().map(|r| r.name).collect::<Vec<_>>()
    };
    assert_eq!(removed(&store), [format!("{}.0123", gone.hex())]);
    store.timing.profile = Duration::ZERO;
    assert_eq!(removed(&store), ["fe00-1-2.0123"]);
    for command in 0..300 {
        store.keep_profile(a.hex(), &format!("{command}"), b"notes").unwrap();
    }
    assert_eq!(names(&store.root().join("profiles")).len(), 256, "an image has only so many");
}

#[test]
fn prune_leaves_what_others_write_now() {
    let (_dir, mut store) = new_store();
    let mut ticket = begin(&store, &id('a'));
    let (_file, own) = ticket.create_file().unwrap();
    fs::write(sqfs_path(&store.root, &id('a')), b"about to get its record")
        .or_else(|_| {
            store.root.ensure("images").unwrap();
            fs::write(sqfs_path(&store.root, &id('a')), b"about to get its record")
        })
        .unwrap();
    let mut owner = Owner::current();
    owner.host.push('x');
    let (_, foreign) = store.root.temp_file(&owner, "sqfs").unwrap();
    let stranger = store.root().join("tmp/notes.txt");
    fs::write(&stranger, b"mine").unwrap();
    assert!(store.prune(&PruneOptions::default()).unwrap().removed.is_empty());
    store.timing.foreign_tmp = Duration::ZERO;
    let report = store.prune(&PruneOptions::default()).unwrap();
    assert_eq!(report.removed.len(), 1);
    assert!(own.exists() && stranger.exists() && !foreign.exists());
}
