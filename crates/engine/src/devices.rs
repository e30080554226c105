//! Devices of the host: what is asked for, what there is, what it takes.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use host::DirectoryTree;
use host::cdi::{self, CdiError, Listed, QualifiedName, Registry};
use host::edits::{Edits, HostLibrary};
use host::gpu::{Choice, Variables, Vendor, nvidia};
use host::hooks::{self, Hook, Situation};
use host::ldcache;
use host::libraries::Libraries;
use plan::{Contribution, MountFlags, MountSpec, RunRequest};

use crate::{Engine, Error, Result, mount_source};

/// The devices that a container gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// CDI devices, `vendor/class=name`, and paths of `/dev`, `PATH[:PATH INSIDE]`.
    pub devices: Vec<String>,
    /// GPUs; None is what the configuration says.
    pub gpu: Option<Choice>,
}

/// The CDI devices of this host.
#[derive(Debug)]
pub struct Cdi {
    /// The devices, by name.
    pub devices: Vec<Listed>,
    /// Specs and directories that cannot be read.
    pub broken: Vec<String>,
    /// Devices that two specs of one directory describe.
    pub conflicts: Vec<String>,
}

/// What is wrong with a spec.
#[derive(Debug)]
pub struct Checked {
    /// Its file.
    pub path: PathBuf,
    /// How many devices it has, or everything that is wrong with it.
    pub outcome: std::result::Result<usize, Vec<CdiError>>,
}

impl Engine {
    /// What devices need of a container. Without a request this looks at
    /// nothing. `cache` gives the host's ld.so.cache of the machine's own
    /// architecture; it is asked only where a GPU's driver has no CDI spec.
    ///
    /// # Errors
    /// When a device is not there. A GPU that was not named is only missed, in
    /// a warning.
    pub fn device_edits(
        &self,
        devices: &Devices,
        cache: &dyn Fn() -> Vec<HostLibrary>,
    ) -> Result<Vec<Edits>> {
        let vars = |name: &str| std::env::var_os(name);
        let dirs = &self.config().cdi_dirs.value;
        let gpu = devices.gpu.or(Some(self.config().gpu.value));
        let devices = Devices { gpu, ..devices.clone() };
        Search { root: Path::new("/"), dirs, vars: &vars, cache }.edits(&devices)
    }

    /// The hooks that the site wants for a container, in the order in which they
    /// run within a stage. Without configured directories this looks at nothing.
    ///
    /// # Errors
    /// When a directory or a file of it cannot be read.
    pub fn site_hooks(&self, situation: &Situation<'_>) -> Result<Vec<Hook>> {
        let files = hooks::load(Path::new("/"), &self.config().hooks_dirs.value)?;
        Ok(hooks::select(&files, situation))
    }

    /// What devices contribute to a plan, and what was added to the warnings.
    pub(crate) fn shown(
        edits: &Edits,
        request: &RunRequest,
        warnings: &mut Vec<String>,
    ) -> Result<Contribution> {
        let host_dev = !request.isolation.contain && !request.skip.dev;
        if let (true, Some(path)) = (host_dev, edits.misplaced(&|path| path.exists())) {
            let (reason, path) = (edits.reason.clone(), path.to_owned());
            return Err(Error::DevicePlace { reason, path });
        }
        warnings.extend_from_slice(&edits.warnings);
        Ok(edits.contribution(host_dev))
    }

    /// Lists the CDI devices of this host.
    #[must_use]
    pub fn cdi(&self) -> Cdi {
        let registry = Registry::load(Path::new("/"), &self.config().cdi_dirs.value);
        let (broken, conflicts) = (registry.broken(), registry.conflicts());
        Cdi { devices: registry.devices(), broken, conflicts }
    }

    /// Checks specs: the files given, or those of the configured directories.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn check_cdi(&self, files: &[PathBuf]) -> Result<Vec<Checked>> {
        let mut paths = files.to_vec();
        if files.is_empty() {
            for dir in &self.config().cdi_dirs.value {
                paths.extend(cdi::spec_files(dir)?);
            }
        }
        let check = |path: PathBuf| {
            let outcome = cdi::validate(&path).map(|spec| spec.devices.len());
            Checked { path, outcome }
        };
        Ok(paths.into_iter().map(check).collect())
    }
}

