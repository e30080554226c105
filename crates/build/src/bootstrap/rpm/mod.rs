//! RPM distributions (`Bootstrap: yum`, `dnf` and `zypper`).

mod index;
mod package;
mod version;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use types::Platform;

pub use package::PackageError;

use super::fetch::{LARGEST_INDEX, Mirror};
use super::select::{Package, Universe};
use super::system::{Fetched, Packages};
use super::{BootstrapError, Installation, files_in, hash_keyring, keyring, needs, words};
use crate::builder::Builder;
use crate::cache::{Hasher, Out};
use crate::definition::Stage;
use crate::error::{BuildError, Result};
use crate::run::Scratch;
use crate::state::State;

/// What every system has, as far as the distribution calls it so.
const BASE: [&str; 6] =
    ["filesystem", "system-release", "distribution-release", "bash", "coreutils", "rpm"];
/// No file of this kind comes near it.
const LARGEST_REPOMD: u64 = 16 << 20;
/// Where RPM distributions keep the keys of their releases.
const HOST_KEYS: &str = "/etc/pki/rpm-gpg";
const HOST_REPOSITORIES: &str = "/etc/yum.repos.d";

/// What installs the packages, which were verified before.
const INSTALL: &str = r#"set -e
if [ -e /run/sampan/keyring ]; then
    /usr/bin/rpmkeys --import /run/sampan/keyring
    mkdir -p /etc/pki/rpm-gpg
    cp /run/sampan/keyring /etc/pki/rpm-gpg/RPM-GPG-KEY-bootstrap
