//! What an image of Apptainer's form says of itself, in the shape in which
//! Apptainer prints it, and keeps it in the object `inspect-metadata.json` of its
//! SIF files.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

use plan::{SCRIPTS, SearchTree};
use serde::Serialize;
use serde_json::{Value, json};

/// Bytes of one text that are shown, and of all.
const LONGEST_TEXT: usize = 1 << 20;
const MOST: usize = 64 << 20;
/// Where apps are.
const APPS: &str = "/scif/apps";
/// The scripts that an image's maker has written for the environment.
const ENVIRONMENT: [&str; 3] =
    ["env/10-docker2singularity.sh", "env/90-environment.sh", "env/91-environment.sh"];

/// What an image, or an app in it, says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Metadata {
    /// Apps by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub apps: BTreeMap<String, Metadata>,
    /// Scripts that are sourced in front of every command, by path.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What `run` executes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runscript: Option<String>,
    /// What `test` executes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<String>,
    /// What it says to those who ask for help.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub helpfile: Option<String>,
    /// The definition file that it was built from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deffile: Option<String>,
    /// What an instance executes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub startscript: Option<String>,
}

impl Metadata {
    /// Reads it. A text that cannot be read is not shown; running the image
    /// says why.
    pub(crate) fn read(tree: &dyn SearchTree) -> Self {
        let left = Cell::new(MOST);
        let mut all = Self::below(tree, Path::new(SCRIPTS), &left);
        for name in tree.names(Path::new(APPS)).unwrap_or_default() {
            let app = Self::below(tree, &Path::new(APPS).join(&name).join("scif"), &left);
            if app != Self::default() {
                all.apps.insert(name.to_string_lossy().into_owned(), app);
            }
        }
        all
    }

    /// Of one directory, with at most `left` bytes.
    fn below(tree: &dyn SearchTree, dir: &Path, left: &Cell<usize>) -> Self {
        let bytes = |name: &str| {
            let (path, _) = plan::resolve(tree, &dir.join(name)).ok()?;
            let found = tree.read(&path, LONGEST_TEXT.min(left.get())).ok()??;
            left.set(left.get() - found.len());
            Some(found)
        };
        let text = |name: &str| {
            Some(String::from_utf8_lossy(&bytes(name)?).trim_end_matches('\n').to_owned())
        };
        let path = |name: &str| dir.join(name).display().to_string();
        Self {
            apps: BTreeMap::new(),
            environment: ENVIRONMENT
                .iter()
                .filter_map(|name| Some((path(name), text(name)?)))
                .collect(),
            labels: serde_json::from_slice(&bytes("labels.json").unwrap_or_default())
                .unwrap_or_default(),
            runscript: text("runscript"),
            test: text("test"),
            helpfile: text("runscript.help"),
            deffile: text("Singularity"),
            startscript: text("startscript"),
        }
    }

    /// The names of the texts that are there.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let there = [
            ("deffile", self.deffile.is_some()),
            ("environment", !self.environment.is_empty()),
            ("helpfile", self.helpfile.is_some()),
            ("runscript", self.runscript.is_some()),
            ("startscript", self.startscript.is_some()),
            ("test", self.test.is_some()),
        ];
        there.iter().filter(|(_, there)| *there).map(|(name, _)| *name).collect()
    }

    /// As Apptainer prints it.
    #[must_use]
    pub fn document(&self) -> Value {
        json!({"data": {"attributes": self}, "type": "container"})
    }
}
