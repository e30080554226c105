//! What a stage has come to: its layers, its configuration, its variables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plan::ImagePart;
use runtime::{ImageFile, ImageTree};
use serde_json::{Map, Value, json};
use store::LayerRecord;

use crate::cache::Key;
use crate::dockerfile::Words;
use crate::error::{BuildError, Result};
use crate::files::ImageFiles;

/// A stage on its way.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// The file systems, bottom first.
    pub(crate) parts: Vec<ImagePart>,
    /// Its layers as a manifest names them.
    pub(crate) layers: Vec<LayerRecord>,
    /// Where they are, as far as the base says.
    pub(crate) provenance: Option<engine::Provenance>,
    /// What the next layer lies over.
    pub(crate) key: Key,
    /// The image's configuration (OCI image-spec, config.md).
    pub(crate) config: Value,
    /// Variables of the build that are in scope.
    pub(crate) args: BTreeMap<String, String>,
    /// The words in front of commands for a shell.
    pub(crate) shell: Vec<String>,
}

/// Variables that texts are expanded with.
pub(crate) struct Variables {
    env: Vec<(String, String)>,
    args: BTreeMap<String, String>,
}

impl Variables {
    /// The value of one: the image's, else the build's.
    pub(crate) fn lookup(&self, name: &str) -> Option<String> {
        let env = self.env.iter().find(|(known, _)| known == name);
        let found = env.map(|(_, value)| value).or_else(|| self.args.get(name)).cloned();
        // What commands are looked for in where the image says nothing.
        found.or_else(|| (name == "PATH").then(|| plan::DEFAULT_PATH.to_owned()))
    }
}

/// A value as a map: whatever else a base's configuration has there is none.
fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was made a map right above"),
    }
}

impl State {
    /// What the process of the image gets, by its name in the configuration.
    pub(crate) fn process(&mut self) -> &mut Map<String, Value> {
        object(&mut self.config["config"])
    }

    /// One of its maps: labels, ports, volumes.
    pub(crate) fn set_of(&mut self, name: &str) -> &mut Map<String, Value> {
        object(self.process().entry(name).or_insert(Value::Null))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.config["config"][name].as_str().filter(|text| !text.is_empty())
    }

    pub(crate) fn env(&self) -> Vec<(String, String)> {
        let list = self.config["config"]["Env"].as_array().map(Vec::as_slice).unwrap_or_default();
        let pair = |value: &Value| {
            let (name, value) = value.as_str()?.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        };
        list.iter().filter_map(pair).collect()
    }

    pub(crate) fn set_env(&mut self, name: &str, value: &str) {
        let mut env = self.env();
        match env.iter_mut().find(|(known, _)| known == name) {
            Some(found) => found.1 = value.to_owned(),
            None => env.push((name.to_owned(), value.to_owned())),
        }
        let list: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        self.process().insert("Env".to_owned(), json!(list));
    }

    /// The value of a variable: the image's, else the build's.
    pub(crate) fn lookup(&self, name: &str) -> Option<String> {
        self.variables().lookup(name)
    }

    /// Its variables as they are now.
    pub(crate) fn variables(&self) -> Variables {
        Variables { env: self.env(), args: self.args.clone() }
    }

    pub(crate) fn workdir(&self) -> PathBuf {
        PathBuf::from(self.text("WorkingDir").unwrap_or("/"))
    }

    pub(crate) fn user(&self) -> Option<&str> {
        self.text("User")
    }

    /// A path as the stage's working directory completes it.
    pub(crate) fn absolute(&self, path: &str) -> PathBuf {
        let mut out = PathBuf::from("/");
        for part in self.workdir().join(path).components() {
            match part {
                std::path::Component::ParentDir => drop(out.pop()),
                std::path::Component::Normal(name) => out.push(name),
                _ => {}
            }
        }
        out
    }

    /// The words of a command.
    pub(crate) fn command(&self, words: &Words) -> Vec<String> {
        match words {
            Words::Exec(words) => words.clone(),
            Words::Shell(text) => {
                let shell = self.shell.iter().cloned();
                shell.chain([text.clone()]).collect()
            }
        }
    }

