//! What reads bytes from outside here, for `fuzz/` alone.

use std::path::Path;

use crate::{edf, kept};

/// A name, and what says whether an input was good.
pub type Parser = (&'static str, fn(&[u8]) -> bool);

/// All of them.
pub const PARSERS: [Parser; 2] = [
    ("edf", |input| {
        let vars = |name: &str| (name == "USER").then(|| "me".into());
        let text = String::from_utf8(input.to_vec());
        text.is_ok_and(|text| edf::parse(Path::new("/nowhere/e.toml"), text, &vars).is_ok())
    }),
    ("kept", |input| kept::parse(input).is_some()),
];
