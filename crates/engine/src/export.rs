//! An image as a file or directory of the person's own.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use host::DirectoryTree;
use image::Extra;
use plan::{ImagePart, RootSource, RootTree, SCRIPTS};
use runtime::ImageTree;
use sif::{Arch, CreateOptions, FsKind, Kind, NewObject, PartKind, Partition};
use squashfs::{Image, ReaderOptions};
use types::{Digest, ImageConfig, ImageRef};

use crate::image_file::{self, OCI_CONFIG};
use crate::whole::Whole;
use crate::{
    Destination, Engine, Error, Event, Metadata, Resolved, Result, SharedProgress, unpack,
};

/// How an image is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExportOptions {
    /// Replace a file that is there.
    pub force: bool,
    /// No time and no random identity in a SIF file.
    pub deterministic: bool,
    /// Seconds since 1970 that no file is younger than, as SOURCE_DATE_EPOCH says;
    /// the time of a SIF file too, which then has no random identity. What is
    /// copied in layers stays as it is.
    pub epoch: Option<u32>,
}

/// What SOURCE_DATE_EPOCH says, if it says anything
/// (reproducible-builds.org/specs/source-date-epoch). What was `said` for this command
/// alone counts before the environment.
///
/// # Errors
/// When it is no time that a squashfs image can have.
pub fn source_date_epoch(said: Option<&str>) -> Result<Option<u32>> {
    let inherited = || std::env::var_os("SOURCE_DATE_EPOCH");
    let text = said.map(OsString::from).or_else(inherited).unwrap_or_default();
    let text = text.to_string_lossy().into_owned();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| Error::Epoch { text })
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Exported {
    /// Where.
    pub destination: String,
    /// The digest of its manifest, where it has one.
    pub digest: Option<Digest>,
}

/// A file under a temporary name, removed unless it gets its own.
pub(crate) struct Fresh {
    pub(crate) temporary: PathBuf,
    path: PathBuf,
}

impl Fresh {
    /// One that may replace what is there only by `force`.
    pub(crate) fn replacing(path: &Path, force: bool) -> Result<(Self, File)> {
        if !force && path.symlink_metadata().is_ok() {
            return Err(Error::Exists { path: path.to_owned() });
        }
        Self::create(path, "new")
    }

