//! RUN --mount: directories of the context, of other stages and of the host.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use plan::{MountFlags, MountRequest, MountSource, SubIds};
use types::{OVERRIDE_STAT, Owner};

use crate::builder::Builder;
use crate::cache::Hasher;
use crate::copy::Picked;
use crate::dockerfile::expand::expand;
use crate::dockerfile::{Copy, Problem, RunMount, Source};
use crate::error::{BuildError, Result};
use crate::extract::extract;
use crate::state::State;

/// Where ssh(1) finds the agent.
const AGENT: &str = "/run/buildkit/ssh_agent";

/// What is mounted for a command, and what is copied for it before.
#[derive(Default)]
pub(crate) struct Mounts {
    pub(crate) requests: Vec<MountRequest>,
    /// Which mounts show a copy, of what, and where it lives: None for one that goes
    /// with the step.
    copies: Vec<(usize, Picked, Option<Lasting>)>,
    /// Secrets that are shown as somebody's: which mount, and as whose.
    secrets: Vec<(usize, PathBuf, Owner)>,
    /// Caches that one command has at a time, by their names in the store.
    locked: BTreeSet<String>,
    /// Turns at caches that no other command has meanwhile.
    private: Vec<store::Turn>,
    /// Variables for the command.
    pub(crate) env: Vec<(String, String)>,
}

/// A copy that other steps find too: where it is made, and its name once it is whole.
struct Lasting {
    new: PathBuf,
    place: PathBuf,
}

impl Mounts {
    /// Waits until no other command has the caches that are locked; the turns at them.
    /// All wait in the same order, so nobody waits for ever.
    pub(crate) fn lock(&self, builder: &Builder<'_>) -> Result<Vec<store::Turn>> {
        let turn = |name: &String| Ok(builder.engine().turn(name, builder.progress())?);
        self.locked.iter().map(turn).collect()
    }

    /// Makes the copies, below a directory of the step.
    pub(crate) fn prepare(&mut self, scratch: &Path, sub_ids: Option<&SubIds>) -> Result<()> {
        for (index, path, owner) in &self.secrets {
            let copy = scratch.join(format!("mount{index}"));
            let failed = |source| BuildError::Write { path: copy.clone(), source };
            std::fs::copy(path, &copy).map_err(failed)?;
            let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&copy, closed).map_err(failed)?;
            show_as(&copy, *owner)?;
            self.requests[*index].source = MountSource::File(copy);
        }
        for (index, picked, place) in &self.copies {
            let copy = scratch.join(format!("mount{index}"));
            let to = match place {
                Some(Lasting { new, place }) => {
                    // A build that is killed leaves no half of it.
                    extract(picked.files(), &picked.items, new, sub_ids)?;
                    match std::fs::rename(new, place) {
                        Ok(()) => {}
                        // Another build was quicker.
                        Err(_) if place.is_dir() => drop(std::fs::remove_dir_all(new)),
                        Err(source) => {
                            return Err(BuildError::Write { path: place.clone(), source });
                        }
                    }
                    place.clone()
                }
                None => {
                    extract(picked.files(), &picked.items, &copy, sub_ids)?;
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

    /// What uid=, gid= and mode= say; None where they say nothing.
    fn owner(&self, mode: u32) -> Result<Option<Owner>> {
        let [uid, gid, bits] =
            [self.option(&["uid"])?, self.option(&["gid"])?, self.option(&["mode"])?];
        if uid.is_none() && gid.is_none() && bits.is_none() {
            return Ok(None);
        }
        let number = |what, text: Option<String>, radix, default| match text {
            None => Ok(default),
            Some(value) => u32::from_str_radix(&value, radix)
                .map_err(|_| BuildError::Value(Problem::Value { what, value })),
        };
        let mode = number("mode=", bits, 8, mode)? & 0o7777;
        let (uid, gid) = (number("uid=", uid, 10, 0)?, number("gid=", gid, 10, 0)?);
        Ok(Some(Owner { uid, gid, mode, device: None }))
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
                    let mut id = id.unwrap_or_else(|| target.display().to_string());
                    flags.read_only = said.set(&["ro", "readonly"]);
                    match said.option(&["sharing"])?.as_deref() {
                        Some("locked") => drop(all.locked.insert(format!("cache mount {id}"))),
                        Some("private") => {
                            let (own, turn) = self.private_cache(&id)?;
                            all.private.push(turn);
                            id = own;
                        }
                        _ => {}
                    }
                    let path = self.cache_mount(&id);
                    let new = !path.exists();
                    match said.option(&["from"])? {
                        Some(from) if !path.exists() => {
                            let from = self.picked(state, &said, Some(from), &target)?;
                            let (new, place) = (self.unfinished(&id), path.clone());
                            let lasting = Some(Lasting { new, place });
                            all.copies.push((all.requests.len(), from, lasting));
                        }
                        _ => make(&path)?,
                    }
                    if let Some(owner) = said.owner(0o755)?.filter(|_| new && path.exists()) {
                        show_as(&path, owner)?;
                    }
                    (MountSource::Directory(path), target)
                }
                "bind" => {
                    flags.read_only = !said.set(&["rw", "readwrite"]);
                    let (from, target) = (said.option(&["from"])?, said.place()?);
                    let inside = from.is_none();
                    let picked = self.picked(state, &said, from, &target)?;
                    picked.hash(hasher)?;
                    let source = if flags.read_only && inside && !picked.partial {
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
                        if let (MountSource::File(path), Some(owner)) =
                            (&source, said.owner(0o400)?)
                        {
                            all.secrets.push((all.requests.len(), path.clone(), owner));
                        }
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
                    // Whose it is shown as changes nothing: every process here is the
                    // caller, who may use the agent.
                    said.owner(0o600)?;
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

    /// The first of a name's private caches that nobody has: each command that runs
    /// beside others has one, and the next ones find them again.
    fn private_cache(&self, id: &str) -> Result<(String, store::Turn)> {
        let mut number = 0_u32;
        loop {
            let own = format!("{id} private {number}");
            if let Some(turn) = self.engine().turn_if_free(&format!("cache mount {own}"))? {
                return Ok((own, turn));
            }
            number += 1;
        }
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

/// Notes whose a file is, as the emulation of root shows it.
fn show_as(path: &Path, owner: Owner) -> Result<()> {
    let failed = |source| BuildError::Write { path: path.to_owned(), source };
    let (value, flags) = (owner.to_string(), rustix::fs::XattrFlags::empty());
    rustix::fs::setxattr(path, OVERRIDE_STAT, value.as_bytes(), flags)
        .map_err(|errno| failed(errno.into()))?;
    // Last, as it may close the file.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(owner.mode);
    std::fs::set_permissions(path, mode).map_err(failed)
}

fn make(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path)
        .map_err(|source| BuildError::Write { path: path.to_owned(), source })
}
