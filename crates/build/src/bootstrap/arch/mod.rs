//! Arch Linux and what follows it (`Bootstrap: arch`).

pub(super) mod index;
mod keys;
pub(super) mod version;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use types::Platform;

use super::error::PackageError;
use super::fetch::{Fetcher, LARGEST_INDEX, Mirrors};
use super::inflate::inflate;
use super::select::Universe;
use super::system::{Fetched, Packages};
use super::{BootstrapError, Installation, hash_keyring, words};
use crate::builder::Builder;
use crate::cache::{Hasher, Out};
use crate::definition::Stage;
use crate::error::{BuildError, Result};
use crate::run::Scratch;
use crate::state::State;

use index::Entry;

/// The package that needs what every system has.
const BASE: &str = "base";
/// Repositories that a recipe need not name, the first one wins.
const REPOSITORIES: &str = "core extra";
/// Where a repository is below a mirror.
const LAYOUT: &str = "$repo/os/$arch";
const HOST_MIRRORS: &str = "/etc/pacman.d/mirrorlist";
/// Some hundred bytes have the signatures that there are.
const LARGEST_SIGNATURE: u64 = 64 << 10;

/// For pacman while it installs: packages were verified before.
const CONFIGURATION: &str = "[options]\nArchitecture = auto\nSigLevel = Never\n\
                             LocalFileSigLevel = Never\n";
