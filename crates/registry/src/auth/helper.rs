//! The protocol of docker-credential-NAME: an action as argument, the server's
//! name or a JSON document on standard input, JSON on standard output.
//!
//! Source: docker-credential-helpers' protocol description.

use std::io::Write;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::Credentials;
use crate::environment::Environment;
use crate::error::CredentialError;

/// The user name that marks the secret as an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default, rename = "ServerURL")]
    server_url: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// One helper program.
pub(super) struct Helper {
    program: String,
    path: Option<String>,
}

impl Helper {
    pub(super) fn new(name: &str, environment: &Environment) -> Result<Self, CredentialError> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if name.is_empty() || !name.bytes().all(good) {
            return Err(CredentialError::HelperName { name: name.to_owned() });
        }
        let path = environment.get("PATH").map(str::to_owned);
        Ok(Self { program: format!("docker-credential-{name}"), path })
    }

    pub(super) fn program(&self) -> &str {
        &self.program
    }

    /// The credentials of a server; None where the helper knows none.
    pub(super) fn get(&self, server: &str) -> Result<Option<Credentials>, CredentialError> {
        let Some(output) = self.run("get", server.as_bytes(), true)? else { return Ok(None) };
        let answer: Answer = serde_json::from_slice(&output).map_err(|source| {
            CredentialError::HelperAnswer { program: self.program.clone(), source }
        })?;
        if answer.secret.is_empty() {
            return Ok(None);
        }
        Ok(Some(if answer.username == TOKEN_USER || answer.username.is_empty() {
            Credentials::IdentityToken(answer.secret)
        } else {
            Credentials::Password { username: answer.username, password: answer.secret }
        }))
    }

    pub(super) fn store(
        &self,
        server: &str,
        credentials: &Credentials,
    ) -> Result<(), CredentialError> {
        let (username, secret) = match credentials {
            Credentials::Password { username, password } => (username.clone(), password.clone()),
            Credentials::IdentityToken(token) => (TOKEN_USER.to_owned(), token.clone()),
        };
        let document = Answer { server_url: server.to_owned(), username, secret };
        let input = serde_json::to_vec(&document).map_err(|source| {
            CredentialError::HelperAnswer { program: self.program.clone(), source }
        })?;
        self.run("store", &input, false).map(|_| ())
    }

    /// Whether there was something to erase.
    pub(super) fn erase(&self, server: &str) -> Result<bool, CredentialError> {
        Ok(self.run("erase", server.as_bytes(), true)?.is_some())
    }

    /// None where the helper says that it has no such credentials.
    fn run(
        &self,
        action: &'static str,
        input: &[u8],
        may_lack: bool,
    ) -> Result<Option<Vec<u8>>, CredentialError> {
        let failed = |source| CredentialError::HelperRun { program: self.program.clone(), source };
        let mut command = Command::new(&self.program);
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        let mut child = command
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that ends without reading reports by its exit status.
            let _ = stdin.write_all(input);
        }
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return Ok(Some(output.stdout));
        }
        let mut message = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if may_lack && message.contains("not found") {
            return Ok(None);
        }
        if message.is_empty() {
            message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        }
        message.truncate(message.floor_char_boundary(500));
        Err(CredentialError::HelperFailed { program: self.program.clone(), action, message })
    }
}
