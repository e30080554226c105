//! The configuration keys: how each is read and shown.

use std::path::PathBuf;
use std::time::Duration;

use plan::Skip;
use squashfs::Compression;
use types::ByteSize;

use super::{Config, ConfigError, Origin, Setting, Variables, expand};
use crate::bind::{Bind, parse_binds};

type Set = fn(&mut Config, &[String], &Origin, Variables<'_>) -> Result<(), String>;

/// A configuration key.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) variable: &'static str,
    /// What stands between the values of a list in a variable; None for a
    /// key with one value.
    pub(super) separator: Option<char>,
    /// What the value must look like.
    pub(super) expected: &'static str,
    /// Whether the site's file alone may set it.
    pub(super) of_site: bool,
    set: Set,
    pub(super) show: fn(&Config) -> (String, &Origin),
}

impl Key {
    /// A text of the environment or the command line as a list of values.
    pub(super) fn words(&self, text: &str) -> Vec<String> {
        match self.separator {
            Some(separator) => {
                text.split(separator).filter(|w| !w.is_empty()).map(str::to_owned).collect()
            }
            None => vec![text.to_owned()],
        }
    }

    pub(super) fn set(
        &self,
        config: &mut Config,
        words: &[String],
        origin: &Origin,
        vars: Variables<'_>,
    ) -> Result<(), ConfigError> {
        (self.set)(config, words, origin, vars).map_err(|reason| ConfigError::Value {
            origin: origin.clone(),
            key: self.name,
            reason,
        })
    }
}

fn one(words: &[String]) -> Result<&str, String> {
    match words {
        [word] if !word.is_empty() => Ok(word),
        _ => Err("one value is expected".to_owned()),
    }
}

fn put<T>(slot: &mut Setting<T>, value: T, origin: &Origin) {
    *slot = Setting { value, origin: origin.clone() };
}

fn directories(words: &[String], vars: Variables<'_>) -> Result<Vec<PathBuf>, String> {
    words.iter().map(|word| expand(word, vars)).collect()
}

fn paths(list: &[PathBuf], separator: &str) -> String {
    list.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(separator)
}

