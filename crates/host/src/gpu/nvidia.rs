//! NVIDIA's driver: what of it a container needs.
//!
//! The driver's libraries must be of the very version of the kernel module, so
//! they are the host's and go before any of the image.
//!
//! Sources: NVIDIA's driver README, chapters "Installed Components" and "Using
//! the NVIDIA Driver with MIG"; the lists of libnvidia-container's
//! documentation.

use std::fs;
use std::path::{Path, PathBuf};

use plan::{MountFlags, MountSource, MountSpec};
use serde::Serialize;

use super::{DriverLibrary, Node, Variables, Vendor};
use crate::edits::{Edits, HostLibrary};
use crate::inject::Mounted;
use crate::libraries::{Libraries, Version};

/// What `nvidia-smi` and monitoring need.
const UTILITY: [&str; 3] = ["libnvidia-ml.so", "libnvidia-cfg.so", "libnvidia-nscq.so"];

/// What CUDA and OpenCL need.
const COMPUTE: [&str; 13] = [
    "libcuda.so",
    "libcudadebugger.so",
    "libnvidia-opencl.so",
    "libnvidia-gpucomp.so",
    "libnvidia-ptxjitcompiler.so",
    "libnvidia-fatbinaryloader.so",
    "libnvidia-allocator.so",
    "libnvidia-compiler.so",
    "libnvidia-pkcs11.so",
    "libnvidia-pkcs11-openssl3.so",
    "libnvidia-nvvm.so",
    "libnvidia-nvvm70.so",
    "libnvidia-sandboxutils.so",
];

/// What drawing and video need.
const GRAPHICS: [&str; 22] = [
    "libvdpau_nvidia.so",
    "libnvidia-encode.so",
    "libnvidia-opticalflow.so",
    "libnvcuvid.so",
    "libnvidia-eglcore.so",
    "libnvidia-glcore.so",
    "libnvidia-tls.so",
    "libnvidia-glsi.so",
    "libnvidia-fbc.so",
    "libnvidia-ifr.so",
    "libnvidia-rtcore.so",
    "libnvoptix.so",
    "libGLX_nvidia.so",
    "libEGL_nvidia.so",
    "libGLESv2_nvidia.so",
    "libGLESv1_CM_nvidia.so",
    "libnvidia-glvkspirv.so",
    "libnvidia-cbl.so",
    "libnvidia-vksc-core.so",
    "libnvidia-egl-gbm.so",
    "libnvidia-egl-wayland.so",
    "libnvidia-present.so",
];

/// By which the loaders of EGL and Vulkan find the driver.
const GRAPHICS_FILES: [&str; 7] = [
    "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
    "/usr/share/egl/egl_external_platform.d/10_nvidia_wayland.json",
    "/usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json",
    "/usr/share/vulkan/icd.d/nvidia_icd.json",
    "/usr/share/vulkan/implicit_layer.d/nvidia_layers.json",
    "/etc/vulkan/icd.d/nvidia_icd.json",
    "/etc/vulkan/implicit_layer.d/nvidia_layers.json",
];

/// By which OpenCL's loader finds the driver.
const COMPUTE_FILES: [&str; 1] = ["/etc/OpenCL/vendors/nvidia.icd"];

/// Programs of the driver.
const BINARIES: [&str; 5] = [
    "nvidia-smi",
    "nvidia-debugdump",
    "nvidia-persistenced",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
];

/// Where they are looked for.
const BINARY_DIRS: [&str; 6] =
    ["/usr/bin", "/usr/sbin", "/bin", "/usr/local/bin", "/usr/local/nvidia/bin", "/opt/bin"];

/// Sockets of the driver's daemons.
const SOCKETS: [&str; 2] = ["/run/nvidia-persistenced/socket", "/run/nvidia-fabricmanager/socket"];

/// Where MPS listens when nothing else is said.
const MPS_DIRECTORY: &str = "/tmp/nvidia-mps";

/// Most bytes of /proc/driver/nvidia/version that are read.
const LIMIT: usize = 4096;

/// What this host has of the driver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Version of the loaded kernel module; None where none is loaded.
    pub kernel: Option<String>,
    /// Device nodes.
    pub nodes: Vec<Node>,
    /// The driver's libraries in the cache; perhaps of several versions.
    pub libraries: Vec<DriverLibrary>,
    /// The driver's programs.
    pub binaries: Vec<PathBuf>,
    /// Sockets of the driver's daemons.
    pub sockets: Vec<PathBuf>,
    /// Configuration files for loaders.
    pub files: Vec<PathBuf>,
    /// Directory of the Multi-Process Service.
    pub mps: Option<PathBuf>,
}

impl Facts {
    /// Whether there is a driver at all.
    #[must_use]
    pub fn present(&self) -> bool {
        self.kernel.is_some() || !self.nodes.is_empty()
    }
}

