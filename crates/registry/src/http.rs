//! One HTTP exchange: agents per host, redirects, and what failures mean.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use ureq::http::header::HeaderName;
use ureq::http::{Method, Request, Response, StatusCode, Uri, header};
use ureq::{Agent, Body, Timeout};

use crate::certs;
use crate::environment::Environment;
use crate::error::Error;
use crate::proxy::{self, Proxies};
use crate::resolver::{HostResolver, Unknown};

/// The most redirects that one request follows.
const MAX_REDIRECTS: usize = 10;
/// The most bytes of an answer's head.
const MAX_HEADER: usize = 64 << 10;

/// Time limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connect: Duration,
    pub(crate) stall: Duration,
}

#[derive(PartialEq, Eq, Hash)]
struct AgentKey {
    https: bool,
    authority: String,
    insecure: bool,
}

/// A GET, as far as callers choose.
#[derive(Clone, Copy, Default)]
pub(crate) struct Get<'a> {
    pub(crate) url: &'a str,
    pub(crate) accept: Option<&'a str>,
    pub(crate) authorization: Option<&'a str>,
    /// The first byte wanted; 0 asks for all.
    pub(crate) from: u64,
    pub(crate) insecure: bool,
}

/// A request that may change something, as far as callers choose.
pub(crate) struct Change<'a> {
    pub(crate) method: Method,
    pub(crate) url: &'a str,
    pub(crate) headers: &'a [(HeaderName, String)],
    pub(crate) authorization: Option<&'a str>,
    /// Bytes to send, and how many there are.
    pub(crate) body: Option<(&'a mut dyn Read, u64)>,
    pub(crate) insecure: bool,
}

/// An answer, and the address that gave it after redirects.
pub(crate) struct Answer {
    pub(crate) response: Response<Body>,
    pub(crate) url: String,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The media type without parameters, in lower case.
    pub(crate) fn media_type(&self) -> Option<String> {
        let value = self.header("content-type")?;
        let media_type = value.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        (!media_type.is_empty()).then_some(media_type)
    }

    pub(crate) fn is_html(&self) -> bool {
        self.media_type().is_some_and(|m| m == "text/html" || m == "application/xhtml+xml")
    }
}

/// The HTTP side of a client.
pub(crate) struct Http {
    environment: Environment,
    limits: Limits,
    proxies: Proxies,
    user_agent: String,
    agents: Mutex<HashMap<AgentKey, Agent>>,
    provider: OnceLock<Arc<CryptoProvider>>,
}

impl Http {
    pub(crate) fn new(environment: &Environment, limits: Limits, user_agent: &str) -> Self {
        Self {
            environment: environment.clone(),
            limits,
            proxies: Proxies::new(environment),
            user_agent: user_agent.to_owned(),
            agents: Mutex::default(),
            provider: OnceLock::new(),
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    fn agent(&self, uri: &Uri, insecure: bool) -> Result<Agent, Error> {
        let url = || Error::Url { url: uri.to_string() };
        let authority = uri.authority().ok_or_else(url)?.as_str().to_ascii_lowercase();
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(url()),
        };
        let key = AgentKey { https, authority, insecure };
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let proxy = self.proxies.choose(https, uri.host().unwrap_or(""), port)?;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(self.user_agent.as_str())
            .accept_encoding("identity")
            .max_response_header_size(MAX_HEADER)
            .timeout_resolve(Some(self.limits.connect))
            .timeout_connect(Some(self.limits.connect))
            .timeout_per_read(Some(self.limits.stall))
            .timeout_per_write(Some(self.limits.stall))
            .timeout_send_request(Some(self.limits.stall))
            .timeout_recv_response(Some(self.limits.stall))
            .proxy(proxy.clone());
        let over_tls = proxy.is_some_and(|p| p.protocol() == ureq::ProxyProtocol::Https);
        if https || over_tls {
            let provider = self
                .provider
                .get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
            let host = key.authority.as_str();
            config =
                config.tls_config(certs::tls_config(&self.environment, host, insecure, provider)?);
        }
        let resolver =
            HostResolver::new(self.environment.system.join("hosts"), self.limits.connect);
        let agent = Agent::with_parts(
            config.build(),
            ureq::unversioned::transport::DefaultConnector::default(),
            resolver,
        );
        agents.insert(key, agent.clone());
        Ok(agent)
    }

    /// One request, no redirects.
    pub(crate) fn get_once(&self, get: Get<'_>) -> Result<Answer, Error> {
        let invalid = || Error::Url { url: get.url.to_owned() };
        let uri: Uri = get.url.parse().map_err(|_| invalid())?;
        let mut request = Request::get(get.url);
        if let Some(accept) = get.accept {
            request = request.header(header::ACCEPT, accept);
        }
        if let Some(authorization) = get.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if get.from > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", get.from));
        }
        let request = request.body(()).map_err(|_| invalid())?;
        let agent = self.agent(&uri, get.insecure)?;
        let response = agent.run(request).map_err(|e| self.explain(get.url, e, &agent))?;
        Ok(Answer { response, url: get.url.to_owned() })
    }

