//! What the site forces, forbids and allows.
//!
//! It keeps honest people on the site's path; see the module header of
//! `config` for what it is not.

use std::path::{Path, PathBuf};

use plan::{Contribution, HomeChoice, MountSource, MountSpec, Rank, RunRequest};
use types::{ImageRef, RegistryRef};

use crate::bind::Bind;
use crate::config::Setting;
use crate::resolve::store_references;
use crate::{Config, Error, Result, mount_source};

/// Refuses what the site forbids to bind: itself, what is in it, and what has
/// it in it.
pub(crate) fn check_binds(config: &Config, request: &RunRequest) -> Result<()> {
    let forbidden = &config.forbidden_binds;
    if forbidden.value.is_empty() {
        return Ok(());
    }
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let places: Vec<(&PathBuf, PathBuf)> = forbidden.value.iter().map(|p| (p, real(p))).collect();
    let mut asked: Vec<(&Path, String)> = Vec::new();
    for mount in &request.mounts {
        if let MountSource::Directory(path) | MountSource::File(path) = &mount.source {
            asked.push((path, mount.origin.clone()));
        }
    }
    for (path, _) in &request.overlays {
        asked.push((path, format!("--overlay {}", path.display())));
    }
    if let HomeChoice::At { source: Some(path), .. } = &request.home {
        asked.push((path, format!("--home {}", path.display())));
    }
    for (path, origin) in asked {
        let wanted = real(path);
        let meets = |(_, place): &&(&PathBuf, PathBuf)| {
            wanted.starts_with(place) || place.starts_with(&wanted)
        };
        if let Some((place, _)) = places.iter().find(meets) {
            let (place, by) = ((*place).clone(), forbidden.origin.to_string());
            return Err(Error::ForbiddenBind { origin, place, by });
        }
    }
    Ok(())
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
        let root = RootSource::Directory { path: "/".into() };
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
        for bad in ["/etc/ssl", "/etc/ssl/certs", "/etc", "/", "/usr/../etc/ssl"] {
            let error = check_binds(&config, &request(bad, "/x")).unwrap_err().to_string();
            assert!(error.contains("site.toml:1") && error.contains("-B"), "{error}");
        }
        assert!(check_binds(&config, &request("/usr", "/x")).is_ok());
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
