//! Images that are at hand: OCI layouts, OCI archives, Docker archives.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use image::{ArchiveError, LocalImage, Spool, Tarball};
use plan::ImagePart;
use store::ImageId;
use types::ImageRef;

use crate::{Config, Error, Result, unpack};

/// Archives that this process has opened, by the state of their files: one that
/// is compressed is inflated once.
static OPENED: Mutex<Vec<(String, Arc<Tarball>)>> = Mutex::new(Vec::new());

/// An image that is at hand, open.
pub(crate) struct Opened {
    /// Its manifest digest.
    pub(crate) id: ImageId,
    /// Under what the store keeps it: the transport, the absolute path, and
    /// the tag.
    pub(crate) reference: String,
    pub(crate) image: LocalImage,
}

/// Opens an archive. What is inflated of one is in the scratch directory,
/// without a name, until the process ends.
pub(crate) fn archive(path: &Path, config: &Config) -> Result<Arc<Tarball>, ArchiveError> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    // What cannot be looked at cannot be opened either, which says why.
    let part = ImagePart { path: path.to_owned(), offset: 0 };
    let key = unpack::file_key(&part).unwrap_or_default();
    if let Some((_, known)) = opened.iter().find(|(known, _)| *known == key) {
        return Ok(Arc::clone(known));
    }
    let file = || {
        let own = unpack::own_directory(&unpack::cache(&config.scratch.value));
        unpack::nameless(&own.map_err(std::io::Error::other)?.join("archive"))
    };
    let archive = Tarball::open(path, &Spool { file: &file, limit: config.size_limit.value })?;
    let archive = Arc::new(archive);
    opened.push((key, Arc::clone(&archive)));
    Ok(archive)
}

/// Opens the image that a layout or archive has for the platform in force.
pub(crate) fn open(reference: &ImageRef, config: &Config) -> Result<Opened> {
    let platform = &config.platform.value;
    let failed = |source| Error::Archive { name: reference.to_string(), source: Box::new(source) };
    let (scheme, path, tag, image) = match reference {
        ImageRef::OciLayout { path, tag } => {
            ("oci", path, tag, LocalImage::layout(path, tag.as_deref(), platform))
        }
        ImageRef::OciArchive { path, tag } => {
            let opened = archive(path, config)
                .and_then(|tar| LocalImage::oci_archive(&tar, tag.as_deref(), platform));
            ("oci-archive", path, tag, opened)
        }
        ImageRef::DockerArchive { path, name } => {
            let opened = archive(path, config)
                .and_then(|tar| LocalImage::docker_archive(&tar, name.as_deref()));
            ("docker-archive", path, name, opened)
        }
        ImageRef::Path(path) => return Err(Error::NotAnImage { path: path.clone() }),
        ImageRef::Registry(_) | ImageRef::File(_) => {
            return Err(Error::NotAnImage { path: reference.to_string().into() });
        }
    };
    let image = image.map_err(failed)?;
    let id = ImageId::new(image.digest());
    Ok(Opened { id, reference: canonical(scheme, path, tag.as_deref())?, image })
}

/// The same image is found again from any working directory.
fn canonical(scheme: &str, path: &Path, tag: Option<&str>) -> Result<String> {
    let absolute = std::path::absolute(path)
        .map_err(|source| Error::OpenImage { path: path.to_owned(), source })?;
    let text = format!("{scheme}:{}", absolute.display());
    Ok(tag.map_or_else(|| text.clone(), |tag| format!("{text}:{tag}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_layout_is_an_error_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let reference = ImageRef::OciLayout { path: dir.path().to_owned(), tag: None };
        let error = open(&reference, &Config::load_from(&|_| None, &[]).unwrap()).err().unwrap();
        assert!(error.to_string().contains("oci:"), "{error}");
    }

    #[test]
    fn references_do_not_depend_on_the_directory() {
        assert_eq!(canonical("oci", Path::new("/a/b"), Some("t")).unwrap(), "oci:/a/b:t");
        let here = canonical("oci", Path::new("x"), None).unwrap();
        assert!(here.starts_with("oci:/") && here.ends_with("/x"), "{here}");
    }
}
