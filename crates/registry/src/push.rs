//! Blobs and manifests to a registry.
//!
//! ```text
//! HEAD blob ── there ─→ done
//!    └─ POST uploads ── mounted from another repository ─→ done
//!          └─ PATCH … (again from where it broke) ─→ PUT ?digest=
//! ```

use std::io::{self, Read};

use types::{Digest, RegistryRef};
use ureq::http::Method;
use ureq::http::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderName};

use crate::client::Client;
use crate::config::Endpoint;
use crate::error::Error;
use crate::http::{Answer, Change, join};

/// A blob to push. It is opened again when the connection breaks.
pub struct Content<'a, 'b> {
    /// Its digest.
    pub digest: &'a Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Opens it from its first byte.
    pub open: Open<'a, 'b>,
}

/// How a blob came to be in the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Present,
    /// The registry took it from another of its repositories.
    Mounted,
    /// It was sent.
    Sent,
}

impl Client {
    /// Makes sure that a registry has a blob in the repository of a name.
    /// `from` is a repository of the same registry that may have it.
    ///
    /// # Errors
    /// Why the registry does not take it, and [`Error::Content`] when the blob
    /// cannot be read.
    pub fn push_blob(
        &self,
        name: &RegistryRef,
        content: Content<'_, '_>,
        from: Option<&str>,
    ) -> Result<Pushed, Error> {
        let endpoint = self.home(name)?;
        let upload = Upload { client: self, endpoint, name: name.to_string() };
        if upload.has(content.digest)? {
            return Ok(Pushed::Present);
        }
        upload.run(content, from)
    }

    /// Gives a manifest to a registry, under the digest or else the tag of a name.
    ///
    /// # Errors
    /// Why the registry does not take it.
    pub fn push_manifest(
        &self,
        name: &RegistryRef,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let endpoint = self.home(name)?;
        let reference = match &name.digest {
            Some(digest) => digest.to_string(),
            None => name.effective_tag().map(|t| t.as_str().to_owned()).unwrap_or_default(),
        };
        let upload = Upload { client: self, endpoint, name: name.to_string() };
        let url = self.url(&upload.endpoint, &format!("manifests/{reference}"))?;
        let headers = [(CONTENT_TYPE, media_type.to_owned())];
        self.retrying(&url, true, || {
            let mut open = || Ok(Box::new(bytes) as Box<dyn Read + Send + '_>);
            let body = Body { open: &mut open, from: 0, size: bytes.len() as u64 };
            upload.send(&Method::PUT, &url, &headers, Some(body), &[200, 201, 202]).map(drop)
        })
    }
}

/// A reader whose failure is kept.
struct Noted<'a> {
    inner: Box<dyn Read + Send + 'a>,
    failure: Option<io::Error>,
}

impl Read for Noted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            let kind = error.kind();
            self.failure = Some(error);
            kind.into()
        })
    }
}

/// What opens a blob from its first byte.
pub type Open<'a, 'b> = &'a mut dyn FnMut() -> io::Result<Box<dyn Read + Send + 'b>>;

/// The bytes of a request: `size` of them in all, sent from one on.
struct Body<'a, 'b> {
    open: Open<'a, 'b>,
    from: u64,
    size: u64,
}

/// What one repository is asked.
struct Upload<'a> {
    client: &'a Client,
    endpoint: Endpoint,
    name: String,
}

