//! Places for what containers with a name write: `SCRATCH/sampan-UID/named`,
//! and in it NODE/JOB/NAME. The Slurm plugin says what is in there, and when it
//! goes.

use std::path::PathBuf;

use crate::{Engine, Error, Result, unpack};

/// One component of a path, and no way out of it.
pub(crate) fn component(text: &str) -> Result<&str> {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let good = !text.is_empty() && text.len() <= 64 && text.chars().all(word);
    if good && !matches!(text, "." | "..") {
        Ok(text)
    } else {
        Err(Error::NoContainerName { name: text.to_owned() })
    }
}

fn node() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

impl Engine {
    /// The directory of a name, made if it is not there.
    ///
    /// # Errors
    /// When the name is none, or the scratch directory is not this user's.
    pub fn named(&self, job: &str, name: &str) -> Result<PathBuf> {
        let (node, job, name) = (node(), component(job)?, component(name)?);
        let mut dir = unpack::own_directory(&unpack::cache(&self.config().scratch.value))?;
        for part in [unpack::NAMED, component(&node)?, job, name] {
            dir = unpack::own_directory(&dir.join(part))?;
        }
        Ok(dir)
    }

    /// Removes a name, or every name of a job, and what was written there.
    ///
    /// # Errors
    /// When the files cannot be removed.
    pub fn forget_named(&self, job: &str, name: Option<&str>) -> Result<()> {
        let node = node();
        let cache = unpack::cache(&self.config().scratch.value);
        if !cache.exists() {
            return Ok(());
        }
        let named = unpack::own_directory(&cache)?.join(unpack::NAMED);
        let mut dir = named.join(component(&node)?).join(component(job)?);
        if let Some(name) = name {
            dir = dir.join(component(name)?);
        }
        unpack::remove(&dir).map_err(|source| Error::Unpack { path: dir, source })?;
        // Those of other jobs keep it.
        let _ = std::fs::remove_dir(named.join(&node).join(job));
        let _ = std::fs::remove_dir(named.join(node));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn names_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = dir.path().as_os_str().to_owned();
        let get = move |name: &str| (name == "SAMPAN_SCRATCH").then(|| scratch.clone());
        let engine = Engine::new(Config::load_from(&get, &[]).unwrap());
        engine.forget_named("7", None).unwrap();
        let one = engine.named("7", "a").unwrap();
        std::fs::write(one.join("file"), "x").unwrap();
        let two = engine.named("7", "b").unwrap();
        let other = engine.named("8", "a").unwrap();
        engine.forget_named("7", Some("a")).unwrap();
        assert!(!one.exists() && two.exists());
        engine.forget_named("7", None).unwrap();
        assert!(!two.parent().unwrap().exists() && other.exists());
        for bad in ["", "..", "a/b"] {
            assert!(engine.named("7", bad).is_err() && engine.named(bad, "a").is_err());
        }
    }
}