/// What installs the packages. `$0` is the list of mirrors, `$1` a time for the
/// database, the rest are packages that were asked for by name.
const INSTALL: &str = r#"set -e
time=$1; shift
mkdir -p /var/lib/pacman /var/cache/pacman/pkg /etc/pacman.d
conf=/run/sampan/packages/pacman.conf
/usr/bin/pacman --config $conf --upgrade --noconfirm --noprogressbar --asdeps --overwrite '*' \
    /run/sampan/packages/*.pkg
/usr/bin/pacman --config $conf --database --quiet --asexplicit "$@"
[ -z "$time" ] || sed -i "/^%INSTALLDATE%\$/{n;s/.*/$time/}" /var/lib/pacman/local/*/desc
rm -rf /var/cache/pacman/pkg/* /var/log/pacman.log /var/cache/ldconfig/aux-cache
printf '%s' "$0" >/etc/pacman.d/mirrorlist
"#;

/// What a definition file asks for.
struct Wanted {
    /// Names of repositories, the first one wins.
    repositories: Vec<String>,
    /// Addresses with `$repo` and `$arch`, each with all repositories.
    servers: Vec<String>,
    include: Vec<String>,
    keys: Vec<PathBuf>,
    /// A keyring of the recipe.
    keyring: Option<PathBuf>,
}

impl Wanted {
    fn read(builder: &Builder<'_>, header: &BTreeMap<String, String>) -> Result<Self> {
        let get = |name: &str| header.get(name).map(String::as_str).filter(|t| !t.is_empty());
        let mirrors = &builder.engine().config().mirrors.value;
        let configured = || mirrors.iter().find(|(name, _)| name == "arch").map(|(_, url)| &**url);
        let servers = match get("mirrorurl").or_else(configured) {
            Some(url) if url.contains("$repo") => vec![url.to_owned()],
            Some(url) => vec![format!("{}/{LAYOUT}", url.trim_end_matches('/'))],
            None => servers(&std::fs::read_to_string(HOST_MIRRORS).unwrap_or_default()),
        };
        if servers.is_empty() {
            return Err(BootstrapError::NoMirror { suite: "arch".to_owned() }.into());
        }
        let keyring = get("keyring").map(|path| builder.options().directory.join(path));
        let keys = keyring.clone().map_or_else(keys::host_keyrings, |path| vec![path]);
        let repositories = words(Some(get("components").unwrap_or(REPOSITORIES)));
        Ok(Self { repositories, servers, include: words(get("include")), keys, keyring })
    }

    fn mirrors(&self, repository: &str, arch: &str) -> Mirrors {
        let full = |url: &String| url.replace("$repo", repository).replace("$arch", arch);
        Mirrors::new(self.servers.iter().map(full))
    }

    /// What the image's pacman reads.
    fn mirror_list(&self) -> String {
        self.servers.iter().map(|url| format!("Server = {url}\n")).collect()
    }
}

/// The servers of a list of mirrors that are in use.
fn servers(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let servers = lines.filter(|(name, _)| name.trim() == "Server");
    servers.map(|(_, url)| url.trim().to_owned()).collect()
}

/// pacman's name of a platform's architecture.
fn architecture(platform: &Platform) -> &str {
    match (platform.architecture(), platform.variant()) {
        ("amd64", _) => "x86_64",
        ("arm64", _) => "aarch64",
        ("arm", _) => "armv7h",
        ("386", _) => "i686",
        (other, _) => other,
    }
}

/// A package's files as a tar stream.
fn files(file: File, _: &Path) -> io::Result<Box<dyn Read + Send>> {
    Ok(Box::new(inflate(file)?))
}

/// What is on offer.
struct Offer {
    universe: Universe,
    mirrors: Vec<Mirrors>,
    groups: HashMap<String, Vec<String>>,
    signatures: HashMap<String, Vec<u8>>,
}

impl Offer {
    fn read(
        fetcher: &Fetcher<'_>,
        keyring: &trust::Keyring,
        wanted: &Wanted,
        arch: &str,
    ) -> Result<Self> {
        let mut offer = Self {
            universe: Universe::new(version::compare),
            mirrors: Vec::new(),
            groups: HashMap::new(),
            signatures: HashMap::new(),
        };
        for (index, repository) in wanted.repositories.iter().enumerate() {
            let mirrors = wanted.mirrors(repository, arch);
            for entry in database(fetcher, keyring, &mirrors, repository, (index, arch))? {
                let Entry { package, groups, signature } = entry;
                let name = &package.name;
                // The first repository wins, whatever version it has.
                if offer.universe.has(name) {
                    continue;
                }
                for group in groups {
                    offer.groups.entry(group).or_default().push(name.clone());
                }
                offer.signatures.extend(signature.map(|bytes| (name.clone(), bytes)));
                offer.universe.add(package);
            }
            offer.mirrors.push(mirrors);
        }
        offer.universe.complete();
        Ok(offer)
    }

    /// The packages that names stand for: packages and groups.
    fn names(&self, include: &[String]) -> Vec<String> {
        let base = self.universe.meets(BASE).then(|| BASE.to_owned());
        let named = include.iter().flat_map(|name| match self.groups.get(name) {
            Some(all) if !self.universe.meets(name) => all.clone(),
            _ => vec![name.clone()],
        });
        base.into_iter().chain(named).collect()
    }
}

/// The packages of a repository, whose database is verified where it is signed.
fn database(
    fetcher: &Fetcher<'_>,
    keyring: &trust::Keyring,
    mirrors: &Mirrors,
    repository: &str,
    (index, arch): (usize, &str),
) -> Result<Vec<Entry>> {
    mirrors.each(&format!("{repository}.db"), &mut |url| {
        let file = fetcher.file(url, LARGEST_INDEX)?;
        if let Some(signature) = fetcher.small_if_there(&format!("{url}.sig"), LARGEST_SIGNATURE)? {
            let wrong = |source| BootstrapError::Signature { url: url.to_owned(), source };
            keyring.verify_file(&file, &signature).map_err(wrong)?;
        }
        let failed = |source| BuildError::Read { path: fetcher.scratch.to_owned(), source };
        let reader = inflate(fetcher.rewound(file)?).map_err(failed)?.take(LARGEST_INDEX);
        let mut all = Vec::new();
        let read = index::packages(reader, &[arch, "any"], index, &mut |entry| all.push(entry));
        let malformed = |reason| BootstrapError::Malformed { url: url.to_owned(), reason };
        read.map_err(malformed)?;
        Ok(all)
    })
}

impl Builder<'_> {
    /// A system of pacman's packages: from the cache, or made now.
    pub(crate) fn arch(&mut self, stage: &Stage, name: &str) -> Result<State> {
        let platform = self.engine().config().platform.value.clone();
        let wanted = Wanted::read(self, &stage.header)?;
        let mut state = self.nothing("/bin/bash")?;
        let mut hasher = Hasher::new(&state.key, "arch");
        hasher.text(&format!("{platform} {:?} {:?}", wanted.include, wanted.repositories));
        hasher.text(&wanted.mirror_list());
        if let Some(keyring) = &wanted.keyring {
            hash_keyring(&mut hasher, Some(keyring))?;
            for list in keys::lists(keyring).iter().filter(|list| list.exists()) {
                hash_keyring(&mut hasher, Some(list))?;
            }
        }
        self.say(name, &format!("Bootstrap: arch from {}", wanted.servers[0]));
        let cached = self.layer(&mut state, &hasher.key(), |builder, state, out| {
            builder.bootstrap_arch(state, &wanted, architecture(&platform), out)
        })?;
        self.told(cached);
        Ok(state)
    }

    fn bootstrap_arch(
        &mut self,
        state: &State,
        wanted: &Wanted,
        arch: &str,
        out: &Out<'_>,
    ) -> Result<()> {
        let scratch = Scratch::new(self)?;
        let dir = scratch.directory("packages")?;
        let (packages, names) = self.arch_packages(wanted, arch, &dir)?;
        let path = dir.join("pacman.conf");
        let written = std::fs::write(&path, CONFIGURATION);
        written.map_err(|source| BuildError::Write { path, source })?;
        // `filesystem` brings the links of a merged /usr.
        let system = Packages::new(&packages, files, Vec::new(), &[]);
        let time = self.epoch().map(|time| time.to_string()).unwrap_or_default();
        let mut arguments = vec![wanted.mirror_list(), time];
        arguments.extend(names);
        let installation = Installation { script: INSTALL, arguments, env: &[], keyring: None };
        self.install(state, &system, (&scratch, &dir), &installation, out)
    }

    /// Fetches and verifies what is needed; and the names of what was asked for.
    fn arch_packages(
        &self,
        wanted: &Wanted,
        arch: &str,
        dir: &Path,
    ) -> Result<(Vec<Fetched>, Vec<String>)> {
        let keyring = keys::valid(&wanted.keys, &wanted.servers[0])?;
        let fetcher = self.fetcher()?;
        let offer = Offer::read(&fetcher, &keyring, wanted, arch)?;
        let names = offer.names(&wanted.include);
        let selected = offer.universe.select(&names)?;
        let packages = fetcher.fetch(&selected, &offer.mirrors, (dir, "pkg"))?;
        for (package, Fetched { name, path }) in selected.iter().zip(&packages) {
            let untrusted = |source| {
                let (name, source) = (name.clone(), Box::new(source));
                BootstrapError::Untrusted { name, source }
            };
            let signature = match offer.signatures.get(name) {
                Some(signature) => signature.clone(),
                None => {
                    let path = format!("{}.sig", package.path);
                    offer.mirrors[package.source].each(&path, &mut |url| {
                        let signature = fetcher.small_if_there(url, LARGEST_SIGNATURE)?;
                        Ok(signature.ok_or_else(|| untrusted(PackageError::Unsigned))?)
                    })?
                }
            };
            let open = File::open(path).map_err(|e| untrusted(PackageError::from(e)))?;
            let verified = keyring.verify_file(&open, &signature);
            verified.map_err(|e| untrusted(PackageError::Signature(e)))?;
        }
        // What was named by what it provides is known by its own name afterwards.
        let real = |name: String| match offer.universe.provider(&name) {
            Some(package) => package.name.clone(),
            None => name,
        };
        Ok((packages, names.into_iter().map(real).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_the_host_are_those_in_use() {
        let text = "## c\n#Server = http://a/$repo\nServer = http://b/$repo/os/$arch\n\
                    Server=http://c/\nInclude = x\n";
        assert_eq!(servers(text), ["http://b/$repo/os/$arch", "http://c/"]);
    }
}
