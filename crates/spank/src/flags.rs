//! The flags of srun, sbatch and salloc, and the variables that stand for them.
//!
//! A flag wins over `SAMPAN_CONTAINER_…`, and that over `PYXIS_CONTAINER_…`.

use std::path::PathBuf;

use crate::error::FlagError;
use crate::mounts::{self, Mount};

/// A choice between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Whether the home directory is shown.
    Home,
    /// Whether the user is root inside.
    Root,
    /// Whether the image's entrypoint runs.
    Entrypoint,
    /// Whether the root file system takes writes.
    Writable,
}

/// What a flag sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The image.
    Image,
    /// Mounts.
    Mounts,
    /// The working directory.
    Workdir,
    /// The container's name.
    Name,
    /// The file that the container is saved to.
    Save,
    /// Variables whose values in the job win over the image's.
    Env,
    /// An environment definition file.
    Edf,
    /// One side of a switch.
    Switch(Switch, bool),
}

/// A flag.
pub struct Flag {
    /// Its name, without the dashes.
    pub name: &'static str,
    /// What its value is called; None for a switch.
    pub argument: Option<&'static str>,
    /// Its line in `srun --help`.
    pub usage: &'static str,
    /// What it sets.
    pub kind: Kind,
}

const fn value(
    name: &'static str,
    argument: &'static str,
    kind: Kind,
    usage: &'static str,
) -> Flag {
    Flag { name, argument: Some(argument), usage, kind }
}

const fn switch(name: &'static str, which: Switch, on: bool, usage: &'static str) -> Flag {
    Flag { name, argument: None, usage, kind: Kind::Switch(which, on) }
}

/// Every flag.
pub const FLAGS: [Flag; 15] = [
    value(
        "container-image",
        "[USER@][REGISTRY#]IMAGE[:TAG]|PATH",
        Kind::Image,
        "[sampan] run the tasks in this image: a registry's, or a file or directory on the node",
    ),
    value(
        "container-mounts",
        "SRC:DST[:FLAGS][,SRC:DST...]",
        Kind::Mounts,
        "[sampan] show files and directories of the node inside; + between flags, as in ro+private",
    ),
    value("container-workdir", "PATH", Kind::Workdir, "[sampan] start in this directory"),
    value(
        "container-name",
        "NAME[:auto|create|exec|no_exec]",
        Kind::Name,
        "[sampan] keep what the container writes for later steps of the job on this node",
    ),
    value(
        "container-save",
        "PATH",
        Kind::Save,
        "[sampan] write the container to a squashfs file when its last task has ended",
    ),
    switch("container-mount-home", Switch::Home, true, "[sampan] show your home directory"),
    switch("no-container-mount-home", Switch::Home, false, "[sampan] do not show it"),
    switch(
        "container-remap-root",
        Switch::Root,
        true,
        "[sampan] be root inside; files made are yours outside",
    ),
    switch("no-container-remap-root", Switch::Root, false, "[sampan] be yourself inside"),
    switch(
        "container-entrypoint",
        Switch::Entrypoint,
        true,
        "[sampan] run the image's entrypoint with the command as its arguments",
    ),
    switch("no-container-entrypoint", Switch::Entrypoint, false, "[sampan] do not run it"),
    switch(
        "container-writable",
        Switch::Writable,
        true,
        "[sampan] let tasks write into the container; without --container-name, to memory",
    ),
    switch("container-readonly", Switch::Writable, false, "[sampan] refuse such writes"),
    value(
        "container-env",
        "NAME[,NAME...]",
        Kind::Env,
        "[sampan] variables whose values in the job win over the image's",
    ),
    value("edf", "NAME|PATH", Kind::Edf, "[sampan] run the tasks in what this file describes"),
];

