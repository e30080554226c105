//! auth.json and docker's config.json: where credentials are kept.
//!
//! Source: containers-auth.json(5). Files are looked at in this order, the
//! first that knows the name wins: `--authfile` or `$REGISTRY_AUTH_FILE` alone
//! where given; else `$XDG_RUNTIME_DIR/containers/auth.json`,
//! `~/.config/containers/auth.json`, `$DOCKER_CONFIG/config.json` or
//! `~/.docker/config.json`.
//!
//! Written files replace the old one by rename, with mode 0600; a crash leaves
//! the old file and perhaps a temporary one beside it, never half a file.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Credentials;
use super::helper::Helper;
use crate::environment::Environment;
use crate::error::CredentialError;

/// Credential files beyond this size (bytes) are not read.
const MAX_FILE: u64 = 4 << 20;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
}

/// Where `login` or `logout` changed something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// In this file.
    File(PathBuf),
    /// By this credential helper program.
    Helper(String),
}

impl std::fmt::Display for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Helper(program) => f.write_str(program),
        }
    }
}

/// The credential files of a user.
#[derive(Clone, Debug)]
pub struct CredentialFiles {
    environment: Environment,
    files: Vec<PathBuf>,
    /// The file that `login` writes when no other has the entry.
    target: Option<PathBuf>,
}

impl CredentialFiles {
    /// The files that the environment leads to; `file` stands in for all.
    #[must_use]
    pub fn new(environment: &Environment, file: Option<&Path>) -> Self {
        let alone = file.map(Path::to_owned).or_else(|| environment.path("REGISTRY_AUTH_FILE"));
        if let Some(path) = alone {
            let files = vec![path.clone()];
            return Self { environment: environment.clone(), files, target: Some(path) };
        }
        let runtime =
            environment.path("XDG_RUNTIME_DIR").map(|d| d.join("containers").join("auth.json"));
        // What login writes must outlive the session and be seen on other
        // nodes, which share the home directory but no runtime directory.
        let target = environment.user_containers().map(|d| d.join("auth.json"));
        let docker = environment
            .path("DOCKER_CONFIG")
            .or_else(|| environment.home().map(|home| home.join(".docker")))
            .map(|d| d.join("config.json"));
        let files = runtime.into_iter().chain(target.clone()).chain(docker).collect();
        Self { environment: environment.clone(), files, target }
    }

