//! What an image says about the process to start in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, Platform};

/// The execution parameters of an image and what its listing shows: the part
/// of an OCI image configuration (image-spec, config.md) that sampan uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `NAME=value` pairs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Words in front of every command of `run`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The command when none is given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Where the process starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// `user[:group]`, names or numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The signal that asks the process to end, for example `SIGQUIT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When the image was made, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// What it was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Digests of the uncompressed layers, lowest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub diff_ids: Vec<Digest>,
}

/// Why bytes are no image configuration.
#[derive(Debug, thiserror::Error)]
pub enum ImageConfigError {
    /// Not JSON, or not of the specification's form.
    #[error("the image configuration is malformed")]
    Json(#[from] serde_json::Error),
    /// A layer's digest is malformed.
    #[error("the image configuration lists a malformed layer digest")]
    DiffId(#[from] crate::DigestError),
}

/// The file's own form. Lenient where Go's encoder is: `null` stands for an
/// empty list or map everywhere.
#[derive(Deserialize)]
struct File {
    created: Option<String>,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    variant: Option<String>,
    config: Option<FileConfig>,
    rootfs: Option<RootFs>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct FileConfig {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<String>>,
}

/// Reads an OCI or Docker image configuration.
///
/// # Errors
/// When the bytes are not JSON of that form.
pub fn parse_image_config(bytes: &[u8]) -> Result<ImageConfig, ImageConfigError> {
    let file: File = serde_json::from_slice(bytes)?;
    let config = file.config.unwrap_or_default();
    let text = |value: Option<String>| value.filter(|v| !v.is_empty());
    let platform = (!file.os.is_empty() && !file.architecture.is_empty())
        .then(|| Platform::new(&file.os, &file.architecture, file.variant.as_deref()));
    let diff_ids = file.rootfs.and_then(|r| r.diff_ids).unwrap_or_default();
    Ok(ImageConfig {
        env: config.env.unwrap_or_default(),
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
        working_dir: text(config.working_dir),
        user: text(config.user),
        stop_signal: text(config.stop_signal),
        labels: config.labels.unwrap_or_default(),
        created: file.created,
        platform,
        diff_ids: diff_ids.iter().map(|d| d.parse()).collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_lists_are_empty_lists() {
        let bytes = br#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":["sh"],
            "Entrypoint":null,"WorkingDir":"","User":"nobody"},"rootfs":{"type":"layers",
            "diff_ids":null}}"#;
        let config = parse_image_config(bytes).unwrap();
        assert_eq!(config.cmd, ["sh"]);
        assert_eq!(config.user.as_deref(), Some("nobody"));
        assert_eq!(config.working_dir, None);
        assert_eq!(config.platform, Some("linux/amd64".parse().unwrap()));
    }

    #[test]
    fn a_bad_layer_digest_is_an_error() {
        let bytes = br#"{"rootfs":{"diff_ids":["sha256:../x"]}}"#;
        assert!(matches!(parse_image_config(bytes), Err(ImageConfigError::DiffId(_))));
    }
}