/// What of the variables' names stands behind `SAMPAN_` or `PYXIS_`.
const VARIABLES: [(&str, Kind); 13] = [
    ("CONTAINER_IMAGE", Kind::Image),
    ("CONTAINER_MOUNTS", Kind::Mounts),
    ("CONTAINER_WORKDIR", Kind::Workdir),
    ("CONTAINER_NAME", Kind::Name),
    ("CONTAINER_SAVE", Kind::Save),
    ("CONTAINER_ENV", Kind::Env),
    ("EDF", Kind::Edf),
    ("CONTAINER_MOUNT_HOME", Kind::Switch(Switch::Home, true)),
    ("CONTAINER_REMAP_ROOT", Kind::Switch(Switch::Root, true)),
    ("CONTAINER_ENTRYPOINT", Kind::Switch(Switch::Entrypoint, true)),
    ("CONTAINER_WRITABLE", Kind::Switch(Switch::Writable, true)),
    // After its opposite, which a variable cannot contradict unnoticed.
    ("CONTAINER_READONLY", Kind::Switch(Switch::Writable, false)),
    ("CONTAINER_READ_ONLY", Kind::Switch(Switch::Writable, false)),
];

/// What must be so of a name before the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existence {
    /// Whatever is there: found, or made.
    Any,
    /// It may be there, and is entered when it runs.
    Auto,
    /// It must not be there.
    New,
    /// It must be running, and is entered.
    Running,
}

/// `NAME[:FLAG]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerName {
    /// The name: a file's.
    pub name: String,
    /// What must be so of it.
    pub existence: Existence,
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The image, as sampan reads it.
    pub image: Option<String>,
    /// Mounts, in order.
    pub mounts: Vec<Mount>,
    /// The working directory inside.
    pub workdir: Option<String>,
    /// The container's name.
    pub name: Option<ContainerName>,
    /// Where it is saved.
    pub save: Option<PathBuf>,
    /// Variables of the job that win.
    pub env: Vec<String>,
    /// The environment definition file.
    pub edf: Option<String>,
    /// Whether home is shown.
    pub home: Option<bool>,
    /// Whether the user is root.
    pub root: Option<bool>,
    /// Whether the entrypoint runs.
    pub entrypoint: Option<bool>,
    /// Whether writes are taken.
    pub writable: Option<bool>,
}

impl Options {
    /// Takes a flag; Slurm may show it the same one several times.
    ///
    /// # Errors
    /// When its value is none, or contradicts what was given before.
    pub fn set(&mut self, flag: &Flag, text: Option<&str>) -> Result<(), FlagError> {
        let name = format!("--{}", flag.name);
        match flag.kind {
            Kind::Switch(which, on) => {
                let opposite = FLAGS.iter().find(|one| one.kind == Kind::Switch(which, !on));
                let opposite = opposite.map_or_else(String::new, |one| format!("--{}", one.name));
                self.put(which, on, || FlagError::Contradiction(opposite, name))
            }
            kind => {
                let text = text.filter(|text| !text.is_empty());
                self.take(kind, text.ok_or_else(|| FlagError::Empty(name.clone()))?, &name)
            }
        }
    }

