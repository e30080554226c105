//! From a finished stage to an image, and from what a container has written.

use std::path::Path;

use serde_json::json;

use crate::builder::Builder;
use crate::cache::Hasher;
use crate::dockerfile::{Kind, Problem, parse_instruction};
use crate::error::{BuildError, Result};
use crate::state::State;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

impl Builder<'_> {
    /// The finished image, in one layer if that is asked for.
    pub(crate) fn finish(&mut self, state: &State) -> Result<engine::Built> {
        if !self.options().squash {
            return self.image_of(state);
        }
        let mut flat = self.image("scratch")?;
        flat.config.clone_from(&state.config);
        flat.config["rootfs"]["diff_ids"] = json!([]);
        let history = flat.config["history"].as_array_mut().map(Vec::as_mut_slice);
        for line in history.unwrap_or_default() {
            line["empty_layer"] = true.into();
        }
        let key = Hasher::new(&state.key, "squash").key();
        self.layer(&mut flat, &key, |builder, _, out| {
            let images = engine::open_parts(&state.parts)?;
            let options = builder.convert_options();
            image::copy(image::TreeSource::Images(&images), out.create()?, &options, &[])?;
            Ok(())
        })?;
        let created = self.options().epoch.map(|epoch| rfc3339(u64::from(epoch)));
        flat.history("squash", created.as_deref(), false);
        self.image_of(&flat)
    }

    /// An image with what an overlay directory has over it.
    pub(crate) fn commit(
        &mut self,
        image: &str,
        overlay: &Path,
        changes: &[String],
    ) -> Result<State> {
        let mut state = self.image(image)?;
        let upper = overlay.join("upper");
        let missing = |source| BuildError::Read { path: upper.clone(), source };
        std::fs::read_dir(&upper).map_err(missing)?;
        let key = self.momentary(&state, "commit");
        // Who has written to it is not known.
        let sub_ids = if foreign(&upper) { self.engine().sub_ids()? } else { None };
        self.layer(&mut state, &key, |builder, _, out| {
            let options = builder.convert_options();
            crate::run::commit(&upper, sub_ids.as_ref(), out.create()?, &options)
        })?;
        state.history(&format!("commit of {}", overlay.display()), None, false);
        let mut cmd = false;
        for change in changes {
            let syntax = |source| BuildError::Syntax { path: "--change".into(), source };
            let instruction = parse_instruction(change).map_err(syntax)?;
            match &instruction.kind {
                Kind::Run { .. } | Kind::Copy(_) | Kind::Add(_) | Kind::Arg(_) => {
                    let text = format!("--change {change:?}");
                    return Err(Problem::Unsupported(text).into());
                }
                Kind::Workdir(dir) => {
                    let dir = state.absolute(dir);
                    drop(state.process().insert("WorkingDir".to_owned(), json!(dir)));
                }
                kind => self.set(&mut state, kind, &mut cmd)?,
            }
            state.history(&instruction.text, None, true);
        }
        Ok(state)
    }

    /// How layers are written.
    pub(crate) fn convert_options(&self) -> image::ConvertOptions {
        image::ConvertOptions {
            compression: self.engine().build_compression(),
            latest: self.options().epoch,
            ..image::ConvertOptions::default()
        }
    }

    /// The finished image.
    fn image_of(&self, state: &State) -> Result<engine::Built> {
        let mut document = state.config.clone();
        if let Some(epoch) = self.options().epoch {
            document["created"] = rfc3339(u64::from(epoch)).into();
        }
        let config_bytes = document.to_string().into_bytes();
        let config = types::parse_image_config(&config_bytes)
            .map_err(|source| engine::Error::ImageConfig { name: "build".to_owned(), source })?;
        let digest = image::digest(&mut &config_bytes[..]);
        let (digest, size) = digest.map_err(BuildError::Fork)?;
        let descriptor = types::Descriptor::new(CONFIG, digest, size);
        let layers = state.layers.iter().map(|layer| {
            types::Descriptor::new(&layer.media_type, layer.digest.clone(), layer.size)
        });
        let manifest = image::manifest(&descriptor, &layers.collect::<Vec<_>>());
        let (layers, parts) = (state.layers.clone(), state.parts.clone());
        let provenance = state.provenance.clone();
        let lease = self.lease();
        Ok(engine::Built { manifest, config_bytes, config, layers, parts, provenance, lease })
    }
}

/// Whether a directory has files of other users than the caller.
fn foreign(top: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let own = rustix::process::geteuid().as_raw();
    let mut todo = vec![top.to_owned()];
    while let Some(path) = todo.pop() {
        // One that cannot be looked at is told when it is read.
        let Ok(meta) = path.symlink_metadata() else { continue };
        if meta.uid() != own {
            return true;
        }
        if meta.is_dir()
            && let Ok(entries) = path.read_dir()
        {
            todo.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    false
}

/// Seconds since 1970 as RFC 3339 has them, in UTC.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in eras of 400 years (Hinnant, "chrono-compatible
    // low-level date algorithms").
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let year = year + era * 400 + next;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_has_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(rfc3339(1_795_253_999), "2026-11-21T09:39:59Z");
    }
}
