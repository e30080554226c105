//! Hooks that may change a container before it is made (stage `precreate` of
//! podman-run(1), `--hooks-dir`).
//!
//! Each reads the container's config.json on standard input and writes it, changed
//! or not, to standard output. Taken from it are the process's words, variables and
//! working directory, the annotations, and mounts that are added. Anything else that
//! a hook changes is an error: what it wants would not be so.

use std::ffi::OsString;
use std::path::PathBuf;

use host::hooks::{Hook, filter};
use plan::{Contribution, EnvVar, MountFlags, MountSpec, Plan, Rank, Stage};
use serde_json::{Map, Value};

use crate::{Error, Result, bundle, mount_source};

/// What hooks have changed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    args: Option<Vec<String>>,
    env: Option<Vec<String>>,
    cwd: Option<String>,
    annotations: Option<Map<String, Value>>,
    mounts: Vec<MountSpec>,
    /// Who has.
    by: String,
}

/// Runs the hooks of the stage, each with what the one before it has written;
/// what they change together, None when there are none.
///
/// # Errors
/// When one fails, or changes what cannot be changed.
pub(crate) fn run(hooks: &[Hook], plan: &Plan) -> Result<Option<Changes>> {
    let proposed = bundle::config(plan);
    let mut config = proposed.clone();
    let mut names = Vec::new();
    for hook in hooks.iter().filter(|hook| hook.stage == Stage::Precreate) {
        let name = hook.to_string();
        let wrong = |reason: String| Error::Precreate { hook: name.clone(), reason };
        let text = serde_json::to_vec(&config).map_err(|e| wrong(e.to_string()))?;
        let written = filter(hook, &text)?;
        config = serde_json::from_slice(&written)
            .map_err(|e| wrong(format!("what it wrote is no configuration: {e}")))?;
        names.push(name);
    }
    if names.is_empty() {
        return Ok(None);
    }
    let by = names.join(", ");
    let changes = compare(&proposed, &config);
    let changes = changes.map_err(|reason| Error::Precreate { hook: by.clone(), reason })?;
    Ok(Some(Changes { by, ..changes }))
}

fn compare(old: &Value, new: &Value) -> std::result::Result<Changes, String> {
    let mut changes = Changes::default();
    for (place, old, new) in differences("", old, new)? {
        let list = || strings(new).ok_or_else(|| format!("{place} is no list of texts"));
        match place.as_str() {
            "process.args" => changes.args = Some(list()?),
            "process.env" => changes.env = Some(list()?),
            "process.cwd" => {
                changes.cwd = Some(new.as_str().ok_or("process.cwd is no text")?.to_owned());
            }
            "annotations" => {
                let map = new.as_object().ok_or("annotations is no object")?;
                changes.annotations = Some(map.clone());
            }
            "mounts" => changes.mounts = mounts(old, new)?,
            _ => return Err(format!("it changes {place}, which sampan cannot take from a hook")),
        }
    }
    Ok(changes)
}

/// The members that differ, those of `process` one by one. What is absent is null.
fn differences<'a>(
    prefix: &str,
    old: &'a Value,
    new: &'a Value,
) -> std::result::Result<Vec<(String, &'a Value, &'a Value)>, String> {
    let (Some(before), Some(after)) = (old.as_object(), new.as_object()) else {
        return Err(format!("{} is no object", if prefix.is_empty() { "it" } else { prefix }));
    };
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    let mut found = Vec::new();
    for name in names {
        let (old, new) = (&old[name], &new[name]);
        if prefix.is_empty() && name == "process" {
            found.extend(differences("process", old, new)?);
        } else if old != new {
            let place = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            found.push((place, old, new));
        }
    }
    Ok(found)
}

fn strings(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|one| one.as_str().map(str::to_owned)).collect()
}

/// The mounts that are new (OCI Runtime Specification, config.md "Mounts").
fn mounts(old: &Value, new: &Value) -> std::result::Result<Vec<MountSpec>, String> {
    let empty = Vec::new();
    let old = old.as_array().unwrap_or(&empty);
    let new = new.as_array().ok_or("mounts is no list")?;
    if let Some(gone) = old.iter().find(|mount| !new.contains(mount)) {
        let target = &gone["destination"];
        return Err(format!("it takes the mount at {target} away, or changes it"));
    }
    new.iter().filter(|mount| !old.contains(mount)).map(mount).collect()
}

