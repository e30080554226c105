//! Images that are at hand: OCI layouts, OCI archives, Docker archives.

use std::path::Path;

use image::LocalImage;
use store::ImageId;
use types::{ImageRef, Platform};

use crate::{Error, Result};

/// An image that is at hand, open.
pub(crate) struct Opened {
    /// Its manifest digest.
    pub(crate) id: ImageId,
    /// Under what the store keeps it: the transport, the absolute path, and
    /// the tag.
    pub(crate) reference: String,
    pub(crate) image: LocalImage,
}

/// Opens the image that a layout or archive has for a platform.
pub(crate) fn open(reference: &ImageRef, platform: &Platform) -> Result<Opened> {
    let failed = |source| Error::Archive { name: reference.to_string(), source: Box::new(source) };
    let (scheme, path, tag, image) = match reference {
        ImageRef::OciLayout { path, tag } => {
            ("oci", path, tag, LocalImage::layout(path, tag.as_deref(), platform))
        }
        ImageRef::OciArchive { path, tag } => {
            ("oci-archive", path, tag, LocalImage::oci_archive(path, tag.as_deref(), platform))
        }
        ImageRef::DockerArchive { path, name } => {
            ("docker-archive", path, name, LocalImage::docker_archive(path, name.as_deref()))
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
        let error = open(&reference, &Platform::host()).err().unwrap();
        assert!(error.to_string().contains("oci:"), "{error}");
    }

    #[test]
    fn references_do_not_depend_on_the_directory() {
        assert_eq!(canonical("oci", Path::new("/a/b"), Some("t")).unwrap(), "oci:/a/b:t");
        let here = canonical("oci", Path::new("x"), None).unwrap();
        assert!(here.starts_with("oci:/") && here.ends_with("/x"), "{here}");
    }
}