    /// Takes variables where no flag was given.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn fill(&mut self, get: &dyn Fn(&str) -> Option<String>) -> Result<(), FlagError> {
        let flags = self.clone();
        for (suffix, kind) in VARIABLES {
            if flags.given(kind) {
                continue;
            }
            let found = ["SAMPAN", "PYXIS"].iter().find_map(|prefix| {
                let variable = format!("{prefix}_{suffix}");
                get(&variable).filter(|value| !value.is_empty()).map(|value| (variable, value))
            });
            let Some((variable, value)) = found else { continue };
            match kind {
                Kind::Switch(which, on) => {
                    let chosen = yes(&value).ok_or_else(|| FlagError::Switch {
                        variable: variable.clone(),
                        value: value.clone(),
                    })?;
                    let other = "another variable".to_owned();
                    self.put(which, chosen == on, || FlagError::Contradiction(variable, other))?;
                }
                kind => self.take(kind, &value, &variable)?,
            }
        }
        Ok(())
    }

    /// A flag about a container that was given, for a message.
    #[must_use]
    pub fn first_about_container(&self) -> Option<&'static str> {
        let given = |flag: &&Flag| !matches!(flag.kind, Kind::Image | Kind::Edf);
        let flag = FLAGS.iter().filter(given).find(|flag| match flag.kind {
            Kind::Switch(which, on) => self.switch(which) == Some(on),
            kind => self.given(kind),
        });
        flag.map(|flag| flag.name)
    }

    fn switch(&self, which: Switch) -> Option<bool> {
        match which {
            Switch::Home => self.home,
            Switch::Root => self.root,
            Switch::Entrypoint => self.entrypoint,
            Switch::Writable => self.writable,
        }
    }

    fn given(&self, kind: Kind) -> bool {
        match kind {
            Kind::Image => self.image.is_some(),
            Kind::Mounts => !self.mounts.is_empty(),
            Kind::Workdir => self.workdir.is_some(),
            Kind::Name => self.name.is_some(),
            Kind::Save => self.save.is_some(),
            Kind::Env => !self.env.is_empty(),
            Kind::Edf => self.edf.is_some(),
            Kind::Switch(which, _) => self.switch(which).is_some(),
        }
    }

    fn put(
        &mut self,
        which: Switch,
        on: bool,
        error: impl FnOnce() -> FlagError,
    ) -> Result<(), FlagError> {
        let slot = match which {
            Switch::Home => &mut self.home,
            Switch::Root => &mut self.root,
            Switch::Entrypoint => &mut self.entrypoint,
            Switch::Writable => &mut self.writable,
        };
        if *slot == Some(!on) {
            return Err(error());
        }
        *slot = Some(on);
        Ok(())
    }

    /// `origin` is the flag or variable, for messages.
    fn take(&mut self, kind: Kind, text: &str, origin: &str) -> Result<(), FlagError> {
        match kind {
            Kind::Image => once(&mut self.image, types::from_enroot_name(text)?, origin),
            Kind::Mounts => {
                for mount in mounts::parse(text)? {
                    if !self.mounts.contains(&mount) {
                        self.mounts.push(mount);
                    }
                }
                Ok(())
            }
            Kind::Workdir if !text.starts_with('/') => Err(FlagError::Workdir(text.to_owned())),
            Kind::Workdir => once(&mut self.workdir, text.to_owned(), origin),
            Kind::Name => once(&mut self.name, container_name(text)?, origin),
            Kind::Save => once(&mut self.save, PathBuf::from(text), origin),
            Kind::Env => {
                for name in text.split(',') {
                    if name.is_empty() || name.contains('=') {
                        return Err(FlagError::Empty(origin.to_owned()));
                    }
                    if !self.env.iter().any(|one| one == name) {
                        self.env.push(name.to_owned());
                    }
                }
                Ok(())
            }
            Kind::Edf => once(&mut self.edf, text.to_owned(), origin),
            Kind::Switch(..) => Ok(()),
        }
    }
}

