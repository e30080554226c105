//! Discovery on roots that are directories.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use super::*;

const PROPRIETARY: &str = "\
NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023
GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)
";
const OPEN: &str = "\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build  (dvs-builder@U16-I1-N08-07-2)  Thu Feb 22 01:40:33 UTC 2024
GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)
";

struct Host {
    dir: tempfile::TempDir,
    cache: Vec<HostLibrary>,
    vars: BTreeMap<&'static str, &'static str>,
}

impl Host {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), cache: Vec::new(), vars: BTreeMap::new() }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    fn at(&self, path: &str) -> PathBuf {
        let file = crate::below(&self.root(), Path::new(path));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        file
    }

    fn files(self, paths: &[&str]) -> Self {
        paths.iter().for_each(|path| fs::write(self.at(path), "").unwrap());
        self
    }

    fn text(self, path: &str, text: &str) -> Self {
        fs::write(self.at(path), text).unwrap();
        self
    }

    /// A library with its link for the soname, in the cache.
    fn library(mut self, soname: &str, file: &str) -> Self {
        fs::write(self.at(file), "").unwrap();
        let path = Path::new(file).with_file_name(soname);
        if path != Path::new(file) {
            let link = crate::below(&self.root(), &path);
            symlink(Path::new(file).file_name().unwrap(), link).unwrap();
        }
        self.cache.push(HostLibrary { path, soname: soname.to_owned() });
        self
    }

    fn var(mut self, name: &'static str, value: &'static str) -> Self {
        self.vars.insert(name, value);
        self
    }

    fn discover(&self, vendor: Vendor) -> Option<Edits> {
        let vars = |name: &str| self.vars.get(name).map(OsString::from);
        vendor.discover(&self.root(), &|| self.cache.clone(), &vars)
    }
}

/// A node with two GPUs, one of them cut up by MIG.
fn nvidia() -> Host {
    Host::new()
        .text("/proc/driver/nvidia/version", PROPRIETARY)
        .files(&[
            "/dev/nvidia0",
            "/dev/nvidia1",
            "/dev/nvidiactl",
            "/dev/nvidia-uvm",
            "/dev/nvidia-uvm-tools",
            "/dev/nvidia-modeset",
            "/dev/nvidia-nvlink",
            "/dev/nvidia-caps/nvidia-cap1",
            "/dev/nvidia-caps/nvidia-cap21",
            "/usr/bin/nvidia-smi",
            "/usr/local/nvidia/bin/nvidia-debugdump",
            "/run/nvidia-persistenced/socket",
        ])
        .library("libc.so.6", "/lib/libc.so.6")
        .library("libcuda.so.1", "/usr/lib64/libcuda.so.535.129.03")
        .library("libnvidia-ml.so.1", "/usr/lib64/libnvidia-ml.so.535.129.03")
        .library(
            "libnvidia-ptxjitcompiler.so.1",
            "/usr/lib64/libnvidia-ptxjitcompiler.so.535.129.03",
        )
        .library("libnvidia-compiler.so.535.129.03", "/usr/lib64/libnvidia-compiler.so.535.129.03")
        .library("libEGL_nvidia.so.0", "/usr/lib64/libEGL_nvidia.so.535.129.03")
}

fn targets(edits: &Edits) -> Vec<&str> {
    edits.mounts.iter().map(|m| m.target.to_str().unwrap()).collect()
}

#[test]
fn versions_of_both_kernel_modules() {
    assert_eq!(nvidia::kernel_version(PROPRIETARY), Some("535.129.03"));
    assert_eq!(nvidia::kernel_version(OPEN), Some("550.54.14"));
    let older = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  390.157  Wed\n";
    assert_eq!(nvidia::kernel_version(older), Some("390.157"));
    for text in
        ["", "GCC version: 12.3.0", "NVRM version: 1.2.3", "NVRM version: x Kernel Module y"]
    {
        assert_eq!(nvidia::kernel_version(text), None, "{text}");
    }
}