fn mount(mount: &Value) -> std::result::Result<MountSpec, String> {
    let text = |name: &str| mount[name].as_str().filter(|text| text.starts_with('/'));
    let target = text("destination").ok_or("a mount has no absolute destination")?;
    let options = strings(&mount["options"]).unwrap_or_default();
    let has = |word: &str| options.iter().any(|option| option == word);
    if mount["type"].as_str().is_some_and(|kind| kind != "bind") {
        return Err(format!("the mount at {target} is no bind, and no other can be added"));
    }
    let source = text("source").ok_or_else(|| format!("the mount at {target} has no source"))?;
    let source = mount_source(source.as_ref(), "a precreate hook").map_err(|e| e.to_string())?;
    let flags = MountFlags { read_only: has("ro"), recursive: has("rbind") };
    Ok(MountSpec { source, target: PathBuf::from(target), flags, optional: false })
}

impl Changes {
    /// The mounts, if there are any: the plan has to be made again with them.
    pub(crate) fn contribution(&self) -> Option<Contribution> {
        let mut all = Contribution::new(Rank::Host, &self.by);
        all.mounts.clone_from(&self.mounts);
        (!self.mounts.is_empty()).then_some(all)
    }

    /// Puts the rest into the plan.
    pub(crate) fn apply(self, plan: &mut Plan) {
        if let Some(args) = self.args {
            plan.process.argv = args.into_iter().map(OsString::from).collect();
        }
        if let Some(cwd) = self.cwd {
            plan.process.cwd = vec![cwd.into()];
            plan.process.cwd_reason.clone_from(&self.by);
        }
        if let Some(env) = self.env {
            let var = |text: String| {
                let (name, value) = text.split_once('=')?;
                let same = |var: &&EnvVar| var.name == name && var.value == value;
                let by = plan.env.iter().find(same).map_or(&self.by, |var| &var.reason);
                Some(EnvVar { name: name.into(), value: value.into(), reason: by.clone() })
            };
            plan.env = env.into_iter().filter_map(var).collect();
        }
        if let Some(annotations) = self.annotations {
            let text = |value: Value| value.as_str().unwrap_or_default().to_owned();
            plan.annotations =
                annotations.into_iter().map(|(name, value)| (name, text(value))).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config() -> Value {
        json!({
            "ociVersion": "1.2.0",
            "process": {"args": ["a"], "env": ["A=1"], "cwd": "/", "user": {"uid": 1}},
            "root": {"path": "/r"},
            "mounts": [{"destination": "/d", "source": "/s", "type": "bind", "options": ["rbind"]}],
            "annotations": {"x": "y"},
        })
    }

    #[test]
    fn what_a_hook_changes_is_taken_or_refused() {
        let change = |place: &str, value: Value| {
            let mut new = config();
            *new.pointer_mut(place).unwrap() = value;
            compare(&config(), &new)
        };
        assert_eq!(change("/process/args", json!(["b", "c"])).unwrap().args.unwrap().len(), 2);
        assert_eq!(change("/process/cwd", json!("/w")).unwrap().cwd.unwrap(), "/w");
        assert!(change("/annotations", json!({})).unwrap().annotations.unwrap().is_empty());
        let mut mounts = config()["mounts"].clone();
        mounts.as_array_mut().unwrap().push(
            json!({"destination": "/e", "source": "/etc/passwd", "options": ["rbind", "ro"]}),
        );
        let added = change("/mounts", mounts).unwrap().mounts;
        assert_eq!(added[0].target, PathBuf::from("/e"));
        assert!(added[0].flags.read_only && added.len() == 1);
        for (place, value, word) in [
            ("/root/path", json!("/other"), "root"),
            ("/process/user", json!({"uid": 0}), "process.user"),
            ("/process/args", json!("a"), "process.args"),
            ("/process", json!([]), "process"),
            ("/mounts", json!([]), "/d"),
            ("/mounts/0/options", json!(["bind"]), "/d"),
            ("/annotations", json!([]), "annotations"),
        ] {
            let error = change(place, value).unwrap_err();
            assert!(error.contains(word), "{word}: {error}");
        }
        for bad in [
            json!({"destination": "e", "source": "/s"}),
            json!({"destination": "/e"}),
            json!({"destination": "/e", "source": "/no/such"}),
            json!({"destination": "/e", "type": "sysfs"}),
        ] {
            assert!(mount(&bad).is_err(), "{bad}");
        }
        let mut more = config();
        more["linux"] = json!({});
        assert!(compare(&config(), &more).unwrap_err().contains("linux"));
        assert!(compare(&config(), &json!([])).is_err());
    }
}
