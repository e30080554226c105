//! Answers to challenges: Basic, and Bearer tokens with their cache.
//!
//! Source: the token authentication specification of distribution.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::auth::{Challenge, Credentials, parse_challenges};
use crate::error::Error;
use crate::http::{Answer, Get, Http, explain_body};
use crate::status::{Asked, status_error};

/// The most bytes of a token server's answer.
const MAX_TOKEN: u64 = 1 << 20;
/// How long a token lasts that does not say so.
const DEFAULT_LIFE: u64 = 60;

/// An Authorization header's value and how long it is good for.
#[derive(Clone)]
pub(crate) struct Authorization {
    pub(crate) value: String,
    pub(crate) with_credentials: bool,
    expires: Option<Instant>,
}

/// What was proved before, by registry and repository.
#[derive(Default)]
pub(crate) struct TokenCache(Mutex<HashMap<(String, String), Authorization>>);

impl TokenCache {
    pub(crate) fn get(&self, registry: &str, repository: &str) -> Option<Authorization> {
        let cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = cache.get(&(registry.to_owned(), repository.to_owned()))?;
        let fresh = found.expires.is_none_or(|expires| Instant::now() < expires);
        fresh.then(|| found.clone())
    }

    pub(crate) fn put(&self, registry: &str, repository: &str, authorization: Authorization) {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cache.insert((registry.to_owned(), repository.to_owned()), authorization);
    }
}

/// Who asks for what, and with which proof.
#[derive(Clone, Copy)]
pub(crate) struct Applicant<'a> {
    pub(crate) registry: &'a str,
    /// Asked for where the challenge names no scope; empty for a login.
    pub(crate) scope: &'a str,
    pub(crate) credentials: Option<&'a Credentials>,
    pub(crate) insecure: bool,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// The Authorization that meets a 401's challenges.