/// Looks for the driver below `root`. `cache` is the host's ld.so.cache, of the
/// machine's own architecture.
#[must_use]
pub fn probe(root: &Path, cache: &[HostLibrary], vars: Variables<'_>) -> Facts {
    let at = |path: &str| crate::below(root, Path::new(path));
    let is_file = |path: &&str| at(path).exists();
    let existing =
        |list: &[&str]| list.iter().copied().filter(is_file).map(PathBuf::from).collect::<Vec<_>>();
    let drawing = graphics(vars);
    let mut names: Vec<&str> = UTILITY.iter().chain(&COMPUTE).copied().collect();
    let mut files = existing(&COMPUTE_FILES);
    if drawing {
        names.extend(GRAPHICS);
        files.extend(existing(&GRAPHICS_FILES));
    }
    let binary = |name: &&str| {
        let mut paths = BINARY_DIRS.iter().map(|dir| Path::new(dir).join(name));
        paths.find(|path| crate::below(root, path).is_file())
    };
    let mps = vars("CUDA_MPS_PIPE_DIRECTORY").map_or_else(|| MPS_DIRECTORY.into(), PathBuf::from);
    let usable = mps.is_absolute() && crate::below(root, &mps).is_dir();
    let mut found = nodes(root);
    if drawing {
        found.extend(super::nodes(root, "/dev/dri", |name| drm_vendor(root, name) == Some(VENDOR)));
    }
    Facts {
        kernel: loaded(root),
        nodes: found,
        libraries: super::libraries(root, cache, &names),
        binaries: BINARIES.iter().filter_map(binary).collect(),
        sockets: existing(&SOCKETS),
        files,
        mps: usable.then_some(mps),
    }
}

/// NVIDIA's number at the PCI SIG.
const VENDOR: u32 = 0x10de;

/// The PCI vendor of a node of /dev/dri.
pub(super) fn drm_vendor(root: &Path, node: &str) -> Option<u32> {
    let path = Path::new("/sys/class/drm").join(node).join("device/vendor");
    let text = fs::read_to_string(crate::below(root, &path)).ok()?;
    u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

/// Whether drawing is asked for, by the variable that NVIDIA's own runtime reads.
fn graphics(vars: Variables<'_>) -> bool {
    let text = vars("NVIDIA_DRIVER_CAPABILITIES").and_then(|text| text.into_string().ok());
    let words = text.unwrap_or_default();
    words.split(',').any(|word| matches!(word.trim(), "all" | "graphics" | "display" | "video"))
}

fn nodes(root: &Path) -> Vec<Node> {
    let plain = |name: &str| {
        matches!(
            name,
            "nvidiactl" | "nvidia-uvm" | "nvidia-uvm-tools" | "nvidia-modeset" | "gdrdrv"
        ) || super::numbered(name, "nvidia")
            || super::numbered(name, "nvidia-fs")
    };
    let mut list = super::nodes(root, "/dev", plain);
    if list.is_empty() {
        return list;
    }
    // Instances of MIG, and memory shared between nodes.
    let cap = |name: &str| super::numbered(name, "nvidia-cap");
    list.extend(super::nodes(root, "/dev/nvidia-caps", cap));
    let channel = |name: &str| super::numbered(name, "channel");
    list.extend(super::nodes(root, "/dev/nvidia-caps-imex-channels", channel));
    list
}

/// The version of the loaded kernel module.
fn loaded(root: &Path) -> Option<String> {
    use std::io::Read;
    let file = fs::File::open(crate::below(root, Path::new("/proc/driver/nvidia/version"))).ok()?;
    let mut text = String::new();
    file.take(LIMIT as u64).read_to_string(&mut text).ok()?;
    kernel_version(&text).map(str::to_owned)
}

/// What is to be said of a CDI spec whose libcuda is of another version than the
/// loaded kernel module: it is older than the driver, or the module is.
#[must_use]
pub fn mismatch(root: &Path, mounts: &[MountSpec]) -> Option<String> {
    let kernel = loaded(root)?;
    let version = |mount: &'_ MountSpec| {
        let MountSource::File(path) = &mount.source else { return None };
        let version = path.file_name()?.to_str()?.strip_prefix("libcuda.so.")?;
        super::is_version(version).then(|| (path.clone(), version.to_owned()))
    };
    let (path, version) = mounts.iter().find_map(version)?;
    (version != kernel).then(|| {
        format!(
            "the CDI spec shows {}, but the loaded kernel module is {kernel}: CUDA will not start \
             before both are of one version; nvidia-ctk cdi generate writes the spec anew",
            path.display()
        )
    })
}

/// Where images of CUDA have libraries for drivers that are older than they.
const COMPAT: &str = "/usr/local/cuda/compat";