pub(super) const KEYS: &[Key] = &[
    Key {
        name: "store",
        variable: "SAMPAN_STORE",
        separator: None,
        expected: "a directory",
        of_site: false,
        set: |config, words, origin, vars| {
            put(&mut config.store, Some(expand(one(words)?, vars)?), origin);
            Ok(())
        },
        show: |config| {
            let path = config.store.value.as_ref();
            (path.map(|p| p.display().to_string()).unwrap_or_default(), &config.store.origin)
        },
    },
    Key {
        name: "site_stores",
        variable: "SAMPAN_SITE_STORES",
        separator: Some(':'),
        expected: "a list of directories",
        of_site: false,
        set: |config, words, origin, vars| {
            put(&mut config.site_stores, directories(words, vars)?, origin);
            Ok(())
        },
        show: |config| (paths(&config.site_stores.value, ":"), &config.site_stores.origin),
    },
    Key {
        name: "scratch",
        variable: "SAMPAN_SCRATCH",
        separator: None,
        expected: "a directory on a disk of this machine",
        of_site: false,
        set: |config, words, origin, vars| {
            put(&mut config.scratch, expand(one(words)?, vars)?, origin);
            Ok(())
        },
        show: |config| (config.scratch.value.display().to_string(), &config.scratch.origin),
    },
    Key {
        name: "linger",
        variable: "SAMPAN_LINGER",
        separator: None,
        expected: "seconds, from 0 to 86400",
        of_site: false,
        set: |config, words, origin, _| {
            let seconds = number(one(words)?, 0, 86_400)?;
            put(&mut config.linger, Duration::from_secs(seconds as u64), origin);
            Ok(())
        },
        show: |config| (config.linger.value.as_secs().to_string(), &config.linger.origin),
    },
    Key {
        name: "pull",
        variable: "SAMPAN_PULL",
        separator: None,
        expected: "missing, always or never",
        of_site: false,
        set: |config, words, origin, _| {
            put(&mut config.pull, one(words)?.parse()?, origin);
            Ok(())
        },
        show: |config| (config.pull.value.to_string(), &config.pull.origin),
    },
    Key {
        name: "platform",
        variable: "SAMPAN_PLATFORM",
        separator: None,
        expected: "os/architecture[/variant], for example linux/arm64",
        of_site: false,
        set: |config, words, origin, _| {
            let platform = one(words)?.parse().map_err(|e| format!("{e}"))?;
            put(&mut config.platform, platform, origin);
            Ok(())
        },
        show: |config| (config.platform.value.to_string(), &config.platform.origin),
    },
    Key {
        name: "compression",
        variable: "SAMPAN_COMPRESSION",
        separator: None,
        expected: "zstd[:1-22], gzip[:1-9], lz4, xz or none",
        of_site: false,
        set: |config, words, origin, _| {
            put(&mut config.compression, parse_compression(one(words)?)?, origin);
            Ok(())
        },
        show: |config| (show_compression(config.compression.value), &config.compression.origin),
    },
    Key {
        name: "parallel_layers",
        variable: "SAMPAN_PARALLEL_LAYERS",
        separator: None,
        expected: "a number from 1 to 64",
        of_site: false,
        set: |config, words, origin, _| {
            put(&mut config.parallel_layers, number(one(words)?, 1, 64)?, origin);
            Ok(())
        },
        show: |config| (config.parallel_layers.value.to_string(), &config.parallel_layers.origin),
    },
    Key {
        name: "size_limit",
        variable: "SAMPAN_SIZE_LIMIT",
        separator: None,
        expected: "bytes with an optional k, M, G or T, for example 64G",
        of_site: false,
        set: |config, words, origin, _| {
            let size: ByteSize = one(words)?.parse().map_err(|e| format!("{e}"))?;
            put(&mut config.size_limit, size.0, origin);
            Ok(())
        },
        show: |config| (ByteSize(config.size_limit.value).to_string(), &config.size_limit.origin),
    },
    Key {
        name: "stall_timeout",
        variable: "SAMPAN_STALL_TIMEOUT",
        separator: None,
        expected: "seconds, from 1 to 3600",
        of_site: false,
        set: |config, words, origin, _| {
            let seconds = number(one(words)?, 1, 3600)?;
            put(&mut config.stall_timeout, Duration::from_secs(seconds as u64), origin);
            Ok(())
        },
        show: |config| {
            (config.stall_timeout.value.as_secs().to_string(), &config.stall_timeout.origin)
        },
    },
    Key {
        name: "binds",
        variable: "SAMPAN_BINDS",
        separator: Some('\n'),
        expected: "a list of SRC[:DST[:OPTIONS]]",
        of_site: false,
        set: |config, words, origin, vars| {
            put(&mut config.binds, binds(words, vars)?, origin);
            Ok(())
        },
        show: |config| {
            let list: Vec<String> = config.binds.value.iter().map(show_bind).collect();
            (list.join(","), &config.binds.origin)
        },
    },
    Key {
        name: "mpi",
        variable: "SAMPAN_MPI",
        separator: None,
        expected: "auto, host, container or none",
        of_site: false,
        set: |config, words, origin, _| {
            put(&mut config.mpi, one(words)?.parse()?, origin);
            Ok(())
        },
        show: |config| (config.mpi.value.to_string(), &config.mpi.origin),
    },
    Key {
        name: "mpi_policy",
        variable: "SAMPAN_MPI_POLICY",
        separator: None,
        expected: "major, full or strict",
        of_site: false,
        set: |config, words, origin, _| {
            put(&mut config.mpi_policy, one(words)?.parse()?, origin);
            Ok(())
        },
        show: |config| (config.mpi_policy.value.to_string(), &config.mpi_policy.origin),
    },
    Key {
        name: "mpi_path",
        variable: "SAMPAN_MPI_PATH",
        separator: Some(':'),
        expected: "a list of directories",
        of_site: false,
        set: |config, words, origin, vars| {
            let list = words.iter().map(|word| expand(word, vars)).collect::<Result<_, _>>()?;
            put(&mut config.mpi_path, list, origin);
            Ok(())
        },
        show: |config| (paths(&config.mpi_path.value, ":"), &config.mpi_path.origin),
    },
    Key {
        name: "mpi_hosts",
        variable: "SAMPAN_MPI_HOSTS",
        separator: Some(','),
        expected: "a list of hosts",
        of_site: false,
        set: |config, words, origin, _| {
            put(&mut config.mpi_hosts, words.to_vec(), origin);
            Ok(())
        },
        show: |config| (config.mpi_hosts.value.join(","), &config.mpi_hosts.origin),
    },
    Key {
        name: "mpi_shell",
        variable: "SAMPAN_MPI_SHELL",
        separator: None,
        expected: "a program that is called as ssh is, and its first words",
        of_site: false,
        set: |config, words, origin, _| {
            put(&mut config.mpi_shell, one(words)?.to_owned(), origin);
            Ok(())
        },
        show: |config| (config.mpi_shell.value.clone(), &config.mpi_shell.origin),
    },
    Key {
        name: "fabric",
        variable: "SAMPAN_FABRIC",
        separator: None,
        expected: "none or host",
        of_site: false,
        set: |config, words, origin, _| {
            put(&mut config.fabric, one(words)?.parse()?, origin);
            Ok(())
        },
        show: |config| (config.fabric.value.to_string(), &config.fabric.origin),
    },
    Key {
        name: "mirrors",
        variable: "SAMPAN_MIRRORS",
        separator: Some(','),
        expected: "a list of RELEASE=URL, for example bookworm=http://mirror.example/debian",
        of_site: false,
        set: |config, words, origin, _| {
            let pair = |word: &String| {
                let pair = word.split_once('=').filter(|(_, url)| url.contains("://"));
                let (name, url) = pair.ok_or_else(|| format!("{word:?} is no RELEASE=URL"))?;
                Ok::<_, String>((name.to_owned(), url.to_owned()))
            };
            put(&mut config.mirrors, words.iter().map(pair).collect::<Result<_, _>>()?, origin);
            Ok(())
        },
        show: |config| {
            let pairs = config.mirrors.value.iter().map(|(name, url)| format!("{name}={url}"));
            (pairs.collect::<Vec<_>>().join(","), &config.mirrors.origin)
        },
    },
    Key {
        name: "library",
        variable: "SAMPAN_LIBRARY",
        separator: None,
        expected: "an address, for example https://library.example",
        of_site: false,
        set: |config, words, origin, _| {
            let url = one(words)?;
            if !url.starts_with("https://") && !url.starts_with("http://") {
                return Err(format!("{url:?} is no address"));
            }
            put(&mut config.library, Some(url.to_owned()), origin);
            Ok(())
        },
        show: |config| (config.library.value.clone().unwrap_or_default(), &config.library.origin),
    },
    Key {
        name: "no_mount",
        variable: "SAMPAN_NO_MOUNT",
        separator: Some(','),
        expected: "a list of tmp, cwd, dev, sys, proc, network-files, localtime, accounts",
        of_site: false,
        set: |config, words, origin, _| {
            put(&mut config.no_mount, parse_skip(words)?, origin);
            Ok(())
        },
        show: |config| (show_skip(config.no_mount.value), &config.no_mount.origin),
    },
    Key {
        name: "cdi_dirs",
        variable: "SAMPAN_CDI_DIRS",
        separator: Some(':'),
        expected: "a list of directories",
        of_site: false,
        set: |config, words, origin, vars| {
            put(&mut config.cdi_dirs, directories(words, vars)?, origin);
            Ok(())
        },
        show: |config| (paths(&config.cdi_dirs.value, ":"), &config.cdi_dirs.origin),
    },
    Key {
        name: "hooks_dirs",
        variable: "SAMPAN_HOOKS_DIRS",
        separator: Some(':'),
        expected: "a list of directories",
        of_site: false,
        set: |config, words, origin, vars| {
            put(&mut config.hooks_dirs, directories(words, vars)?, origin);
            Ok(())
        },
        show: |config| (paths(&config.hooks_dirs.value, ":"), &config.hooks_dirs.origin),
    },
    Key {
        name: "edf_dirs",
        variable: "SAMPAN_EDF_DIRS",
        separator: Some(':'),
        expected: "a list of directories",
        of_site: false,
        set: |config, words, origin, vars| {
            put(&mut config.edf_dirs, directories(words, vars)?, origin);
            Ok(())
        },
        show: |config| (paths(&config.edf_dirs.value, ":"), &config.edf_dirs.origin),
    },
    Key {
        name: "module_template",
        variable: "SAMPAN_MODULE_TEMPLATE",
        separator: None,
        expected: "a file",
        of_site: false,
        set: |config, words, origin, vars| {
            put(&mut config.module_template, Some(expand(one(words)?, vars)?), origin);
            Ok(())
        },
        show: |config| {
            let path = config.module_template.value.as_ref();
            let text = path.map(|p| p.display().to_string()).unwrap_or_default();
            (text, &config.module_template.origin)
        },
    },
    Key {
        name: "gpu",
        variable: "SAMPAN_GPU",
        separator: None,
        expected: "none, all, nvidia or amd",
        of_site: false,
        set: |config, words, origin, _| {
            put(&mut config.gpu, one(words)?.parse()?, origin);
            Ok(())
        },
        show: |config| (config.gpu.value.to_string(), &config.gpu.origin),
    },
    Key {
        name: "node_cache",
        variable: "SAMPAN_NODE_CACHE",
        separator: None,
        expected: "a directory on a disk of this machine",
        of_site: false,
        set: |config, words, origin, vars| {
            put(&mut config.node_cache, Some(expand(one(words)?, vars)?), origin);
            Ok(())
        },
        show: |config| {
            let path = config.node_cache.value.as_ref();
            (path.map(|p| p.display().to_string()).unwrap_or_default(), &config.node_cache.origin)
        },
    },
    Key {
        name: "node_cache_size",
        variable: "SAMPAN_NODE_CACHE_SIZE",
        separator: None,
        expected: "bytes with an optional k, M, G or T, for example 64G",
        of_site: false,
        set: |config, words, origin, _| {
            let size: ByteSize = one(words)?.parse().map_err(|e| format!("{e}"))?;
            put(&mut config.node_cache_size, size.0, origin);
            Ok(())
        },
        show: |config| {
            let size = ByteSize(config.node_cache_size.value);
            (size.to_string(), &config.node_cache_size.origin)
        },
    },
    Key {
        name: "forced_binds",
        variable: "SAMPAN_FORCED_BINDS",
        separator: Some('\n'),
        expected: "a list of SRC[:DST[:OPTIONS]]",
        of_site: true,
        set: |config, words, origin, vars| {
            put(&mut config.forced_binds, binds(words, vars)?, origin);
            Ok(())
        },
        show: |config| {
            let list: Vec<String> = config.forced_binds.value.iter().map(show_bind).collect();
            (list.join(","), &config.forced_binds.origin)
        },
    },
    Key {
        name: "forbidden_binds",
        variable: "SAMPAN_FORBIDDEN_BINDS",
        separator: Some(':'),
        expected: "a list of files and directories",
        of_site: true,
        set: |config, words, origin, vars| {
            put(&mut config.forbidden_binds, directories(words, vars)?, origin);
            Ok(())
        },
        show: |config| (paths(&config.forbidden_binds.value, ":"), &config.forbidden_binds.origin),
    },
    Key {
        name: "allowed_registries",
        variable: "SAMPAN_ALLOWED_REGISTRIES",
        separator: Some(','),
        expected: "a list of registries, each with the beginning of a path where only that is meant",
        of_site: true,
        set: |config, words, origin, _| {
            put(&mut config.allowed_registries, words.to_vec(), origin);
            Ok(())
        },
        show: |config| {
            (config.allowed_registries.value.join(","), &config.allowed_registries.origin)
        },
    },
];

