//! HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, as curl and Go read them:
//! lower case wins over upper case, loopback is never proxied.

use std::net::IpAddr;

use crate::environment::Environment;
use crate::error::Error;

/// The proxies of this environment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies {
    https: Option<(String, String)>,
    http: Option<(String, String)>,
    none: Vec<String>,
}

impl Proxies {
    pub(crate) fn new(environment: &Environment) -> Self {
        let pick = |names: [&str; 4]| {
            let found = names.iter().find_map(|name| Some((*name, environment.get(name)?)));
            found.map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        let none = environment.get("no_proxy").or_else(|| environment.get("NO_PROXY"));
        Self {
            https: pick(["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            http: pick(["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
            none: none
                .unwrap_or("")
                .split([',', ' '])
                .map(|entry| entry.trim().to_ascii_lowercase())
                .filter(|entry| !entry.is_empty())
                .collect(),
        }
    }

    /// The proxy for a host, as the HTTP library's own type.
    pub(crate) fn choose(
        &self,
        https: bool,
        host: &str,
        port: u16,
    ) -> Result<Option<ureq::Proxy>, Error> {
        let chosen = if https { &self.https } else { &self.http };
        let Some((variable, value)) = chosen else { return Ok(None) };
        if self.is_direct(host, port) {
            return Ok(None);
        }
        let proxy = ureq::Proxy::new(value).map_err(|_| Error::ProxyVariable {
            variable: variable.clone(),
            value: without_user(value).to_owned(),
        })?;
        Ok(Some(proxy))
    }

    fn is_direct(&self, host: &str, port: u16) -> bool {
        let host = bare(host).trim_end_matches('.').to_ascii_lowercase();
        if is_loopback(&host) {
            return true;
        }
        let address = host.parse::<IpAddr>().ok();
        self.none.iter().any(|entry| {
            if entry == "*" {
                return true;
            }
            if let (Some(address), Some((network, bits))) = (address, entry.split_once('/')) {
                return in_network(address, network, bits);
            }
            let (name, wanted) = split_port(entry);
            if wanted.is_some_and(|wanted| wanted != port) {
                return false;
            }
            if let Some(address) = address {
                return name.parse() == Ok(address);
            }
            let name = name.trim_start_matches('*').trim_start_matches('.');
            let suffix = host.strip_suffix(name);
            !name.is_empty() && suffix.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    }
}

/// Whether a host is this machine by its name alone.
pub(crate) fn is_loopback(host: &str) -> bool {
    let host = bare(host);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// A proxy's address without user and password.
pub(crate) fn without_user(value: &str) -> &str {
    value.rsplit_once('@').map_or(value, |(_, rest)| rest)
}

fn split_port(entry: &str) -> (&str, Option<u16>) {
    if let Some(rest) = entry.strip_prefix('[')
        && let Some((host, port)) = rest.split_once(']')
    {
        return (host, port.strip_prefix(':').and_then(|p| p.parse().ok()));
    }
    match entry.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, port.parse().ok()),
        _ => (entry, None),
    }
}

fn in_network(address: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    let (a, n, width) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (u128::from(a.to_bits()), u128::from(n.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits(), n.to_bits(), 128),
        _ => return false,
    };
    let Some(shift) = u32::checked_sub(width, bits) else { return false };
    a.checked_shr(shift).unwrap_or(0) == n.checked_shr(shift).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Proxies::new(&Environment { variables, system: "/etc".into() })
    }

    #[test]
    fn the_scheme_and_the_case_choose() {
        let p = proxies(&[
            ("HTTPS_PROXY", "http://a:1"),
            ("https_proxy", "http://b:2"),
            ("ALL_PROXY", "socks5://c:3"),
        ]);
        assert_eq!(p.choose(true, "r.io", 443).unwrap().unwrap().port(), 2);
        assert_eq!(p.choose(false, "r.io", 80).unwrap().unwrap().port(), 3);
        assert!(p.choose(true, "127.0.0.1", 443).unwrap().is_none());
        assert!(p.choose(true, "[::1]", 443).unwrap().is_none());
        let error = proxies(&[("http_proxy", "foo://u:secret@x")]).choose(false, "r.io", 80);
        let error = error.unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn no_proxy_knows_domains_networks_and_ports() {
        let p = proxies(&[(
            "no_proxy",
            "example.com, .corp.net,10.0.0.0/8,fd00::/8,r.io:5000,192.168.1.7,*.wild.org,[fe80::1]:80",
        )]);
        for (host, port, direct) in [
            ("example.com", 443, true),
            ("a.example.com", 443, true),
            ("badexample.com", 443, false),
            ("x.corp.net", 443, true),
            ("10.3.4.5", 80, true),
            ("11.3.4.5", 80, false),
            ("[fd00::5]", 80, true),
            ("r.io", 5000, true),
            ("r.io", 443, false),
            ("192.168.1.7", 1, true),
            ("a.wild.org", 1, true),
            ("fe80::1", 80, true),
            ("fe80::1", 81, false),
            ("localhost", 1, true),
        ] {
            assert_eq!(p.is_direct(host, port), direct, "{host}:{port}");
        }
        assert!(proxies(&[("NO_PROXY", "*")]).is_direct("x", 1));
        assert!(!proxies(&[("no_proxy", "10.0.0.0/99")]).is_direct("10.0.0.1", 1));
        assert!(proxies(&[("no_proxy", "0.0.0.0/0")]).is_direct("10.0.0.1", 1));
    }
}
