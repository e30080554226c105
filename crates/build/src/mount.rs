//! RUN --mount: directories of the context, of other stages and of the host.

use std::path::{Path, PathBuf};

use plan::{MountFlags, MountRequest, MountSource};

use crate::builder::Builder;
use crate::cache::Hasher;
use crate::copy::Picked;
use crate::dockerfile::expand::expand;
use crate::dockerfile::{Copy, Problem, RunMount, Source};
use crate::error::{BuildError, Result};
use crate::files::extract;
use crate::state::State;

/// Where ssh(1) finds the agent.
const AGENT: &str = "/run/buildkit/ssh_agent";

/// What is mounted for a command, and what is copied for it before.
#[derive(Default)]
pub(crate) struct Mounts {
    pub(crate) requests: Vec<MountRequest>,
    /// Which mounts show a copy, of what, and where it lives: None for one that
    /// goes with the step.
    copies: Vec<(usize, Picked, Option<PathBuf>)>,
    /// Variables for the command.
    pub(crate) env: Vec<(String, String)>,
}

impl Mounts {
    /// Makes the copies, below a directory of the step.
    pub(crate) fn prepare(&mut self, scratch: &Path) -> Result<()> {
        for (index, picked, place) in &self.copies {
            let copy = scratch.join(format!("mount{index}"));
            let to = match place {
                Some(place) => {
                    // A build that is killed leaves no half of it.
                    let ending = format!("new-{}", std::process::id());
                    let new = place.with_extension(ending);
                    extract(picked.files(), &picked.items, &new)?;
                    match std::fs::rename(&new, place) {
                        Ok(()) => {}
                        // Another build was quicker.
                        Err(_) if place.is_dir() => drop(std::fs::remove_dir_all(&new)),
                        Err(source) => {
                            return Err(BuildError::Write { path: place.clone(), source });
                        }
                    }
                    place.clone()
                }
                None => {
                    extract(picked.files(), &picked.items, &copy)?;
                    copy
                }
            };
            let request = &mut self.requests[*index];
            request.source = engine::mount_source(&to, &request.origin)?;
        }
        Ok(())
    }
}

/// The options of one mount, variables expanded.
struct Said<'a> {
    mount: &'a RunMount,
    escape: char,
    state: &'a State,
}

impl Said<'_> {
    fn option(&self, names: &[&str]) -> Result<Option<String>> {
        let lookup = |name: &str| self.state.lookup(name);
        let found = self.mount.options.iter().find(|(name, _)| names.contains(&name.as_str()));
        match found.and_then(|(_, value)| value.as_deref()) {
            Some(value) => Ok(Some(expand(value, self.escape, &lookup)?)),
            None => Ok(None),
        }
    }

    fn set(&self, names: &[&str]) -> bool {
        let found = self.mount.options.iter().find(|(name, _)| names.contains(&name.as_str()));
        found.is_some_and(|(_, value)| value.as_deref() != Some("false"))
    }

    fn target(&self) -> Result<Option<PathBuf>> {
        let target = self.option(&["target", "dst", "destination"])?;
        Ok(target.map(|text| self.state.absolute(&text)))
    }

    fn place(&self) -> Result<PathBuf> {
        let missing = || Problem::Arguments {
            name: format!("--mount=type={}", self.mount.kind),
            expected: "a target",
        };
        Ok(self.target()?.ok_or_else(missing)?)
    }
}