#[test]
fn what_a_container_needs_of_nvidia() {
    let edits = nvidia().discover(Vendor::Nvidia).unwrap();
    assert_eq!(edits.reason, "NVIDIA driver 535.129.03");
    assert_eq!(
        targets(&edits),
        [
            "/dev/nvidia-modeset",
            "/dev/nvidia-uvm",
            "/dev/nvidia-uvm-tools",
            "/dev/nvidia0",
            "/dev/nvidia1",
            "/dev/nvidiactl",
            "/dev/nvidia-caps/nvidia-cap1",
            "/dev/nvidia-caps/nvidia-cap21",
            "/usr/bin/nvidia-smi",
            "/usr/bin/nvidia-debugdump",
            "/run/nvidia-persistenced/socket",
        ]
    );
    let sonames: Vec<&str> = edits.libraries.iter().map(|l| l.soname.as_str()).collect();
    assert_eq!(
        sonames,
        [
            "libnvidia-ml.so.1",
            "libcuda.so.1",
            "libnvidia-ptxjitcompiler.so.1",
            "libnvidia-compiler.so.535.129.03"
        ]
    );
    assert_eq!(edits.libraries[1].path, Path::new("/usr/lib64/libcuda.so.1"));
    assert!(edits.warnings.is_empty() && edits.env.is_empty(), "{:?}", edits.warnings);
}

#[test]
fn drawing_is_for_those_who_ask() {
    let host = nvidia()
        .var("NVIDIA_DRIVER_CAPABILITIES", "compute,graphics")
        .files(&[
            "/dev/dri/card0",
            "/dev/dri/renderD128",
            "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
        ])
        .text("/sys/class/drm/renderD128/device/vendor", "0x10de\n")
        .text("/sys/class/drm/card0/device/vendor", "0x1a03\n");
    let edits = host.discover(Vendor::Nvidia).unwrap();
    let targets = targets(&edits);
    assert!(targets.contains(&"/dev/dri/renderD128") && !targets.contains(&"/dev/dri/card0"));
    assert!(targets.contains(&"/usr/share/glvnd/egl_vendor.d/10_nvidia.json"));
    assert!(edits.libraries.iter().any(|l| l.soname == "libEGL_nvidia.so.0"));
}

#[test]
fn the_schedulers_choice_is_passed_on() {
    let host = nvidia()
        .var("CUDA_VISIBLE_DEVICES", "MIG-5c89852c-d268-c3f3-1b07-005d5ae1dc3f")
        .var("ROCR_VISIBLE_DEVICES", "0");
    let edits = host.discover(Vendor::Nvidia).unwrap();
    let value = "MIG-5c89852c-d268-c3f3-1b07-005d5ae1dc3f";
    assert_eq!(edits.env, [("CUDA_VISIBLE_DEVICES".into(), Some(value.into()))]);
    assert!(targets(&edits).contains(&"/dev/nvidia1"));
}

#[test]
fn mps_is_shown_where_it_listens() {
    let host =
        nvidia().files(&["/scratch/mps/control"]).var("CUDA_MPS_PIPE_DIRECTORY", "/scratch/mps");
    let edits = host.discover(Vendor::Nvidia).unwrap();
    assert!(targets(&edits).contains(&"/scratch/mps"));
    let host = nvidia().var("CUDA_MPS_PIPE_DIRECTORY", "relative");
    assert!(!targets(&host.discover(Vendor::Nvidia).unwrap()).contains(&"relative"));
}

#[test]
fn a_library_of_another_version_than_the_module_is_named_with_both() {
    let host = nvidia().text("/proc/driver/nvidia/version", OPEN);
    let edits = host.discover(Vendor::Nvidia).unwrap();
    let text = edits.warnings.join("\n");
    assert!(text.contains("libcuda.so.535.129.03") && text.contains("550.54.14"), "{text}");
    assert_eq!(edits.libraries.len(), 4);
}

