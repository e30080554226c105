//! Who asks: challenges, credentials and the files that keep them.

mod challenge;
mod file;
mod helper;

pub use challenge::{Challenge, parse_challenges};
pub use file::{CredentialFiles, Stored};

use std::fmt;

/// What a registry accepts as proof.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user name and a password or access token.
    Password {
        /// The user name, without a colon.
        username: String,
        /// The password.
        password: String,
    },
    /// A refresh token, exchanged for access tokens (`identitytoken`).
    IdentityToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { username, .. } => write!(f, "Password({username:?}, …)"),
            Self::IdentityToken(_) => write!(f, "IdentityToken(…)"),
        }
    }
}
