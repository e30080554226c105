#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn empty(dir: &Path, time: Option<i64>) -> Sif {
    let path = dir.join("image.sif");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
    let options =
        CreateOptions { arch: Arch::from_name("amd64"), time, uuid: [7; 16], launch: true };
    create(file.unwrap(), &path, &options).unwrap()
}

fn partition(part: PartKind) -> NewObject {
    NewObject {
        kind: Kind::Partition,
        name: "squash".to_owned(),
        group: 1,
        link: 0,
        partition: Some(Partition { fs: FsKind::Squashfs, part, arch: Arch::from_name("arm64") }),
        digest: None,
    }
}

fn labels() -> NewObject {
    let name = "labels".to_owned();
    NewObject { kind: Kind::Labels, name, group: 1, link: 0, partition: None, digest: None }
}

#[test]
fn what_is_written_is_read_and_can_be_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.sif");
    let mut sif = empty(dir.path(), Some(5));
    assert_eq!(sif.add(labels(), &mut &b"{}"[..]).unwrap(), 1);
    assert_eq!(sif.add(partition(PartKind::Primary), &mut &b"root"[..]).unwrap(), 2);
    assert_eq!(sif.add(partition(PartKind::System), &mut &b"other"[..]).unwrap(), 3);
    drop(sif);
    let sif = Sif::open(&path).unwrap();
    assert_eq!(sif.header().arch.name(), Some("arm64"));
    assert_eq!(sif.header().descriptors_free, 45);
    let (object, found) = sif.primary().unwrap();
    assert_eq!((object.id, object.offset % 4096, found.fs), (2, 0, FsKind::Squashfs));
    assert_eq!(sif.read(object, 100).unwrap(), b"root");
    assert!(matches!(sif.read(object, 3), Err(Error::TooLong { .. })));
    let mut sif = Sif::open_for_writing(&path).unwrap();
    sif.set_primary(3).unwrap();
    assert!(matches!(sif.set_primary(1), Err(Error::NotSystem(1))));
    sif.delete(2).unwrap();
    drop(sif);
    let mut sif = Sif::open_for_writing(&path).unwrap();
    assert_eq!(sif.primary().unwrap().0.id, 3);
    assert!(matches!(sif.object(2), Err(Error::NoObject { .. })));
    // The free descriptor is taken again, and data goes behind all others.
    assert_eq!(sif.add(labels(), &mut &b"more"[..]).unwrap(), 2);
    let copy = &mut Vec::new();
    sif.copy(sif.object(2).unwrap(), copy).unwrap();
    assert_eq!(copy, b"more");
    sif.delete(2).unwrap();
    let len = std::fs::metadata(&path).unwrap().len();
    let last = sif.object(3).unwrap();
    assert_eq!(len, last.offset + last.size, "the end was not given back");
}

#[test]
fn a_deterministic_file_has_no_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = Vec::new();
    for _ in 0..2 {
        let mut sif = empty(dir.path(), None);
        sif.add(labels(), &mut &b"{}"[..]).unwrap();
        bytes.push(std::fs::read(dir.path().join("image.sif")).unwrap());
    }
    assert_eq!(bytes[0], bytes[1]);
    assert_eq!(&bytes[0][48..64], &[0; 16]);
}

#[test]
fn full_tables_and_long_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut sif = empty(dir.path(), None);
    let long = NewObject { name: "n".repeat(128), ..labels() };
    assert!(matches!(sif.add(long, &mut &b""[..]), Err(Error::Name(_))));
    for _ in 0..48 {
        sif.add(labels(), &mut &b"x"[..]).unwrap();
    }
    assert!(matches!(sif.add(labels(), &mut &b""[..]), Err(Error::Full(_))));
}

#[test]
fn damage_is_an_error_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.sif");
    let mut sif = empty(dir.path(), Some(5));
    sif.add(labels(), &mut &b"{}"[..]).unwrap();
    sif.add(partition(PartKind::Primary), &mut &b"root"[..]).unwrap();
    drop(sif);
    let whole = std::fs::read(&path).unwrap();
    let try_open = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        if let Ok(sif) = Sif::open(&path) {
            for object in sif.objects() {
                // Whatever it says, it is bounded and inside the file.
                let _ = sif.read(object, 1 << 20);
            }
        }
    };
    for end in [0, 1, 127, 128, 4095, 4096, 5000, 32_176, whole.len() - 1] {
        try_open(&whole[..end]);
    }
    let interesting = (0..128).chain(4096..4096 + 2 * DESCRIPTOR_LEN);
    for at in interesting {
        for bit in [0, 3, 7] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            try_open(&bytes);
        }
    }
    let mut lying = whole;
    lying[88..96].copy_from_slice(&i64::MAX.to_le_bytes());
    std::fs::write(&path, &lying).unwrap();
    assert!(matches!(Sif::open(&path), Err(Error::Corrupt { .. })));
}

#[test]
fn changes_have_the_time_at_which_they_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.sif");
    drop(empty(dir.path(), Some(5)));
    let mut sif = Sif::open_for_writing(&path).unwrap();
    let id = sif.add(labels(), &mut &b"{}"[..]).unwrap();
    let made = sif.object(id).unwrap().created;
    drop(sif);
    let mut sif = Sif::open_for_writing(&path).unwrap();
    assert!(made > 5 && sif.header().modified == made, "{made}");
    assert_eq!((sif.header().created, sif.object(id).unwrap().modified), (5, made));
    sif.header.modified = 6;
    sif.delete(id).unwrap();
    assert!(Sif::open(&path).unwrap().header().modified >= made);
    // One without times gets none.
    drop(empty(dir.path(), None));
    let mut sif = Sif::open_for_writing(&path).unwrap();
    let id = sif.add(labels(), &mut &b"{}"[..]).unwrap();
    assert_eq!((sif.object(id).unwrap().created, sif.header().modified), (NO_TIME, NO_TIME));
}

#[test]
fn a_header_that_puts_data_at_its_own_place_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.sif");
    let mut sif = empty(dir.path(), Some(5));
    sif.add(labels(), &mut &b"{}"[..]).unwrap();
    drop(sif);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[112..120].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let mut sif = Sif::open_for_writing(&path).unwrap();
    sif.delete(1).unwrap();
    let id = sif.add(labels(), &mut &b"again"[..]).unwrap();
    let sif = Sif::open(&path).unwrap();
    assert_eq!(sif.read(sif.object(id).unwrap(), 10).unwrap(), b"again");
}

#[test]
fn a_part_of_a_file_is_added_and_padded() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other");
    std::fs::write(&other, "before-data-behind").unwrap();
    let file = File::open(&other).unwrap();
    let mut sif = empty(dir.path(), None);
    sif.add(labels(), &mut &b"{}"[..]).unwrap();
    let id = sif.add_file(partition(PartKind::Primary), &file, 7..11, 4096).unwrap();
    let more = sif.add(labels(), &mut &b"more"[..]).unwrap();
    let sif = Sif::open(&dir.path().join("image.sif")).unwrap();
    let bytes = sif.read(sif.object(id).unwrap(), 4096).unwrap();
    assert_eq!((&bytes[..4], bytes.len()), (&b"data"[..], 4096));
    assert!(bytes[4..].iter().all(|byte| *byte == 0));
    assert_eq!(sif.read(sif.object(more).unwrap(), 10).unwrap(), b"more");
    let mut sif = Sif::open_for_writing(&dir.path().join("image.sif")).unwrap();
    let short = sif.add_file(labels(), &file, 7..99, 0);
    assert!(matches!(short, Err(Error::Source(_))), "{short:?}");
}
