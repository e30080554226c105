//! What the site forces, forbids and allows.
//!
//! It keeps honest people on the site's path; see the module header of
//! `config` for what it is not.

use std::path::{Path, PathBuf};

use plan::{
    Contribution, HomeChoice, HostFacts, MountSource, MountSpec, Rank, RootSource, RunRequest,
};
use types::{ImageRef, RegistryRef};

use crate::bind::Bind;
use crate::config::Setting;
use crate::resolve::store_references;
use crate::{Config, Error, Origin, Result, mount_source};

/// What the site forbids to bind: as it is written, and where it is.
struct Forbidden<'a> {
    places: Vec<(&'a Path, PathBuf)>,
}

/// Where a path leads; itself where that cannot be seen.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

impl<'a> Forbidden<'a> {
    fn new(config: &'a Config) -> Self {
        let all = config.forbidden_binds.value.iter();
        Self { places: all.map(|path| (path.as_path(), real(path))).collect() }
    }

    /// The forbidden place that a path would show: itself, what is in it, or what
    /// has it in it.
    fn shown_by(&self, path: &Path) -> Option<&'a Path> {
        if self.places.is_empty() {
            return None;
        }
        let wanted = real(path);
        let meets = |place: &Path| wanted.starts_with(place) || place.starts_with(&wanted);
        self.places.iter().find(|(_, place)| meets(place)).map(|(written, _)| *written)
    }
}

/// Takes those default mounts out of a request that would show what the site
/// forbids; what is said of them.
pub(crate) fn leave_out(
    config: &Config,
    request: &mut RunRequest,
    facts: &HostFacts,
) -> Vec<String> {
    let forbidden = Forbidden::new(config);
    let mut said = Vec::new();
    let mut left_out = |what: &str, path: &Path| {
        let place = forbidden.shown_by(path)?.display();
        let by = &config.forbidden_binds.origin;
        said.push(format!("{what} was left out: the site forbids to show {place} ({by})"));
        Some(())
    };
    if request.isolation.contain {
        return said;
    }
    if !request.skip.tmp {
        let found = ["/tmp", "/var/tmp"].map(|dir| left_out(dir, Path::new(dir)));
        request.skip.tmp = found.iter().any(Option::is_some);
    }
    if let (HomeChoice::Host, Some(home)) = (&request.home, &facts.home)
        && left_out("the home directory", home).is_some()
    {
        request.home = HomeChoice::None;
    }
    if let (false, Some(cwd)) = (request.skip.cwd, &facts.cwd) {
        request.skip.cwd = left_out("the working directory", cwd).is_some();
    }
    said
}

/// Refuses what the site forbids to bind: itself, what is in it, and what has
/// it in it, whoever but the site asks for it. `configured` are the binds of the
/// configuration, `added` is what integrations add, which read files of a user's choice.
pub(crate) fn check_binds(
    config: &Config,
    request: &RunRequest,
    facts: &HostFacts,
    configured: &[Contribution],
    added: &[Contribution],
) -> Result<()> {
    let forbidden = Forbidden::new(config);
    let check = |path: &Path, origin: &dyn Fn() -> String| match forbidden.shown_by(path) {
        None => Ok(()),
        Some(place) => Err(Error::ForbiddenBind {
            origin: origin(),
            place: place.to_owned(),
            by: config.forbidden_binds.origin.to_string(),
        }),
    };
    let source = |source: &MountSource, origin: &str| match source {
        MountSource::Directory(path) | MountSource::File(path) => {
            check(path, &|| origin.to_owned())
        }
        MountSource::Tmpfs { .. } => Ok(()),
    };
    if let RootSource::Directory { path } = &request.root {
        check(path, &|| format!("the image {}", path.display()))?;
    }
    for mount in &request.mounts {
        source(&mount.source, &mount.origin)?;
    }
    for (path, _) in &request.overlays {
        check(path, &|| format!("--overlay {}", path.display()))?;
    }
    if let HomeChoice::At { source, .. } = &request.home
        && let Some(path) = source.as_ref().or(facts.home.as_ref())
    {
        check(path, &|| format!("--home {}", path.display()))?;
    }
    let configured = if site_binds(config) { &[] } else { configured };
    for Contribution { reason, mounts, .. } in configured.iter().chain(added) {
        for mount in mounts {
            source(&mount.source, reason)?;
        }
    }
    Ok(())
}

