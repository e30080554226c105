//! Libraries of the host in a container: which are needed, whether they work
//! there, and how they get in.
//!
//! A host library brings the libraries that it needs. One that the image has
//! too, at least as new and with every version of symbols that is asked for,
//! stays the image's. The C library always does; a host library that asks for a
//! newer one is refused before anything starts. One that nothing depends on comes
//! with all that it needs, or not at all: half of it would take the place of
//! something that works.
//!
//! What is taken appears in [`DIR`], each file under its soname, and the
//! container gets an `ld.so.cache` that names it. A file of the image that is
//! replaced becomes a link to it, so programs that look in their own
//! directories find it as well.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use plan::{
    Contribution, FileSpec, MountFlags, MountSource, MountSpec, Rank, SkeletonKind, resolve,
};
use serde::Serialize;

use crate::ldcache::{self, Entry};
use crate::libraries::{LD_CACHE, Libc, Libraries, Library, Version, of_libc};

/// Where the container has the host's libraries.
pub const DIR: &str = "/.sampan/lib";

/// Where a library comes from, as far as there is a choice.
const FABRIC: [&str; 16] = [
    "libfabric.so",
    "libcxi.so",
    "libpsm2.so",
    "libucp.so",
    "libuct.so",
    "libucs.so",
    "libucm.so",
    "libibverbs.so",
    "librdmacm.so",
    "libmlx4.so",
    "libmlx5.so",
    "libefa.so",
    "libmana.so",
    "libpmix.so",
    "libpmi.so",
    "libpmi2.so",
];

/// Libraries that use each other's insides, so that those of one build belong
/// together.
struct Family {
    /// All are the host's, or all are the image's.
    together: &'static [&'static str],
    /// Those of the image stay where the host has none: nothing else of the
    /// family asks for them.
    providers: &'static [&'static str],
}

/// UCX; verbs with the libraries of its providers.
const FAMILIES: [Family; 2] = [
    Family { together: &["libucp.so.", "libuct.so.", "libucs.so.", "libucm.so."], providers: &[] },
    Family {
        together: &["libibverbs.so.", "librdmacm.so."],
        providers: &["libmlx4.so.", "libmlx5.so.", "libefa.so.", "libmana.so."],
    },
];

impl Family {
    fn of(name: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.has(name))
    }

    fn has(&self, name: &str) -> bool {
        self.together.iter().chain(self.providers).any(|start| name.starts_with(start))
    }
}

/// A library of the host that is wanted in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The library.
    pub library: Library,
    /// Whether nothing works without it.
    pub required: bool,
    /// Files of the image that it stands for, beside those of its own name.
    pub replaces: Vec<PathBuf>,
    /// Other names under which programs of the image ask for it.
    pub aliases: Vec<String>,
    /// Who wants it.
    pub reason: String,
    /// Whether a mount brings it already: then what it needs counts alone.
    pub mounted: bool,
    /// Whose plugin it is.
    pub plugin: Option<Plugin>,
    /// Files of the image that stay, whatever their names are.
    pub spared: Vec<PathBuf>,
    /// What is known to be asked of it in the image.
    pub asked: Vec<Asked>,
}

/// A version of symbols that a library of the image asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The version.
    pub version: String,
    /// Who asks.
    pub by: PathBuf,
}

/// What a plugin is to its library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// The library's soname.
    pub of: String,
    /// Whether the library does nothing without one: if none can be loaded, it is
    /// not taken, unless it is required.
    pub needed: bool,
}

impl Wanted {
    /// A library that stands for those of its own name.
    #[must_use]
    pub fn new(library: Library, required: bool, reason: String) -> Self {
        Self {
            library,
            required,
            replaces: Vec::new(),
            aliases: Vec::new(),
            reason,
            mounted: false,
            plugin: None,
            spared: Vec::new(),
            asked: Vec::new(),
        }
    }
}

