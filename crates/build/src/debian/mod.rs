//! Bootstrap from the packages of Debian, Ubuntu and what follows them: in
//! process, with nothing of the distribution on the host.
//!
//! ```text
//! InRelease ─ signature ─→ Packages ─ SHA-256 ─→ what is needed ─→ *.deb ─ SHA-256
//!   files of all packages, without their scripts  ─→ a first system
//!   in it, root emulated: dpkg unpacks and configures the same packages
//!   both together ─→ one layer
//! ```
//!
//! dpkg does the real installation, so its database, diversions, alternatives and
//! configuration files are what it makes of them.

mod deb;
mod error;
mod fetch;
mod index;
mod select;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use image::{ConvertOptions, TreeSource};
use plan::{ImagePart, MountFlags, MountRequest, MountSource};
use serde_json::json;
use squashfs::Compression;
use types::Platform;

pub use error::BootstrapError;

use crate::builder::Builder;
use crate::cache::{Hasher, Out};
use crate::definition::Stage;
use crate::error::{BuildError, Result};
use crate::run::{Run, Scratch};
use crate::state::State;

use deb::Packages;
use fetch::Mirror;
use select::Universe;
use source::{Source, host_keyrings, host_sources};

/// Where the packages are while they are installed.
const PACKAGES: &str = "/run/sampan/packages";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What installs the packages. No service may start while it runs.
const INSTALL: &str = r#"set -e
for file in passwd group; do
    [ -e /etc/$file ] || cp /usr/share/base-passwd/$file.master /etc/$file