/// Whether the binds of the configuration are those of the file that forbids some:
/// a user's file and variables take their place.
fn site_binds(config: &Config) -> bool {
    let file = |origin: &Origin| match origin {
        Origin::File { path, .. } => Some(path.clone()),
        _ => None,
    };
    file(&config.binds.origin) == file(&config.forbidden_binds.origin)
}

/// The binds that nobody can leave out, and what is said of those that gave way.
///
/// # Errors
/// When one of them is not there: a site that forces it does not want it left
/// out.
pub(crate) fn forced_binds(
    config: &Config,
    request: &RunRequest,
    warnings: &mut Vec<String>,
) -> Result<Vec<Contribution>> {
    let Setting { value, origin } = &config.forced_binds;
    let mut list = Vec::new();
    for Bind { source, target, flags } in value {
        let reason = format!("forced_binds ({origin})");
        let target = target.clone().unwrap_or_else(|| source.clone());
        for mount in request.mounts.iter().filter(|mount| mount.target == target) {
            let (theirs, place) = (&mount.origin, target.display());
            warnings
                .push(format!("{theirs} was left out: the site puts something else at {place}"));
        }
        let source = mount_source(source, &reason)?;
        let mounts = vec![MountSpec { source, target, flags: *flags, optional: false }];
        list.push(Contribution { mounts, ..Contribution::new(Rank::Forced, &reason) });
    }
    Ok(list)
}

/// Refuses a registry that the site does not allow. A short name may mean
/// several (registries.conf): none of them is asked unless all are allowed.
pub(crate) fn check_registry(config: &Config, name: &RegistryRef) -> Result<()> {
    if config.allowed_registries.value.is_empty() {
        return Ok(());
    }
    check_names(config, store_references(&ImageRef::Registry(name.clone()), config)?)
}