/// A library of the host that the container gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// The name under which it is found.
    pub name: String,
    /// The file on the host.
    pub source: PathBuf,
    /// Its version.
    pub version: Version,
    /// Files of the image that become links to it.
    pub replaces: Vec<PathBuf>,
    /// Other names of it.
    pub aliases: Vec<String>,
    /// Why.
    pub reason: String,
    #[serde(skip)]
    machine: u16,
}

/// A library that is needed and stays the image's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// The file in the image.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
}

/// What is taken from the host, and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Injection {
    /// Libraries of the host.
    pub taken: Vec<Taken>,
    /// Libraries that could have been.
    pub kept: Vec<Kept>,
    /// What was left out, and why.
    pub warnings: Vec<String>,
}

/// Why a library of the host does not work in the image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// No GNU C library in the image.
    #[error("the host's {library} needs the GNU C library, and the image has {has}")]
    Libc {
        /// The library.
        library: String,
        /// What the image has.
        has: Libc,
    },
    /// Another processor.
    #[error(
        "the host's {library} is for machine {machine}, the image's programs are for {image} (e_machine of ELF)"
    )]
    Machine {
        /// The library.
        library: String,
        /// Its machine.
        machine: u16,
        /// The image's.
        image: u16,
    },
    /// A newer C library.
    #[error("the host's {library} needs {version} of {file}, and the image has {has}")]
    Glibc {
        /// The library.
        library: String,
        /// A part of the C library.
        file: String,
        /// The version that it lacks.
        version: String,
        /// What it has.
        has: Libc,
    },
    /// A library that nobody has.
    #[error("the host's {library} needs {name}, which neither the host nor the image has")]
    Missing {
        /// The library.
        library: String,
        /// What it needs.
        name: String,
    },
    /// A library that is too old for the image's programs.
    #[error("the host's {library} lacks {version}, which the image's {by} asks for", by = by.display())]
    Older {
        /// The library.
        library: String,
        /// The version of symbols that it lacks.
        version: String,
        /// Who asks for it.
        by: PathBuf,
    },
    /// A library without the one that belongs to it.
    #[error(
        "the image has {name}, which has to be of one build with {library}, and the host has none"
    )]
    Apart {
        /// The host's library.
        library: String,
        /// The image's.
        name: String,
    },
}

impl InjectError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Libc { .. } => {
                "a musl image can never use them: build the image on a distribution with glibc, or run with --mpi=container"
            }
            Self::Glibc { .. } => {
                "build the image on a distribution at least as new as the host's, or do without the host's library"
            }
            Self::Machine { .. } => "take the image for the host's architecture: --platform",
            Self::Missing { .. } => "install it on the host, or in the image",
            Self::Older { .. } => "install a newer one on the host, or an older MPI in the image",
            Self::Apart { .. } => "install it on the host",
        }
    }
}

/// Decides which libraries of the host are taken.
///
/// # Errors
/// When a required one does not work in the image.
pub fn inject(
    host: &Libraries<'_>,
    image: &Libraries<'_>,
    wanted: &[Wanted],
) -> Result<Injection, InjectError> {
    if wanted.is_empty() {
        return Ok(Injection::default());
    }
    let mut refused = BTreeMap::new();
    loop {
        let mut work = Work::new(host, image, &refused);
        work.all(wanted)?;
        let more = work.useless(wanted);
        if more.is_empty() {
            return Ok(Injection {
                taken: work.taken.into_values().collect(),
                kept: work.kept.into_values().collect(),
                warnings: work.warnings,
            });
        }
        refused.extend(more);
    }
}

struct Work<'a> {
    host: &'a Libraries<'a>,
    image: &'a Libraries<'a>,
    libc: Libc,
    machine: Option<u16>,
    /// Libraries that are not taken, and why.
    refused: &'a BTreeMap<String, InjectError>,
    /// The versions of symbols that parts of the image's C library have.
    parts: BTreeMap<String, Vec<String>>,
    /// The image's libraries of families.
    members: OnceCell<Vec<String>>,
    taken: BTreeMap<String, Taken>,
    /// Those without which nothing works.
    required: BTreeSet<String>,
    kept: BTreeMap<String, Kept>,
    /// Plugins that cannot be loaded: whose, and why.
    failed: Vec<(String, InjectError)>,
    warnings: Vec<String>,
}

