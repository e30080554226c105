//! Whom a TLS connection trusts: the machine's roots (Mozilla's where the
//! machine has none), and certs.d for single registries.
//!
//! Source: containers-certs.d(5). `HOST[:PORT]/*.crt` are authorities,
//! `*.cert` with a `*.key` of the same name are the client's own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::environment::Environment;
use crate::error::ConfigError;

/// The files of one host's certs.d directory.
#[derive(Default)]
struct HostCertificates {
    authorities: Vec<Certificate<'static>>,
    client: Option<ClientCert>,
}

/// The TLS settings for one host, `host[:port]`.
pub(crate) fn tls_config(
    environment: &Environment,
    host: &str,
    insecure: bool,
    provider: &Arc<CryptoProvider>,
) -> Result<TlsConfig, ConfigError> {
    let own = match directory(environment, host) {
        Some(directory) => load(&directory, provider)?,
        None => HostCertificates::default(),
    };
    let mut roots = own.authorities;
    if !insecure {
        // Single unreadable files do not matter as long as some root is found.
        let native = rustls_native_certs::load_native_certs();
        roots.extend(native.certs.iter().map(|der| Certificate::from_der(der).to_owned()));
    }
    let roots = if roots.is_empty() { RootCerts::WebPki } else { roots.into() };
    Ok(TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::clone(provider))
        .root_certs(roots)
        .client_cert(own.client)
        .disable_verification(insecure)
        .build())
}

/// The first directory that exists for this host.
fn directory(environment: &Environment, host: &str) -> Option<PathBuf> {
    if host.is_empty() || host.contains('/') || host.starts_with('.') {
        return None;
    }
    let parents = [
        environment.user_containers(),
        Some(environment.system_containers()),
        Some(environment.system.join("docker")),
    ];
    let candidates = parents.into_iter().flatten().map(|p| p.join("certs.d").join(host));
    candidates.into_iter().find(|path| path.is_dir())
}

fn load(directory: &Path, provider: &Arc<CryptoProvider>) -> Result<HostCertificates, ConfigError> {
    let read = |path: &Path, source: io::Error| ConfigError::Read { path: path.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(|e| read(directory, e))? {
        paths.push(entry.map_err(|e| read(directory, e))?.path());
    }
    paths.sort();
    let mut found = HostCertificates::default();
    for path in paths {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => found.authorities.extend(certificates(&path)?),
            Some("cert") => {
                let chain = certificates(&path)?;
                let key_path = path.with_extension("key");
                let pem = fs::read(&key_path).map_err(|e| read(&key_path, e))?;
                let key = PrivateKey::from_pem(&pem).map_err(|e| unusable(&key_path, &e))?;
                check_pair(&key_path, &chain, &pem, provider)?;
                found.client = Some(ClientCert::new_with_certs(&chain, key));
            }
            _ => {}
        }
    }
    Ok(found)
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, ConfigError> {
    let pem =
        fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|e| unusable(path, &e))? {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        return Err(unusable(path, &"it holds no PEM certificate"));
    }
    Ok(found)
}

/// The HTTP library takes the pair for granted, so a key of another
/// certificate must be found here.
fn check_pair(
    path: &Path,
    chain: &[Certificate<'static>],
    key_pem: &[u8],
    provider: &Arc<CryptoProvider>,
) -> Result<(), ConfigError> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|e| unusable(path, &e))?;
    let chain = chain.iter().map(|c| CertificateDer::from(c.der().to_vec())).collect();
    rustls::ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_client_auth_cert(chain, key)
        })
        .map(|_| ())
        .map_err(|e| unusable(path, &e))
}

fn unusable(path: &Path, message: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::Certificate { path: path.to_owned(), message: message.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_files_are_named() {
        let root = tempfile::tempdir().unwrap();
        let environment =
            Environment { variables: Default::default(), system: root.path().to_owned() };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = |host: &str| tls_config(&environment, host, false, &provider);
        let directory = root.path().join("containers/certs.d/r.io:5000");
        fs::create_dir_all(&directory).unwrap();
        assert!(tls("r.io:5000").is_ok());
        fs::write(directory.join("ca.crt"), "no certificate").unwrap();
        let error = tls("r.io:5000").unwrap_err();
        assert!(error.to_string().contains("r.io:5000/ca.crt"), "{error}");
        assert!(tls("r.io").is_ok());
        assert!(tls("../r.io:5000").is_ok());
        fs::remove_file(directory.join("ca.crt")).unwrap();
        fs::write(
            directory.join("me.cert"),
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        let error = tls("r.io:5000").unwrap_err();
        assert!(error.to_string().contains("me.key"), "{error}");
    }
}
