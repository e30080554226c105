//! RPM distributions (`Bootstrap: yum`, `dnf` and `zypper`).

pub(super) mod index;
pub(super) mod location;
pub(super) mod modules;
pub(super) mod package;
mod repository;
pub(super) mod version;
mod xml;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use types::Platform;

use super::error::PackageError;
use super::fetch::{Fetcher, Mirrors};
use super::select::Universe;
use super::system::{Fetched, Packages};
use super::{BootstrapError, Installation, files_in, hash_keyring, keyring, needs, words};
use crate::builder::Builder;
use crate::cache::{Hasher, Out};
use crate::definition::Stage;
use crate::error::{BuildError, Result};
use crate::run::Scratch;
use crate::state::State;

use location::{Location, Variables, host_variables, repositories};
use modules::{Asked, Enabled, Modules};
use repository::Repository;

/// What every system has, as far as the distribution calls it so.
const BASE: [&str; 6] =
    ["filesystem", "system-release", "distribution-release", "bash", "coreutils", "rpm"];
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
[ $# = 0 ] || mkdir -p /etc/dnf/modules.d
while [ $# -ge 2 ]; do
    printf '%s' "$2" >"/etc/dnf/modules.d/$1.module"
    shift 2
done
rm -rf /var/cache/dnf /var/cache/yum /var/log/dnf* /var/log/yum* /var/cache/ldconfig/aux-cache
set -- /etc/yum.repos.d/*.repo
[ -e "$1" ] || { mkdir -p /etc/yum.repos.d; printf '%s' "$0" >/etc/yum.repos.d/bootstrap.repo; }
"#;

/// What a definition file asks for.
struct Wanted {
    locations: Vec<Location>,
    include: Vec<String>,
    keys: Vec<PathBuf>,
    /// A keyring that is not the distribution's own.
    keyring: Option<PathBuf>,
}

impl Wanted {
    fn read(builder: &Builder<'_>, header: &BTreeMap<String, String>, arch: &str) -> Result<Self> {
        let get = |name: &str| header.get(name).map(String::as_str).filter(|t| !t.is_empty());
        let version = get("osversion").unwrap_or_default();
        let mut variables = host_variables();
        variables.insert("releasever".to_owned(), version.to_owned());
        for name in ["basearch", "arch"] {
            variables.insert(name.to_owned(), arch.to_owned());
        }
        let full = |url: &str| Location::parse(&url.replace("%{OSVERSION}", version), &variables);
        let mirrors = &builder.engine().config().mirrors.value;
        let configured = || mirrors.iter().find(|(name, _)| name == version).map(|(_, url)| &**url);
        let mut locations: Vec<Location> =
            get("mirrorurl").or_else(configured).into_iter().map(full).collect();
        locations.extend(get("updateurl").map(full));
        if locations.is_empty() {
            locations = host_repositories(&variables);
        }
        if locations.is_empty() {
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
        Ok(Self { locations, include: words(get("include")), keys, keyring })
    }

    /// Where the packages are, for people.
    fn places(&self) -> Vec<String> {
        self.locations.iter().map(ToString::to_string).collect()
    }

    /// What dnf in the image reads, if no package brings it.
    fn repositories(&self) -> String {
        let key = match &self.keyring {
            Some(_) => "gpgcheck=1\ngpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-bootstrap\n",
            None => "gpgcheck=1\n",
        };
        let one = |(index, location): (usize, &Location)| {
            format!("[bootstrap{index}]\nname=bootstrap {index}\n{location}\n{key}\n")
        };
        self.locations.iter().enumerate().map(one).collect()
    }
}

/// The repositories of this host that are in use.
fn host_repositories(variables: &Variables) -> Vec<Location> {
    let texts = files_in(Path::new(HOST_REPOSITORIES), &["repo"]);
    let texts = texts.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    texts.flat_map(|text| repositories(&text, variables)).collect()
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
        hasher.text(&format!("{platform} {:?} {:?}", wanted.include, wanted.places()));
        hash_keyring(&mut hasher, wanted.keyring.as_deref())?;
        self.say(name, &format!("Bootstrap: from {}", wanted.places().join(" and ")));
        let cached = self.layer(&mut state, &hasher.key(), |builder, state, out| {
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
        let scratch = Scratch::new(self)?;
        let dir = scratch.directory("packages")?;
        let (packages, enabled) = self.rpm_packages(wanted, arch, &dir)?;
        // Its own package has the links of a merged /usr, or directories.
        let system = Packages::new(&packages, package::files, merged(&packages)?, &[]);
        let installation = Installation {
            script: INSTALL,
            arguments: std::iter::once(wanted.repositories())
                .chain(enabled.into_iter().flat_map(<[String; 2]>::from))
                .collect(),
            env: &[],
            keyring: wanted.keyring.as_deref(),
        };
        self.install(state, &system, (&scratch, &dir), &installation, out)
    }

    /// The packages, fetched and verified, and what dnf is told of streams of modules.
    fn rpm_packages(
        &self,
        wanted: &Wanted,
        arch: &str,
        dir: &Path,
    ) -> Result<(Vec<Fetched>, Vec<Enabled>)> {
        let keyring = keyring(&wanted.keys, &wanted.places()[0])?;
        let fetcher = self.fetcher()?;
        let mut universe = Universe::new(version::compare);
        let open = |location| Repository::open(&fetcher, &keyring, location);
        let all: Vec<Repository> = wanted.locations.iter().map(open).collect::<Result<_>>()?;
        let mut modules = Modules::default();
        for repository in &all {
            repository.modules(&fetcher, arch, &mut modules)?;
        }
        let (streams, include): (Vec<_>, Vec<_>) =
            wanted.include.iter().partition(|word| Asked::parse(word).is_some());
        let streams: Vec<Asked> = streams.into_iter().filter_map(|w| Asked::parse(w)).collect();
        let active = modules.activate(&streams).map_err(BootstrapError::Module)?;
        for (index, repository) in all.iter().enumerate() {
            repository.packages(&fetcher, (index, arch), &mut |package, arch| {
                if active.has(&package.name, &package.version, arch) {
                    universe.add(package);
                }
            })?;
        }
        universe.complete();
        let base = BASE.into_iter().filter(|name| universe.meets(name)).map(str::to_owned);
        let include = include.into_iter().chain(&active.install).cloned();
        let names: Vec<String> = base.chain(include).collect();
        if let Err(BootstrapError::NoPackage { name, .. }) = universe.select(&names)
            && name.starts_with('/')
        {
            find_files(&fetcher, &all, &names, &mut universe)?;
        }
        let selected = universe.select(&names)?;
        let mirrors: Vec<Mirrors> = all.into_iter().map(|one| one.mirrors).collect();
        let packages = fetcher.fetch(&selected, &mirrors, (dir, "rpm"))?;
        for Fetched { name, path } in &packages {
            let open = File::open(path).map_err(PackageError::from);
            let verified = open.and_then(|file| package::verify(file, &keyring));
            verified.map_err(|source| {
                let (name, source) = (name.clone(), Box::new(source));
                BootstrapError::Untrusted { name, source }
            })?;
        }
        Ok((packages, active.enabled))
    }
}

/// Asks the full lists for files that the lists of packages do not name: these have
/// programs and configuration alone.
fn find_files(
    fetcher: &Fetcher<'_>,
    all: &[Repository],
    names: &[String],
    universe: &mut Universe,
) -> Result<()> {
    let mut wanted = universe.unmet(|name| name.starts_with('/'));
    wanted.extend(names.iter().filter(|name| name.starts_with('/')).cloned());
    for repository in all {
        for (file, owners) in repository.owners(fetcher, &wanted)? {
            owners.iter().for_each(|(name, sum)| universe.provides(name, sum, &file));
        }
    }
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