impl Builder<'_> {
    /// The stages and images that mounts take from.
    pub(crate) fn mounted_stages(&self, state: &State, mounts: &[RunMount]) -> Result<Vec<String>> {
        let said = |mount| Said { mount, escape: self.escape(), state };
        let from = mounts.iter().map(|mount| said(mount).option(&["from"]));
        Ok(from.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// What is mounted. What a bind shows decides about the layer, as its content
    /// is an input; that of caches and secrets does not.
    pub(crate) fn mounts(
        &self,
        state: &State,
        mounts: &[RunMount],
        hasher: &mut Hasher,
    ) -> Result<Mounts> {
        let mut all = Mounts::default();
        for (index, mount) in mounts.iter().enumerate() {
            let said = Said { mount, escape: self.escape(), state };
            let origin = format!("RUN --mount=type={}", mount.kind);
            let mut flags = MountFlags::default();
            let (source, target) = match mount.kind.as_str() {
                "cache" => {
                    let target = said.place()?;
                    let id = said.option(&["id"])?;
                    let id = id.unwrap_or_else(|| target.display().to_string());
                    flags.read_only = said.set(&["ro", "readonly"]);
                    let path = self.cache_mount(&id);
                    match said.option(&["from"])? {
                        Some(from) if !path.exists() => {
                            let from = self.picked(state, &said, Some(from), &target)?;
                            all.copies.push((all.requests.len(), from, Some(path.clone())));
                        }
                        _ => make(&path)?,
                    }
                    (MountSource::Directory(path), target)
                }
                "bind" => {
                    flags.read_only = !said.set(&["rw", "readwrite"]);
                    let (from, target) = (said.option(&["from"])?, said.place()?);
                    let inside = from.is_none();
                    let picked = self.picked(state, &said, from, &target)?;
                    picked.hash(hasher)?;
                    let source = if flags.read_only && inside {
                        engine::mount_source(&self.in_context(&said)?, &origin)?
                    } else {
                        all.copies.push((all.requests.len(), picked, None));
                        // Known once the copy is made.
                        MountSource::Directory(PathBuf::new())
                    };
                    (source, target)
                }
                "tmpfs" => {
                    let size = said.option(&["size"])?;
                    let size = size.map(|size| size.parse::<types::ByteSize>()).transpose();
                    let wrong = |_| Problem::Value { what: "size=", value: mount.kind.clone() };
                    let size = size.map_err(wrong)?.map(|size| size.0);
                    (MountSource::Tmpfs { size, mode: 0o1777 }, said.place()?)
                }
                "secret" => match self.secret(&said, &mut all.env)? {
                    Some((source, target)) => {
                        flags.read_only = true;
                        (source, target)
                    }
                    None => continue,
                },
                _ => {
                    let id = said.option(&["id"])?.unwrap_or_else(|| "default".to_owned());
                    let known = self.options().agents.iter().find(|(known, _)| *known == id);
                    let Some((_, socket)) = known else {
                        if said.set(&["required"]) {
                            return Err(BuildError::NoAgent(id));
                        }
                        continue;
                    };
                    let target = said.target()?;
                    let target = target.unwrap_or_else(|| format!("{AGENT}.{index}").into());
                    let text = target.display().to_string();
                    all.env.push(("SSH_AUTH_SOCK".to_owned(), text));
                    (MountSource::File(socket.clone()), target)
                }
            };
            all.requests.push(MountRequest { source, target, flags, origin });
        }
        Ok(all)
    }

    /// A secret as a file or, with env=, as a variable; None for one that nobody
    /// gave and nobody needs.
    fn secret(
        &self,
        said: &Said<'_>,
        env: &mut Vec<(String, String)>,
    ) -> Result<Option<(MountSource, PathBuf)>> {
        let target = said.target()?;
        let name = target.as_deref().and_then(Path::file_name);
        let id = said.option(&["id"])?;
        let id = id.or_else(|| Some(name?.to_string_lossy().into_owned())).unwrap_or_default();
        let known = self.options().secrets.iter().find(|(known, _)| *known == id);
        let Some((_, path)) = known else {
            let needed = said.set(&["required"]);
            return if needed { Err(BuildError::NoSecret(id)) } else { Ok(None) };
        };
        if let Some(name) = said.option(&["env"])? {
            let text = std::fs::read_to_string(path);
            env.push((
                name,
                text.map_err(|source| BuildError::Read { path: path.clone(), source })?,
            ));
            if target.is_none() {
                return Ok(None);
            }
        }
        let target = target.unwrap_or_else(|| format!("/run/secrets/{id}").into());
        Ok(Some((MountSource::File(path.clone()), target)))
    }

    /// What source= and from= mean.
    fn picked(
        &self,
        state: &State,
        said: &Said<'_>,
        from: Option<String>,
        target: &Path,
    ) -> Result<Picked> {
        let quoted = |text: String| text.replace('\\', "\\\\").replace('$', "\\$");
        let source = said.option(&["source", "src"])?.unwrap_or_else(|| "/".to_owned());
        let copy = Copy {
            sources: vec![Source::Path(quoted(source))],
            destination: quoted(target.display().to_string()),
            from: from.map(quoted),
            ..Copy::default()
        };
        self.pick(state, &copy)
    }

    fn in_context(&self, said: &Said<'_>) -> Result<PathBuf> {
        let inside = said.option(&["source", "src"])?.unwrap_or_default();
        let inside = inside.trim_start_matches('/');
        let gone = |_| BuildError::NoSource(inside.to_owned());
        let path = self.context().join(inside).canonicalize().map_err(gone)?;
        let top = self.context().canonicalize().map_err(gone)?;
        if path.starts_with(top) { Ok(path) } else { Err(BuildError::NoSource(inside.to_owned())) }
    }
}

fn make(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path)
        .map_err(|source| BuildError::Write { path: path.to_owned(), source })
}
