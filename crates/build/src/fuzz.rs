//! What reads bytes from outside here, for `fuzz/` alone.

use crate::{bootstrap, definition, dockerfile, ignore};

/// A name, and what says whether an input was good.
pub type Parser = (&'static str, fn(&[u8]) -> bool);

const RECIPES: [Parser; 3] = [
    ("dockerfile", |input| text(input).is_some_and(|text| dockerfile::parse(text).is_ok())),
    ("definition", |input| {
        let arguments = [("name".to_owned(), "value".to_owned())].into();
        text(input).is_some_and(|text| {
            definition::filled(text, &arguments).and_then(|full| definition::parse(&full)).is_ok()
        })
    }),
    ("ignore", |input| {
        let rules = text(input).and_then(|text| ignore::Ignore::parse(text).ok());
        rules.is_some_and(|rules| rules.excludes("a/b/c.txt") | rules.has_exceptions())
    }),
];

/// All of them.
pub fn parsers() -> impl Iterator<Item = Parser> {
    RECIPES.into_iter().chain(bootstrap::fuzz::PARSERS)
}

pub(crate) fn text(input: &[u8]) -> Option<&str> {
    std::str::from_utf8(input).ok()
}
