//! The shared libraries of a root file system, found as the dynamic linker
//! finds them (ld.so(8)): the search path, the cache, the standard directories.
//! A cache that names files which are not there, or does not name those which
//! are, misleads nobody.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use plan::{EntryKind, SearchTree, resolve};
use serde::{Serialize, Serializer};

use crate::elf::{self, Elf};
use crate::ldcache::{self, Entry};

/// Where the cache is.
pub const LD_CACHE: &str = "/etc/ld.so.cache";
/// More than any cache has, in bytes.
const MOST_CACHE: usize = 16 << 20;

/// Most names of one kind of libraries that are looked at.
const MOST_NAMES: usize = 1024;
/// Most memory for what ELF files say, in bytes: a tree may have any number of
/// files that say much.
const MOST_TEXT: usize = 64 << 20;
/// What a file counts as beside that, in bytes.
const FILE_COST: usize = 16 << 10;

/// Where the dynamic linkers of distributions look without being told.
const STANDARD: [&str; 10] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib",
    "/usr/local/lib64",
];

/// What belongs to the C library, and so is never taken from the host: it fits
/// its dynamic linker alone.
const LIBC: [&str; 12] = [
    "libc.so.6",
    "libm.so.6",
    "libmvec.so.1",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "libresolv.so.2",
    "libutil.so.1",
    "libanl.so.1",
    "libnsl.so.1",
    "libBrokenLocale.so.1",
    "libthread_db.so.1",
];

/// Whether a library is a part of the C library.
#[must_use]
pub fn of_libc(name: &str) -> bool {
    LIBC.contains(&name) || name.starts_with("ld-linux") || name.starts_with("ld64.so")
}

/// The numbers after `.so` in a file's name: `12.2.0` of `libmpi.so.12.2.0`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub Vec<u32>);

impl Version {
    /// Of a file's name; empty where it has none.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let Some((_, rest)) = name.split_once(".so.") else { return Self::default() };
        let numbers: Option<Vec<u32>> = rest.split('.').map(|part| part.parse().ok()).collect();
        Self(numbers.unwrap_or_default())
    }

    /// The first number, which says whether programs fit at all.
    #[must_use]
    pub fn major(&self) -> Option<u32> {
        self.0.first().copied()
    }

    /// The second one, which grows with what is added.
    #[must_use]
    pub fn minor(&self) -> Option<u32> {
        self.0.get(1).copied()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.0.iter().map(u32::to_string).collect();
        f.write_str(if words.is_empty() { "unknown" } else { "" })?;
        f.write_str(&words.join("."))
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A library of a root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Library {
    /// The name by which it was found: `libmpi.so.12`.
    pub name: String,
    /// Where, symbolic links not followed.
    pub path: PathBuf,
    /// The file that this leads to.
    pub real: PathBuf,
    /// The longest version among the names on the way there.
    pub version: Version,
    /// What it says of itself.
    #[serde(skip)]
    pub elf: Elf,
}

impl Library {
    /// The name that programs ask for: the soname, or the file's.
    #[must_use]
    pub fn soname(&self) -> &str {
        self.elf.soname.as_deref().unwrap_or(&self.name)
    }
}

/// How programs come to a library, the first way first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// By the search path.
    Search,
    /// By the cache, or in a standard directory.
    System,
    /// By a run path of their own.
    Apart,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Search => "from the search path",
            Self::System => "the system's",
            Self::Apart => "in a directory of its own",
        })
    }
}

impl Serialize for Reach {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which C library a root file system has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Libc {
    /// GNU, with its newest version: `2.36`.
    Glibc(String),
    /// musl, as in Alpine.
    Musl,
    /// None that is known: programs are static.
    None,
}

impl fmt::Display for Libc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Glibc(version) => write!(f, "glibc {version}"),
            Self::Musl => f.write_str("musl"),
            Self::None => f.write_str("no C library"),
        }
    }
}