fn number(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|n| (least..=most).contains(n));
    number.ok_or_else(|| format!("{text:?} is not a number from {least} to {most}"))
}

fn parse_compression(text: &str) -> Result<Compression, String> {
    let (name, level) = match text.split_once(':') {
        Some((name, level)) => (name, Some(level)),
        None => (text, None),
    };
    let level = |default: usize, most: usize| {
        level.map_or(Ok(default), |text| number(text, 1, most)).map(|n| n as i32)
    };
    match (name, text.contains(':')) {
        ("zstd", _) => Ok(Compression::Zstd(level(3, 22)?)),
        ("gzip", _) => Ok(Compression::Gzip(level(6, 9)?)),
        ("lz4", false) => Ok(Compression::Lz4),
        ("xz", false) => Ok(Compression::Xz),
        ("none", false) => Ok(Compression::None),
        _ => Err(format!("{text:?} is no compression")),
    }
}

fn show_compression(compression: Compression) -> String {
    match compression {
        Compression::Zstd(level) => format!("zstd:{level}"),
        Compression::Gzip(level) => format!("gzip:{level}"),
        Compression::Lz4 => "lz4".to_owned(),
        Compression::Xz => "xz".to_owned(),
        Compression::None => "none".to_owned(),
    }
}

fn binds(words: &[String], vars: Variables<'_>) -> Result<Vec<Bind>, String> {
    let mut list = Vec::new();
    for word in words {
        for mut bind in parse_binds(word).map_err(|e| e.to_string())? {
            bind.source = expand(&bind.source.to_string_lossy(), vars)?;
            list.push(bind);
        }
    }
    Ok(list)
}