/// The libraries of the image's CUDA that go before those of a driver: all of them
/// where the first number of their version is greater (CUDA Compatibility, "Forward
/// Compatibility").
#[must_use]
pub fn compat(driver: &str, image: &Libraries<'_>) -> Vec<Mounted> {
    let first = |version: &str| version.split('.').next()?.parse::<u32>().ok();
    let dir = Path::new(COMPAT);
    let names = image.listing(dir);
    let versions = names.iter().filter_map(|name| name.strip_prefix("libcuda.so."));
    let newest = versions.filter(|text| super::is_version(text)).filter_map(first).max();
    if newest.is_none_or(|newest| first(driver).is_none_or(|driver| newest <= driver)) {
        return Vec::new();
    }
    let sonames = names.iter().filter(|name| Version::of(name).0.len() == 1);
    let library = |name: &String| {
        let path = dir.join(name);
        let machine = image.at(&path)?.elf.machine;
        Some(Mounted { name: name.clone(), path, machine })
    };
    sonames.filter_map(library).collect()
}

/// The version in /proc/driver/nvidia/version, whose first line is
/// `NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  DATE`, or, for
/// the open module, `… Open Kernel Module for x86_64  550.54.14  Release Build`.
#[must_use]
pub fn kernel_version(text: &str) -> Option<&str> {
    let line = text.lines().find(|line| line.starts_with("NVRM version:"))?;
    let (_, after) = line.split_once("Kernel Module")?;
    after.split_ascii_whitespace().find(|word| super::is_version(word))
}

/// What a container needs of the driver.
#[must_use]
pub fn edits(facts: &Facts, vars: Variables<'_>) -> Edits {
    let kernel = facts.kernel.as_deref();
    let mut edits = Edits::new(&match kernel {
        Some(version) => format!("NVIDIA driver {version}"),
        None => "NVIDIA driver".to_owned(),
    });
    super::show_nodes(&facts.nodes, &mut edits);
    edits.libraries = choose(&facts.libraries, kernel);
    for path in &facts.binaries {
        // One place that is in every PATH, whatever the host's is.
        let name = path.file_name().unwrap_or_default();
        edits.mount(MountSpec {
            target: Path::new("/usr/bin").join(name),
            ..super::bind(path, true)
        });
    }
    for path in facts.sockets.iter().chain(&facts.files) {
        edits.mount(MountSpec { optional: true, ..super::bind(path, false) });
    }
    if let Some(dir) = &facts.mps {
        let source = MountSource::Directory(dir.clone());
        let flags = MountFlags { read_only: false, recursive: false };
        edits.mount(MountSpec { source, target: dir.clone(), flags, optional: true });
    }
    Vendor::Nvidia.pass_on(vars, &mut edits);
    warnings(facts, &mut edits);
    edits
}

/// One library for each soname: that of the kernel module's version where the
/// cache has several, else the first.
fn choose(all: &[DriverLibrary], kernel: Option<&str>) -> Vec<HostLibrary> {
    let mut chosen: Vec<HostLibrary> = Vec::new();
    for one in all {
        let soname = &one.library.soname;
        if chosen.iter().any(|other| other.soname == *soname) {
            continue;
        }
        let mut same = all.iter().filter(|other| other.library.soname == *soname);
        let fitting = same.find(|other| kernel.is_some() && other.version() == kernel);
        chosen.push(fitting.unwrap_or(one).library.clone());
    }
    chosen
}

fn warnings(facts: &Facts, edits: &mut Edits) {
    let node = |name: &str| facts.nodes.iter().any(|node| node.path == Path::new(name));
    let Some(kernel) = &facts.kernel else {
        edits.warn("there are NVIDIA device nodes but no loaded kernel module".to_owned());
        return;
    };
    let cuda: Vec<_> =
        facts.libraries.iter().filter(|l| l.library.soname.starts_with("libcuda.so")).collect();
    let fits = |l: &&DriverLibrary| l.version().is_none_or(|version| version == kernel);
    match cuda.first() {
        None => edits.warn(format!(
            "the NVIDIA kernel module {kernel} is loaded, but the host's ld.so.cache has no \
             libcuda.so: no library of the driver is shown"
        )),
        Some(first) if !cuda.iter().any(fits) => edits.warn(format!(
            "the NVIDIA driver's library {} is version {}, but the loaded kernel module is \
             {kernel}: CUDA will not start before the module of that version is loaded",
            first.file.display(),
            first.version().unwrap_or_default()
        )),
        Some(_) => {}
    }
    if !facts.nodes.iter().any(|node| super::numbered_path(&node.path, "/dev/nvidia")) {
        edits.warn(format!(
            "the NVIDIA kernel module {kernel} is loaded, but there is no /dev/nvidia0"
        ));
    } else if !node("/dev/nvidia-uvm") {
        edits.warn(
            "there is no /dev/nvidia-uvm, which CUDA needs: let root run nvidia-modprobe -u -c 0 \
             on the host"
                .to_owned(),
        );
    }
}
