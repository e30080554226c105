//! What people write to name an image.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Digest, DigestError, FileRef};

/// A tag: at most 128 characters of `[A-Za-z0-9_.-]`, not starting with `.`
/// or `-` (OCI distribution-spec, "Pulling manifests").
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(String);

impl Tag {
    /// The tag's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `latest`, which an absent tag means.
    #[must_use]
    pub fn latest() -> Self {
        Self("latest".to_owned())
    }
}

impl FromStr for Tag {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, ImageRefError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let good = text.len() <= 128
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|b| word(b) || b == b'.' || b == b'-');
        if good { Ok(Self(text.to_owned())) } else { Err(ImageRefError::Tag(text.to_owned())) }
    }
}

/// The name of an image in a registry: `[domain/]path[:tag][@digest]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistryRef {
    /// Host and optional port. None is an unqualified name, which
    /// registries.conf resolves.
    pub domain: Option<String>,
    /// The repository's path, without the domain.
    pub path: String,
    /// The tag, if one was written.
    pub tag: Option<Tag>,
    /// The manifest digest, if one was written; it wins over the tag.
    pub digest: Option<Digest>,
}

/// What a person wrote to name an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ImageRef {
    /// `docker://…` or a bare name.
    Registry(RegistryRef),
    /// `oci:DIR[:tag]`: an OCI image layout in a directory.
    OciLayout {
        /// The layout's directory.
        path: PathBuf,
        /// `org.opencontainers.image.ref.name` in its index.
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:tag]`: an OCI image layout in a tar file.
    OciArchive {
        /// The tar file.
        path: PathBuf,
        /// `org.opencontainers.image.ref.name` in its index.
        tag: Option<String>,
    },
    /// `docker-archive:FILE[:name]`: what `docker save` writes.
    DockerArchive {
        /// The tar file.
        path: PathBuf,
        /// One of the names in its `RepoTags`.
        name: Option<String>,
    },
    /// An image file on the web, such as `https://…/x.sif` or `library://…`.
    File(FileRef),
    /// A path: a directory holding a root file system, or an image file.
    Path(PathBuf),
}

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageRefError {
    /// Nothing was written.
    #[error("an image name is empty")]
    Empty,
    /// A scheme that this program does not know.
    #[error(
        "image source {0:?} is not known: expected docker://, oci:, oci-archive:, docker-archive:, \
         oras://, library://, http://, https://, a path starting with / or ., or a name"
    )]
    Scheme(String),
    /// A service that has ended.
    #[error("{0:?}: Singularity Hub has closed, and nobody serves shub:// images any more")]
    Hub(String),
    /// What stands behind `library://` is no name.
    #[error("{0:?} is no image of a library: expected [HOST/]ENTITY/COLLECTION/CONTAINER[:TAG]")]
    Library(String),
    /// An address that is none.
    #[error("{0:?} is no address")]
    Address(String),
    /// The repository's name breaks the distribution specification's rule.
    #[error("{0:?} is not a repository name: expected lower-case words separated by . _ - and /")]
    Repository(String),
    /// The domain has characters that no host name has.
    #[error("{0:?} is not a registry: expected host or host:port")]
    Domain(String),
    /// The tag breaks the distribution specification's rule.
    #[error("{0:?} is not a tag: expected up to 128 of A-Z a-z 0-9 _ . -")]
    Tag(String),
    /// The part after `@` is no digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// Files that are images by their name, so that `foo.sqsh` is never looked
/// for in a registry.
const FILE_SUFFIXES: [&str; 4] = [".sqsh", ".sqfs", ".squashfs", ".sif"];

impl FromStr for ImageRef {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, ImageRefError> {
        if text.is_empty() {
            return Err(ImageRefError::Empty);
        }
        if let Some(name) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(name.parse()?));
        }
        if let Some((scheme, rest)) = text.split_once(':') {
            if let Some(rest) = rest.strip_prefix("//") {
                return match FileRef::parse(scheme, rest) {
                    Some(file) => file.map(Self::File),
                    None if scheme == "shub" => Err(ImageRefError::Hub(text.to_owned())),
                    None => Err(ImageRefError::Scheme(scheme.to_owned())),
                };
            }
            match scheme {
                "oci" => return layout(rest).map(|(path, tag)| Self::OciLayout { path, tag }),
                "oci-archive" => {
                    return layout(rest).map(|(path, tag)| Self::OciArchive { path, tag });
                }
                "docker-archive" => {
                    return layout(rest).map(|(path, name)| Self::DockerArchive { path, name });
                }
                "dir" | "file" if !rest.is_empty() => return Ok(Self::Path(rest.into())),
                _ => {}
            }
        }
        let is_path = text.starts_with(['/', '.'])
            || FILE_SUFFIXES.iter().any(|suffix| text.ends_with(suffix));
        if is_path { Ok(Self::Path(text.into())) } else { Ok(Self::Registry(text.parse()?)) }
    }
}

/// Splits `PATH[:TAG]` at the first colon, as containers-transports(5) does.
fn layout(rest: &str) -> Result<(PathBuf, Option<String>), ImageRefError> {
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag.to_owned()).filter(|t| !t.is_empty())),
        None => (rest, None),
    };
    if path.is_empty() { Err(ImageRefError::Empty) } else { Ok((path.into(), tag)) }
}