fi
/usr/bin/rpm --install --replacefiles --nosignature /run/sampan/packages/*.rpm
rm -rf /var/cache/dnf /var/cache/yum /var/log/dnf* /var/log/yum* /var/cache/ldconfig/aux-cache
set -- /etc/yum.repos.d/*.repo
[ -e "$1" ] || { mkdir -p /etc/yum.repos.d; printf '%s' "$0" >/etc/yum.repos.d/bootstrap.repo; }
"#;

/// What a definition file asks for.
struct Wanted {
    urls: Vec<String>,
    include: Vec<String>,
    keys: Vec<PathBuf>,
    /// A keyring that is not the distribution's own.
    keyring: Option<PathBuf>,
}

impl Wanted {
    fn read(builder: &Builder<'_>, header: &BTreeMap<String, String>, arch: &str) -> Result<Self> {
        let get = |name: &str| header.get(name).map(String::as_str).filter(|t| !t.is_empty());
        let version = get("osversion").unwrap_or_default();
        let full = |url: &str| {
            let url = url.replace("%{OSVERSION}", version).replace("$releasever", version);
            url.replace("$basearch", arch).trim_end_matches('/').to_owned()
        };
        let mirrors = &builder.engine().config().mirrors.value;
        let configured = || mirrors.iter().find(|(name, _)| name == version).map(|(_, url)| &**url);
        let mut urls: Vec<String> =
            get("mirrorurl").or_else(configured).into_iter().map(full).collect();
        urls.extend(get("updateurl").map(full));
        if urls.is_empty() {
            urls = host_repositories().iter().map(|url| full(url)).collect();
        }
        if urls.is_empty() {
            return Err(match get("osversion") {
                Some(suite) => BootstrapError::NoMirror { suite: suite.to_owned() }.into(),
                None => needs("Bootstrap", "MirrorURL:").into(),
            });
        }
        let keyring = get("keyring").or_else(|| get("gpg"));
        let keyring = keyring.map(|path| builder.options().directory.join(path));
        let keys = match &keyring {
            Some(path) => vec![path.clone()],
            None => files_in(Path::new(HOST_KEYS), &[]),
        };
        Ok(Self { urls, include: words(get("include")), keys, keyring })
    }

    /// What dnf in the image reads, if no package brings it.
    fn repositories(&self) -> String {
        let key = match &self.keyring {
            Some(_) => "gpgcheck=1\ngpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-bootstrap\n",
            None => "gpgcheck=1\n",
        };
        let one = |(index, url): (usize, &String)| {
            format!("[bootstrap{index}]\nname=bootstrap {index}\nbaseurl={url}\n{key}\n")
        };
        self.urls.iter().enumerate().map(one).collect()
    }
}

/// The addresses of this host's repositories that are in use.
fn host_repositories() -> Vec<String> {
    let texts = files_in(Path::new(HOST_REPOSITORIES), &["repo"]);
    let texts = texts.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    texts.flat_map(|text| base_urls(&text)).collect()
}

fn base_urls(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    for section in text.split("\n[") {
        let value = |name: &str| {
            let mut lines = section.lines().filter_map(|line| line.split_once('='));
            lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
        };
        if value("enabled") != Some("0") {
            all.extend(value("baseurl").map(str::to_owned));
        }
    }
    all
}

/// RPM's name of a platform's architecture.
fn architecture(platform: &Platform) -> &str {
    match platform.architecture() {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "386" => "i686",
        other => other,
    }
}

impl Builder<'_> {
    /// A system of an RPM distribution's packages: from the cache, or made now.
    pub(crate) fn rpm(&mut self, stage: &Stage, name: &str) -> Result<State> {
        let platform = self.engine().config().platform.value.clone();
        let arch = architecture(&platform).to_owned();
        let wanted = Wanted::read(self, &stage.header, &arch)?;
        let mut state = self.nothing("/bin/bash")?;
        let mut hasher = Hasher::new(&state.key, "rpm");
        hasher.text(&format!("{platform} {:?} {:?}", wanted.include, wanted.urls));
        hash_keyring(&mut hasher, wanted.keyring.as_deref())?;
        self.say(name, &format!("Bootstrap: from {}", wanted.urls.join(" and ")));
        let cached = self.layer(&mut state, hasher.key(), |builder, state, out| {
            builder.bootstrap_rpm(state, &wanted, &arch, out)
        })?;
        self.told(cached);
        Ok(state)
    }

    fn bootstrap_rpm(
        &mut self,
        state: &State,
        wanted: &Wanted,
        arch: &str,
        out: &Out<'_>,
    ) -> Result<()> {
        let scratch = Scratch::new(self.scratch())?;
        let dir = scratch.directory("packages")?;
        let packages = self.rpm_packages(wanted, arch, &dir)?;
        // Its own package has the links of a merged /usr, or directories.
        let system = Packages::new(&packages, package::files, merged(&packages)?, &[]);
        let installation = Installation {
            script: INSTALL,
            arguments: vec![wanted.repositories()],
            env: &[],
            keyring: wanted.keyring.as_deref(),
        };
        self.install(state, &system, (&scratch, &dir), &installation, out)
    }

    fn rpm_packages(&self, wanted: &Wanted, arch: &str, dir: &Path) -> Result<Vec<Fetched>> {
        let keyring = keyring(&wanted.keys, &wanted.urls[0])?;
        let mirror = self.mirror()?;
        let mut universe = Universe::new(version::compare);
        for (index, url) in wanted.urls.iter().enumerate() {
            list(&mirror, &keyring, url, (index, arch), &mut |p| universe.add(p))?;
        }
        universe.complete();
        let base = BASE.into_iter().filter(|name| universe.meets(name)).map(str::to_owned);
        let names: Vec<String> = base.chain(wanted.include.iter().cloned()).collect();
        let selected = universe.select(&names)?;
        let url = |p: &Package| format!("{}/{}", wanted.urls[p.source], p.path);
        let packages = mirror.fetch(&selected, &url, (dir, "rpm"))?;
        for Fetched { name, path } in &packages {
            let open = File::open(path).map_err(PackageError::from);
            let verified = open.and_then(|file| package::verify(file, &keyring));
            verified.map_err(|source| {
                let (name, source) = (name.clone(), Box::new(source));
                BootstrapError::Untrusted { name, source }
            })?;
        }
        Ok(packages)
    }
}

/// Reads the packages of a repository. Its index is verified where it is signed;
/// packages are in any case.
fn list(
    mirror: &Mirror<'_>,
    keyring: &trust::Keyring,
    url: &str,
    (source, arch): (usize, &str),
    put: &mut dyn FnMut(Package),
) -> Result<()> {
    let repomd = format!("{url}/repodata/repomd.xml");
    let bytes = mirror.small(&repomd, LARGEST_REPOMD)?;
    if let Ok(signature) = mirror.small(&format!("{repomd}.asc"), LARGEST_REPOMD) {
        let wrong = |source| BootstrapError::Signature { url: repomd.clone(), source };
        keyring.verify(&bytes, &signature).map_err(wrong)?;
    }
    let malformed = |url: &str| {
        let url = url.to_owned();
        move |reason| BootstrapError::Malformed { url, reason }
    };
    let primary = index::repomd(&bytes).map_err(malformed(&repomd))?;
    let url = format!("{url}/{}", primary.path);
    let file = mirror.listed(&url, &primary.listed)?;
    let failed = |source| BuildError::Read { path: mirror.scratch.to_owned(), source };
    let reader: Box<dyn BufRead> = match primary.path.rsplit('.').next() {
        Some("gz") => Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file))),
        Some("xz") => Box::new(BufReader::new(liblzma::read::XzDecoder::new(file))),
        Some("zst") => Box::new(BufReader::new(zstd::Decoder::new(file).map_err(failed)?)),
        _ => Box::new(BufReader::new(file)),
    };
    let reader = reader.take(LARGEST_INDEX);
    index::primary(reader, &[arch, "noarch"], source, put).map_err(malformed(&url))?;
    Ok(())
}

/// Directories at the top that a package has as links into /usr.
fn merged(packages: &[Fetched]) -> Result<Vec<&'static str>> {
    let mut merged = Vec::new();
    for Fetched { name, path } in packages {
        let failed = |source| {
            let name = name.clone();
            BuildError::from(BootstrapError::Package { name, source })
        };
        // Which package it is does not matter: distributions differ.
        if !["filesystem", "base-files", "setup"].contains(&name.as_str()) {
            continue;
        }
        let near = path.parent().unwrap_or(path);
        let tar = package::files(File::open(path).map_err(failed)?, near).map_err(failed)?;
        let mut archive = tar::Archive::new(tar);
        for entry in archive.entries().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path().map_err(failed)?;
            let link = entry.header().entry_type() == tar::EntryType::Symlink;
            let known = ["bin", "sbin", "lib", "lib64"].into_iter();
            merged.extend(known.filter(|name| link && path == Path::new(name)));
        }
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_of_the_host_are_those_in_use() {
        let text = "[a]\nname = a\nbaseurl = http://m/$releasever/$basearch/\n\
                    [b]\nenabled=0\nbaseurl=http://n/\n[c]\nenabled=1\nmetalink=http://o/\n";
        assert_eq!(base_urls(text), ["http://m/$releasever/$basearch/"]);
    }
}
