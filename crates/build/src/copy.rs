//! COPY and ADD.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plan::{EntryKind, resolve};
use sha2::Digest as _;

use crate::archive::Room;
use crate::builder::Builder;
use crate::cache::{Hasher, hex};
use crate::chmod::Chmod;
use crate::dockerfile::expand::{expand, expand_heredoc};
use crate::dockerfile::{Copy, Problem, Source};
use crate::error::{BuildError, Result};
use crate::files::{Files, HostFiles, Info, What};
use crate::git::{self, Address, Checkout};
use crate::ignore::{Ignore, matcher};
use crate::layer::{LayerWriter, Owning};
use crate::state::State;

/// One entry that is copied.
pub(crate) struct Item {
    /// Where it is in its tree.
    pub(crate) from: PathBuf,
    pub(crate) info: Info,
    /// Where it goes.
    pub(crate) to: PathBuf,
}

/// What one source means, for a mount: places begin at `/`.
pub(crate) struct Picked {
    from: From,
    pub(crate) items: Vec<Item>,
    /// Whether something there is left out.
    pub(crate) partial: bool,
}

impl Picked {
    pub(crate) fn files(&self) -> &dyn Files {
        self.from.files()
    }

    pub(crate) fn hash(&self, hasher: &mut Hasher) -> Result<()> {
        hash_items(hasher, self.files(), &self.items)
    }
}

/// What was fetched from an address.
struct Fetched {
    to: PathBuf,
    file: std::fs::File,
    digest: types::Digest,
    size: u64,
}

/// Where paths of a copy are.
enum From {
    /// The context, and what of it is left out.
    Context(HostFiles),
    /// Another stage or image.
    Image(crate::files::ImageFiles),
}

impl From {
    fn files(&self) -> &dyn Files {
        match self {
            Self::Context(files) => files,
            Self::Image(files) => files,
        }
    }
}

/// A shorter beginning of a commit says too little (gitrevisions(7)).
const SHORTEST_COMMIT: usize = 7;

/// Deeper than any path that the kernel takes in one piece.
const DEEPEST: usize = 1024;

/// Everything that a copy needs, with variables expanded.
struct Plan<'a> {
    copy: &'a Copy,
    from: From,
    ignore: Option<Arc<Ignore>>,
    exclude: Vec<globset::GlobMatcher>,
    owning: Owning,
    chmod: Option<Chmod>,
    /// Where it goes, and whether that is a directory by its slash.
    to: PathBuf,
    into: bool,
    /// Whether sources are paths alone, and no patterns.
    literal: bool,
    /// Whether something was left out.
    partial: Cell<bool>,
}