/// What the host's ld.so.cache names for this machine's own architecture, the
/// cache's order kept; nothing where there is no cache.
pub(crate) fn host_cache() -> Vec<HostLibrary> {
    // e_machine of ELF, elf(5).
    let machine = match std::env::consts::ARCH {
        "x86_64" => 62,
        "aarch64" => 183,
        "powerpc64" => 21,
        "riscv64" => 243,
        _ => 0,
    };
    let Ok(tree) = DirectoryTree::open(Path::new("/")) else { return Vec::new() };
    let libraries = Libraries::new(&tree, Vec::new());
    let own = ldcache::flags(machine);
    let all = libraries.cache().unwrap_or_default();
    let library = |entry: &ldcache::Entry| HostLibrary {
        path: PathBuf::from(&entry.path),
        soname: entry.name.clone(),
    };
    all.iter().filter(|entry| Some(entry.flags) == own).map(library).collect()
}

/// Where devices are looked for.
struct Search<'a> {
    root: &'a Path,
    dirs: &'a [PathBuf],
    vars: Variables<'a>,
    cache: &'a dyn Fn() -> Vec<HostLibrary>,
}

impl Search<'_> {
    fn edits(&self, devices: &Devices) -> Result<Vec<Edits>> {
        let (paths, names): (Vec<_>, Vec<_>) =
            devices.devices.iter().partition(|text| text.starts_with('/'));
        let gpu = devices.gpu.unwrap_or(Choice::None);
        let mut list = Vec::new();
        for text in paths {
            list.push(node(text)?);
        }
        if names.is_empty() && gpu.vendors().is_empty() {
            return Ok(list);
        }
        let mut names = names
            .into_iter()
            .map(|text| text.parse().map_err(CdiError::from))
            .collect::<Result<Vec<QualifiedName>, _>>()?;
        let registry = Registry::load(self.root, self.dirs);
        // One sum for all CDI devices: they share what their specs say.
        let mut shared = Edits::new("--gpu");
        let mut makers = 0;
        for vendor in gpu.vendors() {
            match self.gpu(*vendor, &registry, &mut names, &mut shared) {
                Gpu::Absent => continue,
                Gpu::Cdi => {}
                Gpu::Edits(edits) => list.push(*edits),
            }
            makers += 1;
        }
        if makers == 0 && !gpu.vendors().is_empty() {
            let makers: Vec<&str> = gpu.vendors().iter().map(|vendor| vendor.name()).collect();
            shared.warn(format!("there is no GPU of {} on this host", makers.join(" or ")));
        }
        if !names.is_empty() {
            let mut edits = self.cdi(&registry, &names)?;
            if let Some(text) = nvidia::mismatch(self.root, &edits.mounts) {
                edits.warn(text);
            }
            shared = join(edits, shared);
        }
        if !shared.is_empty() || !shared.warnings.is_empty() {
            list.push(shared);
        }
        Ok(list)
    }

    fn cdi(&self, registry: &Registry, names: &[QualifiedName]) -> Result<Edits, CdiError> {
        let selection = registry.select(names)?;
        cdi::edits(&selection, &cdi::probe(self.root, &selection))
    }

    /// A maker's GPUs: by CDI where a spec fits this host, else as they are
    /// found. Devices of the kind that were named already are enough.
    fn gpu(
        &self,
        vendor: Vendor,
        registry: &Registry,
        names: &mut Vec<QualifiedName>,
        shared: &mut Edits,
    ) -> Gpu {
        let known = registry.names(vendor.cdi_kind());
        if !known.is_empty() {
            if !names.iter().any(|name| name.kind == vendor.cdi_kind()) {
                let wanted = vendor.cdi_devices(&known, self.vars);
                if let Err(error) = self.cdi(registry, &wanted) {
                    shared.warn(format!(
                        "the CDI spec of {} cannot be used, its GPUs are shown without it: {error}",
                        vendor.name()
                    ));
                    return self.discover(vendor);
                }
                names.extend(wanted);
            }
            vendor.pass_on(self.vars, shared);
            return Gpu::Cdi;
        }
        self.discover(vendor)
    }

    fn discover(&self, vendor: Vendor) -> Gpu {
        let found = vendor.discover(self.root, self.cache, self.vars);
        found.map_or(Gpu::Absent, |edits| Gpu::Edits(Box::new(edits)))
    }
}

/// How a maker's GPUs are had.
enum Gpu {
    /// Through CDI devices.
    Cdi,
    /// As they were found.
    Edits(Box<Edits>),
    /// Not at all.
    Absent,
}

/// What CDI devices need, and what was added to it: the scheduler's choice wins
/// over a variable of a spec.
fn join(mut edits: Edits, other: Edits) -> Edits {
    for (name, value) in other.env {
        edits.set(name, value.unwrap_or_default());
    }
    other.warnings.into_iter().for_each(|text| edits.warn(text));
    edits
}