    /// Follows redirects. The authorization goes to the first host only, and
    /// never from HTTPS to plain HTTP.
    pub(crate) fn get(&self, get: Get<'_>) -> Result<Answer, Error> {
        let mut url = get.url.to_owned();
        let mut authorization = get.authorization;
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.get_once(Get { url: &url, authorization, ..get })?;
            let redirect = matches!(answer.status(), 301 | 302 | 303 | 307 | 308);
            let Some(location) = answer.header("location").filter(|_| redirect) else {
                return Ok(answer);
            };
            let refuse =
                |why| Error::Redirect { url: url.clone(), location: printable(location), why };
            let next = join(&url, location).ok_or_else(|| refuse("it is not an HTTP address"))?;
            if url.starts_with("https:") && next.starts_with("http:") && !get.insecure {
                return Err(refuse("it leaves HTTPS"));
            }
            if origin(&url) != origin(&next) {
                authorization = None;
            }
            url = next;
        }
        let why = "there are too many redirects";
        Err(Error::Redirect { url: get.url.to_owned(), location: url, why })
    }

    /// A form sent by POST, as token servers take it.
    pub(crate) fn post_form(&self, url: &str, form: &str, insecure: bool) -> Result<Answer, Error> {
        let invalid = || Error::Url { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| invalid())?;
        let request = Request::post(url)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(form.as_bytes())
            .map_err(|_| invalid())?;
        let agent = self.agent(&uri, insecure)?;
        let response = agent.run(request).map_err(|e| self.explain(url, e, &agent))?;
        Ok(Answer { response, url: url.to_owned() })
    }

    /// One request that may change something; no redirects.
    pub(crate) fn change(&self, change: Change<'_>) -> Result<Answer, Error> {
        let invalid = || Error::Url { url: change.url.to_owned() };
        let uri: Uri = change.url.parse().map_err(|_| invalid())?;
        let mut request = Request::builder().method(change.method).uri(change.url);
        for (name, value) in change.headers {
            request = request.header(name, value);
        }
        if let Some(authorization) = change.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let agent = self.agent(&uri, change.insecure)?;
        let ran = match change.body {
            Some((body, length)) => {
                let request = request.header(header::CONTENT_LENGTH, length);
                let mut body = body.take(length);
                let body = ureq::SendBody::from_reader(&mut body);
                agent.run(request.body(body).map_err(|_| invalid())?)
            }
            None => agent.run(request.body(()).map_err(|_| invalid())?),
        };
        let response = ran.map_err(|e| self.explain(change.url, e, &agent))?;
        Ok(Answer { response, url: change.url.to_owned() })
    }

    /// Sorts a failure before the body.
    fn explain(&self, url: &str, error: ureq::Error, agent: &Agent) -> Error {
        let url = url.to_owned();
        if let Some(proxy) = agent.config().proxy() {
            let through = !matches!(
                error,
                ureq::Error::Timeout(Timeout::RecvResponse | Timeout::PerRead)
                    | ureq::Error::Rustls(_)
                    | ureq::Error::Protocol(_)
            );
            if through && tls_error(&error).is_none() {
                let proxy = proxy::without_user(&proxy.uri().to_string()).to_owned();
                return Error::Proxy { url, proxy, source: Box::new(error) };
            }
        }
        match error {
            ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => Error::Connect {
                url,
                source: format!("no answer within {} s", self.limits.connect.as_secs_f32()).into(),
            },
            ureq::Error::Timeout(_) => Error::Stalled { url, after: self.limits.stall },
            ureq::Error::HostNotFound => Error::Resolve { url, source: Box::new(error) },
            ureq::Error::Other(source) if source.is::<Unknown>() => Error::Resolve { url, source },
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => Error::Url { url },
            ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) => {
                Error::Protocol { url, source: Box::new(error) }
            }
            ureq::Error::Io(source) if tls_in(&source).is_some() => {
                Error::Tls { url, source: Box::new(source) }
            }
            ureq::Error::Io(source) if is_cut(&source) => {
                Error::Interrupted { url, received: 0, source: Box::new(source) }
            }
            ureq::Error::Io(source) => Error::Connect { url, source: Box::new(source) },
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => {
                Error::Tls { url, source: Box::new(error) }
            }
            other => Error::Connect { url, source: Box::new(other) },
        }
    }
}