/// What one wanted library has brought along.
#[derive(Default)]
struct Unit {
    required: bool,
    queue: VecDeque<Wanted>,
    taken: Vec<String>,
    kept: Vec<String>,
    /// What belongs to required libraries without being needed by them.
    beside: Vec<Wanted>,
    warnings: Vec<String>,
}

impl<'a> Work<'a> {
    fn new(
        host: &'a Libraries<'a>,
        image: &'a Libraries<'a>,
        refused: &'a BTreeMap<String, InjectError>,
    ) -> Self {
        Self {
            host,
            image,
            libc: image.libc(),
            machine: image.find("libc.so.6").map(|library| library.elf.machine),
            refused,
            parts: BTreeMap::new(),
            members: OnceCell::new(),
            taken: BTreeMap::new(),
            required: BTreeSet::new(),
            kept: BTreeMap::new(),
            failed: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Takes what is required, then what may fail.
    fn all(&mut self, wanted: &[Wanted]) -> Result<(), InjectError> {
        let mut beside = Vec::new();
        for next in wanted.iter().filter(|wanted| wanted.required) {
            let mut unit = self.unit(next.clone());
            self.fill(&mut unit)?;
            self.required.extend(unit.taken);
            self.warnings.append(&mut unit.warnings);
            beside.append(&mut unit.beside);
        }
        for next in beside.iter().chain(wanted.iter().filter(|wanted| !wanted.required)) {
            // Plugins of what is not there are not shown.
            if next.plugin.as_ref().is_some_and(|plugin| !self.taken.contains_key(&plugin.of)) {
                continue;
            }
            let mut unit = self.unit(next.clone());
            let Err(error) = self.fill(&mut unit) else {
                self.warnings.append(&mut unit.warnings);
                continue;
            };
            unit.taken.iter().for_each(|name| drop(self.taken.remove(name)));
            unit.kept.iter().for_each(|name| drop(self.kept.remove(name)));
            let (name, lost) = match next.mounted {
                true => (&*next.library.name, "cannot be loaded"),
                false => (next.library.soname(), "was left out"),
            };
            self.warnings.push(format!("{name} {lost}: {error}"));
            let plugin = next.plugin.iter().filter(|plugin| plugin.needed);
            self.failed.extend(plugin.map(|plugin| (plugin.of.clone(), error.clone())));
        }
        self.kept.retain(|name, _| !self.taken.contains_key(name));
        Ok(())
    }

    fn unit(&self, wanted: Wanted) -> Unit {
        Unit { required: wanted.required, queue: [wanted].into(), ..Unit::default() }
    }

    /// Takes a library and all that it needs.
    fn fill(&mut self, unit: &mut Unit) -> Result<(), InjectError> {
        while let Some(next) = unit.queue.pop_front() {
            self.take(next, unit)?;
        }
        Ok(())
    }

    /// Libraries that were taken, need a plugin, and have none that can be loaded.
    fn useless(&self, wanted: &[Wanted]) -> BTreeMap<String, InjectError> {
        let plugins = |owner: &String| {
            let of = wanted.iter().filter_map(|wanted| wanted.plugin.as_ref());
            of.filter(|plugin| plugin.of == *owner).count()
        };
        let failures = |owner: &String| self.failed.iter().filter(|(of, _)| of == owner).count();
        let free =
            |owner: &String| self.taken.contains_key(owner) && !self.required.contains(owner);
        // Of several reasons the first.
        let useless = self
            .failed
            .iter()
            .rev()
            .filter(|(owner, _)| free(owner) && failures(owner) == plugins(owner));
        useless.cloned().collect()
    }

    fn take(&mut self, wanted: Wanted, unit: &mut Unit) -> Result<(), InjectError> {
        let Wanted { library, replaces, aliases, reason, mounted, spared, asked, .. } = wanted;
        if mounted {
            self.fits(&library)?;
            let here = library.real.parent();
            let beside = |name: &&String| {
                self.beside(&library, name).is_some_and(|other| other.real.parent() == here)
            };
            let others: Vec<&String> =
                library.elf.needed.iter().filter(|name| !of_libc(name) && !beside(name)).collect();
            return others.into_iter().try_for_each(|name| self.need(&library, name, unit));
        }
        let name = library.soname().to_owned();
        if let Some(taken) = self.taken.get_mut(&name) {
            taken.replaces.extend(replaces);
            taken.aliases.extend(aliases);
            return Ok(());
        }
        if let Some(error) = self.refused.get(&name) {
            return Err(error.clone());
        }
        self.fits(&library)?;
        self.serves(&library, asked, unit)?;
        let mut links = replaces;
        let mut names = vec![name.as_str()];
        if library.name != name {
            names.push(&library.name);
        }
        for name in names {
            let same = self.image.find_all(name).into_iter().map(|library| library.real);
            links.extend(same);
        }
        links.retain(|path| !spared.contains(path));
        links.sort();
        links.dedup();
        let taken = Taken {
            name: name.clone(),
            source: library.real.clone(),
            version: library.version.clone(),
            replaces: links,
            aliases,
            reason,
            machine: library.elf.machine,
        };
        self.taken.insert(name.clone(), taken);
        unit.taken.push(name.clone());
        self.family(&library, unit)?;
        let mut needed = library.elf.needed.iter().filter(|name| !of_libc(name));
        needed.try_for_each(|name| self.need(&library, name, unit))
    }

    /// Those of the image that have to be of one build with a taken library.
    fn family(&mut self, library: &Library, unit: &mut Unit) -> Result<(), InjectError> {
        let own = library.soname();
        let Some(family) = Family::of(own) else { return Ok(()) };
        let all: Vec<&str> =
            FAMILIES.iter().flat_map(|f| f.together.iter().chain(f.providers)).copied().collect();
        let members = self.members.get_or_init(|| {
            let mut names = self.image.names(&all);
            names.retain(|name| Version::of(name).0.len() == 1);
            names
        });
        let others = members.iter().filter(|name| family.has(name) && *name != own);
        for name in others.filter(|name| !self.taken.contains_key(*name)) {
            let here = library.real.parent().and_then(|dir| self.host.at(&dir.join(name)));
            let Some(other) = here.or_else(|| self.host.find(name)) else {
                if family.together.iter().all(|start| !name.starts_with(start)) {
                    continue;
                }
                let library = library.path.display().to_string();
                let error = InjectError::Apart { library, name: name.clone() };
                if unit.required {
                    self.warnings.push(error.to_string());
                    continue;
                }
                return Err(error);
            };
            let wanted = Wanted::new(other, false, format!("of one build with {own}"));
            match unit.required {
                true => unit.beside.push(wanted),
                false => unit.queue.push_back(wanted),
            }
        }
        Ok(())
    }

    /// Whether the image's C library has what a library asks for.
    fn fits(&mut self, library: &Library) -> Result<(), InjectError> {
        let name = || library.path.display().to_string();
        if !matches!(self.libc, Libc::Glibc(_)) {
            return Err(InjectError::Libc { library: name(), has: self.libc.clone() });
        }
        if let Some(image) = self.machine.filter(|machine| *machine != library.elf.machine) {
            let machine = library.elf.machine;
            return Err(InjectError::Machine { library: name(), machine, image });
        }
        for need in library.elf.needs.iter().filter(|need| of_libc(&need.file)) {
            let image = self.image;
            let of = |file: &String| image.find(file).map(|found| found.elf.versions);
            let versions = self
                .parts
                .entry(need.file.clone())
                .or_insert_with(|| of(&need.file).unwrap_or_default());
            if let Some(version) = need.versions.iter().find(|v| !versions.contains(v)) {
                return Err(InjectError::Glibc {
                    library: name(),
                    file: need.file.clone(),
                    version: version.clone(),
                    has: self.libc.clone(),
                });
            }
        }
        Ok(())
    }

    /// Whether a library has what the image asks it for. Versions of symbols that the
    /// image's own has, and that nobody is known to ask for, are worth a word.
    fn serves(
        &self,
        library: &Library,
        asked: Vec<Asked>,
        unit: &mut Unit,
    ) -> Result<(), InjectError> {
        let lacks = |version: &String| !library.elf.versions.contains(version);
        let name = || library.path.display().to_string();
        if let Some(Asked { version, by }) = asked.into_iter().find(|asked| lacks(&asked.version)) {
            return Err(InjectError::Older { library: name(), version, by });
        }
        let image = self.image.find(library.soname());
        let lost = image.iter().flat_map(|image| &image.elf.versions).filter(|v| lacks(v));
        let lost: Vec<&str> = lost.map(String::as_str).collect();
        if !lost.is_empty() {
            unit.warnings.push(format!(
                "the host's {} lacks {}, which the image's has: a program that asks for it will not start",
                name(),
                lost.join(", ")
            ));
        }
        Ok(())
    }

    /// A library that a taken one needs: the host's or the image's.
    fn need(&mut self, by: &Library, name: &str, unit: &mut Unit) -> Result<(), InjectError> {
        if self.taken.contains_key(name) {
            return Ok(());
        }
        let image = self.image.find(name).filter(|l| l.elf.machine == by.elf.machine);
        let host = self.beside(by, name).or_else(|| self.host.find(name));
        let versions = by.elf.needs.iter().find(|need| need.file == name).map(|n| &n.versions);
        let offers = |library: &Library| {
            versions.is_none_or(|all| all.iter().all(|v| library.elf.versions.contains(v)))
        };
        let keep = match (&host, &image) {
            (None, None) => {
                let (library, name) = (by.path.display().to_string(), name.to_owned());
                return Err(InjectError::Missing { library, name });
            }
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (Some(host), Some(image)) => {
                let fabric = FABRIC.iter().any(|start| name.starts_with(start));
                !fabric && image.version >= host.version && offers(image)
            }
        };
        if let (true, Some(image)) = (keep, &image) {
            let kept = Kept {
                name: name.to_owned(),
                path: image.real.clone(),
                version: image.version.clone(),
            };
            if self.kept.insert(name.to_owned(), kept).is_none() {
                unit.kept.push(name.to_owned());
            }
        } else if let Some(library) = host {
            let reason = format!("needed by {}", by.soname());
            unit.queue.push_back(Wanted::new(library, unit.required, reason));
        }
        Ok(())
    }

    /// A library in one of the directories that the asking one names.
    fn beside(&self, by: &Library, name: &str) -> Option<Library> {
        let origin = by.real.parent()?.to_str()?;
        let dirs = by.elf.runpath.iter();
        let dirs = dirs.map(|dir| dir.replace("${ORIGIN}", origin).replace("$ORIGIN", origin));
        dirs.filter_map(|dir| self.host.at(&Path::new(&dir).join(name))).next()
    }
}

/// A library that the container has by a mount of another kind, as CDI makes
/// them, and that its cache has to name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Its soname.
    pub name: String,
    /// Path in the container.
    pub path: PathBuf,
    /// `e_machine` of ELF.
    pub machine: u16,
}

impl Injection {
    /// Adds another one of the same host and image.
    pub fn merge(&mut self, other: Self) {
        for taken in other.taken {
            if self.taken.iter().all(|own| own.name != taken.name) {
                self.taken.push(taken);
            }
        }
        self.kept.extend(other.kept);
        self.kept.retain(|kept| self.taken.iter().all(|taken| taken.name != kept.name));
        self.warnings.extend(other.warnings);
    }