impl Builder<'_> {
    /// The layer of a COPY or ADD: from the cache, or made now.
    pub(crate) fn copy(&mut self, state: &mut State, copy: &Copy, add: bool) -> Result<bool> {
        let plan = self.plan_copy(state, copy)?;
        let below = state.files()?;
        let mut items = Vec::new();
        let (mut documents, mut fetched) = (Vec::new(), Vec::new());
        let mut checkouts = Vec::new();
        let (into, to) = plan.destination(&below)?;
        for source in &copy.sources {
            match source {
                Source::Path(path) => {
                    let lookup = |name: &str| state.lookup(name);
                    let path = expand(path, self.escape(), &lookup)?;
                    if add && let Some(address) = Address::parse(&path) {
                        checkouts.push(self.checkout(&plan, &address, &to)?);
                        continue;
                    }
                    if add && let Some(found) = self.fetch(&plan, &path, (into, &to))? {
                        fetched.push(found);
                        continue;
                    }
                    plan.collect(&path, (into, &to), &mut items)?;
                }
                Source::Heredoc(document) => {
                    let text = if document.expand {
                        expand_heredoc(&document.content, &|name| state.lookup(name))?
                    } else {
                        document.content.clone()
                    };
                    let to = if into { to.join(&document.name) } else { to.clone() };
                    documents.push((to, text));
                }
            }
        }
        plan.change_modes(&mut items);
        let files = plan.from.files();
        let archives = add && plan.copy.unpack.unwrap_or(true);
        let mut hasher = Hasher::new(&state.key, if add { "add" } else { "copy" });
        let unpack = plan.copy.unpack;
        // Archives go to a directory, and to what is none, in different ways.
        hasher.text(&format!("{:?} {into} {unpack:?} {:?}", plan.owning, plan.chmod));
        hasher.bytes(to.as_os_str().as_encoded_bytes());
        for (to, text) in &documents {
            hasher.bytes(to.as_os_str().as_encoded_bytes());
            hasher.text(text);
        }
        for Fetched { to, digest, .. } in &fetched {
            hasher.bytes(to.as_os_str().as_encoded_bytes());
            hasher.text(&digest.to_string());
        }
        hash_items(&mut hasher, files, &items)?;
        for (_, checked_out) in &checkouts {
            checked_out.hash(&mut hasher)?;
        }
        let key = hasher.key();
        let epoch = self.epoch();
        let compression = self.engine().build_compression();
        let to_top = to.clone();
        let limit = self.engine().config().size_limit.value;
        let room = Room { scratch: self.scratch().to_owned(), limit };
        self.layer(state, &key, |_, _, out| {
            let mut writer = LayerWriter::new(out.create()?, compression, &below, epoch)?;
            for (to, text) in &documents {
                let owning = plan.owning_of(0o644);
                writer.bytes(to, text.as_bytes(), owning)?;
            }
            for Fetched { to, file, size, .. } in &mut fetched {
                if unpack == Some(true) && unpack_fetched(&mut writer, &room, file, &to_top)? {
                    continue;
                }
                // As Docker has it: what comes from the web is its owner's alone.
                writer.stream(to, file, *size, plan.owning_of(0o600))?;
            }
            for (_, checked_out) in &checkouts {
                writer.next_tree();
                for item in &checked_out.items {
                    let Item { from, info, to } = item;
                    writer.copy(checked_out.files(), from, info, to, plan.owning)?;
                }
            }
            writer.next_tree();
            for item in &items {
                if archives && unpack_item(&mut writer, &room, files, item, into, &to)? {
                    continue;
                }
                writer.copy(files, &item.from, &item.info, &item.to, plan.owning)?;
            }
            writer.finish()
        })
    }

    /// What ADD fetches; None for a path.
    fn fetch(
        &self,
        plan: &Plan<'_>,
        source: &str,
        (into, to): (bool, &Path),
    ) -> Result<Option<Fetched>> {
        let web = source.starts_with("http://") || source.starts_with("https://");
        if !web && source.contains("://") {
            return Err(Problem::Unsupported(format!("ADD from {source}")).into());
        }
        if !web {
            let wanted = plan.copy.checksum.is_some();
            let text = "--checksum of what is no address".to_owned();
            return if wanted { Err(Problem::Unsupported(text).into()) } else { Ok(None) };
        }
        let path = source.split(['?', '#']).next().unwrap_or(source);
        let name = path.splitn(4, '/').nth(3).and_then(|path| path.rsplit('/').next());
        let name = name.filter(|name| !name.is_empty() && *name != "." && *name != "..");
        let to = match (into, name) {
            (true, Some(name)) => to.join(name),
            (true, None) => return Err(BuildError::NoSource(source.to_owned())),
            (false, _) => to.to_owned(),
        };
        let failed = |error| BuildError::Write { path: self.scratch().to_owned(), source: error };
        let mut file = tempfile::tempfile_in(self.scratch()).map_err(failed)?;
        self.engine().downloads(self.progress())?.fetch(source, &mut file)?;
        std::io::Seek::rewind(&mut file).map_err(failed)?;
        let (digest, size) = image::digest(&mut file).map_err(failed)?;
        std::io::Seek::rewind(&mut file).map_err(failed)?;
        if let Some(expected) = &plan.copy.checksum
            && *expected != digest.to_string()
        {
            let (url, expected) = (source.to_owned(), expected.clone());
            return Err(BuildError::Checksum { url, expected, found: digest.to_string() });
        }
        Ok(Some(Fetched { to, file, digest, size }))
    }

    /// A repository, and what of it is copied to a directory.
    fn checkout(
        &self,
        plan: &Plan<'_>,
        address: &Address,
        to: &Path,
    ) -> Result<(Checkout, Picked)> {
        let checkout = git::fetch(address, self.scratch(), plan.copy.keep_git)?;
        if let Some(expected) = &plan.copy.checksum
            && (expected.len() < SHORTEST_COMMIT || !checkout.commit.starts_with(&**expected))
        {
            let (expected, found) = (expected.clone(), checkout.commit);
            let url = address.url.clone();
            return Err(BuildError::Checksum { url, expected, found });
        }
        let from = From::Context(HostFiles { top: checkout.path()?, own: false });
        let whole = Plan {
            copy: plan.copy,
            from,
            ignore: None,
            exclude: plan.exclude.clone(),
            owning: plan.owning,
            chmod: plan.chmod.clone(),
            to: to.to_owned(),
            into: true,
            literal: true,
            partial: Cell::new(false),
        };
        let mut items = Vec::new();
        whole.collect("/", (true, to), &mut items)?;
        whole.change_modes(&mut items);
        Ok((checkout, Picked { from: whole.from, items, partial: false }))
    }

    /// What one source means, which is no pattern; each entry with its place below `/`.
    pub(crate) fn pick(&self, state: &State, copy: &Copy) -> Result<Picked> {
        let plan = Plan { literal: true, ..self.plan_copy(state, copy)? };
        let mut items = Vec::new();
        for source in &copy.sources {
            let Source::Path(path) = source else { continue };
            let path = expand(path, self.escape(), &|name| state.lookup(name))?;
            plan.collect(&path, (false, Path::new("/")), &mut items)?;
        }
        Ok(Picked { partial: plan.partial.get(), from: plan.from, items })
    }

    fn plan_copy<'c>(&self, state: &State, copy: &'c Copy) -> Result<Plan<'c>> {
        let lookup = |name: &str| state.lookup(name);
        let text = |text: &str| expand(text, self.escape(), &lookup);
        let (mut owning, mut chmod) = (Owning::default(), None);
        if let Some(owner) = &copy.chown {
            let owner = text(owner)?;
            let (uid, gid, _) = state.ids(&owner)?;
            // As Docker has it, a number alone is the group's too.
            let gid = if owner.parse::<u32>().is_ok() { uid } else { gid };
            owning.owner = Some((uid, gid));
        }
        if let Some(mode) = &copy.chmod {
            match Chmod::parse(&text(mode)?)? {
                Chmod::Octal(bits) => owning.mode = Some(bits),
                symbolic => chmod = Some(symbolic),
            }
        }
        if copy.checksum.is_some() && copy.sources.len() > 1 {
            let text = "--checksum with several sources".to_owned();
            return Err(Problem::Unsupported(text).into());
        }
        let (from, ignore) = match &copy.from {
            Some(name) => (From::Image(self.other(&text(name)?)?), None),
            None => {
                let files = HostFiles { top: self.context().to_owned(), own: false };
                (From::Context(files), Some(self.ignore()))
            }
        };
        let exclude = copy.exclude.iter().map(|pattern| {
            let pattern = text(pattern)?;
            let bad = || Problem::Value { what: "--exclude", value: pattern.clone() };
            matcher(pattern.trim_start_matches('/')).ok_or_else(bad)
        });
        let exclude = exclude.collect::<std::result::Result<_, Problem>>()?;
        let destination = text(&copy.destination)?;
        let into = destination.ends_with('/') || [".", ".."].contains(&destination.as_str());
        let to = state.absolute(&destination);
        let partial = Cell::new(false);
        let literal = false;
        Ok(Plan { copy, from, ignore, exclude, owning, chmod, to, into, literal, partial })
    }
}