/// Sorts a failure while reading a body.
pub(crate) fn explain_body(url: &str, error: io::Error, stall: Duration, received: u64) -> Error {
    let url = url.to_owned();
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    if matches!(inner, Some(ureq::Error::Timeout(_))) || error.kind() == io::ErrorKind::TimedOut {
        return Error::Stalled { url, after: stall };
    }
    Error::Interrupted { url, received, source: Box::new(error) }
}

fn is_cut(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

fn tls_in(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

fn tls_error(error: &ureq::Error) -> Option<&rustls::Error> {
    match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => tls_in(error),
        _ => None,
    }
}

/// Whether a failed HTTPS attempt may mean that the server speaks plain HTTP.
pub(crate) fn may_be_plain_http(error: &Error, has_port: bool) -> bool {
    match error {
        Error::Tls { source, .. } => {
            let source: &(dyn StdError + 'static) = source.as_ref();
            let tls = source
                .downcast_ref::<ureq::Error>()
                .and_then(tls_error)
                .or_else(|| source.downcast_ref::<io::Error>().and_then(tls_in));
            matches!(tls, Some(rustls::Error::InvalidMessage(_)))
        }
        Error::Interrupted { .. } | Error::Stalled { .. } | Error::Protocol { .. } => true,
        Error::Connect { source, .. } => {
            let refused = source
                .downcast_ref::<io::Error>()
                .is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
            !(refused && has_port)
        }
        _ => false,
    }
}

/// Scheme and authority, with the default port written out.
fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

/// Whether two addresses are of one server.
pub(crate) fn same_origin(a: &str, b: &str) -> bool {
    origin(a).is_some() && origin(a) == origin(b)
}

/// The address that a Location header means.
pub(crate) fn join(base: &str, location: &str) -> Option<String> {
    let location = location.split('#').next().unwrap_or("").trim();
    let lower = location.get(..8).unwrap_or(location).to_ascii_lowercase();
    let next = if lower.starts_with("http://") || lower.starts_with("https://") {
        let (scheme, rest) = location.split_once(':')?;
        format!("{}:{rest}", scheme.to_ascii_lowercase())
    } else if location.starts_with("//") {
        format!("{}:{location}", base.split_once(':')?.0)
    } else {
        let scheme_end = base.find("://")? + 3;
        let path_start = base[scheme_end..].find('/').map_or(base.len(), |i| i + scheme_end);
        if location.starts_with('/') {
            format!("{}{location}", &base[..path_start])
        } else if location.is_empty() || location.split('/').next()?.contains(':') {
            return None;
        } else {
            let path = base.split('?').next()?;
            let end = path.rfind('/').filter(|end| *end >= path_start)?;
            format!("{}/{location}", &path[..end])
        }
    };
    next.parse::<Uri>().ok().filter(|uri| uri.authority().is_some()).map(|_| next)
}

/// A server's words, fit for a terminal: one line, no control characters,
/// bounded.
pub(crate) fn printable(text: &str) -> String {
    let clean: String = text
        .chars()
        .map(|c| if c.is_control() || c.is_whitespace() { ' ' } else { c })
        .take(300)
        .collect();
    clean.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The standard words for a status.
pub(crate) fn status_words(status: u16) -> String {
    let words = StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason());
    words.map_or_else(|| format!("HTTP {status}"), |words| format!("HTTP {status} {words}"))
}

#[cfg(test)]
pub(crate) fn hostile(text: &str) {
    if let Some(url) = join("https://r.io/v2/x", text) {
        assert!(url.parse::<Uri>().is_ok_and(|uri| uri.authority().is_some()), "{url}");
    }
    let _ = same_origin(text, text);
    assert!(printable(text).chars().all(|c| !c.is_control()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_joined() {
        let base = "https://r.io:5000/v2/a/blobs/x?y=1";
        for (location, expected) in [
            ("https://cdn.net/z?sig=a%2Fb", Some("https://cdn.net/z?sig=a%2Fb")),
            ("HTTP://Cdn/z", Some("http://Cdn/z")),
            ("//cdn.net/z", Some("https://cdn.net/z")),
            ("/z?q", Some("https://r.io:5000/z?q")),
            ("z", Some("https://r.io:5000/v2/a/blobs/z")),
            ("ftp://x/y", None),
            ("javascript:x", None),
            ("", None),
            ("https://", None),
            ("/a b", None),
        ] {
            assert_eq!(join(base, location).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn origins_know_default_ports() {
        assert!(same_origin("https://a/x", "https://A:443/y"));
        assert!(!same_origin("https://a/x", "http://a/x"));
        assert!(!same_origin("https://a:1/x", "https://a:2/x"));
    }

    #[test]
    fn words_of_servers_are_tamed() {
        assert_eq!(printable("a\n\u{1b}[31mb\t c"), "a [31mb c");
        assert!(printable(&"x".repeat(10_000)).len() <= 300);
    }
}
