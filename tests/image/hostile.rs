//! Layers that mean harm end in an error that names layer and entry, and
//! leave no image behind.

use harness::{Layout, Place, layer};

/// A header whose name is written past the checks of the tar library.
fn raw(name: &str, kind: tar::EntryType, link: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend_from_slice(bytes);
    out.resize(out.len().div_ceil(512) * 512, 0);
    out
}

fn refused(tar: &[u8], entry: &str) {
    let place = Place::new();
    let mut layout = Layout::new(place.path("layout"));
    layout.layer(tar);
    let image = layout.finish("v1");
    place.give(&place.path("layout"));
    let ran = place.sampan(&["pull", &image]);
    assert_ne!(ran.code, 0, "{}", ran.out);
    let code = ran.code;
    let message = ran.fails(code);
    assert!(message.contains(entry), "{message}");
    assert!(message.contains(&harness::sha256(tar)[..12]), "no layer named: {message}");
    let left =
        place.shell("find $SAMPAN_STORE/tmp -mindepth 1; find $SAMPAN_STORE -name '*.sqfs'").ok();
    assert_eq!(left, "", "left behind");
}

#[test]
fn names_that_lead_out() {
    let end = vec![0; 1024];
    for name in ["/etc/passwd", "../evil", "a/../../evil"] {
        refused(
            &[raw(name, tar::EntryType::Regular, "", b"x"), end.clone()].concat(),
            "evil".min(name),
        );
    }
}

#[test]
fn hard_links_that_lead_out() {
    let end = vec![0; 1024];
    for target in ["../../etc/passwd", "nowhere"] {
        refused(&[raw("evil", tar::EntryType::Link, target, b""), end.clone()].concat(), "evil");
    }
}

#[test]
fn truncated_archives() {
    let whole = layer(|b| {
        let mut header = tar::Header::new_gnu();
        header.set_size(5000);
        header.set_mode(0o644);
        b.append_data(&mut header, "cutfile", std::io::Read::take(std::io::repeat(7), 5000))
            .unwrap();
    });
    refused(&whole[..1500], "cutfile");
}

#[test]
fn headers_of_any_length_are_not_taken_into_memory() {
    // A record of a PAX header, a GNU long name, a GNU long link.
    let record = |text: &str| format!("{} path={text}\n", text.len() + 14).into_bytes();
    let long = "n".repeat(3 << 20);
    for (kind, bytes) in [
        (tar::EntryType::XHeader, record(&long)),
        (tar::EntryType::GNULongName, long.clone().into_bytes()),
        (tar::EntryType::GNULongLink, long.clone().into_bytes()),
    ] {
        let before = raw("before", tar::EntryType::Regular, "", b"x");
        let after = raw("after", tar::EntryType::Regular, "", b"x");
        refused(&[before, raw("long", kind, "", &bytes), after, vec![0; 1024]].concat(), "before");
    }
}

#[test]
fn sparse_maps_that_lie() {
    let record = |key: &str, value: &str| {
        let rest = format!(" GNU.sparse.{key}={value}\n");
        let len = (1..9)
            .map(|digits| rest.len() + digits)
            .find(|n| n.to_string().len() + rest.len() == *n);
        format!("{}{rest}", len.unwrap())
    };
    let records = record("size", "100") + &record("map", "0,999") + &record("name", "holes");
    let header = raw("pax", tar::EntryType::XHeader, "", records.as_bytes());
    let entry = raw("GNUSparseFile.1/holes", tar::EntryType::Regular, "", b"x");
    refused(&[header, entry, vec![0; 1024]].concat(), "holes");
}

#[test]
fn a_bomb_meets_the_size_limit() {
    let place = Place::new();
    let tar = layer(|b| {
        let mut header = tar::Header::new_gnu();
        header.set_size(64 << 20);
        header.set_mode(0o644);
        b.append_data(&mut header, "bomb", std::io::Read::take(std::io::repeat(0), 64 << 20))
            .unwrap();
    });
    let mut layout = Layout::new(place.path("layout"));
    layout.layer(&tar);
    let image = layout.finish("v1");
    place.give(&place.path("layout"));
    let mut command = place.sampan_command(&["pull", &image]);
    let output = command.env("SAMPAN_SIZE_LIMIT", "16M").output().unwrap();
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("limit"), "{message}");
}

#[test]
fn a_wrong_digest_is_no_image() {
    let place = Place::new();
    let tar = layer(|_| ());
    let mut layout = Layout::new(place.path("layout"));
    layout.layer(&tar);
    let image = layout.finish("v1");
    let blob = place.path("layout/blobs/sha256").join(harness::sha256(&tar));
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    place.give(&place.path("layout"));
    let ran = place.sampan(&["pull", &image]);
    assert!(ran.code != 0 && ran.err.contains("digest"), "{}", ran.err);
}

#[test]
fn corrupt_image_files_are_errors() {
    let place = Place::new();
    let file = place.image_file();
    let whole = std::fs::read(&file).unwrap();
    for (name, bytes) in [
        ("empty.sqfs", vec![]),
        ("text.sqfs", b"this is no image".to_vec()),
        ("cut.sqfs", whole[..whole.len() / 2].to_vec()),
    ] {
        let path = place.write(name, bytes);
        let ran = place.sampan(&["exec", path.to_str().unwrap(), "true"]);
        assert!(ran.fails(125).contains(name));
    }
}