    /// The mounts, links and the cache that bring the libraries in. Where the
    /// image is written `in_place`, nothing can be added to it: files are mounted
    /// over those that they replace, and a search path names the others.
    #[must_use]
    pub fn contribution(
        &self,
        image: &Libraries<'_>,
        mounted: &[Mounted],
        search: Option<&str>,
        in_place: bool,
    ) -> Contribution {
        let mut all = Contribution::new(Rank::Host, "libraries of the host");
        if self.taken.is_empty() && mounted.is_empty() {
            return all;
        }
        if in_place {
            let source = MountSource::Tmpfs { size: Some(1 << 20), mode: 0o755 };
            let (target, flags) = (Path::new(DIR).to_owned(), MountFlags::default());
            all.mounts.push(MountSpec { source, target, flags, optional: false });
        }
        for taken in &self.taken {
            let target = Path::new(DIR).join(&taken.name);
            all.mounts.push(bound(&taken.source, &target));
            for path in &taken.replaces {
                match in_place {
                    true => all.mounts.push(bound(&taken.source, path)),
                    false => all.files.push(link(path, &target)),
                }
            }
        }
        match image.cache().filter(|_| !in_place) {
            Some(entries) => {
                let bytes = self.cache(entries, mounted);
                let path = resolve(image.tree(), Path::new(LD_CACHE))
                    .map_or_else(|_| LD_CACHE.into(), |(real, _)| real);
                all.files.push(FileSpec { path, kind: SkeletonKind::File(bytes), mode: 0o644 });
            }
            None => {
                let mut dirs: Vec<String> = Vec::new();
                let folders = mounted.iter().filter_map(|library| library.path.parent());
                let folders = [Path::new(DIR)].into_iter().chain(folders);
                for dir in folders.map(|dir| dir.display().to_string()) {
                    if !dirs.contains(&dir) {
                        dirs.push(dir);
                    }
                }
                dirs.extend(search.filter(|text| !text.is_empty()).map(str::to_owned));
                all.env.push(("LD_LIBRARY_PATH".into(), Some(OsString::from(dirs.join(":")))));
            }
        }
        all
    }