pub(crate) fn answer_challenge(
    http: &Http,
    refused: &Answer,
    applicant: Applicant<'_>,
) -> Result<Authorization, Error> {
    let headers = refused.response.headers().get_all("www-authenticate");
    let words: Vec<&str> = headers.iter().filter_map(|value| value.to_str().ok()).collect();
    let challenges: Vec<Challenge> =
        words.iter().flat_map(|value| parse_challenges(value)).take(32).collect();
    let unauthorized = |detail: &str| Error::Unauthorized {
        registry: applicant.registry.to_owned(),
        url: refused.url.clone(),
        detail: detail.to_owned(),
        with_credentials: applicant.credentials.is_some(),
    };
    let with_realm = |c: &&Challenge| c.scheme == "bearer" && c.get("realm").is_some();
    if let Some(challenge) = challenges.iter().find(with_realm) {
        return bearer(http, refused, challenge, applicant);
    }
    if challenges.iter().any(|c| c.scheme == "basic") {
        return match applicant.credentials {
            Some(Credentials::Password { username, password }) => Ok(Authorization {
                value: basic(username, password),
                with_credentials: true,
                expires: None,
            }),
            Some(Credentials::IdentityToken(_)) => {
                Err(unauthorized("it takes a password, and an identity token is kept for it"))
            }
            None => Err(unauthorized("it takes a user name and a password")),
        };
    }
    let challenge = crate::http::printable(&words.join(", "));
    Err(if challenge.is_empty() {
        unauthorized("it does not say how to log in")
    } else {
        Error::Challenge { url: refused.url.clone(), challenge }
    })
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

fn bearer(
    http: &Http,
    refused: &Answer,
    challenge: &Challenge,
    applicant: Applicant<'_>,
) -> Result<Authorization, Error> {
    let realm = challenge.get("realm").unwrap_or("");
    let unusable = || Error::Challenge {
        url: refused.url.clone(),
        challenge: crate::http::printable(&format!("Bearer realm={realm:?}")),
    };
    let plain = realm.starts_with("http://");
    // A registry behind TLS must not have the password sent in the clear.
    let plain_is_fine = applicant.insecure || refused.url.starts_with("http://");
    if !(realm.starts_with("https://") || plain && plain_is_fine) {
        return Err(unusable());
    }
    let service = challenge.get("service").unwrap_or("");
    let scope = challenge.get("scope").unwrap_or(applicant.scope);
    let mut form = String::new();
    push(&mut form, "service", service);
    for one in scope.split(' ') {
        push(&mut form, "scope", one);
    }
    let answer = match applicant.credentials {
        Some(Credentials::IdentityToken(token)) => {
            let mut form = String::new();
            push(&mut form, "grant_type", "refresh_token");
            push(&mut form, "service", service);
            push(&mut form, "client_id", "sampan");
            push(&mut form, "scope", scope);
            push(&mut form, "refresh_token", token);
            http.post_form(realm, &form, applicant.insecure)?
        }
        other => {
            let authorization = match other {
                Some(Credentials::Password { username, password }) => {
                    push(&mut form, "account", username);
                    Some(basic(username, password))
                }
                _ => None,
            };
            let separator = match (form.is_empty(), realm.contains('?')) {
                (true, _) => "",
                (false, true) => "&",
                (false, false) => "?",
            };
            http.get(Get {
                url: &format!("{realm}{separator}{form}"),
                accept: Some("application/json"),
                authorization: authorization.as_deref(),
                from: 0,
                insecure: applicant.insecure,
            })?
        }
    };
    let with_credentials = applicant.credentials.is_some();
    if answer.status() != 200 {
        let asked = Asked {
            what: "the token",
            registry: applicant.registry,
            with_credentials,
            stall: http.limits().stall,
        };
        return Err(match answer.status() {
            // Token servers answer 400, 403 or 404 to wrong credentials too.
            400 | 401 | 404 => Error::Unauthorized {
                registry: applicant.registry.to_owned(),
                url: answer.url.clone(),
                detail: crate::http::status_words(answer.status()),
                with_credentials,
            },
            _ => status_error(answer, &asked),
        });
    }
    read_token(http, answer, with_credentials)
}

fn read_token(http: &Http, answer: Answer, with_credentials: bool) -> Result<Authorization, Error> {
    let url = answer.url.split('?').next().unwrap_or_default().to_owned();
    let mut bytes = Vec::new();
    answer
        .response
        .into_body()
        .into_with_config()
        .limit(u64::MAX)
        .reader()
        .take(MAX_TOKEN + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| explain_body(&url, e, http.limits().stall, 0))?;
    let bad = |why: &str| Error::Token { url: url.clone(), why: why.to_owned() };
    if bytes.len() as u64 > MAX_TOKEN {
        return Err(bad("the answer is larger than 1 MiB"));
    }
    let parsed: TokenAnswer =
        serde_json::from_slice(&bytes).map_err(|e| bad(&format!("the answer is not JSON: {e}")))?;
    let token = parsed.token.filter(|t| !t.is_empty()).or(parsed.access_token);
    let token = token.filter(|t| !t.is_empty()).ok_or_else(|| bad("it has no token"))?;
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(bad("the token has characters that no header may have"));
    }
    let life = parsed.expires_in.filter(|s| *s > 0).unwrap_or(DEFAULT_LIFE).min(86_400);
    // Renewed a little early, so that it does not end on the way.
    let life = Duration::from_secs(life).mul_f32(0.9);
    let expires = Instant::now().checked_add(life);
    Ok(Authorization { value: format!("Bearer {token}"), with_credentials, expires })
}

fn push(form: &mut String, name: &str, value: &str) {
    use std::fmt::Write;
    if value.is_empty() {
        return;
    }
    if !form.is_empty() {
        form.push('&');
    }
    form.push_str(name);
    form.push('=');
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            form.push(char::from(byte));
        } else {
            let _ = write!(form, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_encoded() {
        let mut form = String::new();
        push(&mut form, "scope", "repository:a/b:pull");
        push(&mut form, "service", "");
        push(&mut form, "account", "é &=");
        assert_eq!(form, "scope=repository%3Aa%2Fb%3Apull&account=%C3%A9%20%26%3D");
    }
}
