//! Which crate may depend on which: arrows only to the left.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::run::{cargo, output};

/// The layers of ARCHITECTURE.md, leftmost first.
const LAYERS: [&[&str]; 7] = [
    &["types", "sys"],
    &["squashfs", "sif", "ext", "registry", "store", "trust", "plan"],
    &["image", "fuse", "host", "rootemu"],
    &["runtime"],
    &["engine"],
    &["build", "job"],
    &["cli", "spank"],
];

pub(crate) fn check() -> Result<()> {
    let mut wrong = Vec::new();
    // The Slurm plugin is a workspace of its own.
    for workspace in ["Cargo.toml", "crates/spank/Cargo.toml"] {
        let metadata = ["metadata", "--format-version", "1", "--no-deps", "--manifest-path"];
        let text = output(cargo().args(metadata).arg(workspace))?;
        let metadata: Value = serde_json::from_str(&text)
            .map_err(|source| Error::Json { what: "cargo metadata", source })?;
        wrong.extend(violations(&metadata));
    }
    if wrong.is_empty() {
        println!("layers: every dependency points to the left");
        return Ok(());
    }
    Err(Error::Layers(wrong.join("\n")))
}

fn layer(package: &str) -> Option<usize> {
    let name = package.strip_prefix("sampan-")?;
    LAYERS.iter().position(|layer| layer.contains(&name))
}

fn violations(metadata: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let mut wrong = Vec::new();
    for package in list(&metadata["packages"]) {
        let from = name(&package);
        let Some(own) = layer(&from) else {
            let apart = ["sampan-xtask", "sampan-tests", "sampan-cluster", "sampan-fuzz"];
            if !apart.contains(&from.as_str()) {
                wrong.push(format!("  {from} belongs to no layer"));
            }
            continue;
        };
        for dependency in list(&package["dependencies"]) {
            let to = name(&dependency);
            if layer(&to).is_some_and(|other| other >= own) {
                wrong.push(format!("  {from} -> {to}"));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arrows_to_the_right_and_sideways_are_found() {
        let package = |name: &str, to: &str| json!({"name": name, "dependencies": [{"name": to}]});
        let of = |packages: Vec<Value>| violations(&json!({"packages": packages}));
        assert!(of(vec![package("sampan-engine", "sampan-types")]).is_empty());
        assert!(of(vec![package("sampan-engine", "serde")]).is_empty());
        assert_eq!(of(vec![package("sampan-types", "sampan-store")]).len(), 1);
        assert_eq!(of(vec![package("sampan-store", "sampan-registry")]).len(), 1);
        assert_eq!(of(vec![package("sampan-nowhere", "serde")]).len(), 1);
    }
}