impl Upload<'_> {
    fn send(
        &self,
        method: &Method,
        url: &str,
        headers: &[(HeaderName, String)],
        mut body: Option<Body<'_, '_>>,
        good: &[u16],
    ) -> Result<Answer, Error> {
        let insecure = self.client.allows_insecure(&self.endpoint);
        self.client.authorized(&self.endpoint, url, &self.name, good, |authorization| {
            let method = method.clone();
            let mut change = Change { method, url, headers, authorization, body: None, insecure };
            let Some(Body { open, from, size }) = &mut body else {
                return self.client.http().change(change);
            };
            let unread = |source| Error::Content { source };
            let mut reader = open().map_err(unread)?;
            let skipped = io::copy(&mut reader.by_ref().take(*from), &mut io::sink());
            skipped.map_err(unread)?;
            let mut reader = Noted { inner: reader, failure: None };
            change.body = Some((&mut reader, *size - *from));
            let answer = self.client.http().change(change);
            // A failure of ours is no failure of the connection.
            reader.failure.map_or(answer, |source| Err(Error::Content { source }))
        })
    }

    fn has(&self, digest: &Digest) -> Result<bool, Error> {
        let url = self.client.url(&self.endpoint, &format!("blobs/{digest}"))?;
        self.client.retrying(&url, true, || {
            let good = [200, 404, 307, 302];
            let answer = self.send(&Method::HEAD, &url, &[], None, &good)?;
            Ok(answer.status() != 404)
        })
    }

    /// Where to send a blob; None when the registry has mounted it.
    fn begin(&self, digest: &Digest, from: Option<&str>) -> Result<Option<String>, Error> {
        let query = match from {
            Some(from) => format!("?mount={digest}&from={from}"),
            None => String::new(),
        };
        let url = self.client.url(&self.endpoint, &format!("blobs/uploads/{query}"))?;
        self.client.retrying(&url, true, || {
            let answer = self.send(&Method::POST, &url, &[], None, &[201, 202])?;
            if answer.status() == 201 { Ok(None) } else { location(&answer).map(Some) }
        })
    }

    fn run(&self, content: Content<'_, '_>, from: Option<&str>) -> Result<Pushed, Error> {
        let Content { digest, size, open } = content;
        let Some(mut place) = self.begin(digest, from)? else { return Ok(Pushed::Mounted) };
        let (mut at, mut failures) = (0, 0);
        while at < size {
            match self.patch(&place, Body { open: &mut *open, from: at, size }) {
                Ok(next) => (place, at) = (next, size),
                Err(error) => {
                    failures += 1;
                    if !self.client.pause(&place, &error, failures, true) {
                        return Err(error);
                    }
                    // What the registry has of it need not be sent again; where
                    // it has forgotten the upload, all of it has to be.
                    (place, at) = match self.progress(&place, size) {
                        Ok(progress) => progress,
                        Err(_) => match self.begin(digest, None)? {
                            Some(place) => (place, 0),
                            None => return Ok(Pushed::Mounted),
                        },
                    };
                }
            }
        }
        let separator = if place.contains('?') { '&' } else { '?' };
        let url = format!("{place}{separator}digest={digest}");
        self.client.retrying(&url, true, || {
            let mut empty = || Ok(Box::new(io::empty()) as Box<dyn Read + Send>);
            let body = Body { open: &mut empty, from: 0, size: 0 };
            self.send(&Method::PUT, &url, &[], Some(body), &[201]).map(drop)
        })?;
        Ok(Pushed::Sent)
    }

    fn patch(&self, place: &str, body: Body<'_, '_>) -> Result<String, Error> {
        let mut headers = vec![(CONTENT_TYPE, "application/octet-stream".to_owned())];
        if body.from > 0 {
            headers.push((CONTENT_RANGE, format!("{}-{}", body.from, body.size - 1)));
        }
        let answer = self.send(&Method::PATCH, place, &headers, Some(body), &[202])?;
        location(&answer)
    }

    /// How far an upload has come, and where it goes on.
    fn progress(&self, place: &str, size: u64) -> Result<(String, u64), Error> {
        let answer = self.send(&Method::GET, place, &[], None, &[204])?;
        let range = answer.header("range").unwrap_or_default();
        let last = range.trim_start_matches("bytes=").split_once('-').map(|(_, last)| last.parse());
        let at = match last {
            // A registry that has nothing says `0-0`, as one with one byte does.
            Some(Ok(0)) | None => 0,
            Some(Ok(last)) if last < size => last + 1,
            Some(_) => 0,
        };
        Ok((location(&answer).unwrap_or_else(|_| place.to_owned()), at))
    }
}

/// Where an answer says that an upload goes on.
fn location(answer: &Answer) -> Result<String, Error> {
    let why = "it does not say where an upload goes on".to_owned();
    let missing = || Error::NotARegistry { url: answer.url.clone(), why };
    let found = answer.header("location").and_then(|location| join(&answer.url, location));
    found.ok_or_else(missing)
}
