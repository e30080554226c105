//! The hooks that NVIDIA's toolkit writes into its specs, as data.
//!
//! `nvidia-cdi-hook COMMAND` and `nvidia-ctk hook COMMAND` change the root file
//! system of a container that another runtime has made; they need that
//! runtime's directory and often root. What they do is done here while the
//! container is planned.
//!
//! Source: the help of `nvidia-cdi-hook` of NVIDIA Container Toolkit 1.17 and 1.18.

use std::path::{Path, PathBuf};

use super::spec::SpecHook;

/// What a hook asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A symbolic link of the container.
    Link {
        /// What it says.
        to: PathBuf,
        /// Where it is.
        path: PathBuf,
    },
    /// A directory that the dynamic linker has to search.
    CacheFolder(PathBuf),
    /// Permission bits of a path.
    Mode {
        /// The path.
        path: PathBuf,
        /// The bits.
        mode: u32,
    },
    /// The image's libraries of CUDA, where they are newer than this driver's; None
    /// where the hook does not say which that is.
    Compat(Option<String>),
}

/// What a hook asks for; None when it is not one of those known here, and has
/// to be run.
pub(super) fn actions(hook: &SpecHook) -> Option<Result<Vec<Action>, String>> {
    let mut words = hook.args.iter().skip(1).map(String::as_str).peekable();
    match Path::new(&hook.path).file_name()?.to_str()? {
        "nvidia-cdi-hook" => {}
        "nvidia-ctk" => {
            while words.next_if(|word| word.starts_with('-')).is_some() {}
            words.next_if_eq(&"hook")?;
        }
        _ => return None,
    }
    while words.next_if(|word| word.starts_with('-')).is_some() {}
    let command = words.next()?;
    let values = |name: &str| flag_values(words.clone(), name);
    Some(match command {
        // The second makes the links for sonames, which a search path implies.
        "update-ldcache" | "create-soname-symlinks" => {
            values("folder").into_iter().map(|text| inside(text).map(Action::CacheFolder)).collect()
        }
        "create-symlinks" => values("link").into_iter().map(link).collect(),
        "chmod" => {
            let mode = values("mode").last().map_or(Ok(0o755), |text| bits(text));
            let path = |text| Ok(Action::Mode { path: inside(text)?, mode: mode.clone()? });
            values("path").into_iter().map(path).collect()
        }
        "enable-cuda-compat" => {
            let version = values("host-driver-version").last().map(ToString::to_string);
            Ok(vec![Action::Compat(version)])
        }
        // It keeps root from making device nodes, which no process of ours can.
        "disable-device-node-modification" => Ok(Vec::new()),
        _ => return None,
    })
}

/// The values of a flag: `--name value` and `--name=value`, each perhaps a list.
fn flag_values<'a>(mut words: impl Iterator<Item = &'a str>, name: &str) -> Vec<&'a str> {
    let mut values = Vec::new();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix('-').map(|rest| rest.strip_prefix('-').unwrap_or(rest))
        else {
            continue;
        };
        let value = match flag.split_once('=') {
            Some((flag, value)) if flag == name => Some(value),
            None if flag == name => words.next(),
            _ => None,
        };
        values.extend(value.into_iter().flat_map(|value| value.split(',')));
    }
    values
}

/// `TARGET::PATH`.
fn link(text: &str) -> Result<Action, String> {
    let (to, path) =
        text.split_once("::").ok_or_else(|| format!("the link {text:?} is not TARGET::PATH"))?;
    if to.is_empty() || to.contains('\0') {
        return Err(format!("the link {text:?} has no target"));
    }
    Ok(Action::Link { to: PathBuf::from(to), path: inside(path)? })
}

fn bits(text: &str) -> Result<u32, String> {
    let bits = u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o7777);
    bits.ok_or_else(|| format!("{text:?} are no permission bits"))
}

fn inside(text: &str) -> Result<PathBuf, String> {
    let good = text.starts_with('/')
        && text.len() > 1
        && !text.contains('\0')
        && !text.split('/').any(|word| word == "..");
    if good {
        Ok(PathBuf::from(text))
    } else {
        Err(format!("{text:?} is no path in the container"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(path: &str, args: &[&str]) -> SpecHook {
        let args = args.iter().map(ToString::to_string).collect();
        SpecHook { path: path.into(), args, ..SpecHook::default() }
    }

    #[test]
    fn both_spellings_of_the_toolkit() {
        let folders = vec![
            Action::CacheFolder("/usr/lib64".into()),
            Action::CacheFolder("/usr/lib64/vdpau".into()),
        ];
        for (path, args) in [
            (
                "/usr/bin/nvidia-cdi-hook",
                &[
                    "nvidia-cdi-hook",
                    "update-ldcache",
                    "--folder",
                    "/usr/lib64",
                    "--folder=/usr/lib64/vdpau",
                ][..],
            ),
            (
                "/usr/bin/nvidia-ctk",
                &[
                    "nvidia-ctk",
                    "--debug",
                    "hook",
                    "update-ldcache",
                    "--ldconfig-path",
                    "/sbin/ldconfig",
                    "--folder",
                    "/usr/lib64,/usr/lib64/vdpau",
                ],
            ),
        ] {
            assert_eq!(actions(&hook(path, args)).unwrap().unwrap(), folders, "{args:?}");
        }
    }

    #[test]
    fn links_and_modes() {
        let args = ["x", "create-symlinks", "--link", "libcuda.so.1::/usr/lib64/libcuda.so"];
        let link = Action::Link { to: "libcuda.so.1".into(), path: "/usr/lib64/libcuda.so".into() };
        assert_eq!(actions(&hook("/x/nvidia-cdi-hook", &args)).unwrap().unwrap(), [link]);
        let args = ["x", "hook", "chmod", "--mode", "755", "--path", "/dev/dri"];
        let mode = Action::Mode { path: "/dev/dri".into(), mode: 0o755 };
        assert_eq!(actions(&hook("/x/nvidia-ctk", &args)).unwrap().unwrap(), [mode]);
        for bad in ["999", "10000", "rwx", ""] {
            let args = ["x", "chmod", "--mode", bad, "--path", "/a"];
            assert!(actions(&hook("/x/nvidia-cdi-hook", &args)).unwrap().is_err(), "{bad}");
        }
        let args = ["x", "enable-cuda-compat", "--host-driver-version=535.129.03"];
        let compat = Action::Compat(Some("535.129.03".into()));
        assert_eq!(actions(&hook("/x/nvidia-cdi-hook", &args)).unwrap().unwrap(), [compat]);
        for bad in ["a", "::/x", "a::b", "a::/../x", "a::/"] {
            let args = ["x", "create-symlinks", "--link", bad];
            assert!(actions(&hook("/x/nvidia-cdi-hook", &args)).unwrap().is_err(), "{bad}");
        }
    }

    #[test]
    fn others_are_run() {
        for (path, args) in [
            ("/usr/bin/nvidia-ctk", &["nvidia-ctk", "cdi", "generate"][..]),
            ("/usr/bin/nvidia-ctk", &["nvidia-ctk"]),
            ("/usr/bin/nvidia-cdi-hook", &["nvidia-cdi-hook", "something-new"]),
            ("/usr/bin/other", &["other", "update-ldcache"]),
            ("/", &[]),
        ] {
            assert_eq!(actions(&hook(path, args)), None, "{args:?}");
        }
        let args = ["x", "disable-device-node-modification"];
        assert_eq!(actions(&hook("/x/nvidia-cdi-hook", &args)).unwrap().unwrap(), []);
    }
}
