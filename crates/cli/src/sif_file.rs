//! What the `sif` commands do.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Serialize;
use sif::{Arch, FsKind, Kind, NewObject, Object, PartKind, Partition, Sif};
use types::{ByteSize, Platform};

use crate::args::{SifAddArgs, SifCommand, SifFs, SifPart, SifType};
use crate::error::CliError;
use crate::{listing, output};

/// An object with what its kind adds, for JSON.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    object: &'a Object,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<Partition>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

fn shown(object: &Object) -> Shown<'_> {
    Shown { object, partition: object.partition(), digest: object.digest() }
}

/// Does it.
pub fn run(command: SifCommand) -> Result<(), CliError> {
    match command {
        SifCommand::List { json, file } => list(&open(&file)?, json),
        SifCommand::Header { json, file } => header(&open(&file)?, json),
        SifCommand::Info { json, id, file } => info(&open(&file)?, id, json),
        SifCommand::Dump { id, file } => dump(&open(&file)?, id),
        SifCommand::Add(args) => add(args),
        SifCommand::Del { id, file } => change(&file, |sif| sif.delete(id)),
        SifCommand::Setprim { id, file } => change(&file, |sif| sif.set_primary(id)),
    }
}

fn open(file: &Path) -> Result<Sif, CliError> {
    Ok(Sif::open(file).map_err(engine::Error::from)?)
}

fn change(
    file: &Path,
    work: impl FnOnce(&mut Sif) -> Result<(), sif::Error>,
) -> Result<(), CliError> {
    let mut sif = Sif::open_for_writing(file).map_err(engine::Error::from)?;
    Ok(work(&mut sif).map_err(engine::Error::from)?)
}

fn kind(object: &Object) -> String {
    match object.partition() {
        Some(p) => format!("FS ({}/{}/{})", p.fs, p.part, p.arch),
        None => object.kind.to_string(),
    }
}

fn number(number: u32) -> String {
    if number == 0 { "none".to_owned() } else { number.to_string() }
}

fn link(object: &Object) -> String {
    let group = if object.linked_group { " (group)" } else { "" };
    number(object.link) + group
}

fn list(sif: &Sif, json: bool) -> Result<(), CliError> {
    if json {
        return output::json(&sif.objects().iter().map(shown).collect::<Vec<_>>());
    }
    let row = |object: &Object| {
        vec![
            object.id.to_string(),
            number(object.group),
            link(object),
            format!("{}-{}", object.offset, object.offset + object.size),
            kind(object),
            object.name.clone(),
        ]
    };
    let rows = sif.objects().iter().map(row).collect();
    output::print(&listing::table(&["ID", "GROUP", "LINK", "BYTES", "TYPE", "NAME"], rows))
}

fn header(sif: &Sif, json: bool) -> Result<(), CliError> {
    let header = sif.header();
    if json {
        return output::json(header);
    }
    output::print(&format!(
        "Launch        {}\nVersion       {}\nArchitecture  {}\nUUID          {}\n\
         Descriptors   {} of {} free, from byte {}\nData          {}, from byte {}\n",
        header.launch,
        header.version,
        header.arch,
        header.uuid,
        header.descriptors_free,
        header.descriptors_total,
        header.descriptors_offset,
        ByteSize(header.data_size),
        header.data_offset,
    ))
}

fn info(sif: &Sif, id: u32, json: bool) -> Result<(), CliError> {
    let object = sif.object(id).map_err(engine::Error::from)?;
    if json {
        return output::json(&shown(object));
    }
    let mut text = format!(
        "ID      {}\nType    {}\nName    {}\nGroup   {}\nLink    {}\nOffset  {}\nSize    {} ({})\n",
        object.id,
        kind(object),
        object.name,
        number(object.group),
        link(object),
        object.offset,
        object.size,
        ByteSize(object.size),
    );
    if let Some(digest) = object.digest() {
        text.push_str(&format!("Digest  {digest}\n"));
    }
    output::print(&text)
}

fn dump(sif: &Sif, id: u32) -> Result<(), CliError> {
    let object = sif.object(id).map_err(engine::Error::from)?;
    match sif.copy(object, &mut io::stdout().lock()) {
        Err(sif::Error::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(sif::Error::Output(e)) => Err(CliError::Output(e)),
        other => Ok(other.map_err(engine::Error::from)?),
    }
}

fn add(args: SifAddArgs) -> Result<(), CliError> {
    let kind = match args.kind {
        SifType::Definition => Kind::Definition,
        SifType::Environment => Kind::Environment,
        SifType::Labels => Kind::Labels,
        SifType::Partition => Kind::Partition,
        SifType::Json => Kind::GenericJson,
        SifType::Generic => Kind::Generic,
        SifType::Sbom => Kind::Sbom,
    };
    let fs = match args.fs {
        SifFs::Squashfs => FsKind::Squashfs,
        SifFs::Ext3 => FsKind::Ext3,
        SifFs::Archive => FsKind::Archive,
        SifFs::Raw => FsKind::Raw,
    };
    let part = match args.part {
        SifPart::System => PartKind::System,
        SifPart::Primary => PartKind::Primary,
        SifPart::Data => PartKind::Data,
        SifPart::Overlay => PartKind::Overlay,
    };
    let host = Platform::host();
    let arch = Arch::from_name(args.arch.as_deref().unwrap_or(host.architecture()));
    let own_name = args.data.file_name().map(|name| name.to_string_lossy().into_owned());
    let new = NewObject {
        kind,
        name: args.name.or(own_name).unwrap_or_default(),
        group: args.group,
        link: args.link,
        partition: (kind == Kind::Partition).then_some(Partition { fs, part, arch }),
        digest: None,
    };
    let mut data: Box<dyn Read> = if args.data == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let failed = |source| engine::Error::OpenImage { path: args.data.clone(), source };
        let file = File::open(&args.data).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        // As long as it is now: it may be the very file that grows by it.
        Box::new(file.take(if meta.is_file() { meta.len() } else { u64::MAX }))
    };
    change(&args.file, |sif| sif.add(new, &mut data).map(drop))
}
