//! Host names without getaddrinfo: a static executable must not load the
//! host's name service modules, so a `getent` child does that.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// How long an answer of `getent` is used again.
const KEEP: Duration = Duration::from_secs(60);
/// The most addresses that the HTTP library takes.
const MAX_ADDRESSES: usize = 16;

type Cache = HashMap<String, (Instant, Vec<IpAddr>)>;

/// Resolves IP literals, `localhost`, /etc/hosts, then `getent ahosts`.
#[derive(Debug)]
pub(crate) struct HostResolver {
    hosts: PathBuf,
    limit: Duration,
    cache: Mutex<Cache>,
}

impl HostResolver {
    pub(crate) fn new(hosts: PathBuf, limit: Duration) -> Self {
        Self { hosts, limit, cache: Mutex::default() }
    }

    fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        if name == "localhost" || name.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        if let Ok(text) = fs::read_to_string(&self.hosts) {
            let found = in_hosts(&text, &name);
            if !found.is_empty() {
                return Ok(found);
            }
        }
        if let Ok(cache) = self.cache.lock()
            && let Some((at, found)) = cache.get(&name)
            && at.elapsed() < KEEP
        {
            return Ok(found.clone());
        }
        let found = getent(&name, self.limit)?;
        if let Ok(mut cache) = self.cache.lock() {
            cache.insert(name, (Instant::now(), found.clone()));
        }
        Ok(found)
    }
}

impl Resolver for HostResolver {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or_else(|| ureq::Error::BadUri(uri.to_string()))?;
        let default = match uri.scheme_str() {
            Some("https") => 443,
            Some(scheme) if scheme.starts_with("socks") => 1080,
            _ => 80,
        };
        let port = uri.port_u16().unwrap_or(default);
        let found = self.addresses(host).map_err(|e| ureq::Error::Other(Box::new(Unknown(e))))?;
        let mut result = self.empty();
        for address in found.into_iter().take(MAX_ADDRESSES) {
            result.push(SocketAddr::new(address, port));
        }
        if result.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(result) }
    }
}

/// Marks a failure of the resolver among the errors of the HTTP library.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unknown(io::Error);

/// The addresses that a hosts(5) file gives a name, in the order of the file.
fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or("");
        let mut words = line.split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
        if words.any(|word| word.eq_ignore_ascii_case(name)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

fn getent(name: &str, limit: Duration) -> io::Result<Vec<IpAddr>> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if name.is_empty() || name.len() > 253 || name.starts_with('-') || !name.bytes().all(good) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a host name"));
    }
    let mut child = Command::new("getent")
        .args(["ahosts", name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("cannot run getent: {e}")))?;
    let (sender, receiver) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut text = String::new();
            let read = stdout.take(1 << 20).read_to_string(&mut text).map(|_| text);
            // The receiver may have given up.
            let _ = sender.send(read);
        });
    }
    let answer = receiver.recv_timeout(limit);
    if answer.is_err() {
        // It may have ended by itself; wait() below tells no more than that.
        let _ = child.kill();
    }
    child.wait()?;
    let timeout = |_| io::Error::new(io::ErrorKind::TimedOut, "the name service did not answer");
    let found = parse_ahosts(&answer.map_err(timeout)??);
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{name} is not known")));
    }
    Ok(found)
}

/// The first column of `getent ahosts`, each address once.
fn parse_ahosts(text: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(Ok(address)) = line.split_whitespace().next().map(str::parse)
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_localhost_and_hosts() {
        let directory = tempfile::tempdir().unwrap();
        let hosts = directory.path().join("hosts");
        fs::write(&hosts, "# c\n10.0.0.1 a.b Reg.Example # reg\n::2 reg.example\nx y\n").unwrap();
        let resolver = HostResolver::new(hosts, Duration::from_secs(5));
        let text = |host: &str| {
            let found = resolver.addresses(host).unwrap();
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(text("127.0.0.1"), ["127.0.0.1"]);
        assert_eq!(text("[::1]"), ["::1"]);
        assert_eq!(text("localhost"), ["127.0.0.1", "::1"]);
        assert_eq!(text("reg.example"), ["10.0.0.1", "::2"]);
        for bad in ["-v", "a b", "", "a/b"] {
            assert!(resolver.addresses(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn getent_lines() {
        let text = "93.184.1.1 STREAM h\n93.184.1.1 DGRAM\n::1 RAW\ngarbage\n";
        assert_eq!(parse_ahosts(text).len(), 2);
    }
}
