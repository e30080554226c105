//! What libraries need beside them: plugins, which are libraries again, and
//! their configuration.
//!
//! A plugin directory appears in the container at the host's path, where the
//! library was built to look; where it looks beside itself, a variable names the
//! place. Where the host's own variable names another place, that is the one.
//! Plugins may be links to files elsewhere, as those of verbs are; these files
//! appear where the links lead.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use plan::{EntryKind, MountFlags, MountSource, MountSpec, resolve};

use crate::inject::{InjectError, Injection, Plugin, Taken, Wanted, inject};
use crate::launcher::get;
use crate::libraries::{Libraries, Library};

/// Directories and variables that taken libraries need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Companions {
    /// Directories of the host.
    pub mounts: Vec<MountSpec>,
    /// Variables.
    pub env: Vec<(OsString, Option<OsString>)>,
}

/// Where a library has plugins.
struct Place {
    /// How the library's name begins.
    library: &'static str,
    /// Directories from the library's own; the first that is there counts. A
    /// last word that ends in `*` stands for every name that begins so.
    plugins: &'static [&'static str],
    /// How the names of its plugins begin.
    prefix: &'static str,
    /// The variable that names the directory.
    variable: Option<&'static str>,
    /// Whether the library does nothing without one of them.
    needs_plugins: bool,
    /// Configuration and texts.
    data: &'static [&'static str],
}

const PLACES: [Place; 5] = [
    Place {
        library: "libopen-pal.so",
        plugins: &["openmpi", "openmpi/lib/openmpi*", "openmpi/lib/openmpi"],
        prefix: "mca_",
        variable: None,
        needs_plugins: false,
        data: &[
            "/etc/openmpi",
            "/usr/share/openmpi",
            "../share/openmpi",
            "../etc/openmpi-mca-params.conf",
        ],
    },
    Place {
        library: "libpmix.so",
        plugins: &["pmix", "pmix2/lib/pmix", "pmix/lib/pmix"],
        prefix: "",
        variable: None,
        needs_plugins: false,
        data: &["/etc/pmix", "/usr/share/pmix", "../share/pmix", "pmix2/share/pmix"],
    },
    Place {
        library: "libfabric.so",
        plugins: &["libfabric"],
        prefix: "",
        variable: Some("FI_PROVIDER_PATH"),
        needs_plugins: false,
        data: &[],
    },
    Place {
        library: "libucs.so",
        plugins: &["ucx"],
        prefix: "libuc",
        variable: Some("UCX_MODULE_DIR"),
        needs_plugins: false,
        data: &[],
    },
    Place {
        library: "libibverbs.so",
        plugins: &["libibverbs"],
        prefix: "lib",
        variable: None,
        needs_plugins: true,
        data: &["/etc/libibverbs.d"],
    },
];

type Env<'a> = &'a [(OsString, OsString)];

/// A directory of plugins, or a plugin.
struct Plugins {
    path: PathBuf,
    /// The plugins in the directory; none where the path is one.
    names: Option<Vec<String>>,
}

/// Decides which libraries are taken, those that plugins need among them. `env` is
/// the host's environment.
///
/// # Errors
/// When a required one does not work in the image.
pub fn with_companions(
    host: &Libraries<'_>,
    image: &Libraries<'_>,
    env: Env<'_>,
    mut wanted: Vec<Wanted>,
) -> Result<(Injection, Companions), InjectError> {
    let mut done = [false; PLACES.len()];
    loop {
        let injection = inject(host, image, &wanted)?;
        let mut more = false;
        for (place, done) in PLACES.iter().zip(&mut done) {
            let Some(taken) = place.taken(&injection).filter(|_| !*done) else { continue };
            *done = true;
            for library in place.libraries(host, env, taken) {
                more = true;
                let reason = format!("plugin of {}", place.library);
                let plugin = Some(Plugin { of: taken.name.clone(), needed: place.needs_plugins });
                let plain = Wanted::new(library, false, reason);
                wanted.push(Wanted { mounted: true, plugin, ..plain });
            }
        }
        if !more {
            let mut companions = Companions::default();
            for place in &PLACES {
                if let Some(taken) = place.taken(&injection) {
                    place.add(host, image, env, taken, &mut companions);
                }
            }
            let replaced =
                |path: &PathBuf| injection.taken.iter().any(|t| t.replaces.contains(path));
            companions.mounts.retain(|mount| !replaced(&mount.target));
            return Ok((injection, companions));
        }
    }
}

impl Companions {
    /// Adds a mount, unless something is there already.
    fn mount(&mut self, source: MountSource, target: &Path) {
        let (target, flags) = (target.to_owned(), MountFlags { read_only: true, recursive: true });
        if self.mounts.iter().all(|other| other.target != target) {
            self.mounts.push(MountSpec { source, target, flags, optional: true });
        }
    }
}