    pub(crate) fn create(path: &Path, suffix: &str) -> Result<(Self, File)> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}.{suffix}", std::process::id()));
        let open = File::options().read(true).write(true).create_new(true).open(&temporary);
        let failed = |source| Error::Export { path: path.to_owned(), source };
        let file = open.map_err(failed)?;
        Ok((Self { temporary, path: path.to_owned() }, file))
    }

    pub(crate) fn keep(self) -> Result<()> {
        self.keep_as(&self.path)
    }

    /// Under a name that is known now only.
    pub(crate) fn keep_as(&self, path: &Path) -> Result<()> {
        let failed = |source| Error::Export { path: path.to_owned(), source };
        std::fs::rename(&self.temporary, path).map_err(failed)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // After `keep` there is nothing of the name.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

impl Engine {
    /// Writes an image somewhere else. What is half written has no name that
    /// anybody takes for whole.
    ///
    /// # Errors
    /// When something is there already, the image cannot be read, or the
    /// destination cannot be written.
    pub fn convert(
        &self,
        image: &ImageRef,
        to: &Destination,
        options: ExportOptions,
        progress: &SharedProgress,
    ) -> Result<Exported> {
        let exported = |digest| Exported { destination: to.to_string(), digest };
        match to {
            Destination::OciLayout(..)
            | Destination::OciArchive(..)
            | Destination::DockerArchive(..)
            | Destination::Registry(_) => {
                self.export_oci(image, to, options, progress).map(|d| exported(Some(d)))
            }
            Destination::Directory(path) => {
                let image = self.resolve(image, progress)?;
                if path.symlink_metadata().is_ok() {
                    return Err(Error::Exists { path: path.clone() });
                }
                match &image.root {
                    RootSource::Squashfs { .. } => {
                        self.write_directory(&image, path, options.epoch, progress)?;
                    }
                    RootSource::Directory { path } => {
                        return Err(Error::NothingToConvert { path: path.clone() });
                    }
                }
                Ok(exported(None))
            }
            Destination::Squashfs(path) => {
                let image = self.resolve(image, progress)?;
                // A bare file has no other place for what the image says.
                let silent = image.config == ImageConfig::default();
                let extras = if silent { Vec::new() } else { scripts_for(&image)? };
                let (fresh, file) = Fresh::replacing(path, options.force)?;
                self.write_squashfs(&image, file, &extras, path, options.epoch)?;
                fresh.keep().map(|()| exported(None))
            }
            Destination::Sif(path) | Destination::OciSif(path) => {
                let image = self.resolve(image, progress)?;
                if !options.force && path.symlink_metadata().is_ok() {
                    return Err(Error::Exists { path: path.clone() });
                }
                if let Destination::OciSif(_) = to {
                    return self
                        .write_oci_sif(&image, path, options.epoch)
                        .map(|d| exported(Some(d)));
                }
                self.write_sif(&image, path, options).map(|()| exported(None))
            }
        }
    }

    fn write_directory(
        &self,
        image: &Resolved,
        path: &Path,
        latest: Option<u32>,
        progress: &SharedProgress,
    ) -> Result<()> {
        let tree = self.as_image(image, path, latest)?;
        self.unpack(&tree, path, progress)
    }

    /// Unpacks stacked images, bottom first, into a new directory, as
    /// [`export`](Self::export) does.
    ///
    /// # Errors
    /// When they cannot be read, or the directory not be made.
    pub fn unpack_parts(
        &self,
        parts: &[ImagePart],
        path: &Path,
        progress: &SharedProgress,
    ) -> Result<()> {
        let image = unpack::flat(parts, path, self.config().size_limit.value)?;
        self.unpack(&image, path, progress)
    }

    fn unpack(&self, image: &Image, path: &Path, progress: &SharedProgress) -> Result<()> {
        let limit = self.config().size_limit.value;
        if let Some(lost) = unpack::with_owners(image, path, limit)? {
            let image::Lost { files, path: first, source } = lost;
            progress.event(Event::Notice(format!(
                "{} cannot keep what the image says of owners, modes or attributes of {files} \
                 files, {} first: {source}",
                path.display(),
                first.display()
            )));
        }
        Ok(())
    }

    fn write_sif(&self, image: &Resolved, path: &Path, options: ExportOptions) -> Result<()> {
        let extras = scripts_for(image)?;
        let data = self.as_squashfs(image, &extras, path, options.epoch)?;
        let now = i64::try_from(store::unix_now()).unwrap_or(0);
        let time = match options.epoch {
            Some(epoch) => Some(i64::from(epoch)),
            None => (!options.deterministic).then_some(now),
        };
        let mut uuid = [0; 16];
        if options.epoch.is_none() {
            // A file without identity is as good.
            let _ = rustix::rand::getrandom(&mut uuid, rustix::rand::GetRandomFlags::empty());
        }
        let arch = Arch::from_name(self.platform_of(image).architecture());
        let (fresh, file) = Fresh::create(path, "new")?;
        let create = CreateOptions { arch, time, uuid, launch: true };
        let mut sif = sif::create(file, &fresh.temporary, &create)?;
        let object = |kind, name: &str| NewObject {
            kind,
            name: name.to_owned(),
            group: 1,
            link: 0,
            partition: None,
            digest: None,
        };
        // Where Apptainer looks first.
        let about = metadata_of(&data, path)?;
        if let Some(text) = &about.deffile {
            sif.add(object(Kind::Definition, ""), &mut text.as_bytes())?;
        }
        if about != Metadata::default() {
            let text = about.document().to_string();
            sif.add(object(Kind::GenericJson, "inspect-metadata.json"), &mut text.as_bytes())?;
        }
        if let Some(said) = oci_said(image)? {
            let text = serde_json::to_vec(&said).unwrap_or_default();
            sif.add(object(Kind::GenericJson, OCI_CONFIG), &mut &text[..])?;
        }
        let system = Partition { fs: FsKind::Squashfs, part: PartKind::Primary, arch };
        let root = NewObject { partition: Some(system), ..object(Kind::Partition, "") };
        sif.add_file(root, &data.file, data.at..data.at + data.len, data.padded)?;
        drop(sif);
        let failed = |source| Error::Export { path: path.to_owned(), source };
        make_executable(&fresh.temporary).map_err(failed)?;
        fresh.keep()
    }
}

/// What an image says in the words of OCI: a configuration of its own, or what
/// a SIF file has kept of it.
fn oci_said(image: &Resolved) -> Result<Option<serde_json::Value>> {
    if image.config != ImageConfig::default() {
        return Ok(Some(oci_config(&image.config)));
    }
    let Some(path) = &image.sif.path else { return Ok(None) };
    Ok(image_file::oci_config(path)?.map(|kept| kept.said.into()))
}

/// What an image of OCI's form starts that was a SIF file: what the file has
/// kept of its source, unless a definition file has given it another script.
pub(crate) fn process_of_sif(image: &Resolved) -> Result<Option<serde_json::Value>> {
    let Some(path) = &image.sif.path else { return Ok(None) };
    let Some(image_file::OciConfig { mut said, config }) = image_file::oci_config(path)? else {
        return Ok(None);
    };
    let RootSource::Squashfs { parts } = &image.root else { return Ok(None) };
    let images = unpack::open(parts)?.into_iter().map(Into::into).collect();
    let script = Metadata::read(&ImageTree::new(images)).runscript;
    let ours = scripts(&config).into_iter().find(|extra| extra.path.ends_with("/runscript"));
    let ours = ours.map(|extra| String::from_utf8_lossy(&extra.bytes).trim().to_owned());
    let of_oci = script.is_none_or(|script| {
        // Apptainer's own begins with these variables.
        script.contains("OCI_ENTRYPOINT=") || ours.is_some_and(|ours| ours == script.trim())
    });
    if !of_oci {
        said.remove("Cmd");
        said.insert("Entrypoint".to_owned(), serde_json::json!([format!("{SCRIPTS}/actions/run")]));
    }
    Ok(Some(said.into()))
}

/// What a squashfs image says of itself.
fn metadata_of(data: &Whole, path: &Path) -> Result<Metadata> {
    let unread = |source| Error::UnpackRead { path: path.to_owned(), source };
    let file = data.file.try_clone();
    let file = file.map_err(|source| Error::Export { path: path.to_owned(), source })?;
    let image = Image::open(file, data.at, ReaderOptions::default()).map_err(unread)?;
    Ok(Metadata::read(&ImageTree::new(vec![image.into()])))
}

fn make_executable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path)?.permissions().mode();
    // Whoever may read it may start it, as Apptainer has it.
    let mode = mode | (mode & 0o444) >> 2;
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode))
}

