//! The one library API behind every front: pull, run, list, remove.
//!
//! An [`Engine`] stands on a [`Config`]. It knows no terminal: what happens on
//! the way is told to a [`Progress`], what goes wrong is an [`Error`] with a
//! hint and an exit code.
//!
//! ```text
//! ImageRef ── resolve ─→ Resolved ── RunRequest ─→ prepare ─→ Container ─→ launch
//!    └─ pull ─→ store ─────┘
//! ```
//!
//! An image that is in the store is resolved with a few small reads: no
//! network, no thread, no TLS library. [`Container::launch`] needs a process
//! with one thread, so everything that starts threads ends them again.
#![forbid(unsafe_code)]

mod artifact;
pub mod bind;
mod build_cache;
mod built;
mod bundle;
pub mod config;
mod container;
mod destination;
mod devices;
mod doctor;
pub mod edf;
mod elsewhere;
mod error;
mod export;
#[doc(hidden)]
pub mod fuzz;
mod image_file;
mod inspect;
mod instance;
mod integrate;
mod kept;
mod layers;
mod metadata;
mod named;
mod node_cache;
mod oci;
mod policy;
mod precreate;
mod progress;
mod pull;
mod resolve;
mod scratch;
mod share;
mod site;
mod transport;
mod unpack;
mod whole;

use std::cell::OnceCell;
use std::time::Duration;

use registry::{Client, ClientOptions, Credentials, Notice};
use store::{ImageEntry, PruneOptions, PruneReport, RemoveTarget, Removed, Store, StoreOptions};
use types::{ImageRef, Platform};

pub use artifact::{Artifact, ArtifactKind};
pub use build_cache::{BuildLease, BuildRecord, LONGEST_STEP, layer_file};
pub use built::{Built, Downloads, LOCAL, Provenance};
pub use config::{Config, ConfigError, Origin, Override, PullPolicy, Setting, Shown};
pub use container::{Container, emulation_here, mount_source};
pub use destination::Destination;
pub use devices::{Cdi, Checked, Devices};
pub use doctor::{Check, Status};
pub use elsewhere::FetchedFile;
pub use error::{Error, Result, exit};
pub use export::{ExportOptions, Exported, apptainer_scripts, source_date_epoch};
pub use host::cdi::Listed as CdiDevice;
pub use host::gpu::Choice as GpuChoice;
pub use inspect::Inspected;
pub use instance::{
    Instance, InstanceOptions, Naming, SCHEME as INSTANCE, Sampler, Stats, Stopped,
};
pub use integrate::{Fabric, MpiMode};
pub use metadata::Metadata;
pub use progress::{Event, LayerInfo, Progress, SharedProgress, Silent};
pub use pull::Pulled;
pub use resolve::{Resolved, SifFacts};
pub use site::{ImageCommand, SiteFacts};
pub use unpack::open as open_parts;

/// Does what is asked, by one configuration.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    store: OnceCell<Store>,
}

