//! Images made on the spot: a busybox tree, and OCI layouts with any layers.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::Digest;

/// Programs that the busybox image has links for.
const APPLETS: [&str; 28] = [
    "sh",
    "ls",
    "id",
    "cat",
    "true",
    "false",
    "stat",
    "pwd",
    "ps",
    "hostname",
    "mount",
    "env",
    "tty",
    "touch",
    "ip",
    "echo",
    "sleep",
    "test",
    "readlink",
    "mkdir",
    "rm",
    "wc",
    "dd",
    "kill",
    "head",
    "sha256sum",
    "umask",
    "find",
];

/// Makes a root file system of busybox-static.
///
/// # Panics
/// When busybox-static is not installed.
pub fn busybox_root(root: &Path) {
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "var/tmp", "home", "root", "opt/app"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\napp:x:999:998::/opt/app:/bin/sh\n",
    )
    .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\napp:x:998:\n").unwrap();
    fs::write(root.join("etc/marker"), "from the image\n").unwrap();
}

/// The SHA-256 of bytes, in hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An uncompressed layer made by a closure.
///
/// # Panics
/// When the archive cannot be written.
pub fn layer(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    fill(&mut builder);
    builder.into_inner().unwrap()
}

/// An OCI image layout under construction.
pub struct Layout {
    dir: PathBuf,
    layers: Vec<Value>,
    diff_ids: Vec<String>,
    /// The `config` object of the image configuration.
    pub config: Value,
    /// What the image is for.
    pub architecture: &'static str,
}

impl Layout {
    /// Starts a layout in a directory.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self {
            dir,
            layers: Vec::new(),
            diff_ids: Vec::new(),
            config: json!({}),
            architecture: "amd64",
        }
    }

    fn blob(&self, media: &str, bytes: &[u8]) -> Value {
        let hex = sha256(bytes);
        fs::write(self.dir.join("blobs/sha256").join(&hex), bytes).unwrap();
        json!({"mediaType": media, "digest": format!("sha256:{hex}"), "size": bytes.len()})
    }

    /// Adds an uncompressed layer.
    pub fn layer(&mut self, tar: &[u8]) -> &mut Self {
        let blob = self.blob("application/vnd.oci.image.layer.v1.tar", tar);
        self.layers.push(blob);
        self.diff_ids.push(format!("sha256:{}", sha256(tar)));
        self
    }

    /// Adds a layer with the busybox tree.
    ///
    /// # Panics
    /// When busybox-static is not installed.
    pub fn busybox(&mut self) -> &mut Self {
        let root = self.dir.join("tree");
        busybox_root(&root);
        let tar = layer(|builder| builder.append_dir_all(".", &root).unwrap());
        fs::remove_dir_all(&root).unwrap();
        self.layer(&tar)
    }

    /// Writes configuration, manifest and index; the reference for the
    /// command line.
    ///
    /// # Panics
    /// When they cannot be written.
    #[must_use]
    pub fn finish(&self, tag: &str) -> String {
        let config = json!({
            "architecture": self.architecture, "os": "linux", "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
        });
        let config =
            self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let media = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media, "config": config, "layers": self.layers,
        });
        let mut entry = self.blob(media, manifest.to_string().as_bytes());
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        fs::write(self.dir.join("index.json"), index.to_string()).unwrap();
        format!("oci:{}:{tag}", self.dir.display())
    }
}
