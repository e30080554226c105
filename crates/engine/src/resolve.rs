//! From what a person wrote to what can be run.

use std::path::{Path, PathBuf};

use plan::{ImagePart, RootSource};
use registry::{Environment, RegistriesConf};
use store::{Flight, ImageId, Store, StoredImage, canonical_reference};
use types::{ImageConfig, ImageRef, Platform, RegistryRef};

use crate::built;
use crate::image_file::{self, Form, Part};
use crate::pull::waiting;
use crate::{Config, Engine, Error, PullPolicy, Result, SharedProgress, transport, unpack};

/// An image that can be run.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What the person called it.
    pub name: String,
    /// Its root file system.
    pub root: RootSource,
    /// What it says of its process; empty for a bare directory or file.
    pub config: ImageConfig,
    /// The stored image; None for a directory or file of the person's own.
    pub stored: Option<StoredImage>,
    /// Whether it may be of Apptainer's form, with scripts of its own.
    pub scripts: bool,
    /// What a SIF file says beyond that.
    pub sif: SifFacts,
}

/// What a SIF file says of its image, which `run` does not heed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SifFacts {
    /// The file, where it is of Apptainer's form.
    pub path: Option<PathBuf>,
    /// The architecture of its programs, in Go's name.
    pub architecture: Option<String>,
}

impl Resolved {
    pub(crate) fn of_stored(name: String, stored: StoredImage) -> Self {
        let root = RootSource::squashfs(stored.path.clone(), 0);
        // An image that was built from a definition file starts by its scripts.
        let scripts = stored.record.config.entrypoint == [format!("{}/actions/run", plan::SCRIPTS)];
        let (config, sif) = (stored.record.config.clone(), SifFacts::default());
        Self { name, root, config, stored: Some(stored), scripts, sif }
    }
}

impl Engine {
    /// Finds an image, fetching it where the pull policy says so.
    ///
    /// # Errors
    /// When there is no such image, or it cannot be fetched.
    pub fn resolve(&self, image: &ImageRef, progress: &SharedProgress) -> Result<Resolved> {
        let name = image.to_string();
        if let ImageRef::Path(path) = image {
            // What runs may change its directory.
            let name = std::path::absolute(path).map_or(name, |path| path.display().to_string());
            return self.local(name, path);
        }
        if let ImageRef::File(file) = image {
            let path = self.fetch_file(file, progress)?.path;
            return self.local(name, &path);
        }
        let policy = self.config().pull.value;
        if policy != PullPolicy::Always
            && let Some(stored) = self.stored(image)?
        {
            return Ok(Resolved::of_stored(name, stored));
        }
        // An archive or a layout is at hand: nothing is fetched over a network.
        if policy == PullPolicy::Never && matches!(image, ImageRef::Registry(_)) {
            let origin = self.config().pull.origin.to_string();
            return Err(Error::NotPulled { name, origin });
        }
        if let (PullPolicy::Missing, ImageRef::Registry(_)) = (policy, image) {
            return self.fetch_once(name, image, progress);
        }
        let pulled = self.pull(image, progress)?;
        Ok(Resolved::of_stored(name, pulled.image))
    }

    fn local(&self, name: String, path: &Path) -> Result<Resolved> {
        local(name, path, &self.config().scratch.value, self.config().size_limit.value)
    }

    /// Refuses an image whose programs this machine cannot run.
    pub(crate) fn check_architecture(&self, image: &Resolved) -> Result<()> {
        let Some(architecture) = &image.sif.architecture else { return Ok(()) };
        let host = Platform::host();
        let runs = match (host.architecture(), architecture.as_str()) {
            ("amd64", "386") | ("arm64", "arm") => true,
            (host, image) => host == image,
        };
        if runs {
            return Ok(());
        }
        Err(Error::Sif {
            path: image.name.clone().into(),
            reason: "its programs are for another architecture",
            hint: "take an image for this machine's architecture",
        })
    }

    /// What an image is for, as far as it says so, and else what is asked for.
    pub(crate) fn platform_of(&self, image: &Resolved) -> Platform {
        let sif = image.sif.architecture.as_deref();
        let stored = image.stored.as_ref().map(|stored| stored.record.platform.clone());
        let said = image.config.platform.clone().or(stored);
        said.or_else(|| sif.map(|name| Platform::new("linux", name, None)))
            .unwrap_or_else(|| self.config().platform.value.clone())
    }

    /// Fetches what is not there. Of all who want it over one store, one asks
    /// the registry what the name means, and the others wait.
    fn fetch_once(
        &self,
        name: String,
        image: &ImageRef,
        progress: &SharedProgress,
    ) -> Result<Resolved> {
        let waiting = |state: store::WaitState| progress.event(waiting(&state));
        let platform = &self.config().platform.value;
        // Whatever fails in looking fails again, and says so, in the pull.
        let found = || Ok(self.stored(image).unwrap_or_default());
        match self.store()?.flight(&format!("{name} {platform}"), &waiting, &found)? {
            Flight::Found(stored) => Ok(Resolved::of_stored(name, stored)),
            Flight::Yours(_turn) => {
                let pulled = self.pull(image, progress)?;
                Ok(Resolved::of_stored(name, pulled.image))
            }
        }
    }