/// The scripts to add; none where the image has its own.
fn scripts_for(image: &Resolved) -> Result<Vec<Extra>> {
    Ok(if has(image, SCRIPTS)? { Vec::new() } else { scripts(&image.config) })
}

/// Whether an image has something at a path.
pub(crate) fn has(image: &Resolved, path: &str) -> Result<bool> {
    let found = match &image.root {
        RootSource::Directory { path: top } => {
            let failed = |source| Error::OpenImage { path: top.clone(), source };
            DirectoryTree::open(top).map_err(failed)?.entry(Path::new(path))
        }
        RootSource::Squashfs { parts } => {
            let images = unpack::open(parts)?.into_iter().map(Into::into).collect();
            ImageTree::new(images).entry(Path::new(path))
        }
    };
    Ok(found.map_err(plan::PlanError::from)?.is_some())
}

/// The `config` object in the spelling of OCI.
pub(crate) fn oci_config(config: &ImageConfig) -> serde_json::Value {
    let mut object = serde_json::Map::new();
    let mut put = |name: &str, value: serde_json::Value| {
        if !value.is_null() && value != serde_json::json!([]) && value != serde_json::json!({}) {
            object.insert(name.to_owned(), value);
        }
    };
    put("Env", config.env.clone().into());
    put("Entrypoint", config.entrypoint.clone().into());
    put("Cmd", config.cmd.clone().into());
    put("WorkingDir", config.working_dir.clone().into());
    put("User", config.user.clone().into());
    put("StopSignal", config.stop_signal.clone().into());
    put("Labels", serde_json::json!(config.labels));
    object.into()
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What Apptainer looks for in an image, made from an OCI configuration: paths
/// without a leading slash, permission bits, texts.
#[must_use]
pub fn apptainer_scripts(config: &ImageConfig) -> Vec<(String, u16, String)> {
    let text = |extra: Extra| String::from_utf8_lossy(&extra.bytes).into_owned();
    scripts(config).into_iter().map(|extra| (extra.path.clone(), extra.mode, text(extra))).collect()
}

/// Where Apptainer binds libraries of the host.
const HOST_LIBRARIES: &str = r#"#!/bin/sh
if [ -d /.singularity.d/libs ]; then
    export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs"
fi
"#;

/// What APPTAINERENV_PATH and its kin become. Behind a script of this name
/// Apptainer sets the variables of its `--env`.
const SEARCH_PATH: &str = r#"#!/bin/sh
PATH="${SING_USER_DEFINED_PREPEND_PATH:+$SING_USER_DEFINED_PREPEND_PATH:}$PATH"
PATH="$PATH${SING_USER_DEFINED_APPEND_PATH:+:$SING_USER_DEFINED_APPEND_PATH}"
export PATH="${SING_USER_DEFINED_PATH:-$PATH}"
unset SING_USER_DEFINED_PREPEND_PATH SING_USER_DEFINED_APPEND_PATH SING_USER_DEFINED_PATH
"#;

fn scripts(config: &ImageConfig) -> Vec<Extra> {
    let extra = |path: &str, mode, text: String| Extra {
        path: format!("{}/{path}", SCRIPTS.trim_start_matches('/')),
        mode,
        bytes: text.into_bytes(),
    };
    let mut env = "#!/bin/sh\n".to_owned();
    for pair in &config.env {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let digit = name.starts_with(|c: char| c.is_ascii_digit());
        if !name.is_empty() && !digit && name.bytes().all(plain) {
            env.push_str(&format!("export {name}={}\n", quoted(value)));
        }
    }
    let words = |list: &[String]| list.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(" ");
    let cmd = if config.cmd.is_empty() && config.entrypoint.is_empty() {
        quoted("/bin/sh")
    } else {
        words(&config.cmd)
    };
    let run = format!(
        "#!/bin/sh\nif [ $# -eq 0 ]; then set -- {cmd}; fi\nexec {} \"$@\"\n",
        words(&config.entrypoint)
    );
    let source = "#!/bin/sh\nfor file in /.singularity.d/env/*.sh; do \
                  if [ -f \"$file\" ]; then . \"$file\"; fi; done\n";
    let action = |command: &str| format!("{source}exec {command} \"$@\"\n");
    let labels = serde_json::to_string(&config.labels).unwrap_or_default();
    vec![
        extra("env/10-docker2singularity.sh", 0o755, env),
        extra("env/99-base.sh", 0o755, HOST_LIBRARIES.to_owned()),
        extra("env/99-runtimevars.sh", 0o755, SEARCH_PATH.to_owned()),
        extra("runscript", 0o755, run),
        extra("labels.json", 0o644, labels),
        extra("actions/exec", 0o755, action("")),
        extra("actions/run", 0o755, action("/.singularity.d/runscript")),
        extra("actions/start", 0o755, action("/.singularity.d/runscript")),
        extra("actions/test", 0o755, action("/.singularity.d/test")),
        extra("actions/shell", 0o755, action("/bin/sh")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_quote_what_the_image_says() {
        let config = ImageConfig {
            env: vec!["A=it's $x".into(), "1B=no".into(), "c.d=no".into()],
            entrypoint: vec!["/run me".into()],
            cmd: vec!["`id`".into()],
            ..ImageConfig::default()
        };
        let scripts = scripts(&config);
        let text = |path: &str| {
            let found = scripts.iter().find(|extra| extra.path.ends_with(path)).unwrap();
            String::from_utf8(found.bytes.clone()).unwrap()
        };
        assert_eq!(text("10-docker2singularity.sh"), "#!/bin/sh\nexport A='it'\\''s $x'\n");
        assert!(text("runscript").contains("set -- '`id`'; fi\nexec '/run me' \"$@\""));
    }
}
