//! What libraries need beside them: plugins, which are libraries again, and
//! their configuration.
//!
//! A plugin directory appears in the container at the host's path, where the
//! library was built to look; where it looks beside itself, a variable names the
//! place.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use plan::{MountFlags, MountSource, MountSpec};

use crate::inject::{InjectError, Injection, Wanted, inject};
use crate::libraries::Libraries;

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
    /// Configuration and texts.
    data: &'static [&'static str],
}

const PLACES: [Place; 5] = [
    Place {
        library: "libopen-pal.so",
        plugins: &["openmpi", "openmpi/lib/openmpi*", "openmpi/lib/openmpi"],
        prefix: "mca_",
        variable: None,
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
        data: &["/etc/pmix", "/usr/share/pmix", "../share/pmix", "pmix2/share/pmix"],
    },
    Place {
        library: "libfabric.so",
        plugins: &["libfabric"],
        prefix: "",
        variable: Some("FI_PROVIDER_PATH"),
        data: &[],
    },
    Place {
        library: "libucs.so",
        plugins: &["ucx"],
        prefix: "libuc",
        variable: Some("UCX_MODULE_DIR"),
        data: &[],
    },
    Place {
        library: "libibverbs.so",
        plugins: &["libibverbs"],
        prefix: "lib",
        variable: None,
        data: &["/etc/libibverbs.d"],
    },
];

/// Decides which libraries are taken, those that plugins need among them.
///
/// # Errors
/// When a required one does not work in the image.
pub fn with_companions(
    host: &Libraries<'_>,
    image: &Libraries<'_>,
    mut wanted: Vec<Wanted>,
) -> Result<(Injection, Companions), InjectError> {
    let mut companions = Companions::default();
    let mut done = [false; PLACES.len()];
    loop {
        let injection = inject(host, image, wanted.clone())?;
        let mut more = false;
        for (place, done) in PLACES.iter().zip(&mut done) {
            let taken = injection.taken.iter().find(|t| t.name.starts_with(place.library));
            let Some(taken) = taken.filter(|_| !*done) else { continue };
            *done = true;
            let Some(dir) = taken.source.parent() else { continue };
            let theirs = taken.replaces.iter().filter_map(|path| path.parent());
            let theirs: Vec<PathBuf> =
                theirs.filter_map(|dir| Some(place.plugins(image, dir)?.0)).collect();
            more |= place.add(host, dir, &theirs, &mut companions, &mut wanted);
        }
        if !more {
            return Ok((injection, companions));
        }
    }
}

impl Place {
    /// Adds what lies beside the library; whether more libraries are wanted.
    /// The image's own plugins, where a library might look first, are hidden.
    fn add(
        &self,
        host: &Libraries<'_>,
        dir: &Path,
        theirs: &[PathBuf],
        companions: &mut Companions,
        wanted: &mut Vec<Wanted>,
    ) -> bool {
        let mut mount = |source: MountSource, target: &Path| {
            let (target, flags) =
                (target.to_owned(), MountFlags { read_only: true, recursive: true });
            if companions.mounts.iter().all(|other| other.target != target) {
                companions.mounts.push(MountSpec { source, target, flags, optional: true });
            }
        };
        let mut more = false;
        if let Some((plugins, names)) = self.plugins(host, dir) {
            mount(MountSource::Directory(plugins.clone()), &plugins);
            for target in theirs {
                mount(MountSource::Directory(plugins.clone()), target);
            }
            for name in names {
                let Some(library) = host.at(&plugins.join(&name)) else { continue };
                more = true;
                let reason = format!("plugin of {}", self.library);
                wanted.push(Wanted { mounted: true, ..Wanted::new(library, false, reason) });
            }
            if let Some(variable) = self.variable {
                companions.env.push((variable.into(), Some(plugins.into_os_string())));
            }
        }
        for data in self.data {
            let path = if data.starts_with('/') { PathBuf::from(data) } else { dir.join(data) };
            if host.exists(&path) {
                let path = normal(&path);
                let source = match path.extension().is_some_and(|ext| ext == "conf") {
                    true => MountSource::File(path.clone()),
                    false => MountSource::Directory(path.clone()),
                };
                mount(source, &path);
            }
        }
        more
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
                let plugin = |name: &String| name.starts_with(self.prefix) && name.contains(".so");
                let plugins: Vec<String> = host.listing(&path).into_iter().filter(plugin).collect();
                if !plugins.is_empty() {
                    return Some((path, plugins));
                }
            }
        }
        None
    }
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