impl Place {
    /// The library of this place, where the host's is taken.
    fn taken<'a>(&self, injection: &'a Injection) -> Option<&'a Taken> {
        injection.taken.iter().find(|taken| taken.name.starts_with(self.library))
    }

    /// The host's plugins, and what its variable has to say: those that the host's
    /// own variable names, else those beside the library.
    fn found(&self, host: &Libraries<'_>, env: Env<'_>, taken: &Taken) -> (Vec<Plugins>, OsString) {
        let text = self.variable.and_then(|variable| get(env, variable)?.to_str());
        let words = text.into_iter().flat_map(|text| text.split(':'));
        let named: Vec<Plugins> = words.filter_map(|word| self.named(host, word)).collect();
        if let (false, Some(text)) = (named.is_empty(), text) {
            return (named, text.into());
        }
        let beside = taken.source.parent().and_then(|dir| self.plugins(host, dir));
        let value = beside.as_ref().map(|(path, _)| path.clone().into_os_string());
        let list = beside.map(|(path, names)| Plugins { path, names: Some(names) });
        (list.into_iter().collect(), value.unwrap_or_default())
    }

    /// What one word of the variable names; libfabric's may begin with a sign
    /// that puts it first (fabric(7)).
    fn named(&self, host: &Libraries<'_>, word: &str) -> Option<Plugins> {
        let path = PathBuf::from(word.strip_prefix('@').unwrap_or(word));
        if !path.is_absolute() {
            return None;
        }
        let names: Vec<String> =
            host.listing(&path).into_iter().filter(|name| self.is_plugin(name)).collect();
        if !names.is_empty() {
            return Some(Plugins { path, names: Some(names) });
        }
        host.at(&path).map(|library| Plugins { path: library.path, names: None })
    }

    fn libraries(&self, host: &Libraries<'_>, env: Env<'_>, taken: &Taken) -> Vec<Library> {
        let (found, _) = self.found(host, env, taken);
        let paths = found.into_iter().flat_map(|found| match found.names {
            Some(names) => names.iter().map(|name| found.path.join(name)).collect(),
            None => vec![found.path],
        });
        paths.filter_map(|path| host.at(&path)).collect()
    }

    /// Adds what lies beside the library. The image's own plugins, where a library
    /// might look first, are hidden.
    fn add(
        &self,
        host: &Libraries<'_>,
        image: &Libraries<'_>,
        env: Env<'_>,
        taken: &Taken,
        companions: &mut Companions,
    ) {
        let Some(dir) = taken.source.parent() else { return };
        let (found, value) = self.found(host, env, taken);
        let theirs = taken.replaces.iter().filter_map(|path| path.parent());
        let theirs = theirs.filter_map(|dir| Some(self.plugins(image, dir)?.0));
        let theirs = theirs.flat_map(|target| Some((found.first()?, target)));
        let own = found.iter().map(|plugins| (plugins, plugins.path.clone()));
        for (plugins, target) in own.chain(theirs) {
            let Some(names) = &plugins.names else {
                companions.mount(MountSource::File(plugins.path.clone()), &target);
                continue;
            };
            companions.mount(MountSource::Directory(plugins.path.clone()), &target);
            for (file, to) in
                names.iter().filter_map(|name| led_out(host, &plugins.path.join(name)))
            {
                companions.mount(MountSource::File(file), &normal(&target.join(to)));
            }
        }
        if let (Some(variable), false) = (self.variable, found.is_empty()) {
            companions.env.push((variable.into(), Some(value)));
        }
        for data in self.data {
            let path = if data.starts_with('/') { PathBuf::from(data) } else { dir.join(data) };
            if host.exists(&path) {
                let path = normal(&path);
                let source = match path.extension().is_some_and(|ext| ext == "conf") {
                    true => MountSource::File(path.clone()),
                    false => MountSource::Directory(path.clone()),
                };
                companions.mount(source, &path);
            }
        }
    }

    fn is_plugin(&self, name: &str) -> bool {
        name.starts_with(self.prefix) && name.contains(".so")
    }

    /// The plugin directory and the plugins in it.
    fn plugins(&self, host: &Libraries<'_>, dir: &Path) -> Option<(PathBuf, Vec<String>)> {
        for pattern in self.plugins {
            let path = dir.join(pattern);
            let (parent, start) = match pattern.strip_suffix('*') {
                Some(stem) => {
                    let stem = dir.join(stem);
                    (stem.parent()?.to_owned(), stem.file_name()?.to_str()?.to_owned())
                }
                None => (path.parent()?.to_owned(), path.file_name()?.to_str()?.to_owned()),
            };
            let starred = pattern.ends_with('*');
            let names = host.listing(&parent).into_iter();
            let fits =
                |name: &String| if starred { name.starts_with(&start) } else { *name == start };
            for name in names.filter(fits) {
                let path = parent.join(name);
                let listed = host.listing(&path).into_iter();
                let plugins: Vec<String> = listed.filter(|name| self.is_plugin(name)).collect();
                if !plugins.is_empty() {
                    return Some((path, plugins));
                }
            }
        }
        None
    }
}

/// The file behind a plugin that is a link out of its directory, and what the link
/// says.
fn led_out(host: &Libraries<'_>, plugin: &Path) -> Option<(PathBuf, PathBuf)> {
    let (dir, _) = resolve(host.tree(), plugin.parent()?).ok()?;
    let entry = host.tree().entry(&dir.join(plugin.file_name()?)).ok()??;
    let EntryKind::Symlink(to) = entry.kind else { return None };
    let out = normal(&dir.join(&to)).parent() != Some(&*dir);
    out.then(|| Some((host.at(plugin)?.real, to)))?
}

/// The path without `..`, which the mount point must not have.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(out.pop()),
            part => out.push(part),
        }
    }
    out
}