/// Refuses names, each beginning with its host, that the site does not allow.
pub(crate) fn check_names(config: &Config, all: Vec<String>) -> Result<()> {
    let allowed = &config.allowed_registries;
    if allowed.value.is_empty() {
        return Ok(());
    }
    let matches = |full: &str| {
        let below = |rest: &str| rest.is_empty() || rest.starts_with(['/', ':', '@']);
        let mut entries = allowed.value.iter().map(|entry| entry.trim_end_matches('/'));
        entries.any(|entry| full.strip_prefix(entry).is_some_and(below))
    };
    match all.into_iter().find(|full| !matches(full)) {
        Some(name) => {
            let (allowed, by) = (allowed.value.join(", "), allowed.origin.to_string());
            Err(Error::ForbiddenRegistry { name, allowed, by })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plan::{Command, MountFlags, MountRequest, RootSource};

    fn config(text: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("site.toml");
        std::fs::write(&file, text).unwrap();
        let vars = |name: &str| (name == "SAMPAN_SITE_CONFIG").then(|| file.clone().into());
        Config::load_from(&vars, &[]).unwrap()
    }

    fn request(source: &str, target: &str) -> RunRequest {
        let root = RootSource::Directory { path: "/usr".into() };
        let command = Command::Exec { args: vec![] };
        let mut request = RunRequest::new("x", root, types::ImageConfig::default(), command);
        request.mounts.push(MountRequest {
            source: MountSource::Directory(source.into()),
            target: target.into(),
            flags: MountFlags::default(),
            origin: "-B".to_owned(),
        });
        request
    }

    #[test]
    fn what_is_forbidden_is_so_from_inside_and_outside() {
        let config = config("forbidden_binds = [\"/etc/ssl\"]\n");
        let check = |bad| check_binds(&config, &request(bad, "/x"), &host::facts(), &[], &[]);
        for bad in ["/etc/ssl", "/etc/ssl/certs", "/etc", "/", "/usr/../etc/ssl"] {
            let error = check(bad).unwrap_err().to_string();
            assert!(error.contains("site.toml:1") && error.contains("-B"), "{error}");
        }
        assert!(check("/usr").is_ok());
    }

    #[test]
    fn what_is_forbidden_is_so_for_all_but_the_site() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc/ssl", &link).unwrap();
        let config = config("forbidden_binds = [\"/etc/ssl\"]\nbinds = [\"/etc/ssl\"]\n");
        let facts = host::facts();
        let plain = request("/usr", "/x");
        let mut bind = Contribution::new(Rank::Host, "a device");
        bind.mounts.push(MountSpec {
            source: MountSource::Directory(link.clone()),
            target: "/y".into(),
            flags: MountFlags::default(),
            optional: false,
        });
        let all = [bind];
        assert!(check_binds(&config, &plain, &facts, &all, &[]).is_ok(), "the site's own");
        let error = check_binds(&config, &plain, &facts, &[], &all).unwrap_err().to_string();
        assert!(error.contains("a device"), "{error}");
        let mut other = config.clone();
        other.binds.origin = Origin::Environment { variable: "SAMPAN_BINDS" };
        assert!(check_binds(&other, &plain, &facts, &all, &[]).is_err());
        let mut image = plain.clone();
        image.root = RootSource::Directory { path: link.clone() };
        assert!(check_binds(&config, &image, &facts, &[], &[]).is_err());
        let mut home = plain;
        home.home = HomeChoice::At { source: None, target: "/h".into() };
        let facts = HostFacts { home: Some(link), ..facts };
        assert!(check_binds(&config, &home, &facts, &[], &[]).is_err());
    }

    #[test]
    fn default_mounts_that_show_what_is_forbidden_are_left_out_aloud() {
        let config = config("forbidden_binds = [\"/etc/ssl\", \"/var/tmp\"]\n");
        let mut facts = host::facts();
        (facts.home, facts.cwd) = (Some("/etc".into()), Some("/etc/ssl/certs".into()));
        let mut request = request("/usr", "/x");
        let said = leave_out(&config, &mut request, &facts);
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(request.skip.cwd && request.skip.tmp && request.home == HomeChoice::None);
        (facts.home, facts.cwd) = (Some("/usr".into()), Some("/usr/bin".into()));
        let config = Config { forbidden_binds: super::tests::config("").forbidden_binds, ..config };
        let mut request = self::request("/usr", "/x");
        assert!(leave_out(&config, &mut request, &facts).is_empty());
        assert!(!request.skip.cwd && !request.skip.tmp && request.home == HomeChoice::Host);
    }

    #[test]
    fn what_is_forced_wins_aloud() {
        let config = config("forced_binds = [\"/etc:/site:ro\"]\n");
        let mut warnings = Vec::new();
        let list = forced_binds(&config, &request("/usr", "/site"), &mut warnings).unwrap();
        assert_eq!((list.len(), list[0].rank), (1, Rank::Forced));
        assert!(list[0].mounts[0].flags.read_only && warnings[0].contains("/site"));
    }

    #[test]
    fn registries_are_allowed_by_name_and_path() {
        let config = config("allowed_registries = [\"r.example/team\", \"docker.io\"]\n");
        let allowed = |name: &str| match name.parse().unwrap() {
            types::ImageRef::Registry(name) => check_registry(&config, &name).is_ok(),
            other => panic!("{other:?}"),
        };
        assert!(
            allowed("r.example/team/app:1")
                && allowed("docker.io/library/python:3")
                && allowed("docker.io/a/b")
        );
        for bad in ["r.example/teamwork/app", "r.example/app", "q.example/team/app"] {
            assert!(!allowed(bad), "{bad}");
        }
    }
}