    /// The image in the stores, if it is there. Asks no registry.
    pub(crate) fn stored(&self, image: &ImageRef) -> Result<Option<StoredImage>> {
        let store = self.store()?;
        let config = self.config();
        if let ImageRef::Registry(name) = image {
            for reference in store_references(image, config)? {
                if let Some(found) = store.resolve(&reference, &config.platform.value)? {
                    return Ok(Some(found));
                }
            }
            return match id_prefix(name) {
                Some(prefix) => by_prefix(store, &prefix),
                None => Ok(None),
            };
        }
        let source = transport::open(image, config)?;
        Ok(store.image(&source.id)?)
    }

    /// The name under which the store has an image; None where it has it under
    /// none of the names that this one may mean.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn name_in_store(&self, image: &ImageRef) -> Result<Option<String>> {
        let (store, config) = (self.store()?, self.config());
        for reference in store_references(image, config)? {
            if store.resolve(&reference, &config.platform.value)?.is_some() {
                return Ok(Some(reference));
            }
        }
        Ok(None)
    }
}

/// A directory or image file of the person's own.
fn local(name: String, path: &Path, scratch: &Path, limit: u64) -> Result<Resolved> {
    let failed = |source| Error::OpenImage { path: path.to_owned(), source };
    let meta = std::fs::metadata(path).map_err(failed)?;
    let absolute: PathBuf = std::path::absolute(path).map_err(failed)?;
    let mut config = ImageConfig::default();
    let (mut scripts, mut sif) = (true, SifFacts::default());
    let root = if meta.is_dir() {
        RootSource::Directory { path: absolute }
    } else if meta.is_file() {
        let found = image_file::in_file(path)?;
        (config, scripts) = (found.config, found.scripts);
        sif.architecture = found.architecture;
        sif.path = found.described.then(|| absolute.clone());
        let part = |part: &Part| match part.form {
            Form::Squashfs => Ok(ImagePart { path: absolute.clone(), offset: part.offset }),
            Form::Ext(top) => {
                unpack::from_ext(&absolute, part.offset, part.size, top, scratch, limit)
            }
        };
        RootSource::Squashfs { parts: found.parts.iter().map(part).collect::<Result<_>>()? }
    } else {
        return Err(Error::NotAnImage { path: path.to_owned() });
    };
    Ok(Resolved { name, root, config, stored: None, scripts, sif })
}

/// The references under which the store may have an image. A name without a
/// registry is completed as registries.conf says; no registry is asked.
pub(crate) fn store_references(image: &ImageRef, config: &Config) -> Result<Vec<String>> {
    match image {
        ImageRef::Registry(name) => {
            // Most names are full, and docker.io's need the same completion.
            let plain = name.domain.as_deref().is_some_and(|d| !d.ends_with("docker.io"));
            if plain {
                return Ok(vec![canonical_reference(name)]);
            }
            let conf = RegistriesConf::load(&Environment::from_process())?;
            // What was built here comes first.
            let mut all = Vec::new();
            if name.domain.is_none() {
                all.push(built::local_reference(name));
            }
            all.extend(conf.qualify(name)?.iter().map(canonical_reference));
            Ok(all)
        }
        ImageRef::Path(_) | ImageRef::File(_) => Ok(Vec::new()),
        _ => Ok(vec![transport::open(image, config)?.reference]),
    }
}

/// The digest, or the beginning of one, that a name may be: `sha256:3f2a…`
/// reads as a repository with a tag, `3f2a9c…` as a repository.
pub(crate) fn id_prefix(name: &RegistryRef) -> Option<String> {
    let hex = |text: &str, least: usize| {
        text.len() >= least
            && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    if name.domain.is_some() || name.digest.is_some() {
        return None;
    }
    match (name.path.as_str(), &name.tag) {
        (path @ ("sha256" | "sha512"), Some(tag)) if hex(tag.as_str(), 4) => {
            Some(format!("{path}:{}", tag.as_str()))
        }
        (path, None) if hex(path, 6) => Some(path.to_owned()),
        _ => None,
    }
}

fn by_prefix(store: &Store, prefix: &str) -> Result<Option<StoredImage>> {
    match store.find(prefix)? {
        Some(id) => Ok(store.image(&id)?),
        None => Ok(None),
    }
}

/// The image whose digest a text begins.
pub(crate) fn find_id(store: &Store, text: &str) -> Result<Option<ImageId>> {
    let Ok(ImageRef::Registry(name)) = text.parse::<ImageRef>() else { return Ok(None) };
    match id_prefix(&name) {
        Some(prefix) => Ok(store.find(&prefix)?),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_told_from_names() {
        let prefix = |text: &str| id_prefix(&text.parse().unwrap());
        assert_eq!(prefix("3f2a9c").as_deref(), Some("3f2a9c"));
        assert_eq!(prefix("sha256:3f2a").as_deref(), Some("sha256:3f2a"));
        for name in ["busybox", "cafe", "deadbeef:1", "r.x/deadbeef", "sha256:latest"] {
            assert_eq!(prefix(name), None, "{name}");
        }
    }

    #[test]
    fn a_bare_directory_is_run_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = dir.path();
        let resolved = local("x".into(), dir.path(), scratch, 1 << 20).unwrap();
        assert_eq!(resolved.root, RootSource::Directory { path: dir.path().to_owned() });
        assert_eq!(resolved.config, ImageConfig::default());
        let missing = local("x".into(), &dir.path().join("no"), scratch, 1 << 20).unwrap_err();
        assert_eq!(missing.exit_code(), crate::exit::NOT_FOUND);
        assert!(matches!(
            local("x".into(), Path::new("/dev/null"), scratch, 1 << 20),
            Err(Error::NotAnImage { .. })
        ));
    }
}