done
[ -e /usr/bin/awk ] || [ ! -e /usr/bin/mawk ] || ln -s mawk /usr/bin/awk
/usr/bin/dpkg --force-unsafe-io --force-depends --force-confold --unpack /run/sampan/packages/*.deb
/usr/bin/dpkg --force-unsafe-io --force-confold --configure --pending
rm -f /var/lib/dpkg/*-old /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache \
    /var/log/dpkg.log /var/log/alternatives.log /var/log/bootstrap.log
[ ! -d /etc/apt ] || printf '%s' "$0" >/etc/apt/sources.list
[ -z "$1" ] || { mkdir -p "${1%/*}"; cp /run/sampan/keyring "$1"; chmod 644 "$1"; }
"#;

/// What a definition file asks for.
struct Wanted {
    suite: String,
    sources: Vec<Source>,
    include: Vec<String>,
    /// debootstrap's word for the kind of system.
    variant: String,
    check_date: bool,
    /// A keyring that is not the distribution's own.
    keyring: Option<PathBuf>,
}

impl Wanted {
    fn read(builder: &Builder<'_>, header: &BTreeMap<String, String>) -> Result<Self> {
        let get = |name: &str| header.get(name).map(String::as_str);
        let words = |text: Option<&str>| -> Vec<String> {
            let split = |c: char| c == ',' || c.is_whitespace();
            let text = text.unwrap_or_default().split(split);
            text.filter(|word| !word.is_empty()).map(str::to_owned).collect()
        };
        let needs = |name, expected| crate::dockerfile::Problem::Arguments {
            name: String::from(name),
            expected,
        };
        let suite = get("osversion").filter(|suite| !suite.is_empty());
        let suite = suite.ok_or_else(|| needs("Bootstrap: debootstrap", "OSVersion:"))?.to_owned();
        let keyring = get("keyring").map(|path| builder.options().directory.join(path));
        let mirrors = &builder.engine().config().mirrors.value;
        let configured = || mirrors.iter().find(|(name, _)| *name == suite).map(|(_, url)| &**url);
        let mut sources = match get("mirrorurl").or_else(configured) {
            Some(url) => {
                let url = url.replace("%{OSVERSION}", &suite);
                let mut components = words(get("components"));
                if components.is_empty() {
                    components.push("main".to_owned());
                }
                let url = url.trim_end_matches('/').to_owned();
                let (suite, keys) = (suite.clone(), host_keyrings());
                vec![Source { index: 0, url, suite, components, keys }]
            }
            None => host_sources(&suite),
        };
        if sources.is_empty() {
            return Err(BootstrapError::NoMirror { suite }.into());
        }
        if let Some(keyring) = &keyring {
            for source in &mut sources {
                source.keys = vec![keyring.clone()];
            }
        }
        let variant = get("variant").unwrap_or("minbase").to_owned();
        let mut include = match variant.as_str() {
            "minbase" => vec!["apt".to_owned()],
            "buildd" => vec!["apt".to_owned(), "build-essential".to_owned()],
            "essential" | "required" => Vec::new(),
            other => {
                let text = format!("Variant: {other} (minbase, buildd and essential are known)");
                return Err(crate::dockerfile::Problem::Unsupported(text).into());
            }
        };
        include.extend(words(get("include")));
        let check_date = get("check-valid-until").is_none_or(|text| text != "no");
        Ok(Self { suite, sources, include, variant, check_date, keyring })
    }

    /// Where the image keeps a keyring of the recipe; apt goes by the ending.
    fn key_in_image(&self) -> Option<&'static str> {
        let path = self.keyring.as_ref()?;
        let armored = std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"-----"));
        Some(if armored {
            "/etc/apt/keyrings/bootstrap.asc"
        } else {
            "/etc/apt/keyrings/bootstrap.gpg"
        })
    }

    /// What the image's apt reads.
    fn sources_list(&self) -> String {
        let key = self.key_in_image();
        let signed = key.map_or_else(String::new, |key| format!("[signed-by={key}] "));
        let line =
            |s: &Source| format!("deb {signed}{} {} {}\n", s.url, s.suite, s.components.join(" "));
        self.sources.iter().map(line).collect()
    }
}

/// Debian's name of a platform's architecture.
fn architecture(platform: &Platform) -> &str {
    match (platform.architecture(), platform.variant()) {
        ("386", _) => "i386",
        ("arm", Some("v5" | "v6")) => "armel",
        ("arm", _) => "armhf",
        ("ppc64le", _) => "ppc64el",
        ("loong64", _) => "loong64",
        (other, _) => other,
    }
}

impl Builder<'_> {
    /// A system of a distribution's packages: from the cache, or made now. A
    /// system that is there is not compared with the mirror, as a RUN is not.
    pub(crate) fn debian(&mut self, stage: &Stage, name: &str) -> Result<State> {
        let wanted = Wanted::read(self, &stage.header)?;
        let platform = self.engine().config().platform.value.clone();
        if platform.architecture() != Platform::host().architecture() {
            return Err(BootstrapError::Platform { platform: platform.to_string() }.into());
        }
        let mut state = self.image("scratch")?;
        state.set_env("PATH", PATH);
        state.process().insert("Cmd".to_owned(), json!(["/bin/bash"]));
        let mut hasher = Hasher::new(&state.key, "debian");
        hasher.text(&format!("{platform} {} {:?}", wanted.variant, wanted.include));
        hasher.text(&wanted.sources_list());
        if let Some(path) = &wanted.keyring {
            let read = std::fs::read(path);
            hasher.bytes(&read.map_err(|source| BuildError::Read { path: path.clone(), source })?);
        }
        self.say(name, &format!("Bootstrap: {} from {}", wanted.suite, wanted.sources[0].url));
        let cached = self.layer(&mut state, hasher.key(), |builder, state, out| {
            builder.bootstrap_debian(state, &wanted, architecture(&platform), out)
        })?;
        self.told(cached);
        Ok(state)
    }

    fn bootstrap_debian(
        &mut self,
        state: &State,
        wanted: &Wanted,
        architecture: &str,
        out: &Out<'_>,
    ) -> Result<()> {
        let scratch = Scratch::new(self.scratch())?;
        let dir = scratch.directory("packages")?;
        let packages = {
            let mirror = Mirror {
                downloads: self.engine().downloads(self.progress())?,
                progress: self.progress(),
                scratch: self.scratch(),
                architecture,
            };
            let mut universe = Universe::default();
            for source in &wanted.sources {
                let release = mirror.release(source, wanted.check_date)?;
                for component in &source.components {
                    mirror.packages(source, &release, component, &mut |p| universe.add(p))?;
                }
            }
            universe.complete();
            let mut names = wanted.include.clone();
            // The links are there: nothing has to be moved.
            names.extend(universe.has("usr-is-merged").then(|| "usr-is-merged".to_owned()));
            let selected = universe.select(&names)?;
            mirror.fetch(&wanted.sources, &selected, &dir)?
        };
        let base = scratch.file("base.sqfs");
        let fast = ConvertOptions { compression: Compression::Lz4, ..ConvertOptions::default() };
        let layers = Packages::new(&packages, &wanted.suite, architecture);
        image::convert(&layers, create(&base)?, &fast).map_err(BootstrapError::Unpack)?;
        let mut first = state.clone();
        first.parts.push(ImagePart { path: base.clone(), offset: 0 });
        let run = self.installation(&first, wanted, &dir, &scratch)?;
        let code = self.execute(&first, &run, &scratch)?;
        if code != 0 {
            return Err(BuildError::Command { code });
        }
        let top = scratch.file("top.sqfs");
        scratch.commit(create(&top)?, &ConvertOptions { latest: self.epoch(), ..fast })?;
        let images = [base, top].map(|path| ImagePart { path, offset: 0 });
        let images = engine::open_parts(&images)?;
        let options = self.convert_options();
        image::copy(TreeSource::Images(&images), out.create()?, &options, &[])?;
        Ok(())
    }

    fn installation(
        &self,
        state: &State,
        wanted: &Wanted,
        dir: &Path,
        scratch: &Scratch,
    ) -> Result<Run> {
        let policy = scratch.file("policy-rc.d");
        crate::files::write_program(&policy, "#!/bin/sh\nexit 101\n")?;
        let origin = "Bootstrap".to_owned();
        let flags = MountFlags { read_only: true, ..MountFlags::default() };
        let mount = |source, target: &str| MountRequest {
            source,
            target: target.into(),
            flags,
            origin: origin.clone(),
        };
        let mut mounts = vec![
            mount(MountSource::Directory(dir.to_owned()), PACKAGES),
            mount(MountSource::File(policy), "/usr/sbin/policy-rc.d"),
        ];
        if let Some(path) = &wanted.keyring {
            mounts.push(mount(MountSource::File(path.clone()), "/run/sampan/keyring"));
        }
        let mut env = state.env();
        for (name, value) in [
            ("DEBIAN_FRONTEND", "noninteractive"),
            ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
            ("LC_ALL", "C"),
            ("HOME", "/root"),
        ] {
            env.push((name.to_owned(), value.to_owned()));
        }
        let key = wanted.key_in_image().unwrap_or_default();
        let words = ["/bin/sh", "-c", INSTALL, &wanted.sources_list(), key];
        Ok(Run {
            words: words.map(str::to_owned).to_vec(),
            env,
            mounts,
            interactive: false,
            no_net: true,
            user: None,
            workdir: PathBuf::from("/"),
        })
    }
}

fn create(path: &Path) -> Result<std::fs::File> {
    let open = std::fs::File::options().read(true).write(true).create_new(true).open(path);
    open.map_err(|source| BuildError::Write { path: path.to_owned(), source })
}
