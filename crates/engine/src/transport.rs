//! Images at hand: layouts and archives.

use image::LocalImage;
use store::ImageId;
use types::{ImageRef, Platform};

use crate::{Error, Result};

/// An image in a layout or archive at hand.
pub(crate) struct Opened {
    pub(crate) id: ImageId,
    pub(crate) reference: String,
    pub(crate) local: LocalImage,
}

/// Opens a layout or an archive.
pub(crate) fn open(image: &ImageRef, platform: &Platform) -> Result<Opened> {
    let opened = match image {
        ImageRef::OciLayout { path, tag } => LocalImage::layout(path, tag.as_deref(), platform),
        ImageRef::OciArchive { path, tag } => {
            LocalImage::oci_archive(path, tag.as_deref(), platform)
        }
        ImageRef::DockerArchive { path, name } => LocalImage::docker_archive(path, name.as_deref()),
        ImageRef::Registry(_) => return Err(Error::UnknownImage { name: image.to_string() }),
        ImageRef::Path(path) => return Err(Error::NothingToPull { path: path.clone() }),
    };
    let name = image.to_string();
    let local = opened.map_err(|source| Error::Archive { name: name.clone(), source })?;
    Ok(Opened { id: ImageId::new(local.digest()), reference: name, local })
}
