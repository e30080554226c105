//! What a registry's refusals mean.

use std::io::Read;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::error::Error;
use crate::http::{Answer, printable, status_words};
use crate::retry::parse_retry_after;

/// The most bytes of an error's body that are read.
const MAX_DETAIL: u64 = 64 << 10;

/// What a request was about, for its error.
pub(crate) struct Asked<'a> {
    pub(crate) what: &'a str,
    pub(crate) registry: &'a str,
    pub(crate) with_credentials: bool,
    pub(crate) stall: Duration,
}

/// The error of the distribution specification, section "Error Codes".
#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Turns an answer that is not a success into an error.
pub(crate) fn status_error(answer: Answer, asked: &Asked<'_>) -> Error {
    let status = answer.status();
    let html = answer.is_html();
    let marked = answer.header("docker-distribution-api-version").is_some();
    let retry_after =
        answer.header("retry-after").and_then(|value| parse_retry_after(value, SystemTime::now()));
    let url = answer.url.split('?').next().unwrap_or_default().to_owned();
    if status == 429 || (status == 503 && retry_after.is_some()) {
        return Error::RateLimited { url, status, retry_after };
    }
    if html && !marked && (200..500).contains(&status) {
        let why = format!("it answered with a web page ({})", status_words(status));
        return Error::NotARegistry { url, why };
    }
    let detail = if html { status_words(status) } else { detail(answer) };
    let registry = asked.registry.to_owned();
    let with_credentials = asked.with_credentials;
    match status {
        401 => Error::Unauthorized { registry, url, detail, with_credentials },
        403 => Error::Denied { registry, url, detail, with_credentials },
        404 | 410 => Error::NotFound { what: asked.what.to_owned(), url, detail },
        408 => Error::Stalled { url, after: asked.stall },
        500..=599 => Error::Server { url, status, detail },
        _ => Error::UnexpectedStatus { url, status, detail },
    }
}

/// The registry's own words, or those of the status.
fn detail(answer: Answer) -> String {
    let words = status_words(answer.status());
    let mut bytes = Vec::new();
    let body = answer.response.into_body().into_with_config().limit(u64::MAX).reader();
    // What came before an interruption may still explain the status.
    let _ = body.take(MAX_DETAIL).read_to_end(&mut bytes);
    match parse_errors(&bytes) {
        Some(text) => format!("{words} ({text})"),
        None => words,
    }
}

fn parse_errors(bytes: &[u8]) -> Option<String> {
    let body: ErrorBody = serde_json::from_slice(bytes).ok()?;
    let parts: Vec<String> = body
        .errors
        .iter()
        .take(3)
        .map(|e| match (e.code.is_empty(), e.message.is_empty()) {
            (false, false) => format!("{}: {}", e.code, e.message),
            _ => format!("{}{}", e.code, e.message),
        })
        .filter(|part| !part.is_empty())
        .collect();
    (!parts.is_empty()).then(|| printable(&parts.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies() {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no\nsuch","detail":{}}]}"#;
        assert_eq!(parse_errors(body).as_deref(), Some("MANIFEST_UNKNOWN: no such"));
        for bad in [&b""[..], b"{}", b"{\"errors\":[]}", b"{\"errors\":[1]}", b"<html>"] {
            assert_eq!(parse_errors(bad), None);
        }
    }
}