    /// What the stage holds.
    pub(crate) fn files(&self) -> Result<ImageFiles> {
        Ok(ImageFiles(self.tree()?))
    }

    fn tree(&self) -> Result<ImageTree> {
        Ok(ImageFile::open(&self.parts)?.tree())
    }

    /// Adds a line to the history.
    pub(crate) fn history(&mut self, text: &str, created: Option<&str>, empty: bool) {
        let mut line = json!({ "created_by": text });
        if let Some(created) = created {
            line["created"] = created.into();
        }
        if empty {
            line["empty_layer"] = true.into();
        }
        match &mut self.config["history"] {
            Value::Array(list) => list.push(line),
            other => *other = json!([line]),
        }
    }

    /// The numbers of `user[:group]`, and the user's home.
    pub(crate) fn ids(&self, spec: &str) -> Result<(u32, u32, Option<String>)> {
        let read = |path: &str| -> Result<String> {
            let tree = self.tree()?;
            let (path, entry) = plan::resolve(&tree, Path::new(path))?;
            let bytes = match entry {
                Some(_) => plan::RootTree::read(&tree, &path, LONGEST_ACCOUNTS)?,
                None => None,
            };
            Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
        };
        let (user, group) = match spec.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (spec, None),
        };
        let unknown = |name: &str| BuildError::NoUser(name.to_owned());
        let passwd = read("/etc/passwd")?;
        let line = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
            fields.first() == Some(&user) || fields.get(2).is_some_and(|id| *id == user)
        });
        let number = |field: Option<&&str>| field.and_then(|text| text.parse::<u32>().ok());
        let line = line.as_deref().unwrap_or_default();
        let uid = number(line.get(2)).or_else(|| user.parse().ok());
        let uid = uid.ok_or_else(|| unknown(user))?;
        let gid = match group {
            None => number(line.get(3)).unwrap_or(0),
            Some(group) => match group.parse() {
                Ok(gid) => gid,
                Err(_) => {
                    let groups = read("/etc/group")?;
                    let mut lines = groups.lines().map(|l| l.split(':').collect::<Vec<_>>());
                    let line = lines.find(|fields| fields.first() == Some(&group));
                    let gid = line.as_ref().and_then(|fields| number(fields.get(2)));
                    gid.ok_or_else(|| unknown(group))?
                }
            },
        };
        Ok((uid, gid, line.get(5).map(|home| (*home).to_owned())))
    }
}

const LONGEST_ACCOUNTS: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            parts: Vec::new(),
            layers: Vec::new(),
            provenance: None,
            key: Key::of_base("x"),
            config: json!({"config": {"Env": ["PATH=/bin"], "WorkingDir": "/work"}}),
            args: BTreeMap::from([("A".to_owned(), "arg".to_owned())]),
            shell: vec!["/bin/sh".into(), "-c".into()],
        }
    }

    #[test]
    fn variables_of_the_image_win() {
        let mut state = state();
        assert_eq!(state.lookup("A").as_deref(), Some("arg"));
        state.set_env("A", "env");
        state.set_env("PATH", "/usr/bin");
        assert_eq!(state.lookup("A").as_deref(), Some("env"));
        assert_eq!(state.config["config"]["Env"], json!(["PATH=/usr/bin", "A=env"]));
        state.process().remove("Env");
        assert_eq!(state.lookup("PATH").as_deref(), Some(plan::DEFAULT_PATH));
    }

    #[test]
    fn a_base_may_say_anything_of_its_maps() {
        let mut state = state();
        for odd in [json!([]), json!("text"), Value::Null, json!(7)] {
            state.process().insert("Labels".to_owned(), odd.clone());
            state.set_of("Labels").insert("a".to_owned(), "b".into());
            assert_eq!(state.config["config"]["Labels"], json!({"a": "b"}));
            state.config["config"] = odd;
            assert!(state.process().is_empty());
        }
    }

    #[test]
    fn paths_are_completed() {
        let state = state();
        for (path, expected) in
            [("a", "/work/a"), ("/b/../c", "/c"), ("../../x", "/x"), (".", "/work")]
        {
            assert_eq!(state.absolute(path), Path::new(expected), "{path}");
        }
    }
}