/// The libraries of a root file system.
pub struct Libraries<'a> {
    tree: &'a dyn SearchTree,
    /// The search path that comes first, as of `LD_LIBRARY_PATH`.
    search: Vec<PathBuf>,
    /// The standard directories that are there, each once.
    standard: Vec<PathBuf>,
    /// Directories in which only programs with a run path of their own look.
    apart: Vec<PathBuf>,
    cache: Vec<Entry>,
    has_cache: bool,
    /// The entries of a name, in order.
    by_name: HashMap<String, Vec<usize>>,
    /// What is left of [`MOST_TEXT`].
    left: Cell<usize>,
    /// What was found at paths: a search asks for the same ones again and again.
    known: RefCell<HashMap<PathBuf, Option<Library>>>,
    /// Directories without symbolic links.
    parents: RefCell<HashMap<PathBuf, Option<PathBuf>>>,
}

impl<'a> Libraries<'a> {
    /// Those of a tree, with a search path that comes before the cache.
    #[must_use]
    pub fn new(tree: &'a dyn SearchTree, search: Vec<PathBuf>) -> Self {
        let bytes = resolve(tree, Path::new(LD_CACHE))
            .ok()
            .and_then(|(real, _)| tree.read(&real, MOST_CACHE).ok().flatten());
        let cache = bytes.and_then(|bytes| {
            let parsed = ldcache::parse(&bytes);
            parsed.inspect_err(|e| tracing::debug!("{LD_CACHE} cannot be used: {e}")).ok()
        });
        let has_cache = cache.is_some();
        let cache = cache.unwrap_or_default();
        let mut standard = Vec::new();
        for dir in STANDARD.map(Path::new) {
            let Ok((real, Some(entry))) = resolve(tree, dir) else { continue };
            if entry.kind == EntryKind::Directory && !standard.contains(&real) {
                standard.push(real);
            }
        }
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, entry) in cache.iter().enumerate() {
            by_name.entry(entry.name.clone()).or_default().push(index);
        }
        let (known, parents) = (RefCell::default(), RefCell::default());
        let (apart, left) = (Vec::new(), Cell::new(MOST_TEXT));
        Self { tree, search, standard, apart, cache, has_cache, by_name, left, known, parents }
    }

    /// With directories that come after all others: programs look there only if
    /// they were built to.
    #[must_use]
    pub fn with_apart(self, apart: Vec<PathBuf>) -> Self {
        Self { apart, ..self }
    }

    /// How programs come to a library.
    #[must_use]
    pub fn reach(&self, library: &Library) -> Reach {
        let dir = library.path.parent().unwrap_or(Path::new("/"));
        if self.search.iter().any(|search| search == dir) {
            return Reach::Search;
        }
        let cached = || {
            let indices = self.by_name.get(&library.name).into_iter().flatten();
            indices.into_iter().any(|index| Path::new(&self.cache[*index].path) == library.path)
        };
        match self.standard.iter().any(|standard| standard == dir) || cached() {
            true => Reach::System,
            false => Reach::Apart,
        }
    }

    /// The tree.
    #[must_use]
    pub fn tree(&self) -> &dyn SearchTree {
        self.tree
    }

    /// What its cache names; None where it has none.
    #[must_use]
    pub fn cache(&self) -> Option<&[Entry]> {
        self.has_cache.then_some(&self.cache)
    }

    /// The library that a program would get for a name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Library> {
        self.places(name).find_map(|path| self.at(&path))
    }

    /// Every file that a program might get for a name, the first one first.
    #[must_use]
    pub fn find_all(&self, name: &str) -> Vec<Library> {
        let mut all: Vec<Library> = Vec::new();
        for library in self.places(name).filter_map(|path| self.at(&path)) {
            if all.iter().all(|other| other.real != library.real) {
                all.push(library);
            }
        }
        all
    }

    fn places(&self, name: &str) -> impl Iterator<Item = PathBuf> {
        let below =
            |dirs: &[PathBuf]| -> Vec<PathBuf> { dirs.iter().map(|dir| dir.join(name)).collect() };
        let cached = self.by_name.get(name).into_iter().flatten();
        let cached: Vec<PathBuf> =
            cached.map(|index| self.cache[*index].path.clone().into()).collect();
        [below(&self.search), cached, below(&self.standard), below(&self.apart)]
            .into_iter()
            .flatten()
    }

    /// The library at a path, where there is one that can be read.
    #[must_use]
    pub fn at(&self, path: &Path) -> Option<Library> {
        if let Some(known) = self.known.borrow().get(path) {
            return known.clone();
        }
        let found = self.look(path);
        self.known.borrow_mut().insert(path.to_owned(), found.clone());
        found
    }

    fn look(&self, path: &Path) -> Option<Library> {
        let name = path.file_name()?.to_str()?.to_owned();
        let (real, version) = self.follow(path, Version::of(&name))?;
        let read = |at, len| self.tree.read_at(&real, at, len).ok().flatten();
        let elf = elf::read(&read)?;
        let Some(left) = self.left.get().checked_sub(elf.weight() + FILE_COST) else {
            tracing::debug!("{} is not looked at: there are too many libraries", real.display());
            return None;
        };
        self.left.set(left);
        Some(Library { name, path: path.to_owned(), version, elf, real })
    }

    fn real_directory(&self, dir: &Path) -> Option<PathBuf> {
        if let Some(known) = self.parents.borrow().get(dir) {
            return known.clone();
        }
        let real = resolve(self.tree, dir).ok().map(|(real, _)| real);
        self.parents.borrow_mut().insert(dir.to_owned(), real.clone());
        real
    }

    /// Where a path leads, and the longest version on the way.
    fn follow(&self, path: &Path, mut version: Version) -> Option<(PathBuf, Version)> {
        let mut path = path.to_owned();
        for _ in 0..40 {
            let parent = self.real_directory(path.parent()?)?;
            let here = parent.join(path.file_name()?);
            let of_name = Version::of(here.file_name()?.to_str()?);
            if of_name.0.len() > version.0.len() {
                version = of_name;
            }
            match self.tree.entry(&here).ok()??.kind {
                EntryKind::File => return Some((here, version)),
                EntryKind::Symlink(to) => path = parent.join(to),
                _ => return None,
            }
        }
        None
    }

    /// The names of libraries that begin with one of some words, of the whole
    /// search path, the standard directories, the cache and the directories apart,
    /// without repetition. More than [`MOST_NAMES`] there are not.
    #[must_use]
    pub fn names(&self, prefixes: &[&str]) -> Vec<String> {
        let (mut names, mut seen) = (Vec::new(), HashSet::new());
        let mut add = |name: &str| {
            let wanted = prefixes.iter().any(|prefix| name.starts_with(prefix));
            let new = wanted && name.contains(".so") && seen.len() < MOST_NAMES;
            if new && seen.insert(name.to_owned()) {
                names.push(name.to_owned());
            }
        };
        for dir in self.search.iter().chain(&self.standard) {
            self.listing(dir).iter().for_each(|name| add(name));
        }
        self.cache.iter().for_each(|entry| add(&entry.name));
        for dir in &self.apart {
            self.listing(dir).iter().for_each(|name| add(name));
        }
        names
    }

    /// The names in a directory; none where there is none.
    #[must_use]
    pub fn listing(&self, dir: &Path) -> Vec<String> {
        let names = resolve(self.tree, dir).ok().and_then(|(real, entry)| {
            entry.filter(|entry| entry.kind == EntryKind::Directory)?;
            self.tree.names(&real).ok()
        });
        let mut names: Vec<String> = names
            .unwrap_or_default()
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// Whether something is at a path.
    #[must_use]
    pub fn exists(&self, path: &Path) -> bool {
        resolve(self.tree, path).is_ok_and(|(_, entry)| entry.is_some())
    }

    /// Which C library there is.
    #[must_use]
    pub fn libc(&self) -> Libc {
        if let Some(libc) = self.find("libc.so.6") {
            let versions = libc.elf.versions.iter().filter_map(|v| glibc_version(v));
            let newest = versions.max().unwrap_or_default();
            return Libc::Glibc(newest.to_string());
        }
        let musl = |name: &String| name.starts_with("ld-musl-");
        match self.listing(Path::new("/lib")).iter().any(musl) {
            true => Libc::Musl,
            false => Libc::None,
        }
    }
}