impl FromStr for RegistryRef {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, ImageRefError> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse()?)),
            None => (text, None),
        };
        // A colon after the last slash begins a tag; before it, a port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.parse()?)),
            _ => (name, None),
        };
        let (domain, path) = match name.split_once('/') {
            Some((first, rest)) if is_domain(first) => (Some(first.to_owned()), rest),
            _ => (None, name),
        };
        if path.is_empty() && domain.is_none() {
            return Err(ImageRefError::Empty);
        }
        if let Some(domain) = &domain {
            check_domain(domain)?;
        }
        if path.len() > 255 || !path.split('/').all(is_component) {
            return Err(ImageRefError::Repository(path.to_owned()));
        }
        Ok(Self { domain, path: path.to_owned(), tag, digest })
    }
}

/// The first component is a registry if it could not be a path component of
/// Docker Hub: the rule that docker, podman and containerd share.
fn is_domain(first: &str) -> bool {
    first.contains(['.', ':'])
        || first == "localhost"
        || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_domain(domain: &str) -> Result<(), ImageRefError> {
    let bad = || ImageRefError::Domain(domain.to_owned());
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
            if !host.bytes().all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.') {
                return Err(bad());
            }
            (host, rest.strip_prefix(':'))
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    let host_ok =
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:_".contains(&b));
    let port_ok = port.is_none_or(|p| p.parse::<u16>().is_ok_and(|p| p != 0));
    if host_ok && port_ok { Ok(()) } else { Err(bad()) }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` of the distribution specification.
fn is_component(text: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut separator = Vec::new();
    let (Some(first), Some(last)) = (text.bytes().next(), text.bytes().last()) else {
        return false;
    };
    if !alnum(first) || !alnum(last) {
        return false;
    }
    for byte in text.bytes() {
        if alnum(byte) {
            let good = matches!(&separator[..], b"" | b"." | b"_" | b"__")
                || separator.iter().all(|b| *b == b'-');
            if !good {
                return false;
            }
            separator.clear();
        } else {
            separator.push(byte);
        }
    }
    true
}

impl RegistryRef {
    /// The tag to ask for: the one written, else `latest`; None when a digest
    /// was written.
    #[must_use]
    pub fn effective_tag(&self) -> Option<Tag> {
        match &self.digest {
            Some(_) => None,
            None => Some(self.tag.clone().unwrap_or_else(Tag::latest)),
        }
    }
}

impl fmt::Display for RegistryRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(domain) = &self.domain {
            write!(f, "{domain}/")?;
        }
        write!(f, "{}", self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{}", tag.as_str())?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, path, tag) = match self {
            Self::Registry(name) => return write!(f, "docker://{name}"),
            Self::File(file) => return write!(f, "{file}"),
            Self::Path(path) => {
                let text = path.to_string_lossy();
                let plain =
                    text.starts_with(['/', '.']) || FILE_SUFFIXES.iter().any(|s| text.ends_with(s));
                return if plain { write!(f, "{text}") } else { write!(f, "dir:{text}") };
            }
            Self::OciLayout { path, tag } => ("oci", path, tag),
            Self::OciArchive { path, tag } => ("oci-archive", path, tag),
            Self::DockerArchive { path, name } => ("docker-archive", path, name),
        };
        write!(f, "{scheme}:{}", path.display())?;
        match tag {
            Some(tag) => write!(f, ":{tag}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for ImageRef {
    type Error = ImageRefError;
    fn try_from(text: String) -> Result<Self, ImageRefError> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(image: ImageRef) -> Self {
        image.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(text: &str) -> RegistryRef {
        match text.parse().unwrap() {
            ImageRef::Registry(name) => name,
            other => panic!("{text} is {other:?}"),
        }
    }

    #[test]
    fn names_split_as_docker_splits_them() {
        let name = registry("debian");
        assert_eq!((name.domain, name.path.as_str()), (None, "debian"));
        let name = registry("library/debian:12");
        assert_eq!((name.domain.as_deref(), name.path.as_str()), (None, "library/debian"));
        let name = registry("docker://127.0.0.1:5000/a/b_c:v1");
        assert_eq!(name.domain.as_deref(), Some("127.0.0.1:5000"));
        assert_eq!(name.tag.as_ref().map(Tag::as_str), Some("v1"));
        let name = registry("localhost/x");
        assert_eq!(name.domain.as_deref(), Some("localhost"));
        let name = registry("[::1]:5000/x");
        assert_eq!(name.domain.as_deref(), Some("[::1]:5000"));
        let digest = format!("ghcr.io/a/b:t@sha256:{}", "ab".repeat(32));
        assert_eq!(registry(&digest).to_string(), digest);
        assert_eq!(registry(&digest).effective_tag(), None);
    }

    #[test]
    fn paths_and_archives_are_told_apart_from_names() {
        assert_eq!("./x".parse(), Ok(ImageRef::Path("./x".into())));
        assert_eq!("foo.sqsh".parse(), Ok(ImageRef::Path("foo.sqsh".into())));
        assert_eq!(
            "oci:/a/b:v1".parse(),
            Ok(ImageRef::OciLayout { path: "/a/b".into(), tag: Some("v1".into()) })
        );
        assert_eq!(
            "docker-archive:x.tar".parse(),
            Ok(ImageRef::DockerArchive { path: "x.tar".into(), name: None })
        );
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        for text in ["docker://a/b:c", "oci:/x:y", "oci-archive:f.tar", "/a/dir", "dir:plain"] {
            assert_eq!(text.parse::<ImageRef>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn bad_names_are_refused() {
        for bad in [
            "",
            "docker://",
            "UPPER",
            "a//b",
            "a:b:c",
            "a/../b",
            "-a",
            "a-",
            "a...b",
            "ftp://x/y",
            "host:99999/x",
            "x@sha256:1",
            "a:.b",
            "[::1/x",
            "docker://x y",
        ] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad:?}");
        }
    }
}
