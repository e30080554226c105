//! Root file systems of a few libraries each, for tests. A library has what the
//! dynamic linker reads of it, and no code.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::DirectoryTree;
use crate::ldcache::{self, Entry};

/// A root file system.
pub(crate) struct Root(tempfile::TempDir);

impl Root {
    /// One with a C library that knows versions up to 2.36.
    pub(crate) fn glibc() -> Self {
        Self::empty().offers("usr/lib/libc.so.6", &[], &["GLIBC_2.17", "GLIBC_2.36"])
    }

    /// One with a C library of 2.17.
    pub(crate) fn old() -> Self {
        Self::empty().offers("usr/lib/libc.so.6", &[], &["GLIBC_2.17"])
    }

    pub(crate) fn empty() -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        for dir in ["usr/lib", "usr/lib64", "etc", "dev"] {
            fs::create_dir_all(root.path(dir)).unwrap();
        }
        for name in ["lib", "lib64"] {
            symlink(Path::new("usr").join(name), root.path(name)).unwrap();
        }
        root
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn tree(&self) -> DirectoryTree {
        DirectoryTree::open(self.0.path()).unwrap()
    }

    /// A library that needs others: `libz.so.1`, or a version of them,
    /// `libc.so.6@GLIBC_2.36`. Its soname has the first number of its version.
    pub(crate) fn lib(self, path: &str, needs: &[&str]) -> Self {
        self.offers(path, needs, &[])
    }

    /// One that offers versions.
    pub(crate) fn offers(self, path: &str, needs: &[&str], versions: &[&str]) -> Self {
        let name = path.rsplit('/').next().unwrap();
        let words: Vec<&str> = name.split('.').collect();
        let soname = words[..words.len().min(3)].join(".");
        self.named(path, &soname, needs, versions)
    }

    /// One with a soname of its own. A link of that name lies beside it.
    pub(crate) fn named(self, path: &str, soname: &str, needs: &[&str], versions: &[&str]) -> Self {
        let file = self.path(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, elf(soname, needs, versions)).unwrap();
        let link = file.with_file_name(soname);
        if link != file {
            let _ = fs::remove_file(&link);
            symlink(file.file_name().unwrap(), link).unwrap();
        }
        self
    }

    pub(crate) fn link(self, path: &str, to: &str) -> Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
        self
    }

    pub(crate) fn file(self, path: &str) -> Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
        self
    }

    /// A cache that names paths.
    pub(crate) fn cache(self, paths: &[&str]) -> Self {
        let entry = |path: &&str| Entry {
            name: path.rsplit('/').next().unwrap().to_owned(),
            path: (*path).to_owned(),
            flags: 0x303,
            hwcap: 0,
        };
        let entries: Vec<Entry> = paths.iter().map(entry).collect();
        fs::write(self.path("etc/ld.so.cache"), ldcache::write(&entries)).unwrap();
        self
    }
}

/// Strings of an ELF file.
struct Strings(Vec<u8>);

impl Strings {
    fn place(&mut self, text: &str) -> u32 {
        let at = self.0.len() as u32;
        self.0.extend(text.bytes());
        self.0.push(0);
        at
    }
}

fn words(list: &[u32]) -> Vec<u8> {
    list.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A shared library for x86-64: ELF header, PT_LOAD and PT_DYNAMIC, the dynamic
/// section, needed and defined versions, strings (elf(5)).
pub(crate) fn elf(soname: &str, needs: &[&str], versions: &[&str]) -> Vec<u8> {
    let mut strings = Strings(vec![0]);
    // Tag and value; the last ones are addresses.
    let mut dynamic: Vec<(u64, u64)> = vec![(14, strings.place(soname).into())];
    let mut verneed = Vec::new();
    for (index, need) in needs.iter().enumerate() {
        let (file, version) = need.split_once('@').unwrap_or((need, ""));
        let name = strings.place(file);
        dynamic.push((1, name.into()));
        let next = if index + 1 == needs.len() { 0 } else { 32 };
        // One version of each: vn_version and vn_cnt, vn_file, vn_aux, vn_next, then
        // vna_hash, vna_flags and vna_other, vna_name, vna_next.
        let version = strings.place(version);
        verneed.extend(words(&[1 | 1 << 16, name, 16, next, 0, 0, version, 0]));
    }
    let mut verdef = Vec::new();
    for (index, version) in versions.iter().enumerate() {
        let next = if index + 1 == versions.len() { 0 } else { 28 };
        let name = strings.place(version);
        // vd_version to vd_cnt, vd_hash, vd_aux, vd_next, then vda_name, vda_next.
        verdef.extend(words(&[1, 1 << 16, 0, 20, next, name, 0]));
    }
    let start = 64 + 2 * 56;
    let length = (dynamic.len() + 4) * 16;
    let (need_at, define_at) = (start + length, start + length + verneed.len());
    let text_at = define_at + verdef.len();
    if !needs.is_empty() {
        dynamic.push((0x6fff_fffe, need_at as u64));
    }
    if !versions.is_empty() {
        dynamic.push((0x6fff_fffc, define_at as u64));
    }
    dynamic.push((5, text_at as u64));
    dynamic.resize(length / 16, (0, 0));
    let total = text_at + strings.0.len();
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(16, 0);
    out.extend(words(&[3 | 62 << 16, 1, 0, 0, 64, 0, 0, 0, 0, 64 | 56 << 16, 2, 0]));
    for (kind, at, size) in [(1u32, 0, total), (2, start, length)] {
        out.extend(words(&[kind, 4]));
        for value in [at, at, at, size, size, 8] {
            out.extend((value as u64).to_le_bytes());
        }
    }
    for (tag, value) in dynamic {
        out.extend(tag.to_le_bytes());
        out.extend(value.to_le_bytes());
    }
    out.extend(verneed);
    out.extend(verdef);
    out.extend(strings.0);
    out
}