#[test]
fn of_several_versions_the_modules_is_taken() {
    let host = nvidia().text("/proc/driver/nvidia/version", OPEN);
    let mut host = host.library("libcuda.so.1", "/opt/new/libcuda.so.550.54.14");
    assert!(host.discover(Vendor::Nvidia).unwrap().warnings.is_empty());
    host.cache
        .push(HostLibrary { path: "/gone/libcuda.so.1".into(), soname: "libcuda.so.1".into() });
    let edits = host.discover(Vendor::Nvidia).unwrap();
    let cuda: Vec<_> = edits.libraries.iter().filter(|l| l.soname == "libcuda.so.1").collect();
    assert_eq!(cuda[0].path, Path::new("/opt/new/libcuda.so.1"));
    assert_eq!(cuda.len(), 1);
}

#[test]
fn a_driver_that_is_half_there_is_told() {
    let text = |host: &Host| host.discover(Vendor::Nvidia).unwrap().warnings.join("\n");
    let mut host = nvidia();
    fs::remove_file(host.at("/dev/nvidia-uvm")).unwrap();
    assert!(text(&host).contains("nvidia-modprobe"));
    host.cache.clear();
    assert!(text(&host).contains("no libcuda.so"));
    for name in ["nvidia0", "nvidia1"] {
        fs::remove_file(host.at(&format!("/dev/{name}"))).unwrap();
    }
    assert!(text(&host).contains("no /dev/nvidia0"));
    fs::remove_file(host.at("/proc/driver/nvidia/version")).unwrap();
    assert!(text(&host).contains("no loaded kernel module"));
    // A login node: libraries, and nothing else.
    let login = Host::new().library("libcuda.so.1", "/usr/lib64/libcuda.so.535.129.03");
    assert!(login.discover(Vendor::Nvidia).is_none() && login.discover(Vendor::Amd).is_none());
}

#[test]
fn what_a_container_needs_of_amd() {
    let host = Host::new()
        .files(&["/dev/kfd", "/dev/dri/card0", "/dev/dri/card1", "/dev/dri/renderD128"])
        .files(&["/dev/dri/by-path/pci-0000:06:00.0-card"])
        .text("/sys/class/drm/card0/device/vendor", "0x1a03\n")
        .text("/sys/class/drm/card1/device/vendor", "0x1002\n")
        .library("libhsa-runtime64.so.1", "/opt/rocm/lib/libhsa-runtime64.so.1.12.60002")
        .library("libdrm_amdgpu.so.1", "/usr/lib64/libdrm_amdgpu.so.1.0.0")
        .var("ROCR_VISIBLE_DEVICES", "0,1")
        .var("CUDA_VISIBLE_DEVICES", "3");
    let edits = host.discover(Vendor::Amd).unwrap();
    assert_eq!(targets(&edits), ["/dev/kfd", "/dev/dri/card1", "/dev/dri/renderD128"]);
    assert!(edits.libraries.is_empty());
    assert_eq!(edits.fallbacks.len(), 2);
    assert_eq!(edits.env, [("ROCR_VISIBLE_DEVICES".into(), Some("0,1".into()))]);
    let display = Host::new().files(&["/dev/dri/card0", "/dev/dri/renderD128"]);
    assert!(display.discover(Vendor::Amd).is_none());
}

#[test]
fn nodes_that_are_closed_to_the_caller_are_told() {
    let node = |path: &str, open| Node { path: path.into(), mode: 0o660, gid: 109, open };
    let facts = amd::Facts {
        nodes: vec![node("/dev/kfd", false), node("/dev/dri/card0", true)],
        libraries: vec![],
    };
    let edits = amd::edits(&facts, &|_| None);
    assert_eq!(
        edits.warnings,
        ["you may not open /dev/kfd (mode 0660, group 109): its GPU will not work"]
    );
    assert_eq!(edits.mounts.len(), 2);
}

