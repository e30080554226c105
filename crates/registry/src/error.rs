//! What can go wrong between a name and its bytes.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use types::Digest;

/// The failure underneath, as the step's own library reports it.
pub type Source = Box<dyn StdError + Send + Sync>;

/// Why an endpoint was given up.
#[derive(Debug)]
pub struct EndpointFailure {
    /// Host and repository that were asked.
    pub endpoint: String,
    /// What it answered, or why it did not.
    pub error: Error,
}

/// Why a registry operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration file could not be read or understood.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Credentials could not be read, asked for or stored.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// A name without a registry, and none is configured to look in.
    #[error("{name} names no registry, and registries.conf has none to search")]
    ShortName {
        /// The name as written.
        name: String,
    },
    /// registries.conf forbids this name.
    #[error("{name} is blocked: registries.conf has blocked = true for {prefix}")]
    Blocked {
        /// The image's full name.
        name: String,
        /// The table that matched.
        prefix: String,
    },
    /// The registry has no such repository, tag, manifest or blob.
    #[error("{what} is not there: {url} answered {detail}")]
    NotFound {
        /// The image or blob asked for.
        what: String,
        /// The address asked.
        url: String,
        /// The registry's own words.
        detail: String,
    },
    /// 401, with the credentials at hand or with none.
    #[error("{registry} wants other credentials for {url}: {detail}")]
    Unauthorized {
        /// The registry, as `login` takes it.
        registry: String,
        /// The address asked.
        url: String,
        /// The registry's own words.
        detail: String,
        /// Whether credentials were sent.
        with_credentials: bool,
    },
    /// 403.
    #[error("{registry} denies access to {url}: {detail}")]
    Denied {
        /// The registry, as `login` takes it.
        registry: String,
        /// The address asked.
        url: String,
        /// The registry's own words.
        detail: String,
        /// Whether credentials were sent.
        with_credentials: bool,
    },
    /// 429, or 503 with a time to wait, more often than the attempts allowed.
    #[error("{url} answered {status}: too many requests")]
    RateLimited {
        /// The address asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What Retry-After asked for.
        retry_after: Option<Duration>,
    },
    /// A 5xx answer.
    #[error("{url} failed with {status}: {detail}")]
    Server {
        /// The address asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The registry's own words.
        detail: String,
    },
    /// A status that has no place in this exchange.
    #[error("{url} answered {status} where the distribution protocol has no such answer: {detail}")]
    UnexpectedStatus {
        /// The address asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The registry's own words.
        detail: String,
    },
    /// The bytes are not those that were asked for.
    #[error("{url} sent other content: its digest is {actual}, expected {expected}")]
    DigestMismatch {
        /// The address asked.
        url: String,
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// More or fewer bytes than the descriptor says.
    #[error("{url} sent {actual} bytes, its descriptor says {expected}")]
    SizeMismatch {
        /// The address asked.
        url: String,
        /// Bytes expected.
        expected: u64,
        /// Bytes announced or received so far.
        actual: u64,
    },
    /// A document over the limit.
    #[error("{url} sent more than {limit} bytes where a {what} is expected")]
    TooLarge {
        /// The address asked.
        url: String,
        /// What was expected.
        what: &'static str,
        /// The limit in bytes.
        limit: u64,
    },
    /// The server speaks HTTP, but is no registry.
    #[error("{url} is not a registry: {why}")]
    NotARegistry {
        /// The address asked.
        url: String,
        /// What it sent instead.
        why: String,
    },
    /// What is to be sent cannot be read.
    #[error("cannot read what is to be sent")]
    Content {
        /// Why.
        source: io::Error,
    },
    /// The TLS handshake failed, or the certificate is not trusted.
    #[error("no trusted TLS connection to {url}")]
    Tls {
        /// The address asked.
        url: String,
        /// The TLS library's reason.
        source: Source,
    },
    /// No connection.
    #[error("cannot connect to {url}")]
    Connect {
        /// The address asked.
        url: String,
        /// The system's reason.
        source: Source,
    },
    /// The name of the host has no address.
    #[error("the host of {url} has no address")]
    Resolve {
        /// The address asked.
        url: String,
        /// The resolver's reason.
        source: Source,
    },
    /// The proxy refused or failed.
    #[error("the proxy {proxy} did not connect to {url}")]
    Proxy {
        /// The address asked.
        url: String,
        /// The proxy, without its password.
        proxy: String,
        /// The reason.
        source: Source,
    },
    /// A proxy variable that is no proxy.
    #[error("{variable} is not a proxy address: {value:?}")]
    ProxyVariable {
        /// The environment variable.
        variable: String,
        /// Its value, without user and password.
        value: String,
    },
    /// No byte came for as long as the stall limit.
    #[error("{url} sent nothing for {} s", after.as_secs_f32())]
    Stalled {
        /// The address asked.
        url: String,
        /// The limit.
        after: Duration,
    },
    /// The connection broke inside a body.
    #[error("the connection to {url} was cut after {received} bytes")]
    Interrupted {
        /// The address asked.
        url: String,
        /// Bytes received in all.
        received: u64,
        /// The reason, where there is one.
        source: Source,
    },
    /// The answer is not HTTP, or breaks its rules.
    #[error("{url} did not answer with valid HTTP")]
    Protocol {
        /// The address asked.
        url: String,
        /// The HTTP library's reason.
        source: Source,
    },
    /// A Range request was answered with another range.
    #[error("{url} answered a request for bytes from {from} with {answer:?}")]
    Range {
        /// The address asked.
        url: String,
        /// The first byte asked for.
        from: u64,
        /// Its Content-Range, or the lack of one.
        answer: String,
    },
    /// The token server's answer holds no usable token.
    #[error("the token server {url} gave no usable token: {why}")]
    Token {
        /// The token server's address.
        url: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// A WWW-Authenticate that cannot be met.
    #[error("{url} asks for an authentication that is not supported: {challenge}")]
    Challenge {
        /// The address asked.
        url: String,
        /// The header's value.
        challenge: String,
    },
    /// A redirect that must not, or cannot, be followed.
    #[error("{url} redirects to {location:?}: {why}")]
    Redirect {
        /// The address asked.
        url: String,
        /// Where it pointed.
        location: String,
        /// Why it was not followed.
        why: &'static str,
    },
    /// An address that cannot be made into a request.
    #[error("{url:?} is not a valid address")]
    Url {
        /// The address.
        url: String,
    },
    /// Every endpoint of an image failed.
    #[error("no source has {name}{}", list(failures))]
    Endpoints {
        /// The image or blob asked for.
        name: String,
        /// Each endpoint, in the order tried.
        failures: Vec<EndpointFailure>,
    },
}

fn list(failures: &[EndpointFailure]) -> String {
    failures.iter().map(|f| format!("\n  {}: {}", f.endpoint, chain(&f.error))).collect()
}

/// The error and its sources in one line.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = source.source();
    }
    text
}