/// A device that is named by its path, as Docker's `--device` takes it:
/// `PATH[:PATH INSIDE[:rwm]]`.
fn node(text: &str) -> Result<Edits> {
    let wrong = |reason| Error::Device { text: text.to_owned(), reason };
    let mut words = text.split(':');
    let path = Path::new(words.next().unwrap_or_default());
    let (target, letters) = match (words.next(), words.next(), words.next()) {
        (None, ..) => (path, None),
        (Some(target), letters, None) if target.starts_with('/') => (Path::new(target), letters),
        // Docker's short form without a path inside.
        (Some(letters), None, None) => (path, Some(letters)),
        _ => return Err(wrong("it has too many parts")),
    };
    if letters.is_some_and(|text| text.is_empty() || text.chars().any(|c| !"rwm".contains(c))) {
        return Err(wrong("what follows the path is no path and not of the letters r, w and m"));
    }
    let reason = format!("--device {text}");
    let source = mount_source(path, &reason)?;
    let kind = std::fs::metadata(path).map(|meta| meta.file_type());
    // A directory of devices is in /dev; any other one is a matter of --bind.
    let in_dev = || path.canonicalize().is_ok_and(|path| path.starts_with("/dev"));
    if !kind.is_ok_and(|t| t.is_char_device() || t.is_block_device() || (t.is_dir() && in_dev())) {
        return Err(wrong("it is no device"));
    }
    let mut edits = Edits::new(&reason);
    let flags = MountFlags { read_only: false, recursive: false };
    edits.mount(MountSpec { source, target: target.to_owned(), flags, optional: false });
    if letters.is_some_and(|text| !text.contains('w')) {
        edits.warn(format!("{reason}: writing cannot be forbidden for a device alone"));
    }
    Ok(edits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// Reads a variable from pairs.
    fn pairs(list: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<OsString> {
        move |name| list.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into())
    }

    /// A host with one GPU of NVIDIA, and a spec where one is given.
    fn host(spec: Option<&str>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for path in ["dev", "etc/cdi", "proc/driver/nvidia"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        for name in ["nvidia0", "nvidiactl", "nvidia-uvm"] {
            symlink("/dev/null", dir.path().join("dev").join(name)).unwrap();
        }
        let version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu\n";
        fs::write(dir.path().join("proc/driver/nvidia/version"), version).unwrap();
        if let Some(node) = spec {
            let text = format!(
                r#"{{"cdiVersion":"0.6.0","kind":"nvidia.com/gpu","devices":[
                    {{"name":"0","containerEdits":{{"deviceNodes":[{{"path":"{node}"}}]}}}},
                    {{"name":"all","containerEdits":{{"env":["ALL=1"],
                     "deviceNodes":[{{"path":"{node}"}}]}}}}]}}"#
            );
            fs::write(dir.path().join("etc/cdi/nvidia.json"), text).unwrap();
        }
        dir
    }

    fn search(
        root: &Path,
        vars: Variables<'_>,
        devices: &[&str],
        gpu: Option<Choice>,
    ) -> Result<Vec<Edits>> {
        let dirs = [PathBuf::from("/etc/cdi"), "/var/run/cdi".into()];
        let devices = Devices { devices: devices.iter().map(ToString::to_string).collect(), gpu };
        Search { root, dirs: &dirs, vars, cache: &Vec::new }.edits(&devices)
    }

    #[test]
    fn nothing_is_looked_at_for_nothing() {
        let vars = |_: &str| panic!("a variable was read");
        let cache = || panic!("the cache was read");
        let dirs = [PathBuf::from("/etc/cdi")];
        let search = Search { root: Path::new("/no"), dirs: &dirs, vars: &vars, cache: &cache };
        for gpu in [None, Some(Choice::None)] {
            assert_eq!(search.edits(&Devices { devices: vec![], gpu }).unwrap(), []);
        }
    }

    #[test]
    fn gpus_come_by_cdi_where_there_is_a_spec() {
        let host = host(Some("/dev/nvidia0"));
        let vars = pairs(&[("CUDA_VISIBLE_DEVICES", "0")]);
        let list = search(host.path(), &vars, &[], Some(Choice::All)).unwrap();
        assert_eq!(list.len(), 1);
        assert_eq!(list[0].reason, "CDI: nvidia.com/gpu=all");
        assert_eq!(
            list[0].env,
            [("ALL".into(), Some("1".into())), ("CUDA_VISIBLE_DEVICES".into(), Some("0".into()))]
        );
        // A device that is named is not joined by all others.
        let list = search(host.path(), &vars, &["nvidia.com/gpu=0"], Some(Choice::Nvidia)).unwrap();
        assert_eq!(list[0].reason, "CDI: nvidia.com/gpu=0");
    }

    #[test]
    fn a_spec_of_another_driver_than_the_loaded_one_is_told() {
        let host = host(None);
        for (version, told) in [("550.54.14", true), ("535.129.03", false)] {
            let file = format!("/lib/libcuda.so.{version}");
            fs::create_dir_all(host.path().join("lib")).unwrap();
            fs::write(host.path().join(&file[1..]), "").unwrap();
            let text = format!(
                r#"{{"cdiVersion":"0.6.0","kind":"nvidia.com/gpu","devices":[{{"name":"all",
                    "containerEdits":{{"mounts":[
                    {{"hostPath":"{file}","containerPath":"{file}"}}]}}}}]}}"#
            );
            fs::write(host.path().join("etc/cdi/nvidia.json"), text).unwrap();
            let asked: [(&[&str], _); 2] =
                [(&["nvidia.com/gpu=all"], None), (&[], Some(Choice::Nvidia))];
            for (names, gpu) in asked {
                let list = search(host.path(), &pairs(&[]), names, gpu).unwrap();
                let warned = list[0].warnings.iter().any(|text| {
                    text.contains("libcuda.so.550.54.14") && text.contains("535.129.03")
                });
                assert_eq!(warned, told, "{:?}", list[0].warnings);
            }
        }
    }

    #[test]
    fn a_spec_that_does_not_fit_is_passed_over_aloud() {
        let host = host(Some("/dev/nvidia7"));
        let list = search(host.path(), &pairs(&[]), &[], Some(Choice::Nvidia)).unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!(list[0].reason, "NVIDIA driver 535.129.03");
        assert!(list[1].warnings[0].contains("/dev/nvidia7"), "{:?}", list[1].warnings);
        let named = search(host.path(), &pairs(&[]), &["nvidia.com/gpu=0"], None);
        assert!(matches!(named, Err(Error::Cdi(CdiError::Host { .. }))));
    }

    #[test]
    fn gpus_are_found_without_a_spec_and_missed_in_a_warning() {
        let here = host(None);
        let list = search(here.path(), &pairs(&[]), &[], Some(Choice::All)).unwrap();
        assert_eq!(list.len(), 1);
        assert_eq!(list[0].mounts.len(), 3);
        let list = search(here.path(), &pairs(&[]), &[], Some(Choice::Amd)).unwrap();
        assert_eq!(list[0].warnings, ["there is no GPU of AMD on this host"]);
        assert!(search(here.path(), &pairs(&[]), &[], None).unwrap().is_empty());
    }

    #[test]
    fn the_sites_hooks_are_those_of_its_directories() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"version":"1.0.0","hook":{"path":"/h"},"when":{"commands":["^a"]},"stages":["prestart"]}"#;
        fs::write(dir.path().join("a.json"), text).unwrap();
        let path = dir.path().as_os_str().to_owned();
        let vars = |name: &str| (name == "SAMPAN_HOOKS_DIRS").then(|| path.clone());
        let engine = Engine::new(crate::Config::load_from(&vars, &[]).unwrap());
        let annotations = std::collections::BTreeMap::new();
        let count = |command| {
            let situation =
                Situation { command, annotations: &annotations, has_bind_mounts: false };
            engine.site_hooks(&situation).map(|list| list.len())
        };
        assert_eq!((count("a").unwrap(), count("b").unwrap()), (1, 0));
        fs::write(dir.path().join("b.json"), "{}").unwrap();
        assert!(count("a").unwrap_err().to_string().contains("b.json"));
    }

    #[test]
    fn devices_by_path() {
        let vars = pairs(&[]);
        let one = |text: &str| search(Path::new("/"), &vars, &[text], None);
        let list = one("/dev/null:/dev/zero2:r").unwrap();
        assert_eq!(list[0].mounts[0].target, Path::new("/dev/zero2"));
        assert_eq!(list[0].warnings.len(), 1);
        assert_eq!(one("/dev/null:rwm").unwrap()[0].mounts[0].target, Path::new("/dev/null"));
        for bad in ["/dev/null:x", "/dev/null:", "/dev/null:/a:/b:c", "/etc/passwd", "/no/such"] {
            assert!(one(bad).is_err(), "{bad}");
        }
        let error = one("gpu0").unwrap_err();
        assert_eq!(error.exit_code(), crate::exit::USAGE);
        assert!(error.hint().unwrap().contains("nvidia.com/gpu=0"));
        assert_eq!(one("a.b/c=d").unwrap_err().exit_code(), crate::exit::NOT_FOUND);
    }
}
