//! A client for OCI distribution registries: pull and push.
//!
//! Blocking, no global state. A [`Client`] knows where a name leads
//! (registries.conf), whom to trust (certs.d), who asks (auth.json, docker's
//! config.json, credential helpers) and how to get there (proxies). What it
//! returns has been checked against its digest; what breaks on the way is
//! tried again within the limits of [`RetryPolicy`].
//!
//! | module | what it does | source |
//! |---|---|---|
//! | `client`, `blob`, `push` | manifests, blobs, login | OCI distribution-spec 1.1 |
//! | `config` | short names, mirrors, rewrites, blocks | containers-registries.conf(5) |
//! | `auth`, `token` | credentials and tokens | containers-auth.json(5), distribution's token specification |
//! | `certs` | authorities and client certificates | containers-certs.d(5) |
//! | `retry` | waits | RFC 9110, 10.2.3 |
#![forbid(unsafe_code)]

mod auth;
mod blob;
mod certs;
mod client;
mod config;
mod digest;
mod environment;
mod error;
mod http;
mod proxy;
mod push;
mod resolver;
mod retry;
mod status;
mod token;

pub use auth::{Challenge, CredentialFiles, Credentials, Stored, parse_challenges};
pub use blob::BlobReader;
pub use client::{Client, ClientOptions, Manifest, Notice, NoticeSink};
pub use config::{By, Endpoint, RegistriesConf, configuration_files};
pub use environment::Environment;
pub use error::{ConfigError, CredentialError, EndpointFailure, Error, Source};
pub use push::{Content, Open, Pushed};
pub use retry::RetryPolicy;

#[cfg(test)]
mod hostile {
    use std::time::SystemTime;

    /// Texts made of what the parsers look for, in every order: none may panic.
    #[test]
    fn parsers_take_any_text() {
        let parts = [
            "Bearer",
            "=",
            "\"",
            ",",
            " ",
            "\\",
            "é",
            "bytes",
            "-",
            "/",
            "*",
            "99999999999999999999",
            "Nov",
            ":",
            "0",
            "GMT",
            "//",
            "http://",
            "[",
            "]",
            "@",
            "\u{0}",
        ];
        let mut state = 1u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..12 {
                // Knuth's linear congruential generator: the same texts in each run.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                text.push_str(parts[(state >> 33) as usize % parts.len()]);
            }
            let challenges = crate::parse_challenges(&text);
            assert!(challenges.len() <= text.len());
            let _ = crate::retry::parse_retry_after(&text, SystemTime::UNIX_EPOCH);
            crate::blob::hostile(&text);
            crate::http::hostile(&text);
        }
    }
}