#[test]
fn cdi_devices_by_uuid_else_all() {
    let known = ["0", "GPU-a", "MIG-b", "all"];
    for (visible, expected) in [
        (None, "all"),
        (Some(""), "all"),
        (Some("0,1"), "all"),
        (Some("GPU-a"), "GPU-a"),
        (Some("GPU-a, MIG-b"), "GPU-a MIG-b"),
        (Some("GPU-a,GPU-z"), "all"),
        (Some("NoDevFiles"), "all"),
    ] {
        let vars = |_: &str| visible.map(OsString::from);
        let names = Vendor::Nvidia.cdi_devices(&known, &vars);
        assert!(names.iter().all(|name| name.kind == "nvidia.com/gpu"));
        let names: Vec<_> = names.iter().map(|name| name.device.as_str()).collect();
        assert_eq!(names.join(" "), expected, "{visible:?}");
    }
}

#[test]
fn versions_at_the_end_of_names() {
    let version = |file: &str| {
        let library = HostLibrary { path: "/x".into(), soname: "x".into() };
        let one = DriverLibrary { library, file: file.into() };
        one.version().map(str::to_owned)
    };
    assert_eq!(version("/a/libcuda.so.535.129.03").as_deref(), Some("535.129.03"));
    assert_eq!(version("/a/libcuda.so.390.157").as_deref(), Some("390.157"));
    for file in
        ["/a/libcuda.so.1", "/a/libcuda.so", "/a/libcuda.so.1.2.3.4", "/a/libcuda.so.1.x", "/"]
    {
        assert_eq!(version(file), None, "{file}");
    }
}

#[test]
fn choices() {
    assert_eq!("all".parse::<Choice>().unwrap().vendors().len(), 2);
    assert_eq!("none".parse::<Choice>().unwrap().vendors(), []);
    assert!("intel".parse::<Choice>().is_err());
}

#[test]
fn the_images_cuda_goes_first_where_it_is_newer_than_the_driver() {
    let dir = "usr/local/cuda-12.4/compat";
    let image = crate::fixture::Root::glibc()
        .link("usr/local/cuda", "cuda-12.4")
        .named(&format!("{dir}/libcuda.so.550.54.14"), "libcuda.so.1", &[], &[])
        .link(&format!("{dir}/libcuda.so"), "libcuda.so.1")
        .link(&format!("{dir}/libnvidia-nvvm.so.4"), "gone");
    let tree = image.tree();
    let libraries = crate::libraries::Libraries::new(&tree, vec![]);
    let of = |driver: &str| nvidia::compat(driver, &libraries);
    let path = PathBuf::from("/usr/local/cuda/compat/libcuda.so.1");
    let expected = crate::inject::Mounted { name: "libcuda.so.1".into(), path, machine: 62 };
    assert_eq!(of("535.129.03"), [expected]);
    for driver in ["550.54.14", "550.10", "560.1.1", "", "x"] {
        assert_eq!(of(driver), [], "{driver}");
    }
}

#[test]
fn every_variable_by_which_amds_gpus_are_chosen_is_passed_on() {
    let host = Host::new()
        .files(&["/dev/kfd", "/dev/dri/renderD128", "/dev/dri/renderD129"])
        .text("/sys/class/drm/renderD128/device/vendor", "0x1002\n")
        .text("/sys/class/drm/renderD129/device/vendor", "0x1002\n")
        .var("ROCR_VISIBLE_DEVICES", "1")
        .var("HIP_VISIBLE_DEVICES", "0")
        .var("GPU_DEVICE_ORDINAL", "0");
    let edits = host.discover(Vendor::Amd).unwrap();
    let names: Vec<_> = edits.env.iter().map(|(name, _)| name.to_str().unwrap()).collect();
    assert_eq!(names, ["ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"]);
    // An index counts among what the job's cgroup leaves open: all are shown.
    assert!(targets(&edits).contains(&"/dev/dri/renderD128"));
    assert!(targets(&edits).contains(&"/dev/dri/renderD129"));
}