    /// The credentials for a repository of a registry, if any file or helper
    /// has some. The longest matching key of a file wins.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, a helper that fails.
    pub fn find(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Credentials>, CredentialError> {
        for path in &self.files {
            let Some((document, _)) = read(path)? else { continue };
            for key in keys(registry, repository) {
                if let Some(name) = document.cred_helpers.get(&key) {
                    let helper = Helper::new(name, &self.environment)?;
                    let server = if key == "docker.io" { hub_server() } else { key.as_str() };
                    if let Some(found) = helper.get(server)? {
                        return Ok(Some(found));
                    }
                }
                let entries = document.auths.iter().filter(|(k, _)| normal_key(k) == key);
                for (name, entry) in entries {
                    if let Some(found) = decode(path, name, entry)? {
                        return Ok(Some(found));
                    }
                }
            }
            if let Some(name) = document.creds_store.as_deref().filter(|n| !n.is_empty()) {
                let server = if is_hub(registry) { hub_server() } else { registry };
                if let Some(found) = Helper::new(name, &self.environment)?.get(server)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// Keeps credentials for a registry, or for `registry/namespace`.
    ///
    /// # Errors
    /// A file that cannot be written, a helper that fails.
    pub fn store(&self, key: &str, credentials: &Credentials) -> Result<Stored, CredentialError> {
        let key = normal_key(key);
        let target = self.target.clone().ok_or(CredentialError::NoPlace)?;
        // An entry in a file that is read earlier would hide the new one.
        let mut chosen = target.clone();
        for path in self.files.iter().take_while(|path| **path != target) {
            let has = |d: &Document| d.auths.keys().any(|k| normal_key(k) == key);
            if read(path)?.is_some_and(|(document, _)| has(&document)) {
                chosen.clone_from(path);
                break;
            }
        }
        let (document, mut value) = read(&chosen)?.unwrap_or_default();
        let helper = document.cred_helpers.get(&key).or(document.creds_store.as_ref());
        if let Some(name) = helper.filter(|n| !n.is_empty()) {
            let helper = Helper::new(name, &self.environment)?;
            let server = if key == "docker.io" { hub_server() } else { key.as_str() };
            helper.store(server, credentials)?;
            return Ok(Stored::Helper(helper.program().to_owned()));
        }
        let entry = match credentials {
            Credentials::Password { username, password } => {
                if username.is_empty() || username.contains(':') {
                    return Err(CredentialError::UserName);
                }
                json!({ "auth": STANDARD.encode(format!("{username}:{password}")) })
            }
            Credentials::IdentityToken(token) => {
                json!({ "auth": STANDARD.encode("<token>:"), "identitytoken": token })
            }
        };
        let auths = value.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(auths) = auths {
            auths.retain(|name, _| normal_key(name) != key);
            auths.insert(key, entry);
        }
        write(&chosen, &value)?;
        Ok(Stored::File(chosen))
    }

    /// Removes the credentials of a registry from every file and helper that
    /// has some, and says where they were.
    ///
    /// # Errors
    /// A file that cannot be read or written, a helper that fails.
    pub fn erase(&self, key: &str) -> Result<Vec<Stored>, CredentialError> {
        let key = normal_key(key);
        let mut erased = Vec::new();
        for path in &self.files {
            let Some((document, mut value)) = read(path)? else { continue };
            let helper = document.cred_helpers.get(&key).or(document.creds_store.as_ref());
            if let Some(name) = helper.filter(|n| !n.is_empty()) {
                let helper = Helper::new(name, &self.environment)?;
                let server = if key == "docker.io" { hub_server() } else { key.as_str() };
                // Some helpers erase what they do not have without a word.
                if helper.get(server)?.is_some() && helper.erase(server)? {
                    erased.push(Stored::Helper(helper.program().to_owned()));
                }
            }
            if let Some(Value::Object(auths)) = value.get_mut("auths") {
                let before = auths.len();
                auths.retain(|name, _| normal_key(name) != key);
                if auths.len() != before {
                    write(path, &value)?;
                    erased.push(Stored::File(path.clone()));
                }
            }
        }
        Ok(erased)
    }
}

fn hub_server() -> &'static str {
    "https://index.docker.io/v1/"
}

fn is_hub(registry: &str) -> bool {
    ["docker.io", "index.docker.io", "registry-1.docker.io"].contains(&registry)
}

/// `registry/a/b`, `registry/a`, `registry`.
fn keys(registry: &str, repository: &str) -> Vec<String> {
    let registry = if is_hub(registry) { "docker.io" } else { registry };
    let mut keys = Vec::new();
    let mut path = repository.trim_matches('/');
    while !path.is_empty() {
        keys.push(format!("{registry}/{path}"));
        path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    keys.push(registry.to_owned());
    keys
}

/// A key without the scheme and version path that docker writes.
fn normal_key(key: &str) -> String {
    let trimmed = key.trim_end_matches('/');
    let (host, path) = match trimmed.split_once("://") {
        // Docker's URLs mean the whole host, whatever their path.
        Some((_, rest)) => (rest.split('/').next().unwrap_or(rest), None),
        None => match trimmed.split_once('/') {
            Some((host, path)) if path != "v1" && path != "v2" => (host, Some(path)),
            Some((host, _)) => (host, None),
            None => (trimmed, None),
        },
    };
    let host = if is_hub(host) { "docker.io" } else { host };
    path.map_or_else(|| host.to_owned(), |path| format!("{host}/{path}"))
}

fn decode(path: &Path, key: &str, entry: &Entry) -> Result<Option<Credentials>, CredentialError> {
    if !entry.identitytoken.is_empty() {
        return Ok(Some(Credentials::IdentityToken(entry.identitytoken.clone())));
    }
    if entry.auth.is_empty() {
        if entry.username.is_empty() || entry.password.is_empty() {
            return Ok(None);
        }
        let (username, password) = (entry.username.clone(), entry.password.clone());
        return Ok(Some(Credentials::Password { username, password }));
    }
    let bytes = STANDARD.decode(entry.auth.trim()).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    // Docker pads some passwords with NUL bytes.
    let pair = text.as_deref().and_then(|text| text.trim_end_matches('\0').split_once(':'));
    let Some((username, password)) = pair else {
        let message = format!("the auth of {key:?} is not base64 of user:password");
        return Err(CredentialError::Syntax { path: path.to_owned(), line: 1, message });
    };
    Ok(Some(Credentials::Password { username: username.to_owned(), password: password.to_owned() }))
}

/// What is understood of a file, and all of it as it is.
type Content = (Document, Map<String, Value>);

/// The file's content; None if there is no file.
fn read(path: &Path) -> Result<Option<Content>, CredentialError> {
    let error = |source| CredentialError::Read { path: path.to_owned(), source };
    let bytes = match fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_FILE => {
            return Err(error(io::Error::other("the file is larger than 4 MiB")));
        }
        Ok(_) => fs::read(path).map_err(error)?,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(error(e)),
    };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let syntax = |e: serde_json::Error| CredentialError::Syntax {
        path: path.to_owned(),
        line: e.line().max(1),
        message: e.to_string(),
    };
    let document = serde_json::from_slice(&bytes).map_err(syntax)?;
    let value = serde_json::from_slice(&bytes).map_err(syntax)?;
    Ok(Some((document, value)))
}

fn write(path: &Path, value: &Map<String, Value>) -> Result<(), CredentialError> {
    // A link (dotfiles under version control) stays one.
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let error = |source| CredentialError::Write { path: real.clone(), source };
    let directory = match real.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(error)?;
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| error(e.into()))?;
    text.push(b'\n');
    let name = real.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let (temporary, mut file) = (0..100)
        .find_map(|attempt| {
            let candidate = directory.join(format!(".{name}.{}.{attempt}", std::process::id()));
            let opened =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&candidate);
            match opened {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => None,
                other => Some(other.map(|file| (candidate, file))),
            }
        })
        .unwrap_or_else(|| Err(io::ErrorKind::AlreadyExists.into()))
        .map_err(error)?;
    let done = file
        .write_all(&text)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, &real));
    if done.is_err() {
        // The error that is reported is the one that stopped the write.
        let _ = fs::remove_file(&temporary);
    }
    done.map_err(error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn environment(home: &Path) -> Environment {
        let variables = [
            ("HOME".to_owned(), home.display().to_string()),
            ("PATH".to_owned(), format!("{}:/usr/bin:/bin", home.display())),
        ];
        Environment { variables: variables.into(), system: home.join("etc") }
    }

    fn password(username: &str, password: &str) -> Credentials {
        Credentials::Password { username: username.into(), password: password.into() }
    }

    #[test]
    fn the_most_specific_key_wins_and_docker_keys_are_understood() {
        let home = tempfile::tempdir().unwrap();
        let docker = home.path().join(".docker");
        fs::create_dir(&docker).unwrap();
        let auth = |text: &str| STANDARD.encode(text);
        let document = json!({ "auths": {
            "https://index.docker.io/v1/": { "auth": auth("hub:a:b") },
            "r.io": { "auth": auth("host:1") },
            "r.io/team": { "auth": auth("team:2") },
            "r.io/team/x": { "identitytoken": "tok" },
        }});
        fs::write(docker.join("config.json"), document.to_string()).unwrap();
        let files = CredentialFiles::new(&environment(home.path()), None);
        let find = |registry: &str, path: &str| files.find(registry, path).unwrap();
        assert_eq!(find("docker.io", "library/x"), Some(password("hub", "a:b")));
        assert_eq!(find("r.io", "other"), Some(password("host", "1")));
        assert_eq!(find("r.io", "team/y"), Some(password("team", "2")));
        assert_eq!(find("r.io", "team/x"), Some(Credentials::IdentityToken("tok".into())));
        assert_eq!(find("r.io:5000", "team/x"), None);
    }

    #[test]
    fn stored_credentials_are_private_found_again_and_erased() {
        let home = tempfile::tempdir().unwrap();
        let files = CredentialFiles::new(&environment(home.path()), None);
        let path = home.path().join(".config/containers/auth.json");
        let stored = files.store("r.io", &password("me", "secret")).unwrap();
        assert_eq!(stored, Stored::File(path.clone()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(files.find("r.io", "x").unwrap(), Some(password("me", "secret")));
        files.store("r.io", &password("me", "new")).unwrap();
        assert_eq!(files.find("r.io", "x").unwrap(), Some(password("me", "new")));
        assert_eq!(files.erase("r.io").unwrap(), [Stored::File(path.clone())]);
        assert_eq!(files.find("r.io", "x").unwrap(), None);
        assert!(files.erase("r.io").unwrap().is_empty());
        assert!(files.store("r.io", &password("a:b", "c")).is_err());
        let left = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "temporary files stay behind");
    }

    #[test]
    fn a_damaged_file_is_named_with_its_line() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.json");
        let files = CredentialFiles::new(&environment(home.path()), Some(&path));
        fs::write(&path, "{\n \"auths\": {\n").unwrap();
        let error = files.find("r.io", "x").unwrap_err();
        assert!(matches!(error, CredentialError::Syntax { line: 2 | 3, .. }), "{error:?}");
        fs::write(&path, "{\"auths\": {\"r.io\": {\"auth\": \"!!\"}}}").unwrap();
        assert!(matches!(files.find("r.io", "x"), Err(CredentialError::Syntax { .. })));
        fs::write(&path, "{\"credHelpers\": {\"r.io\": \"../../evil\"}}").unwrap();
        assert!(matches!(files.find("r.io", "x"), Err(CredentialError::HelperName { .. })));
    }

    #[test]
    fn helpers_get_store_and_erase() {
        let home = tempfile::tempdir().unwrap();
        let program = home.path().join("docker-credential-fake");
        let state = home.path().join("state");
        let script = format!(
            "#!/bin/sh\ncase $1 in\nstore) cat > {0};;\nerase) rm {0};;\n\
             get) test -f {0} && exec cat {0}; echo credentials not found in store; exit 1;;\nesac\n",
            state.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut environment = environment(home.path());
        // Command looks for the program in this process's PATH or in the child's.
        environment.variables.insert("PATH".into(), format!("{}:/bin", home.path().display()));
        let path = home.path().join("auth.json");
        fs::write(&path, "{\"credHelpers\": {\"r.io\": \"fake\"}}").unwrap();
        let files = CredentialFiles::new(&environment, Some(&path));
        assert_eq!(files.find("r.io", "x").unwrap(), None);
        let stored = files.store("r.io", &password("u", "p")).unwrap();
        assert_eq!(stored, Stored::Helper("docker-credential-fake".into()));
        assert_eq!(files.find("r.io", "x").unwrap(), Some(password("u", "p")));
        assert_eq!(files.erase("r.io").unwrap().len(), 1);
        assert_eq!(files.find("r.io", "x").unwrap(), None);
        assert!(!fs::read_to_string(&path).unwrap().contains("auths"));
    }
}
