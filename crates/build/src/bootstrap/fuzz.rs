//! The parsers of package indexes, lists of mirrors and packages, for `crate::fuzz`.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;

use super::arch::{index as arch, version as pacman};
use super::debian::{deb, index as debian};
use super::rpm::{index as rpm, location, modules, package, version};
use crate::fuzz::{Parser, text};

pub(crate) const PARSERS: [Parser; 13] = [
    ("release", |input| text(input).is_some_and(|text| debian::Release::parse(text).is_some())),
    ("packages", |input| debian::packages(input, 0, &mut |_| {}).is_ok()),
    ("pacman", |input| arch::packages(input, &["any", "x86_64"], 0, &mut |_| {}).is_ok()),
    ("mirrorlist", |input| location::lines(input).is_ok()),
    ("metalink", |input| location::metalink(input).is_ok()),
    ("repo", |input| {
        let variables = [("releasever".to_owned(), "9".to_owned())].into();
        text(input).is_some_and(|text| !location::repositories(text, &variables).is_empty())
    }),
    ("repomd", |input| rpm::repomd(input).is_ok()),
    ("primary", |input| rpm::primary(input, &["noarch", "x86_64"], 0, &mut |_, _| {}).is_ok()),
    ("modules", |input| modules::Modules::default().read(input, "x86_64").is_ok()),
    ("filelists", |input| {
        rpm::filelists(input, &HashSet::from(["/etc/x".to_owned()]), &mut |_, _, _| {}).is_ok()
    }),
    ("versions", |input| {
        let (a, b) = input.split_at(input.len() / 2);
        let pair = text(a).zip(text(b));
        pair.is_some_and(|(a, b)| {
            let all = [debian::compare, pacman::compare, version::compare];
            all.iter().all(|compare| compare(a, b) == compare(b, a).reverse())
        })
    }),
    ("deb", |input| package_of(input, deb::data)),
    ("rpm", |input| package_of(input, package::files)),
];

/// Whether a package of 8 MiB at most gives its files.
fn package_of(
    input: &[u8],
    files: fn(File, &Path) -> std::io::Result<Box<dyn Read + Send>>,
) -> bool {
    let dir = std::env::temp_dir();
    let read = || {
        let mut file = tempfile::tempfile_in(&dir)?;
        file.write_all(input)?;
        file.rewind()?;
        std::io::copy(&mut files(file, &dir)?.take(8 << 20), &mut std::io::sink())
    };
    read().is_ok()
}
