//! The client: names to manifests and blobs.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use types::{Algorithm, Digest, RegistryRef, media};

use crate::auth::{CredentialFiles, Credentials, Stored};
use crate::blob::BlobReader;
use crate::config::{By, Endpoint, RegistriesConf};
use crate::digest::Hasher;
use crate::environment::Environment;
use crate::error::{EndpointFailure, Error, chain};
use crate::http::{Answer, Get, Http, Limits, explain_body, may_be_plain_http, same_origin};
use crate::proxy::is_loopback;
use crate::retry::RetryPolicy;
use crate::status::{Asked, status_error};
use crate::token::{Applicant, TokenCache, answer_challenge};

/// The most bytes of an image manifest, as the distribution specification
/// asks registries to accept.
const MAX_MANIFEST: u64 = 4 << 20;
/// The most bytes of an image index.
const MAX_INDEX: u64 = 8 << 20;
/// Attempts to connect before an unreachable registry is an error.
const CONNECT_ATTEMPTS: u32 = 3;

/// What happens on the way that is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// A request failed and is sent again after a wait.
    Retry {
        /// The address.
        url: String,
        /// Why it failed.
        reason: String,
        /// How many attempts failed so far without progress.
        failures: u32,
        /// How many are made at most.
        attempts: u32,
        /// The wait.
        delay: Duration,
    },
    /// An endpoint was given up and the next is tried.
    NextEndpoint {
        /// The endpoint given up.
        failed: String,
        /// Why.
        reason: String,
        /// The next one.
        next: String,
    },
    /// A registry on this machine, or one called insecure, speaks plain HTTP.
    PlainHttp {
        /// The registry.
        registry: String,
    },
}

/// Where notices go. Called from whichever thread reads.
pub type NoticeSink = Arc<dyn Fn(&Notice) + Send + Sync>;

/// How a client behaves.
#[derive(Clone)]
pub struct ClientOptions {
    /// Variables and directories that lead to configuration.
    pub environment: Environment,
    /// The one credential file to use in place of all others.
    pub auth_file: Option<PathBuf>,
    /// Credentials that win over all files, for the registry named (not for
    /// its mirrors).
    pub credentials: Option<Credentials>,
    /// Plain HTTP and untrusted certificates are allowed everywhere.
    pub insecure: bool,
    /// The longest wait for a connection, TLS included.
    pub connect_timeout: Duration,
    /// The longest wait for the next byte.
    pub stall_timeout: Duration,
    /// How failures are retried.
    pub retry: RetryPolicy,
    /// The User-Agent header.
    pub user_agent: String,
    /// Hears of retries.
    pub notices: Option<NoticeSink>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            environment: Environment::from_process(),
            auth_file: None,
            credentials: None,
            insecure: false,
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            retry: RetryPolicy::default(),
            user_agent: concat!("sampan/", env!("CARGO_PKG_VERSION")).to_owned(),
            notices: None,
        }
    }
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("auth_file", &self.auth_file)
            .field("credentials", &self.credentials)
            .field("insecure", &self.insecure)
            .field("connect_timeout", &self.connect_timeout)
            .field("stall_timeout", &self.stall_timeout)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

/// A manifest or index, checked against its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The document as the registry keeps it.
    pub bytes: Vec<u8>,
    /// Its media type, from the answer or the document itself.
    pub media_type: String,
    /// The digest of `bytes`.
    pub digest: Digest,
    /// The full name that answered: short names are resolved.
    pub name: RegistryRef,
}

