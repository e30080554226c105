//! The client against Debian's docker-registry, filled by skopeo.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use registry::{Client, ClientOptions, Credentials, Environment, Error, RetryPolicy};
use sha2::{Digest as _, Sha256};
use types::{Digest, Document, RegistryRef, media, parse_document};

/// A registry of its own, ended with the test.
struct Registry {
    child: Child,
    host: String,
    directory: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// Starts one on a free loopback port, with a user `me` / `secret` or with
    /// TLS if asked to.
    fn start(with_user: bool, with_tls: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        // Between this and the start another process may take the port: try again.
        for _ in 0..5 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let host = listener.local_addr().unwrap().to_string();
            drop(listener);
            let mut config = format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: \
                 {}/data\nhttp:\n  addr: {host}\n",
                root.display()
            );
            if with_user {
                let output =
                    Command::new("htpasswd").args(["-Bbn", "me", "secret"]).output().unwrap();
                assert!(output.status.success());
                fs::write(root.join("htpasswd"), output.stdout).unwrap();
                config.push_str(&format!(
                    "auth:\n  htpasswd:\n    realm: test\n    path: {}/htpasswd\n",
                    root.display()
                ));
            }
            if with_tls {
                certificate(root);
                // `http:` is the last section so far.
                config.push_str(&format!(
                    "  tls:\n    certificate: {0}/server.pem\n    key: {0}/server.key\n",
                    root.display()
                ));
            }
            fs::write(root.join("config.yml"), config).unwrap();
            let mut child = Command::new("docker-registry")
                .arg("serve")
                .arg(root.join("config.yml"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("docker-registry must be installed (Debian: docker-registry)");
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(300) {
                if TcpStream::connect(&host).is_ok() {
                    return Self { child, host, directory };
                }
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("docker-registry does not start");
    }

    fn push(&self, layout: &Path, name: &str, user: Option<&str>) {
        let mut command = Command::new("skopeo");
        command.args(["copy", "--quiet", "--dest-tls-verify=false", "--preserve-digests"]);
        if let Some(user) = user {
            command.args(["--dest-creds", user]);
        }
        let policy = self.directory.path().join("policy.json");
        fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
        let output = command
            .arg("--policy")
            .arg(policy)
            .arg(format!("oci:{}:v1", layout.display()))
            .arg(format!("docker://{}/{name}", self.host))
            .output()
            .expect("skopeo must be installed (Debian: skopeo)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn name(&self, rest: &str) -> RegistryRef {
        format!("{}/{rest}", self.host).parse().unwrap()
    }
}

/// A certificate authority and a certificate of it for 127.0.0.1.
fn certificate(root: &Path) {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(root)
            .output()
            .expect("openssl must be installed (Debian: openssl)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    fs::write(
        root.join("server.ext"),
        "subjectAltName = IP:127.0.0.1\nbasicConstraints = CA:FALSE\n",
    )
    .unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca"));
    openssl(&format!("req -new {key} -keyout server.key -out server.csr -subj /CN=server"));
    openssl(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
         -extfile server.ext -out server.pem",
    );
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::sha256(&Sha256::digest(bytes).into())
}

/// An OCI layout with one uncompressed layer of 3 MB; the layer's bytes.
fn layout(directory: &Path) -> (PathBuf, Vec<u8>) {
    let root = directory.join("layout");
    let blobs = root.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8], media_type: &str| {
        let digest = digest(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#, bytes.len())
    };
    // A tar of nothing but its end, then padding that tar ignores.
    let mut layer = vec![0; 1024];
    layer.extend((0..1_000_000u32).flat_map(|n| n.to_le_bytes()[..3].to_vec()));
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        digest(&layer)
    );
    let layer_descriptor = put(&layer, "application/vnd.oci.image.layer.v1.tar");
    let config_descriptor = put(config.as_bytes(), "application/vnd.oci.image.config.v1+json");
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{config_descriptor},"layers":[{layer_descriptor}]}}"#,
        media::OCI_MANIFEST
    );
    let descriptor = put(manifest.as_bytes(), media::OCI_MANIFEST);
    let named =
        descriptor.replace("}", r#","annotations":{"org.opencontainers.image.ref.name":"v1"}}"#);
    fs::write(root.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":[{named}]}}"#))
        .unwrap();
    fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    (root, layer)
}

fn client(home: &Path) -> Client {
    let variables = [("HOME".to_owned(), home.display().to_string())].into();
    let options = ClientOptions {
        environment: Environment { variables, system: home.join("etc") },
        retry: RetryPolicy { first_delay: Duration::from_millis(5), ..RetryPolicy::default() },
        ..ClientOptions::default()
    };
    Client::new(options).unwrap()
}

#[test]
fn an_image_comes_whole_from_a_real_registry() {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start(false, false);
    let (layout, layer) = layout(home.path());
    registry.push(&layout, "team/tool:v1", None);
    let client = client(home.path());

    let manifest = client.manifest(&registry.name("team/tool:v1")).unwrap();
    assert_eq!(manifest.media_type, media::OCI_MANIFEST);
    let document = parse_document(&manifest.bytes, Some(&manifest.media_type)).unwrap();
    let Document::Manifest(parsed) = document else { panic!("not a manifest") };
    assert_eq!(parsed.layers[0].digest, digest(&layer));
    let by_digest = registry.name(&format!("team/tool@{}", manifest.digest));
    assert_eq!(client.manifest(&by_digest).unwrap().bytes, manifest.bytes);

    // The layer and the configuration at once.
    thread::scope(|scope| {
        for part in [&parsed.layers[0], &parsed.config] {
            let (client, name) = (&client, &manifest.name);
            scope.spawn(move || {
                let mut reader = client.blob(name, &part.digest, Some(part.size)).unwrap();
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).unwrap();
                assert_eq!(digest(&bytes), part.digest);
                assert_eq!(bytes.len() as u64, reader.position());
            });
        }
    });

    for missing in ["team/tool:nope", "team/none:v1"] {
        let error = client.manifest(&registry.name(missing)).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{missing}: {error}");
    }
    let error = client.blob(&manifest.name, &digest(b"none"), None).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[test]
fn a_registry_with_users_wants_a_login() {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start(true, false);
    let (layout, layer) = layout(home.path());
    registry.push(&layout, "private/tool:v1", Some("me:secret"));
    let client = client(home.path());
    let image = registry.name("private/tool:v1");

    let error = client.manifest(&image).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { with_credentials: false, .. }), "{error}");
    let credentials = |password: &str| Credentials::Password {
        username: "me".to_owned(),
        password: password.to_owned(),
    };
    let error = client.login(&registry.host, &credentials("wrong")).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { with_credentials: true, .. }), "{error}");
    client.login(&registry.host, &credentials("secret")).unwrap();

    let manifest = client.manifest(&image).unwrap();
    let size = Some(layer.len() as u64);
    let mut reader = client.blob(&manifest.name, &digest(&layer), size).unwrap();
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    assert!(bytes == layer);

    // skopeo reads what login wrote.
    let output = Command::new("skopeo")
        .args(["inspect", "--raw", "--tls-verify=false", "--authfile"])
        .arg(home.path().join(".config/containers/auth.json"))
        .arg(format!("docker://{image}"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, manifest.bytes);

    assert_eq!(client.logout(&registry.host).unwrap().len(), 1);
    let again = self::client(home.path());
    assert!(matches!(again.manifest(&image), Err(Error::Unauthorized { .. })));
}

#[test]
fn a_tls_registry_is_trusted_through_certs_d_only() {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start(false, true);
    let (layout, layer) = layout(home.path());
    registry.push(&layout, "team/tool:v1", None);
    let image = registry.name("team/tool:v1");

    let error = client(home.path()).manifest(&image).unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains(&format!("certs.d/{}/ca.crt", registry.host)));

    let conf = home.path().join(".config/containers/registries.conf");
    fs::create_dir_all(conf.parent().unwrap()).unwrap();
    let text = format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", registry.host);
    fs::write(&conf, text).unwrap();
    client(home.path()).manifest(&image).unwrap();
    fs::remove_file(&conf).unwrap();

    let certs = home.path().join(".config/containers/certs.d").join(&registry.host);
    fs::create_dir_all(&certs).unwrap();
    fs::copy(registry.directory.path().join("ca.pem"), certs.join("ca.crt")).unwrap();
    let client = client(home.path());
    let manifest = client.manifest(&image).unwrap();
    let size = Some(layer.len() as u64);
    let mut reader = client.blob(&manifest.name, &digest(&layer), size).unwrap();
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    assert!(bytes == layer);
}