impl Engine {
    /// An engine. Opens nothing.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, store: OnceCell::new() }
    }

    /// The same for images of another platform.
    #[must_use]
    pub fn with_platform(&self, platform: Platform) -> Self {
        let mut config = self.config.clone();
        config.platform.value = platform;
        Self::new(config)
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The stores, opened when first asked for.
    fn store(&self) -> Result<&Store> {
        if let Some(store) = self.store.get() {
            return Ok(store);
        }
        let root = self.config.store.value.clone().ok_or(Error::NoStore)?;
        let site = self.config.site_stores.value.clone();
        let store = Store::open(StoreOptions { root, site })?;
        Ok(self.store.get_or_init(|| store))
    }

    /// Every image in the stores.
    ///
    /// # Errors
    /// When a store cannot be read.
    pub fn images(&self) -> Result<Vec<ImageEntry>> {
        match self.store() {
            // Nobody has an image without a place for it.
            Err(Error::NoStore) => Ok(Vec::new()),
            store => Ok(store?.images()?),
        }
    }

    /// Removes a reference, or an image by its digest, from the user's store.
    /// `platform` limits a reference to one platform.
    ///
    /// # Errors
    /// When there is no such image, it is in use and `force` is not set, or
    /// the store cannot be written.
    pub fn remove(&self, name: &str, platform: Option<&Platform>, force: bool) -> Result<Removed> {
        let store = self.store()?;
        let mut result = None;
        if let Ok(image) = name.parse::<ImageRef>() {
            for reference in resolve::store_references(&image, &self.config)? {
                let target = RemoveTarget::Reference { reference, platform: platform.cloned() };
                match store.remove(&target, force) {
                    Err(store::Error::NoReference { .. }) => {}
                    other => {
                        result = Some(other);
                        break;
                    }
                }
            }
        }
        if let Some(result) = result {
            return Ok(result?);
        }
        match resolve::find_id(store, name)? {
            Some(id) => Ok(store.remove(&RemoveTarget::Image(id), force)?),
            None => Err(Error::UnknownImage { name: name.to_owned() }),
        }
    }

    /// Removes what nobody needs from the user's store, and, when every image
    /// goes, what was unpacked of them. Images and layers of builds stay while a build
    /// runs, which is told.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn prune(&self, options: &PruneOptions, progress: &SharedProgress) -> Result<PruneReport> {
        let builds = self.builds()?;
        let running = builds.as_ref().is_some_and(|builds| builds.running);
        let all = options.all && !running;
        if running {
            let text = "a build runs: what it may need is left as it is";
            progress.event(Event::Notice(text.to_owned()));
        }
        let chosen = PruneOptions { all, keep_images: running, ..options.clone() };
        let report = self.store()?.prune(&chosen)?;
        if options.dry_run {
            return Ok(report);
        }
        if let Some(builds) = builds.filter(|_| !running) {
            self.prune_builds(&builds, all)?;
        }
        unpack::prune(&self.config.scratch.value)?;
        if all {
            unpack::clear(&self.config.scratch.value)?;
            self.clear_files()?;
        }
        Ok(report)
    }

    /// Checks credentials against a registry and keeps them; says where.
    ///
    /// # Errors
    /// When the registry refuses them, or they cannot be kept.
    pub fn login(&self, registry: &str, username: &str, password: &str) -> Result<String> {
        let (username, password) = (username.to_owned(), password.to_owned());
        let credentials = Credentials::Password { username, password };
        let client = self.client(None)?;
        Ok(client.login(registry, &credentials)?.to_string())
    }

    /// Keeps the token of a library, `library://HOST[:PORT]`; says where. It is not
    /// checked, as libraries have no address for that.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn keep_token(&self, library: &str, token: &str) -> Result<String> {
        Ok(self.client(None)?.keep_token(host_of(library), token)?.to_string())
    }

    /// Forgets the credentials of a registry or library; says where they were kept.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn logout(&self, registry: &str) -> Result<Vec<String>> {
        let removed = self.client(None)?.logout(host_of(registry))?;
        Ok(removed.iter().map(ToString::to_string).collect())
    }

    /// Looks at what this machine offers to containers, and at the registries
    /// named. Must be called while the process has one thread.
    ///
    /// # Errors
    /// When no child process can be made to try things in.
    pub fn doctor(&self, registries: &[String]) -> Result<Vec<Check>> {
        doctor::doctor(&self.config, registries)
    }

    fn client(&self, progress: Option<&SharedProgress>) -> Result<Client> {
        let mut options = ClientOptions {
            stall_timeout: self.config.stall_timeout.value,
            ..ClientOptions::default()
        };
        if let Some(progress) = progress {
            let progress = SharedProgress::clone(progress);
            options.notices = Some(std::sync::Arc::new(move |notice: &Notice| {
                if let Some(text) = describe(notice) {
                    progress.event(Event::Notice(text));
                }
            }));
        }
        Ok(Client::new(options)?)
    }
}

/// What credentials of a library are kept under, as a registry's are.
fn host_of(name: &str) -> &str {
    name.strip_prefix("library://").unwrap_or(name)
}

/// What of a notice is worth a person's time: not the first, short waits, and
/// not that a registry on this very machine speaks plain HTTP.
fn describe(notice: &Notice) -> Option<String> {
    Some(match notice {
        Notice::Retry { delay, .. } if *delay < LONG_WAIT => return None,
        Notice::Retry { url, reason, failures, attempts, delay } => format!(
            "{url}: {reason}; attempt {} of {attempts} in {:.0} s",
            failures + 1,
            delay.as_secs_f32().ceil()
        ),
        Notice::NextEndpoint { failed, reason, next } => {
            format!("{failed}: {reason}; trying {next}")
        }
        Notice::PlainHttp { registry } if is_loopback(registry) => return None,
        Notice::PlainHttp { registry } => {
            format!("{registry} speaks plain HTTP: who listens on the way sees what is fetched")
        }
        _ => return None,
    })
}

/// A wait that a person notices.
const LONG_WAIT: Duration = Duration::from_secs(1);

fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => registry,
    };
    let address: Option<std::net::IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    host == "localhost" || address.is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_that_nobody_needs_are_kept_back() {
        let plain = |registry: &str| describe(&Notice::PlainHttp { registry: registry.to_owned() });
        for own in ["localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000"] {
            assert_eq!(plain(own), None, "{own}");
        }
        assert!(plain("r.example:5000").is_some_and(|text| text.contains("r.example:5000")));
        let retry = |delay| {
            describe(&Notice::Retry {
                url: "u".into(),
                reason: "r".into(),
                failures: 1,
                attempts: 5,
                delay: Duration::from_millis(delay),
            })
        };
        assert_eq!(retry(300), None);
        assert_eq!(retry(1500).as_deref(), Some("u: r; attempt 2 of 5 in 2 s"));
    }
}