/// A client for registries. Cheap to clone; clones share connections, tokens
/// and configuration.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    options: ClientOptions,
    http: Http,
    conf: RegistriesConf,
    files: CredentialFiles,
    tokens: TokenCache,
    /// `http` or `https`, by registry, where both are allowed.
    schemes: Mutex<HashMap<String, &'static str>>,
    /// The endpoint that served a repository's manifest.
    preferred: Mutex<HashMap<String, Endpoint>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl Client {
    /// Reads registries.conf; opens no connection.
    ///
    /// # Errors
    /// A configuration file that cannot be read or parsed.
    pub fn new(options: ClientOptions) -> Result<Self, Error> {
        let conf = RegistriesConf::load(&options.environment)?;
        let limits = Limits { connect: options.connect_timeout, stall: options.stall_timeout };
        let http = Http::new(&options.environment, limits, &options.user_agent);
        let files = CredentialFiles::new(&options.environment, options.auth_file.as_deref());
        Ok(Self {
            inner: Arc::new(Inner {
                options,
                http,
                conf,
                files,
                tokens: TokenCache::default(),
                schemes: Mutex::default(),
                preferred: Mutex::default(),
            }),
        })
    }

    /// The full names that a name may stand for, in the order to try.
    ///
    /// # Errors
    /// [`Error::ShortName`].
    pub fn qualify(&self, name: &RegistryRef) -> Result<Vec<RegistryRef>, Error> {
        self.inner.conf.qualify(name)
    }

    /// The manifest or index of a name, by its digest or else its tag.
    ///
    /// # Errors
    /// Why no endpoint has it; [`Error::Endpoints`] where several were tried.
    pub fn manifest(&self, name: &RegistryRef) -> Result<Manifest, Error> {
        let names = self.inner.conf.qualify(name)?;
        let mut failures = Vec::new();
        for full in &names {
            match self.manifest_of(full) {
                Ok(manifest) => return Ok(manifest),
                Err(error) if is_final(&error) => return Err(error),
                Err(Error::Endpoints { failures: more, .. }) => failures.extend(more),
                Err(error) => {
                    failures.push(EndpointFailure { endpoint: full.to_string(), error });
                }
            }
        }
        Err(one_or_all(name.to_string(), failures))
    }

    fn manifest_of(&self, name: &RegistryRef) -> Result<Manifest, Error> {
        let by = if name.digest.is_some() { By::Digest } else { By::Tag };
        let endpoints = self.inner.conf.endpoints(name, by)?;
        let found = self.first(&name.to_string(), &endpoints, |endpoint, last| {
            self.manifest_at(name, endpoint, last)
        })?;
        let (index, manifest) = found;
        let mut preferred = self.inner.preferred.lock().unwrap_or_else(PoisonError::into_inner);
        preferred.insert(repository_key(name), endpoints[index].clone());
        Ok(manifest)
    }

    /// A blob of a name's repository, digest-checked while it is read. The
    /// first request is made here, so that what is missing is known at once.
    ///
    /// `size` in bytes, from the blob's descriptor; None where unknown.
    ///
    /// # Errors
    /// As [`Client::manifest`]; failures while reading come as [`std::io::Error`]
    /// holding an [`Error`] (see [`Error::from_io`]).
    pub fn blob(
        &self,
        name: &RegistryRef,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<BlobReader, Error> {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for full in self.inner.conf.qualify(name)? {
            let known = {
                let preferred = self.inner.preferred.lock().unwrap_or_else(PoisonError::into_inner);
                preferred.get(&repository_key(&full)).cloned()
            };
            let others = self.inner.conf.endpoints(&full, By::Digest)?;
            if let Some(known) = known {
                // It served the manifest, so it is the likeliest to have the blob.
                endpoints.retain(|e| *e != known);
                endpoints.insert(0, known);
            }
            for endpoint in others {
                if !endpoints.contains(&endpoint) {
                    endpoints.push(endpoint);
                }
            }
        }
        BlobReader::open(self.clone(), endpoints, digest.clone(), size)
    }

    /// What an address gives, whatever serves it: proxies, certificates and
    /// redirects are as for registries. Nothing of it is checked.
    ///
    /// # Errors
    /// Why there is no answer, or another one than 200.
    pub fn download(&self, url: &str) -> Result<impl Read + Send + use<>, Error> {
        self.download_as(url, url, None)
    }

    /// The same from a library, with the token that its host has in the credential
    /// files for `path`, if there is one (`Authorization: Bearer`, RFC 6750). The token
    /// goes to no other host, and over plain HTTP to this machine alone.
    ///
    /// # Errors
    /// Why there is no answer, or another one than 200; credentials that cannot be read.
    pub fn download_from_library(
        &self,
        url: &str,
        path: &str,
    ) -> Result<impl Read + Send + use<>, Error> {
        let uri: ureq::http::Uri = url.parse().map_err(|_| Error::Url { url: url.to_owned() })?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let confidential = uri.scheme_str() == Some("https")
            || self.inner.options.insecure
            || uri.host().is_some_and(is_loopback);
        let found = match confidential {
            true => self.inner.files.find(authority, path)?,
            false => None,
        };
        let token = found.map(|found| match found {
            Credentials::IdentityToken(token) => format!("Bearer {token}"),
            Credentials::Password { password, .. } => format!("Bearer {password}"),
        });
        self.download_as(url, &format!("library://{authority}"), token.as_deref())
    }

    fn download_as(
        &self,
        url: &str,
        place: &str,
        authorization: Option<&str>,
    ) -> Result<impl Read + Send + use<>, Error> {
        let answer = self.retrying(url, true, || {
            let insecure = self.inner.options.insecure;
            let get = Get { url, authorization, insecure, ..Get::default() };
            let answer = self.inner.http.get(get)?;
            if answer.status() == 200 {
                return Ok(answer);
            }
            let stall = self.inner.options.stall_timeout;
            let with_credentials = authorization.is_some();
            let asked = Asked { what: url, registry: place, with_credentials, stall };
            Err(status_error(answer, &asked))
        })?;
        Ok(answer.response.into_body().into_with_config().limit(u64::MAX).reader())
    }

    /// Keeps a library's token under its host, `host[:port][/path]`. It is not checked:
    /// libraries have no address for that.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_token(&self, library: &str, token: &str) -> Result<Stored, Error> {
        let credentials = Credentials::IdentityToken(token.to_owned());
        Ok(self.inner.files.store(library.trim_end_matches('/'), &credentials)?)
    }

    /// Checks credentials against a registry, then keeps them. `registry` may
    /// carry a namespace: `host[:port][/path]`.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] for wrong credentials; nothing is stored then.
    pub fn login(&self, registry: &str, credentials: &Credentials) -> Result<Stored, Error> {
        let key = registry.trim_end_matches('/');
        let host = key.split('/').next().unwrap_or(key);
        let insecure = self.inner.conf.is_insecure(host);
        let endpoint = Endpoint {
            registry: host.to_owned(),
            repository: String::new(),
            insecure,
            mirror: false,
        };
        let url = format!("{}/v2/", self.base(&endpoint)?);
        let insecure = self.allows_insecure(&endpoint);
        let answer = self.retrying(&url, true, || {
            let get = Get { url: &url, insecure, ..Get::default() };
            let first = self.inner.http.get(get)?;
            if first.status() != 401 {
                return Ok(first);
            }
            let applicant =
                Applicant { registry: host, scope: "", credentials: Some(credentials), insecure };
            let authorization = answer_challenge(&self.inner.http, &first, applicant)?;
            self.inner.http.get(Get { authorization: Some(&authorization.value), ..get })
        })?;
        if answer.status() != 200 || answer.is_html() {
            let asked = Asked {
                what: registry,
                registry: host,
                with_credentials: true,
                stall: self.inner.options.stall_timeout,
            };
            return Err(if answer.status() == 404 {
                let why = "it has no /v2/ address".to_owned();
                Error::NotARegistry { url: answer.url, why }
            } else {
                status_error(answer, &asked)
            });
        }
        Ok(self.inner.files.store(key, credentials)?)
    }

    /// Forgets the credentials of a registry, and says where they were kept:
    /// nowhere if the list is empty.
    ///
    /// # Errors
    /// A file that cannot be rewritten, a helper that fails.
    pub fn logout(&self, registry: &str) -> Result<Vec<Stored>, Error> {
        Ok(self.inner.files.erase(registry.trim_end_matches('/'))?)
    }

    pub(crate) fn notify(&self, notice: &Notice) {
        if let Some(sink) = &self.inner.options.notices {
            sink(notice);
        }
    }

    pub(crate) fn stall_timeout(&self) -> Duration {
        self.inner.options.stall_timeout
    }

    /// Asks each endpoint in turn; the index of the one that answered.
    pub(crate) fn first<T>(
        &self,
        name: &str,
        endpoints: &[Endpoint],
        ask: impl Fn(&Endpoint, bool) -> Result<T, Error>,
    ) -> Result<(usize, T), Error> {
        let mut failures = Vec::new();
        for (index, endpoint) in endpoints.iter().enumerate() {
            let next = endpoints.get(index + 1);
            match ask(endpoint, next.is_none()) {
                Ok(value) => return Ok((index, value)),
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => {
                    if let Some(next) = next {
                        self.notify(&Notice::NextEndpoint {
                            failed: endpoint.to_string(),
                            reason: chain(&error),
                            next: next.to_string(),
                        });
                    }
                    failures.push(EndpointFailure { endpoint: endpoint.to_string(), error });
                }
            }
        }
        Err(one_or_all(name.to_owned(), failures))
    }

    /// Repeats a request while its failures are transient.
    pub(crate) fn retrying<T>(
        &self,
        url: &str,
        last_endpoint: bool,
        mut request: impl FnMut() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut failures = 0;
        loop {
            match request() {
                Ok(value) => return Ok(value),
                Err(error) => {
                    failures += 1;
                    if !self.pause(url, &error, failures, last_endpoint) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Waits before the next attempt; false where there is none.
    pub(crate) fn pause(&self, url: &str, error: &Error, failures: u32, last: bool) -> bool {
        let policy = &self.inner.options.retry;
        let attempts = match error {
            // Another endpoint is the quicker way.
            Error::Connect { .. } | Error::Proxy { .. } if !last => 1,
            Error::Connect { .. } | Error::Proxy { .. } => policy.attempts.min(CONNECT_ATTEMPTS),
            _ => policy.attempts,
        };
        if !error.is_transient() || failures >= attempts {
            return false;
        }
        let retry_after = match error {
            Error::RateLimited { retry_after, .. } => *retry_after,
            _ => None,
        };
        let delay = policy.delay(failures, retry_after);
        self.notify(&Notice::Retry {
            url: url.to_owned(),
            reason: chain(error),
            failures,
            attempts,
            delay,
        });
        std::thread::sleep(delay);
        true
    }

    pub(crate) fn allows_insecure(&self, endpoint: &Endpoint) -> bool {
        self.inner.options.insecure || endpoint.insecure
    }

    /// `scheme://host[:port]` of an endpoint. Where plain HTTP is allowed, HTTPS
    /// is tried first and the outcome remembered.
    fn base(&self, endpoint: &Endpoint) -> Result<String, Error> {
        let host = match endpoint.registry.as_str() {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let insecure = self.allows_insecure(endpoint);
        let (name, has_port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, true),
            _ => (host, false),
        };
        if !insecure && !is_loopback(name) {
            return Ok(format!("https://{host}"));
        }
        let known = {
            let schemes = self.inner.schemes.lock().unwrap_or_else(PoisonError::into_inner);
            schemes.get(host).copied()
        };
        if let Some(scheme) = known {
            return Ok(format!("{scheme}://{host}"));
        }
        let try_scheme = |scheme: &str| {
            let url = format!("{scheme}://{host}/v2/");
            self.inner.http.get_once(Get { url: &url, insecure, ..Get::default() })
        };
        let scheme = match try_scheme("https") {
            Ok(_) => "https",
            Err(error) if may_be_plain_http(&error, has_port) => {
                try_scheme("http")?;
                self.notify(&Notice::PlainHttp { registry: host.to_owned() });
                "http"
            }
            Err(error) => return Err(error),
        };
        let mut schemes = self.inner.schemes.lock().unwrap_or_else(PoisonError::into_inner);
        schemes.insert(host.to_owned(), scheme);
        Ok(format!("{scheme}://{host}"))
    }

    /// One request below `/v2/REPOSITORY/`, authorized as needed. Any status
    /// but 200 and 206 is an error.
    pub(crate) fn fetch(
        &self,
        endpoint: &Endpoint,
        path: &str,
        what: &str,
        accept: Option<&str>,
        from: u64,
    ) -> Result<Answer, Error> {
        let url = self.url(endpoint, path)?;
        let insecure = self.allows_insecure(endpoint);
        self.authorized(endpoint, &url, what, &[200, 206], |authorization| {
            self.inner.http.get(Get { url: &url, accept, authorization, from, insecure })
        })
    }

    /// The address of something below `/v2/REPOSITORY/`.
    pub(crate) fn url(&self, endpoint: &Endpoint, path: &str) -> Result<String, Error> {
        Ok(format!("{}/v2/{}/{path}", self.base(endpoint)?, endpoint.repository))
    }

    /// One request, sent again with what its challenge asks for. Any status
    /// but the good ones is an error.
    pub(crate) fn authorized(
        &self,
        endpoint: &Endpoint,
        url: &str,
        what: &str,
        good: &[u16],
        mut send: impl FnMut(Option<&str>) -> Result<Answer, Error>,
    ) -> Result<Answer, Error> {
        let (registry, repository) = (endpoint.registry.as_str(), endpoint.repository.as_str());
        let insecure = self.allows_insecure(endpoint);
        let cached = self.inner.tokens.get(registry, repository);
        let mut with_credentials = cached.as_ref().is_some_and(|a| a.with_credentials);
        let mut answer = send(cached.as_ref().map(|a| a.value.as_str()))?;
        // A redirect's target has no business with the registry's challenge.
        if answer.status() == 401 && same_origin(&answer.url, url) {
            let credentials = self.credentials_for(endpoint)?;
            let scope = format!("repository:{repository}:pull");
            let applicant =
                Applicant { registry, scope: &scope, credentials: credentials.as_ref(), insecure };
            let authorization = answer_challenge(&self.inner.http, &answer, applicant)?;
            with_credentials = authorization.with_credentials;
            answer = send(Some(&authorization.value))?;
            if answer.status() != 401 {
                self.inner.tokens.put(registry, repository, authorization);
            }
        }
        if good.contains(&answer.status()) {
            return Ok(answer);
        }
        let stall = self.inner.options.stall_timeout;
        Err(status_error(answer, &Asked { what, registry, with_credentials, stall }))
    }

    pub(crate) fn http(&self) -> &Http {
        &self.inner.http
    }

    /// Where a name is written to: the registry itself, never a mirror.
    pub(crate) fn home(&self, name: &RegistryRef) -> Result<Endpoint, Error> {
        let names = self.inner.conf.qualify(name)?;
        let [full] = &names[..] else {
            return Err(Error::ShortName { name: name.to_string() });
        };
        let endpoint = self.inner.conf.endpoints(full, By::Tag)?.pop();
        endpoint.ok_or_else(|| Error::ShortName { name: name.to_string() })
    }

    fn credentials_for(&self, endpoint: &Endpoint) -> Result<Option<Credentials>, Error> {
        if let Some(given) = self.inner.options.credentials.as_ref().filter(|_| !endpoint.mirror) {
            return Ok(Some(given.clone()));
        }
        Ok(self.inner.files.find(&endpoint.registry, &endpoint.repository)?)
    }

    fn manifest_at(
        &self,
        name: &RegistryRef,
        endpoint: &Endpoint,
        last: bool,
    ) -> Result<Manifest, Error> {
        let reference = match &name.digest {
            Some(digest) => digest.to_string(),
            None => name.effective_tag().map(|t| t.as_str().to_owned()).unwrap_or_default(),
        };
        let path = format!("manifests/{reference}");
        let accept = media::ACCEPT.join(", ");
        self.retrying(&format!("{endpoint}/{path}"), last, || {
            let answer = self.fetch(endpoint, &path, &name.to_string(), Some(&accept), 0)?;
            self.read_manifest(name, answer)
        })
    }

    fn read_manifest(&self, name: &RegistryRef, answer: Answer) -> Result<Manifest, Error> {
        let url = answer.url.clone();
        let not_registry =
            |why: &str| Error::NotARegistry { url: url.clone(), why: why.to_owned() };
        if answer.is_html() {
            return Err(not_registry("it answered with a web page"));
        }
        let sent_type = answer.media_type();
        let header: Option<Digest> =
            answer.header("docker-content-digest").and_then(|value| value.trim().parse().ok());
        let index =
            sent_type.as_deref().is_some_and(|t| t == media::OCI_INDEX || t == media::DOCKER_LIST);
        let limit = if index { MAX_INDEX } else { MAX_MANIFEST };
        let mut bytes = Vec::new();
        let reader = answer.response.into_body().into_with_config().limit(u64::MAX).reader();
        reader
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| explain_body(&url, e, self.stall_timeout(), 0))?;
        if bytes.len() as u64 > limit {
            return Err(Error::TooLarge { url, what: "manifest", limit });
        }
        let expected = name.digest.as_ref().or(header.as_ref());
        let algorithm = expected.map_or(Algorithm::Sha256, Digest::algorithm);
        let digest = Hasher::of(algorithm, &bytes);
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            return Err(Error::DigestMismatch { url, expected: expected.clone(), actual: digest });
        }
        let shape: Shape = serde_json::from_slice(&bytes)
            .map_err(|_| not_registry("it answered with something that is no manifest"))?;
        let media_type = shape.media_type(sent_type);
        let name = name.clone();
        Ok(Manifest { bytes, media_type, digest, name })
    }
}

/// As much of a manifest as tells what it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
}

impl Shape {
    /// Servers of plain files do not know what they serve; the document does.
    fn media_type(self, sent: Option<String>) -> String {
        let vague = ["application/json", "application/octet-stream", "text/plain"];
        let sent = sent.filter(|t| !vague.contains(&t.as_str()));
        let by_shape =
            if self.manifests.is_some() { media::OCI_INDEX } else { media::OCI_MANIFEST };
        sent.or(self.media_type.filter(|t| !t.is_empty())).unwrap_or_else(|| by_shape.to_owned())
    }
}

/// Errors of this side, which no other endpoint mends.
fn is_final(error: &Error) -> bool {
    matches!(
        error,
        Error::Config(_)
            | Error::Credentials(_)
            | Error::Blocked { .. }
            | Error::ProxyVariable { .. }
    )
}

fn one_or_all(name: String, mut failures: Vec<EndpointFailure>) -> Error {
    match failures.pop() {
        Some(only) if failures.is_empty() => only.error,
        Some(last) => {
            failures.push(last);
            Error::Endpoints { name, failures }
        }
        None => Error::ShortName { name },
    }
}

fn repository_key(name: &RegistryRef) -> String {
    format!("{}/{}", name.domain.as_deref().unwrap_or(""), name.path)
}