fn show_bind(bind: &Bind) -> String {
    let mut text = bind.source.display().to_string();
    if let Some(target) = &bind.target {
        text = format!("{text}:{}", target.display());
    }
    if bind.flags.read_only { text + ":ro" } else { text }
}

/// The names of `no_mount` and what each switches off.
type Switch = (&'static str, fn(&mut Skip) -> &mut bool);

const SWITCHES: [Switch; 8] = [
    ("tmp", |skip| &mut skip.tmp),
    ("cwd", |skip| &mut skip.cwd),
    ("dev", |skip| &mut skip.dev),
    ("sys", |skip| &mut skip.sys),
    ("proc", |skip| &mut skip.proc),
    ("network-files", |skip| &mut skip.network_files),
    ("localtime", |skip| &mut skip.localtime),
    ("accounts", |skip| &mut skip.accounts),
];

fn parse_skip(words: &[String]) -> Result<Skip, String> {
    let mut skip = Skip::default();
    for word in words {
        let switch = SWITCHES.iter().find(|(name, _)| name == word);
        let Some((_, slot)) = switch else { return Err(format!("{word:?} is no default mount")) };
        *slot(&mut skip) = true;
    }
    Ok(skip)
}

fn show_skip(mut skip: Skip) -> String {
    let on: Vec<&str> =
        SWITCHES.iter().filter(|(_, slot)| *slot(&mut skip)).map(|(name, _)| *name).collect();
    on.join(",")
}
