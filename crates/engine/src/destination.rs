//! What an image may be written as.

use std::fmt;
use std::path::{Path, PathBuf};

use types::{ImageRef, RegistryRef};

use crate::{Error, Result};

/// What an image is written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A squashfs file.
    Squashfs(PathBuf),
    /// A SIF file.
    Sif(PathBuf),
    /// A SIF file of SingularityCE's OCI form.
    OciSif(PathBuf),
    /// A directory.
    Directory(PathBuf),
    /// An OCI layout, and the tag that the image gets in it.
    OciLayout(PathBuf, Option<String>),
    /// An OCI layout in a tar file, and the tag.
    OciArchive(PathBuf, Option<String>),
    /// What `docker load` reads, and the name that the image gets.
    DockerArchive(PathBuf, Option<String>),
    /// A repository of a registry.
    Registry(RegistryRef),
}

impl Destination {
    /// From what a person typed: a form and a path, the name of a registry's
    /// repository behind `docker://`, or a path whose ending or slash tells.
    ///
    /// # Errors
    /// When it does not tell.
    pub fn parse(text: &str) -> Result<Self> {
        for (prefix, make) in [
            ("sif:", Self::Sif as fn(PathBuf) -> Self),
            ("oci-sif:", Self::OciSif),
            ("squashfs:", Self::Squashfs),
            ("dir:", Self::Directory),
        ] {
            if let Some(path) = text.strip_prefix(prefix) {
                return Ok(make(path.into()));
            }
        }
        let schemes = ["oci:", "oci-archive:", "docker-archive:", "docker://"];
        if schemes.iter().any(|scheme| text.starts_with(scheme)) {
            return Ok(match text.parse::<ImageRef>()? {
                ImageRef::OciLayout { path, tag } => Self::OciLayout(path, tag),
                ImageRef::OciArchive { path, tag } => Self::OciArchive(path, tag),
                ImageRef::DockerArchive { path, name } => Self::DockerArchive(path, name),
                ImageRef::Registry(name) => Self::Registry(name),
                ImageRef::Path(path) => Self::Directory(path),
                ImageRef::File(_) => return Err(Error::Destination { text: text.to_owned() }),
            });
        }
        let extension = Path::new(text).extension().and_then(|e| e.to_str()).unwrap_or_default();
        match extension {
            _ if text.ends_with('/') => Ok(Self::Directory(text.into())),
            _ if text.ends_with(".oci.sif") => Ok(Self::OciSif(text.into())),
            "sif" => Ok(Self::Sif(text.into())),
            "sqfs" | "sqsh" | "squashfs" => Ok(Self::Squashfs(text.into())),
            _ => Err(Error::Destination { text: text.to_owned() }),
        }
    }

    /// Where it is on this machine.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Squashfs(path)
            | Self::Sif(path)
            | Self::OciSif(path)
            | Self::Directory(path)
            | Self::OciLayout(path, _)
            | Self::OciArchive(path, _)
            | Self::DockerArchive(path, _) => Some(path),
            Self::Registry(_) => None,
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.path()) {
            (Self::Registry(name), _) => write!(f, "docker://{name}"),
            (_, Some(path)) => write!(f, "{}", path.display()),
            (_, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_destination_tells_the_form() {
        let parse = |text| Destination::parse(text).unwrap();
        assert_eq!(parse("a/b.sif"), Destination::Sif("a/b.sif".into()));
        assert_eq!(parse("a/b.oci.sif"), Destination::OciSif("a/b.oci.sif".into()));
        assert_eq!(parse("b.sqsh"), Destination::Squashfs("b.sqsh".into()));
        assert_eq!(parse("out/"), Destination::Directory("out/".into()));
        assert_eq!(parse("dir:b.sif"), Destination::Directory("b.sif".into()));
        assert_eq!(parse("oci:a:b"), Destination::OciLayout("a".into(), Some("b".into())));
        let archive = Destination::DockerArchive("a.tar".into(), Some("x/y:z".into()));
        assert_eq!(parse("docker-archive:a.tar:x/y:z"), archive);
        assert!(matches!(parse("docker://r.io/x:1"), Destination::Registry(_)));
        assert!(matches!(Destination::parse("b.img"), Err(Error::Destination { .. })));
        assert!(matches!(Destination::parse("docker://UP"), Err(Error::Name(_))));
    }
}