/// The number of `GLIBC_2.36`.
#[must_use]
pub fn glibc_version(text: &str) -> Option<Version> {
    let numbers = text.strip_prefix("GLIBC_")?.split('.').map(|part| part.parse().ok());
    Some(Version(numbers.collect::<Option<Vec<u32>>>()?))
}

/// Directories of a search path: `LD_LIBRARY_PATH` and the like.
#[must_use]
pub fn search_path(text: &str) -> Vec<PathBuf> {
    let dirs = text.split([':', ';']).filter(|dir| dir.starts_with('/'));
    dirs.map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DirectoryTree;

    #[test]
    fn versions_are_those_of_names() {
        assert_eq!(Version::of("libmpi.so.12.2.0"), Version(vec![12, 2, 0]));
        assert_eq!(Version::of("libmpi.so"), Version::default());
        assert_eq!(Version::of("libx.so.1.debug"), Version::default());
        assert!(Version(vec![2, 9]) < Version(vec![2, 36]));
        assert_eq!(glibc_version("GLIBC_2.2.5"), Some(Version(vec![2, 2, 5])));
        assert_eq!(glibc_version("GLIBC_PRIVATE"), None);
    }

    #[test]
    fn a_stale_cache_misleads_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in ["etc", "usr/lib", "opt/lib"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::os::unix::fs::symlink("usr/lib", root.join("lib")).unwrap();
        std::fs::copy("/bin/true", root.join("usr/lib/libx.so.1.4.0")).unwrap();
        std::os::unix::fs::symlink("libx.so.1.4.0", root.join("usr/lib/libx.so.1")).unwrap();
        let gone = Entry {
            name: "libx.so.1".into(),
            path: "/gone/libx.so.1".into(),
            flags: 0x303,
            hwcap: 0,
        };
        std::fs::write(root.join("etc/ld.so.cache"), ldcache::write(&[gone])).unwrap();
        let tree = DirectoryTree::open(root).unwrap();
        let libraries = Libraries::new(&tree, vec!["/opt/lib".into()]);
        let found = libraries.find("libx.so.1").unwrap();
        assert_eq!(found.real, Path::new("/usr/lib/libx.so.1.4.0"));
        assert_eq!(found.version, Version(vec![1, 4, 0]));
        assert_eq!(libraries.find_all("libx.so.1").len(), 1);
        assert_eq!(libraries.names(&["libx"]), ["libx.so.1", "libx.so.1.4.0"]);
        assert_eq!(libraries.libc(), Libc::None);
        std::fs::write(root.join("usr/lib/ld-musl-x86_64.so.1"), "").unwrap();
        assert_eq!(libraries.libc(), Libc::Musl);
    }

    #[test]
    fn a_tree_of_too_many_libraries_is_looked_at_in_part() {
        let root = crate::fixture::Root::glibc().named("usr/lib/libx.so", "libx.so", &[], &[]);
        let most = MOST_TEXT / FILE_COST;
        for n in 0..most + 100 {
            let path = root.path(&format!("usr/lib/libx{n}.so.1"));
            std::fs::hard_link(root.path("usr/lib/libx.so"), path).unwrap();
        }
        let tree = root.tree();
        let libraries = Libraries::new(&tree, vec![]);
        assert_eq!(libraries.names(&["libx"]).len(), MOST_NAMES);
        let found = (0..most + 100).filter(|n| libraries.find(&format!("libx{n}.so.1")).is_some());
        let found = found.count();
        assert!(found > MOST_NAMES && found <= most, "{found}");
    }

    #[test]
    fn directories_apart_come_last() {
        let root = crate::fixture::Root::glibc()
            .lib("opt/a/lib/libx.so.1.9.0", &[])
            .lib("usr/lib/libx.so.1.0.0", &[])
            .lib("srv/libx.so.1.2.0", &[])
            .cache(&["/srv/libx.so.1"]);
        let tree = root.tree();
        let apart = vec![PathBuf::from("/opt/a/lib")];
        let libraries = Libraries::new(&tree, vec!["/nothing".into()]).with_apart(apart.clone());
        let all = libraries.find_all("libx.so.1");
        let versions: Vec<String> = all.iter().map(|one| one.version.to_string()).collect();
        assert_eq!(versions, ["1.2.0", "1.0.0", "1.9.0"]);
        let reach: Vec<Reach> = all.iter().map(|one| libraries.reach(one)).collect();
        assert_eq!(reach, [Reach::System, Reach::System, Reach::Apart]);
        assert_eq!(Libraries::new(&tree, apart).reach(&all[2]), Reach::Search);
    }

    #[test]
    fn the_hosts_c_library_is_known() {
        let tree = DirectoryTree::open(Path::new("/")).unwrap();
        let libraries = Libraries::new(&tree, vec![]);
        assert!(matches!(libraries.libc(), Libc::Glibc(version) if version.starts_with("2.")));
    }
}