    fn cache(&self, entries: &[Entry], mounted: &[Mounted]) -> Vec<u8> {
        let taken = self.taken.iter().flat_map(|taken| {
            let names = [&taken.name].into_iter().chain(&taken.aliases);
            names.map(|name| (name.as_str(), Path::new(DIR).join(&taken.name), taken.machine))
        });
        let others = mounted.iter().map(|l| (l.name.as_str(), l.path.clone(), l.machine));
        let new: Vec<Entry> = taken
            .chain(others)
            .filter_map(|(name, path, machine)| {
                let flags = ldcache::flags(machine)?;
                let path = path.display().to_string();
                Some(Entry { name: name.to_owned(), path, flags, hwcap: 0 })
            })
            .collect();
        let replaced = |entry: &&Entry| {
            new.iter().any(|other| other.name == entry.name && other.flags == entry.flags)
        };
        let mut all: Vec<Entry> =
            entries.iter().filter(|entry| !replaced(entry)).cloned().collect();
        all.extend(new);
        ldcache::write(&all)
    }
}

/// A file of the host, at a place in the container.
fn bound(source: &Path, target: &Path) -> MountSpec {
    MountSpec {
        source: MountSource::File(source.to_owned()),
        target: target.to_owned(),
        flags: MountFlags { read_only: true, recursive: false },
        optional: false,
    }
}

fn link(path: &Path, to: &Path) -> FileSpec {
    FileSpec { path: path.to_owned(), kind: SkeletonKind::Symlink(to.to_owned()), mode: 0o777 }
}

#[cfg(test)]
mod tests;