fn once<T: PartialEq + std::fmt::Debug>(
    slot: &mut Option<T>,
    value: T,
    flag: &str,
) -> Result<(), FlagError> {
    match slot {
        Some(old) if *old != value => Err(FlagError::Twice {
            flag: flag.to_owned(),
            first: format!("{old:?}"),
            second: format!("{value:?}"),
        }),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

fn yes(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "y" | "yes" | "true" | "on" => Some(true),
        "0" | "n" | "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

fn container_name(text: &str) -> Result<ContainerName, FlagError> {
    let (name, flag) = text.split_once(':').unwrap_or((text, "auto"));
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(word) {
        return Err(FlagError::Name(name.to_owned()));
    }
    let existence = match flag {
        "auto" => Existence::Auto,
        "no_exec" => Existence::Any,
        "create" => Existence::New,
        "exec" => Existence::Running,
        other => return Err(FlagError::NameFlag(other.to_owned())),
    };
    Ok(ContainerName { name: name.to_owned(), existence })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(flags: &[(&str, Option<&str>)]) -> Result<Options, FlagError> {
        let mut options = Options::default();
        for (name, value) in flags {
            let flag = FLAGS.iter().find(|flag| flag.name == *name).unwrap();
            options.set(flag, *value)?;
        }
        Ok(options)
    }

    #[test]
    fn a_flag_may_be_seen_twice_but_not_with_two_values() {
        let image = ("container-image", Some("a"));
        assert!(options(&[image, image]).is_ok());
        assert!(options(&[image, ("container-image", Some("b"))]).is_err());
        let both = [("container-writable", None), ("container-readonly", None)];
        let message = options(&both).unwrap_err().to_string();
        assert!(message.contains("--container-writable and --container-readonly"), "{message}");
        assert!(options(&[("container-image", Some(""))]).is_err());
    }

    #[test]
    fn flags_win_over_variables_and_sampans_over_pyxis() {
        let get = |name: &str| match name {
            "PYXIS_CONTAINER_IMAGE" => Some("old".to_owned()),
            "SAMPAN_CONTAINER_IMAGE" => Some("own".to_owned()),
            "PYXIS_CONTAINER_WORKDIR" => Some("/w".to_owned()),
            "SAMPAN_CONTAINER_MOUNT_HOME" => Some("no".to_owned()),
            "PYXIS_CONTAINER_READONLY" => Some("1".to_owned()),
            "PYXIS_CONTAINER_ENV" => Some(String::new()),
            "SAMPAN_EDF" => Some("e".to_owned()),
            _ => None,
        };
        let mut given = options(&[("container-image", Some("flag"))]).unwrap();
        given.fill(&get).unwrap();
        assert_eq!(given.image.as_deref(), Some("flag"));
        assert_eq!(given.workdir.as_deref(), Some("/w"));
        assert_eq!((given.home, given.writable), (Some(false), Some(false)));
        assert_eq!((given.edf.as_deref(), given.env.len()), (Some("e"), 0));
        let mut none = Options::default();
        none.fill(&get).unwrap();
        assert_eq!(none.image.as_deref(), Some("own"));
    }

    #[test]
    fn variables_that_are_no_choice() {
        let get = |name: &str| (name == "PYXIS_CONTAINER_WRITABLE").then(|| "perhaps".to_owned());
        assert!(Options::default().fill(&get).is_err());
        let get = |name: &str| name.contains("CONTAINER_").then(|| "yes".to_owned());
        let mut options = Options { workdir: Some("/".into()), ..Options::default() };
        options.mounts = mounts::parse("/a").unwrap();
        let message = options.fill(&get).unwrap_err().to_string();
        assert!(message.contains("contradict"), "{message}");
    }

    #[test]
    fn names() {
        let name = |text: &str| container_name(text).map(|n| (n.name, n.existence));
        assert_eq!(name("tf").unwrap(), ("tf".to_owned(), Existence::Auto));
        assert_eq!(name("tf:auto").unwrap().1, Existence::Auto);
        assert_eq!(name("tf:no_exec").unwrap().1, Existence::Any);
        assert_eq!(name("tf:create").unwrap().1, Existence::New);
        assert_eq!(name("tf:exec").unwrap().1, Existence::Running);
        for bad in ["", ".x", "a/b", "../x", ":create", "x:y"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_flag_without_an_image_is_named() {
        let given = options(&[("no-container-mount-home", None)]).unwrap();
        assert_eq!(given.first_about_container(), Some("no-container-mount-home"));
        let given = options(&[("container-image", Some("a")), ("edf", Some("e"))]).unwrap();
        assert_eq!(given.first_about_container(), None);
    }
}
