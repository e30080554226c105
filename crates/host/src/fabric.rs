//! The host's network libraries in place of an image's, whatever its MPI is.
//!
//! An MPI that talks through libfabric or UCX needs no exchange for a fast
//! network: its own library stays, and the one below it becomes the host's, which
//! knows the host's hardware and drivers. Their names hold the first number of
//! their versions, so the same name is the same interface.

use std::path::{Path, PathBuf};

use crate::inject::{Asked, Wanted};
use crate::libraries::{Libraries, Version};
use crate::mpi;

/// How the names of network libraries begin: libfabric, UCX, verbs (rdma-core),
/// CXI, PSM.
const LIBRARIES: [&str; 10] = [
    "libfabric.so.",
    "libucp.so.",
    "libuct.so.",
    "libucs.so.",
    "libucm.so.",
    "libibverbs.so.",
    "librdmacm.so.",
    "libcxi.so.",
    "libpsm2.so.",
    "libpsm_infinipath.so.",
];

/// Devices of network cards and of what moves memory between processes, by how
/// their names in /dev begin.
const DEVICES: [&str; 6] = ["infiniband", "cxi", "hfi1", "ipath", "knem", "xpmem"];

/// The host's libraries that stand for those which an image has. None is
/// required: an image without a fitting one runs as it is.
#[must_use]
pub fn wanted(host: &Libraries<'_>, image: &Libraries<'_>) -> Vec<Wanted> {
    let names = image.names(&LIBRARIES);
    let plain = names.iter().filter(|name| Version::of(name).0.len() == 1);
    let mpis = mpi::discover(image, &[]);
    let asked = |name: &String| {
        let users = mpis.iter().flat_map(|mpi| &mpi.libraries).map(|(_, library)| library);
        let mut all = Vec::new();
        for user in users {
            for need in user.elf.needs.iter().filter(|need| need.file == *name) {
                let one =
                    |version: &String| Asked { version: version.clone(), by: user.path.clone() };
                all.extend(need.versions.iter().map(one));
            }
        }
        all
    };
    let pair = |name: &String| {
        image.find(name)?;
        let plain = Wanted::new(host.find(name)?, false, "the host's network".to_owned());
        Some(Wanted { asked: asked(name), ..plain })
    };
    plain.filter_map(pair).collect()
}

/// The devices of networks that a host has.
#[must_use]
pub fn devices(host: &Libraries<'_>) -> Vec<PathBuf> {
    let dev = Path::new("/dev");
    let known = |name: &String| DEVICES.iter().any(|start| name.starts_with(start));
    host.listing(dev).into_iter().filter(known).map(|name| dev.join(name)).collect()
}

#[cfg(test)]
mod tests;
