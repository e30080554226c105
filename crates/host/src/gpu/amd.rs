//! AMD's driver: what of it a container needs.
//!
//! The interface of the kernel's driver is stable, so an image with ROCm brings
//! libraries of its own and needs the device nodes alone. The host's libraries
//! are for images without.
//!
//! Source: ROCm documentation, "Running ROCm Docker containers".

use std::path::Path;

use serde::Serialize;

use super::{DriverLibrary, Node, Variables, Vendor};
use crate::edits::{Edits, HostLibrary};

/// The runtime of ROCm and HIP, and what it links to.
const LIBRARIES: [&str; 13] = [
    "libhsa-runtime64.so",
    "libhsakmt.so",
    "libamdhip64.so",
    "libhiprtc.so",
    "libhiprtc-builtins.so",
    "libamd_comgr.so",
    "libamdocl64.so",
    "librocm_smi64.so",
    "libamd_smi.so",
    "librocm-core.so",
    "librocprofiler-register.so",
    "libdrm.so",
    "libdrm_amdgpu.so",
];

/// AMD's number at the PCI SIG.
const VENDOR: u32 = 0x1002;

/// What this host has of the driver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Device nodes: the compute interface, then those of the cards.
    pub nodes: Vec<Node>,
    /// Libraries in the cache.
    pub libraries: Vec<DriverLibrary>,
}

impl Facts {
    /// Whether there is a driver for computing.
    #[must_use]
    pub fn present(&self) -> bool {
        self.nodes.first().is_some_and(|node| node.path == Path::new("/dev/kfd"))
    }
}

/// Looks for the driver below `root`. `cache` is the host's ld.so.cache, of the
/// machine's own architecture.
#[must_use]
pub fn probe(root: &Path, cache: &[HostLibrary]) -> Facts {
    let mut nodes = super::nodes(root, "/dev", |name| name == "kfd");
    if nodes.is_empty() {
        return Facts::default();
    }
    let card = |name: &str| super::numbered(name, "card") || super::numbered(name, "renderD");
    // A machine may have another maker's display beside the GPUs.
    let own = |name: &str| {
        card(name) && super::nvidia::drm_vendor(root, name).is_none_or(|vendor| vendor == VENDOR)
    };
    nodes.extend(super::nodes(root, "/dev/dri", own));
    Facts { nodes, libraries: super::libraries(root, cache, &LIBRARIES) }
}

/// What a container needs of the driver.
#[must_use]
pub fn edits(facts: &Facts, vars: Variables<'_>) -> Edits {
    let mut edits = Edits::new("AMD driver");
    super::show_nodes(&facts.nodes, &mut edits);
    for one in &facts.libraries {
        if !edits.fallbacks.iter().any(|other| other.soname == one.library.soname) {
            edits.fallbacks.push(one.library.clone());
        }
    }
    Vendor::Amd.pass_on(vars, &mut edits);
    edits
}
