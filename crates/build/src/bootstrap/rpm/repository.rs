//! The lists of a repository (createrepo_c(8)).

use std::collections::{HashMap, HashSet};
use std::io::Read;

use sha2::Digest as _;
use trust::Keyring;

use super::index::{self, List, Lists, Put};
use super::location::{Location, REPOMD};
use super::modules::Modules;
use crate::bootstrap::error::BootstrapError;
use crate::bootstrap::fetch::{Fetcher, LARGEST_INDEX, Mirrors};
use crate::bootstrap::inflate::inflate;
use crate::cache::hex;
use crate::error::{BuildError, Result};

/// No file of this kind comes near it.
const LARGEST_REPOMD: u64 = 16 << 20;
/// The names of all files are read as a stream, and few are kept: Fedora's have a GiB.
const LARGEST_FILELISTS: u64 = 8 << 30;

/// A repository whose `repomd.xml` is verified as far as somebody vouches for it.
pub(super) struct Repository {
    pub(super) mirrors: Mirrors,
    lists: Lists,
}

impl Repository {
    /// Finds the mirrors, and a good `repomd.xml` of one of them. It is compared with
    /// what a metalink says, and verified where it is signed; packages are in any case.
    pub(super) fn open(
        fetcher: &Fetcher<'_>,
        keyring: &Keyring,
        location: &Location,
    ) -> Result<Self> {
        let (mirrors, sums) = location.mirrors(fetcher)?;
        let lists = mirrors.each(REPOMD, &mut |url| {
            let bytes = fetcher.small(url, LARGEST_REPOMD)?;
            let found = hex(&sha2::Sha256::digest(&bytes));
            let (url, wrong) = (url.to_owned(), !sums.is_empty() && !sums.contains(&found));
            if wrong {
                let reason = format!("its SHA-256 {found} is not in the metalink");
                return Err(BootstrapError::Changed { url, reason }.into());
            }
            let signature = fetcher.small_if_there(&format!("{url}.asc"), LARGEST_REPOMD)?;
            if let Some(signature) = signature {
                let wrong = |source| BootstrapError::Signature { url: url.clone(), source };
                keyring.verify(&bytes, &signature).map_err(wrong)?;
            }
            let malformed = |reason| BootstrapError::Malformed { url, reason };
            Ok(index::repomd(&bytes).map_err(malformed)?)
        })?;
        Ok(Self { mirrors, lists })
    }

    /// Reads the streams of modules.
    pub(super) fn modules(
        &self,
        fetcher: &Fetcher<'_>,
        arch: &str,
        modules: &mut Modules,
    ) -> Result<()> {
        let Some(list) = &self.lists.modules else { return Ok(()) };
        self.read(fetcher, list, LARGEST_INDEX, &mut |reader| {
            modules.read(std::io::BufReader::new(reader), arch)
        })
    }

    /// Reads the packages that run on an architecture, and which one each is of.
    pub(super) fn packages(
        &self,
        fetcher: &Fetcher<'_>,
        (source, arch): (usize, &str),
        put: Put<'_>,
    ) -> Result<()> {
        self.read(fetcher, &self.lists.primary, LARGEST_INDEX, &mut |reader| {
            index::primary(reader, &[arch, "noarch"], source, put)
        })
    }

    /// Which packages have these files: name and checksum of each package, by file.
    pub(super) fn owners(
        &self,
        fetcher: &Fetcher<'_>,
        wanted: &HashSet<String>,
    ) -> Result<HashMap<String, Vec<(String, String)>>> {
        let mut found: HashMap<String, Vec<(String, String)>> = HashMap::new();
        if let Some(list) = &self.lists.filelists {
            self.read(fetcher, list, LARGEST_FILELISTS, &mut |reader| {
                index::filelists(reader, wanted, &mut |sum, name, file| {
                    let owner = (name.to_owned(), sum.to_owned());
                    found.entry(file.to_owned()).or_default().push(owner);
                })
            })?;
        }
        Ok(found)
    }

    fn read(
        &self,
        fetcher: &Fetcher<'_>,
        list: &List,
        limit: u64,
        take: &mut dyn FnMut(&mut dyn Read) -> std::result::Result<(), String>,
    ) -> Result<()> {
        let (file, url) = self.mirrors.each(&list.path, &mut |url| {
            Ok((fetcher.listed(url, &list.listed)?, url.to_owned()))
        })?;
        let failed = |source| BuildError::Read { path: fetcher.scratch.to_owned(), source };
        let mut reader = inflate(file).map_err(failed)?.take(limit);
        let malformed = |reason| BootstrapError::Malformed { url, reason };
        Ok(take(&mut reader).map_err(malformed)?)
    }
}