impl Error {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Config(error) => return error.hint(),
            Self::Credentials(error) => return error.hint(),
            Self::ShortName { name } => {
                format!("write the registry too, for example docker.io/library/{name}")
            }
            Self::Blocked { .. } => {
                "ask whoever maintains registries.conf on this machine, or use another registry"
                    .to_owned()
            }
            Self::NotFound { .. } => "check the spelling of the name and of the tag; a private \
                                      image may also need a login"
                .to_owned(),
            Self::Unauthorized { registry, with_credentials: false, .. }
            | Self::Denied { registry, with_credentials: false, .. } => {
                format!("check the image's name; if it is private: sampan login {registry}")
            }
            Self::Unauthorized { registry, .. } | Self::Denied { registry, .. } => format!(
                "check the image's name, and that this account may read it; new credentials: \
                 sampan login {registry}"
            ),
            Self::RateLimited { retry_after, .. } => match retry_after {
                Some(wait) => {
                    format!("wait {} s, or log in for a higher limit", wait.as_secs().max(1))
                }
                None => "wait a while, or log in for a higher limit".to_owned(),
            },
            Self::Server { .. } => "the registry has a fault of its own; try later".to_owned(),
            Self::UnexpectedStatus { .. } | Self::NotARegistry { .. } | Self::Protocol { .. } => {
                "check the registry's name and port; a proxy or a login page of the network may \
                 be answering in its place"
                    .to_owned()
            }
            Self::DigestMismatch { .. } | Self::SizeMismatch { .. } | Self::Range { .. } => {
                "the registry, a mirror or a proxy on the way changes the content; try another \
                 mirror, and tell its operator"
                    .to_owned()
            }
            Self::Content { .. } => return None,
            Self::TooLarge { .. } => "the image is damaged or hostile".to_owned(),
            Self::Tls { url, .. } => format!(
                "put the registry's CA certificate in ~/.config/containers/certs.d/{}/ca.crt, or \
                 set insecure = true for it in registries.conf",
                host_of(url)
            ),
            Self::Connect { .. } | Self::Stalled { .. } | Self::Interrupted { .. } => {
                "check that the registry is up and that this machine reaches it (compute nodes \
                 often need https_proxy)"
                    .to_owned()
            }
            Self::Resolve { .. } => {
                "check the registry's name; without DNS on this machine, set https_proxy".to_owned()
            }
            Self::Proxy { .. } | Self::ProxyVariable { .. } => {
                "check https_proxy, http_proxy, all_proxy and no_proxy".to_owned()
            }
            Self::Token { .. } | Self::Challenge { .. } | Self::Redirect { .. } => {
                "the registry is set up wrongly; tell its operator".to_owned()
            }
            Self::Url { .. } => "check the registry's name".to_owned(),
            Self::Endpoints { failures, .. } => {
                return failures.last().and_then(|failure| failure.error.hint());
            }
        };
        Some(text)
    }

    /// Whether the same request may succeed a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::RateLimited { .. }
                | Self::Server { .. }
                | Self::Connect { .. }
                | Self::Stalled { .. }
                | Self::Interrupted { .. }
                | Self::Protocol { .. }
                | Self::Proxy { .. }
        )
    }

    /// The registry error inside what [`crate::BlobReader`] returns.
    #[must_use]
    pub fn from_io(error: &io::Error) -> Option<&Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref())
    }

    /// The error that tells the most: the one of the last endpoint.
    #[must_use]
    pub fn root(&self) -> &Self {
        match self {
            Self::Endpoints { failures, .. } => failures.last().map_or(self, |f| f.error.root()),
            other => other,
        }
    }
}

fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// Why a configuration file is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file or directory could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not TOML, or not a registries.conf.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A certificate or key under certs.d.
    #[error("{} is not usable: {message}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

impl ConfigError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } => None,
            Self::Syntax { .. } => Some("see containers-registries.conf(5)".to_owned()),
            Self::Certificate { .. } => Some("see containers-certs.d(5)".to_owned()),
        }
    }
}

/// Why credentials are of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not JSON, or not of the form of auth.json.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// The helper's name could name another program than docker-credential-*.
    #[error("{name:?} is not a credential helper's name")]
    HelperName {
        /// The name in the file.
        name: String,
    },
    /// The helper could not be run.
    #[error("cannot run {program}")]
    HelperRun {
        /// The program.
        program: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The helper failed.
    #[error("{program} {action} failed: {message}")]
    HelperFailed {
        /// The program.
        program: String,
        /// get, store or erase.
        action: &'static str,
        /// What it printed.
        message: String,
    },
    /// The helper printed something else than credentials.
    #[error("{program} printed no credentials")]
    HelperAnswer {
        /// The program.
        program: String,
        /// The parser's reason.
        source: serde_json::Error,
    },
    /// Neither HOME nor XDG_CONFIG_HOME says where to keep credentials.
    #[error("no place to keep credentials: HOME is not set")]
    NoPlace,
    /// User names with a colon cannot be sent by the Basic scheme.
    #[error("a user name must not be empty nor contain a colon")]
    UserName,
}

impl CredentialError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Syntax { path, .. } => {
                Some(format!("repair {} or move it away, then log in again", path.display()))
            }
            Self::HelperRun { program, .. } => {
                Some(format!("install {program}, or take it out of credHelpers and credsStore"))
            }
            Self::NoPlace => Some("set HOME or REGISTRY_AUTH_FILE".to_owned()),
            _ => None,
        }
    }
}