impl Plan<'_> {
    /// Whether the destination is a directory, and where it really is.
    fn destination(&self, below: &dyn Files) -> Result<(bool, PathBuf)> {
        let (real, entry) = resolve(below, &self.to)?;
        let directory = entry.is_some_and(|entry| entry.kind == EntryKind::Directory);
        Ok((self.into || directory || self.copy.sources.len() > 1, real))
    }

    /// The same for a file that has no mode of its own.
    fn owning_of(&self, mode: u16) -> Owning {
        let changed = self.chmod.as_ref().map(|chmod| chmod.apply(mode, false));
        Owning { mode: self.owning.mode.or(changed).or(Some(mode)), ..self.owning }
    }

    /// Symbolic modes depend on what each entry has.
    fn change_modes(&self, items: &mut [Item]) {
        let Some(chmod) = &self.chmod else { return };
        for Item { info, .. } in items {
            if !matches!(info.what, What::Symlink(_)) {
                info.mode = chmod.apply(info.mode, info.what == What::Directory);
            }
        }
    }

    fn left_out(&self, path: &Path) -> bool {
        let text = path.to_string_lossy();
        let relative = text.trim_start_matches('/');
        self.ignore.as_ref().is_some_and(|ignore| ignore.excludes(relative))
    }

    /// Whether --exclude means a file that is a source itself: by its name, as it would
    /// in a directory that is copied, or by its whole path.
    fn excluded(&self, path: &Path, name: &OsStr) -> bool {
        let whole = path.strip_prefix("/").unwrap_or(path);
        self.exclude.iter().any(|pattern| pattern.is_match(name) || pattern.is_match(whole))
    }

    /// What a source's path or pattern means.
    fn collect(
        &self,
        source: &str,
        (into, to): (bool, &Path),
        items: &mut Vec<Item>,
    ) -> Result<()> {
        let files = self.from.files();
        let found = self.matches(source)?;
        if found.is_empty() {
            return Err(BuildError::NoSource(source.to_owned()));
        }
        let several = found.len() > 1;
        // What is before a point of its own is no parent that is kept.
        let pivot = source.find("/./").map_or("", |at| &source[..at]);
        let depth = pivot.split('/').filter(|word| !["", "."].contains(word)).count();
        for path in found {
            let (real, entry) = resolve(files, &path)?;
            let missing = || BuildError::NoSource(source.to_owned());
            let kind = entry.ok_or_else(missing)?.kind;
            let info = self.info(&real)?.ok_or_else(missing)?;
            let name = path.file_name().map(OsStr::to_owned).unwrap_or_default();
            if kind != EntryKind::Directory && self.excluded(&path, &name) {
                continue;
            }
            if kind == EntryKind::Directory {
                // Of a directory, what is in it.
                let to =
                    if self.copy.parents { to.join(below(&path, depth)) } else { to.to_owned() };
                self.walk(&real, info, &to, (&real, 0), items)?;
            } else {
                let to = if self.copy.parents {
                    to.join(below(&path, depth))
                } else if into || several {
                    to.join(name)
                } else {
                    to.to_owned()
                };
                items.push(Item { from: real, info, to });
            }
        }
        Ok(())
    }

    fn info(&self, path: &Path) -> Result<Option<Info>> {
        let failed = |source| BuildError::Read { path: path.to_owned(), source };
        self.from.files().info(path).map_err(failed)
    }

    fn walk(
        &self,
        from: &Path,
        info: Info,
        to: &Path,
        (top, depth): (&Path, usize),
        items: &mut Vec<Item>,
    ) -> Result<()> {
        let failed = |source| BuildError::Read { path: from.to_owned(), source };
        if depth > DEEPEST {
            return Err(failed(rustix::io::Errno::NAMETOOLONG.into()));
        }
        items.push(Item { from: from.to_owned(), info, to: to.to_owned() });
        for name in self.from.files().list(from).map_err(failed)? {
            let path = from.join(&name);
            let Some(info) = self.info(&path)? else { continue };
            let below = path.strip_prefix(top).unwrap_or(&path);
            if self.exclude.iter().any(|pattern| pattern.is_match(below)) {
                continue;
            }
            let directory = info.what == What::Directory;
            if self.left_out(&path) {
                self.partial.set(true);
                let exceptions = self.ignore.as_ref().is_some_and(|ignore| ignore.has_exceptions());
                if !(directory && exceptions && self.holds(&path, depth)?) {
                    continue;
                }
            }
            let to = to.join(&name);
            if directory {
                self.walk(&path, info, &to, (top, depth + 1), items)?;
            } else {
                items.push(Item { from: path, info, to });
            }
        }
        Ok(())
    }

    /// Whether a directory that is left out holds something that is not.
    fn holds(&self, dir: &Path, depth: usize) -> Result<bool> {
        let failed = |source| BuildError::Read { path: dir.to_owned(), source };
        if depth > DEEPEST {
            return Ok(false);
        }
        for name in self.from.files().list(dir).map_err(failed)? {
            let path = dir.join(name);
            let directory = self.info(&path)?.is_some_and(|info| info.what == What::Directory);
            if !self.left_out(&path) || (directory && self.holds(&path, depth + 1)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The paths that a pattern means; itself, where it is none.
    fn matches(&self, source: &str) -> Result<Vec<PathBuf>> {
        let mut found = vec![PathBuf::from("/")];
        for word in source.split('/').filter(|word| !word.is_empty() && *word != ".") {
            let mut next = Vec::new();
            for dir in found {
                if word == ".." {
                    next.push(dir.parent().unwrap_or(&dir).to_owned());
                } else if self.literal || !word.contains(['*', '?', '[']) {
                    next.push(dir.join(word));
                } else if let Some(pattern) = matcher(word) {
                    let (real, entry) = resolve(self.from.files(), &dir)?;
                    if entry.is_some_and(|entry| entry.kind == EntryKind::Directory) {
                        let failed = |source| BuildError::Read { path: real.clone(), source };
                        let names = self.from.files().list(&real).map_err(failed)?;
                        let names = names.into_iter().filter(|name| pattern.is_match(name));
                        next.extend(names.map(|name| dir.join(name)));
                    }
                }
            }
            found = next;
        }
        let mut there = Vec::new();
        for path in found {
            let (real, entry) = resolve(self.from.files(), &path)?;
            let open = !self.left_out(&real)
                || (entry.as_ref().is_some_and(|e| e.kind == EntryKind::Directory)
                    && self.holds(&real, 0)?);
            if entry.is_some() && open {
                there.push(path);
            }
        }
        Ok(there)
    }
}

/// A path from `/`, without so many directories at its beginning.
fn below(path: &Path, depth: usize) -> PathBuf {
    path.components().skip(depth + 1).collect()
}

/// What of entries decides about the layer: no time, no place outside, and of a file
/// with several names which of them are entries.
pub(crate) fn hash_items(hasher: &mut Hasher, files: &dyn Files, items: &[Item]) -> Result<()> {
    let mut known = HashMap::new();
    for (index, item) in items.iter().enumerate() {
        let Info { what, mode, uid, gid, xattrs, same, .. } = &item.info;
        hasher.bytes(item.to.as_os_str().as_encoded_bytes());
        hasher.text(&format!("{mode:o} {uid} {gid} {xattrs:?}"));
        let first = same.map_or(index, |same| *known.entry(same).or_insert(index));
        if first != index {
            hasher.text(&format!("the file of entry {first}"));
            continue;
        }
        match what {
            What::File(_) => hasher.text(&content(files, &item.from)?),
            other => hasher.text(&format!("{other:?}")),
        }
    }
    Ok(())
}

/// The SHA-256 of a file.
fn content(files: &dyn Files, path: &Path) -> Result<String> {
    let failed = |source| BuildError::Read { path: path.to_owned(), source };
    let mut sum = sha2::Sha256::new();
    let mut file = files.open(path).map_err(failed)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let got = file.read(&mut buffer).map_err(failed)?;
        if got == 0 {
            return Ok(hex(&sum.finalize()));
        }
        sum.update(&buffer[..got]);
    }
}

/// Unpacks what an address gave, if it is an archive.
fn unpack_fetched(
    writer: &mut LayerWriter<'_>,
    room: &Room,
    file: &std::fs::File,
    to: &Path,
) -> Result<bool> {
    let failed = |source| BuildError::Read { path: to.to_owned(), source };
    let open = || Ok(Box::new(crate::archive::FromStart::new(file)) as Box<dyn Read>);
    let Some(tree) = room.open(open).map_err(failed)? else { return Ok(false) };
    writer.next_tree();
    crate::archive::copy_all(writer, &tree, to)?;
    Ok(true)
}

/// Unpacks an archive that ADD names, if it is one.
fn unpack_item(
    writer: &mut LayerWriter<'_>,
    room: &Room,
    files: &dyn Files,
    item: &Item,
    into: bool,
    to: &Path,
) -> Result<bool> {
    let What::File(_) = item.info.what else { return Ok(false) };
    let failed = |source| BuildError::Read { path: item.from.clone(), source };
    let Some(tree) = room.open(|| files.open(&item.from)).map_err(failed)? else {
        return Ok(false);
    };
    let top = if into { to.to_owned() } else { item.to.clone() };
    writer.next_tree();
    crate::archive::copy_all(writer, &tree, &top)?;
    Ok(true)
}
