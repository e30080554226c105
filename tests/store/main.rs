//! Promise: the store stays right, whoever dies and however many come.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use harness::{Place, registry};

/// A relay in front of the real registry that counts the requests it passes.
struct Counter {
    address: String,
    blobs: Arc<Mutex<BTreeMap<String, usize>>>,
}

fn counter() -> Counter {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let blobs = Arc::new(Mutex::new(BTreeMap::new()));
    let seen = Arc::clone(&blobs);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || relay(client, &seen));
        }
    });
    Counter { address, blobs }
}

/// One request a connection: the answer is told to close.
fn relay(mut client: TcpStream, seen: &Mutex<BTreeMap<String, usize>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match client.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
    if path.contains("/blobs/") {
        *seen.lock().unwrap().entry(path).or_default() += 1;
    }
    let mut server = TcpStream::connect(registry()).unwrap();
    let request = text.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    if server.write_all(request.as_bytes()).is_ok() {
        // A client that hangs up early ends the relay, nothing else.
        let _ = std::io::copy(&mut server, &mut client);
    }
}

#[test]
fn fifty_pulls_transfer_each_blob_once() {
    let place = Place::new();
    let counter = counter();
    let image = format!("docker://{}/base:latest", counter.address);
    let script = format!(
        "for i in $(seq 50); do $sampan pull --quiet {image} >/dev/null & done; \
         for job in $(jobs -p); do wait $job || exit 1; done"
    );
    let _ = place.shell(&script).ok();
    let seen = counter.blobs.lock().unwrap();
    assert!(seen.len() >= 2, "{seen:?}");
    let layers = seen.values().filter(|count| **count > 1).count();
    assert_eq!(layers, 0, "transferred more than once: {seen:?}");
    assert_eq!(place.sampan(&["run", "--pull", "never", &image, "true"]).code, 0);
}

#[test]
fn a_killed_pull_leaves_nothing_that_is_taken_for_whole() {
    let place = Place::new();
    let image = format!("docker://{}/base:latest", registry());
    for delay in ["0.02", "0.1", "0.2", "0.4", "0.6"] {
        let script = format!(
            "$sampan pull --quiet {image} & sleep {delay}; kill -9 $!; wait $! 2>/dev/null; true"
        );
        let _ = place.shell(&script).ok();
        let ran = place.sampan(&["run", "--pull", "never", &image, "cat", "/etc/debian_version"]);
        assert!(ran.code == 0 || ran.err.contains("error: "), "{}", ran.err);
    }
    let out = place.sampan(&["run", &image, "cat", "/etc/debian_version"]).ok();
    assert!(out.starts_with("12"), "{out}");
    let _ = place.sampan(&["prune"]).ok();
    assert_eq!(
        place.shell("ls $SAMPAN_STORE/tmp $SAMPAN_STORE/locks 2>/dev/null | grep -v :").out.trim(),
        ""
    );
}

#[test]
fn a_site_store_stacks_under_the_users() {
    let place = Place::new();
    let image = format!("docker://{}/busybox:latest", registry());
    let site = place.path("site");
    std::fs::create_dir(&site).unwrap();
    place.give(&site);
    let fill = format!("SAMPAN_STORE={} $sampan pull --quiet {image}", site.display());
    let _ = place.shell(&fill).ok();
    let chmod = format!("chmod -R a-w {}", site.display());
    let _ = place.shell(&chmod).ok();
    let run = format!(
        "SAMPAN_SITE_STORES={} $sampan run --pull never {image} echo there",
        site.display()
    );
    assert_eq!(place.shell(&run).ok(), "there\n");
    let _ = place.shell(&format!("chmod -R u+w {}", site.display())).ok();
}

#[test]
fn a_removed_image_is_gone_and_a_running_one_stays() {
    let place = Place::new();
    let image = format!("docker://{}/busybox:latest", registry());
    let _ = place.sampan(&["pull", "--quiet", &image]).ok();
    let script = format!(
        "$sampan run {image} sh -c 'touch up; exec sleep 600' & wait_for 'test -e up'; \
         $sampan rm {image}; echo rc=$?; kill $!; true"
    );
    let out = place.shell(&script).ok();
    assert!(out.contains("rc=") && !out.contains("rc=0"), "a running image was removed: {out}");
    let _ = place.shell(&format!("wait_for '$sampan rm {image}'")).ok();
    assert_ne!(place.sampan(&["run", "--pull", "never", &image, "true"]).code, 0);
}

#[test]
fn a_full_disk_is_an_error_and_no_image() {
    let place = Place::new();
    let disk = place.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m,mode=0777", "tmpfs"])
        .arg(&disk)
        .status()
        .unwrap();
    assert!(mount.success());
    let image = format!("docker://{}/base:latest", registry());
    let mut command = place.sampan_command(&["pull", "--quiet", &image]);
    let output = command.env("SAMPAN_STORE", disk.join("store")).output().unwrap();
    let left = place.shell(&format!("find {} -name '*.json' -path '*images*'", disk.display()));
    let unmount = std::process::Command::new("umount").arg("-l").arg(&disk).status().unwrap();
    assert!(unmount.success());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && message.contains("space"), "{message}");
    assert_eq!(left.out, "");
}
