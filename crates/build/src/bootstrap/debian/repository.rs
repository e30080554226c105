//! The indexes of a mirror: a signed Release file, and the packages that it names.

use std::io::Read;

use super::index::{Release, packages};
use super::source::Source;
use crate::bootstrap::error::BootstrapError;
use crate::bootstrap::fetch::{Fetcher, LARGEST_INDEX};
use crate::bootstrap::inflate::inflate;
use crate::bootstrap::select::Package;
use crate::error::{BuildError, Result};

/// No Release file comes near it.
const LARGEST_RELEASE: u64 = 32 << 20;

/// A source's Release file, its signature verified.
pub(super) fn release(fetcher: &Fetcher<'_>, source: &Source, check_date: bool) -> Result<Release> {
    let url = format!("{}/dists/{}/InRelease", source.url, source.suite);
    let bytes = fetcher.small(&url, LARGEST_RELEASE)?;
    let keyring = source.keyring(&url)?;
    let signed = keyring
        .open(&bytes)
        .map_err(|source| BootstrapError::Signature { url: url.clone(), source })?;
    let malformed =
        |reason: &str| BootstrapError::Malformed { url: url.clone(), reason: reason.to_owned() };
    let release = Release::parse(&signed.text).ok_or_else(|| malformed("no Release file"))?;
    // A mirror may not give the signed file of another release for this one.
    let name = source.suite.split('/').next().unwrap_or_default();
    if ![&*release.suite, &*release.codename].contains(&name)
        && !source.suite.starts_with(&format!("{}-", release.codename))
    {
        let reason = format!("it is of {} ({})", release.suite, release.codename);
        return Err(malformed(&reason).into());
    }
    if let Some(until) = &release.valid_until
        && check_date
    {
        let time = httpdate::parse_http_date(&until.replace("UTC", "GMT"));
        let time = time.map_err(|_| malformed("a Valid-Until that is no date"))?;
        if time < std::time::SystemTime::now() {
            let until = until.clone();
            return Err(BootstrapError::Expired { url, until }.into());
        }
    }
    Ok(release)
}

/// Reads the packages of a component.
pub(super) fn list(
    fetcher: &Fetcher<'_>,
    architecture: &str,
    source: &Source,
    release: &Release,
    component: &str,
    put: &mut dyn FnMut(Package),
) -> Result<()> {
    let dist = format!("{}/dists/{}", source.url, source.suite);
    let base = format!("{component}/binary-{architecture}/Packages");
    let found = [".xz", ".gz", ".bz2", ""].iter().find_map(|ending| {
        let path = format!("{base}{ending}");
        release.files.get(&path).map(|listed| (path, listed))
    });
    let lacks = || BootstrapError::Lacks { url: format!("{dist}/InRelease"), what: base.clone() };
    let (path, listed) = found.ok_or_else(lacks)?;
    let url = match (release.by_hash, path.rsplit_once('/')) {
        (true, Some((dir, _))) => format!("{dist}/{dir}/by-hash/SHA256/{}", listed.sum),
        _ => format!("{dist}/{path}"),
    };
    let file = fetcher.listed(&url, listed)?;
    let failed = |source| BuildError::Read { path: fetcher.scratch.to_owned(), source };
    let reader = inflate(file).map_err(failed)?;
    let malformed = |reason| BootstrapError::Malformed { url, reason };
    let reader = reader.take(LARGEST_INDEX);
    packages(reader, source.index, put).map_err(malformed)?;
    Ok(())
}
