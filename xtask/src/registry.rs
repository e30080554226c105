//! A real registry on loopback: Debian's docker-registry.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, Result, file};
use crate::fixtures::layout;
use crate::run::{run, target};

/// A running registry; it ends with this value.
pub(crate) struct Registry {
    child: Child,
    /// `host:port`.
    pub(crate) address: String,
}

impl Registry {
    /// Starts it and pushes the fixture images that it lacks.
    pub(crate) fn start(fixtures: &Path) -> Result<Self> {
        let registry = Self::serve("registry", "")?;
        for name in ["busybox", "base", "numpy", "mpich", "openmpi"] {
            registry.push(&layout(fixtures, name), name)?;
        }
        println!("registry: docker-registry on {}", registry.address);
        Ok(registry)
    }

    /// A second one on the same storage that speaks TLS, with a certificate
    /// that it has signed itself.
    pub(crate) fn with_tls() -> Result<Self> {
        let (key, certificate) = (target().join("registry.key"), target().join("registry.crt"));
        run(Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"])
            .args(["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stderr(Stdio::null()))?;
        let tls = format!(
            "  tls:\n    certificate: {}\n    key: {}\n",
            certificate.display(),
            key.display()
        );
        Self::serve("registry-tls", &tls)
    }

    /// `http` is what the configuration says below that key.
    fn serve(name: &str, http: &str) -> Result<Self> {
        let storage = target().join("registry");
        std::fs::create_dir_all(&storage).map_err(file(&storage))?;
        let probe = TcpListener::bind("127.0.0.1:0").map_err(file(Path::new("127.0.0.1")))?;
        let address = probe.local_addr().map_err(file(Path::new("127.0.0.1")))?.to_string();
        drop(probe);
        let config = target().join(format!("{name}.yml"));
        let text = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  \
             filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{http}",
            storage.display()
        );
        std::fs::write(&config, text).map_err(file(&config))?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| Error::Start { command: "docker-registry".to_owned(), source })?;
        let registry = Self { child, address };
        registry.wait()?;
        Ok(registry)
    }

    fn wait(&self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            if TcpStream::connect(&self.address).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(Error::Registry(self.address.clone()))
    }

    fn push(&self, layout: &Path, name: &str) -> Result<()> {
        run(Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
            .arg(format!("oci:{}:latest", layout.display()))
            .arg(format!("docker://{}/{name}:latest", self.address)))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // A registry that is gone already needs no stopping.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
