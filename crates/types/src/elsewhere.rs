//! Names of image files that are on the web.

use std::fmt;
use std::str::FromStr;

use crate::{Digest, ImageRefError, RegistryRef};

/// An image file elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FileRef {
    /// `http://…` or `https://…`, with `@sha256:…` behind it where the digest is known.
    Web {
        /// The address.
        url: String,
        /// The digest of the file.
        digest: Option<Digest>,
    },
    /// `library://[HOST/]ENTITY/COLLECTION/CONTAINER[:TAG]`
    Library {
        /// The host, or an address of its API; None is the configured one.
        server: Option<String>,
        /// The path as it was written, without host and tag.
        path: String,
        /// The tag, `latest` if none was written.
        tag: String,
    },
    /// `oras://…`: a SIF file in a registry.
    Oras(RegistryRef),
}

impl FileRef {
    /// What follows a scheme; None for another scheme.
    pub(crate) fn parse(scheme: &str, rest: &str) -> Option<Result<Self, ImageRefError>> {
        match scheme {
            "http" | "https" => Some(web(scheme, rest)),
            "library" => Some(rest.parse()),
            "oras" => Some(rest.parse().map(Self::Oras)),
            _ => None,
        }
    }
}

fn web(scheme: &str, rest: &str) -> Result<FileRef, ImageRefError> {
    let (rest, digest) = match rest.rsplit_once('@') {
        Some((before, digest)) if digest.starts_with("sha256:") => (before, Some(digest.parse()?)),
        _ => (rest, None),
    };
    let host = rest.split('/').next().unwrap_or_default();
    // A name before the host could be taken for the host, by a site's list too.
    if host.is_empty() || host.contains(['@', '\\']) || rest.contains(char::is_whitespace) {
        return Err(ImageRefError::Address(format!("{scheme}://{rest}")));
    }
    Ok(FileRef::Web { url: format!("{scheme}://{rest}"), digest })
}

/// What stands behind `library://`. Of four words the first one is the host.
impl FromStr for FileRef {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, ImageRefError> {
        let bad = || ImageRefError::Library(text.to_owned());
        let words: Vec<&str> = text.split('/').collect();
        let (server, path) = match words[..] {
            [host, a, b, c] => (Some(host.to_owned()), format!("{a}/{b}/{c}")),
            [_] | [_, _] | [_, _, _] => (None, text.to_owned()),
            _ => return Err(bad()),
        };
        let (path, tag) = path.split_once(':').unwrap_or((&path, "latest"));
        let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let word = |word: &str| !word.is_empty() && word.chars().all(good) && word != "..";
        let host = server.as_deref().is_none_or(|host| {
            !host.is_empty() && host.chars().all(|c| good(c) || ":[]".contains(c))
        });
        if !host || !path.split('/').all(word) || !word(tag) {
            return Err(bad());
        }
        Ok(Self::Library { server, path: path.to_owned(), tag: tag.to_owned() })
    }
}

impl fmt::Display for FileRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Web { url, digest: None } => f.write_str(url),
            Self::Web { url, digest: Some(digest) } => write!(f, "{url}@{digest}"),
            Self::Library { server: None, path, tag } => write!(f, "library://{path}:{tag}"),
            Self::Library { server: Some(server), path, tag } => {
                write!(f, "library://{server}/{path}:{tag}")
            }
            Self::Oras(name) => write!(f, "oras://{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageRef;

    fn file(text: &str) -> Result<FileRef, ImageRefError> {
        match text.parse()? {
            ImageRef::File(file) => Ok(file),
            other => panic!("{text} is {other:?}"),
        }
    }

    #[test]
    fn files_elsewhere_have_names() {
        let sum = "ab".repeat(32);
        let url = format!("https://a.example/x.sif?y=user@z@sha256:{sum}");
        for (text, shown) in [
            ("http://a.example:80/b/c.sif", "http://a.example:80/b/c.sif"),
            (&url, &url),
            ("library://alpine", "library://alpine:latest"),
            ("library://e/c/n:1.0", "library://e/c/n:1.0"),
            ("library://h.example:8/e/c/n:1", "library://h.example:8/e/c/n:1"),
            ("oras://r.example/a/b:1", "oras://r.example/a/b:1"),
        ] {
            let read = file(text).unwrap();
            assert_eq!(read.to_string(), shown);
            assert_eq!(file(shown).unwrap(), read);
        }
        let FileRef::Library { server, path, .. } = file("library://h:1/a/b/c").unwrap() else {
            panic!()
        };
        assert_eq!((server.as_deref(), path.as_str()), (Some("h:1"), "a/b/c"));
    }

    #[test]
    fn what_names_no_file_is_refused() {
        for text in [
            "library://",
            "library://a/b/c/d/e",
            "library://a//b",
            "library://a:b:c",
            "library://../b/c",
            "library://a/b/c:",
            "library://é",
            "https://",
            "http:///x",
            "http://a b",
            "https://allowed.example@b.example/x",
            "http://a/x@sha256:12",
            "oras://",
            "shub://a/b",
            "ftp://a/b",
        ] {
            assert!(text.parse::<ImageRef>().is_err(), "{text}");
        }
    }
}
