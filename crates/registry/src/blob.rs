//! A blob as a stream that mends itself: a cut connection resumes where it
//! was, a silent one is given up and opened again, and the end is reached only
//! if every byte was right.

use std::fmt;
use std::io::{self, Read};

use types::Digest;

use crate::client::Client;
use crate::config::Endpoint;
use crate::digest::Hasher;
use crate::error::Error;
use crate::http::{Answer, explain_body, printable};

/// Bytes skipped at a time where a server ignores Range.
const SKIP: usize = 64 << 10;

type Body = Box<dyn Read + Send>;

/// Reads one blob. After an error, further reads fail too.
pub struct BlobReader {
    client: Client,
    /// In the order to try; the first is the one in use.
    endpoints: Vec<Endpoint>,
    digest: Digest,
    size: Option<u64>,
    hasher: Hasher,
    position: u64,
    /// Failures since the last byte.
    failures: u32,
    url: String,
    body: Option<Body>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Done,
    Failed,
}

impl fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobReader")
            .field("digest", &self.digest)
            .field("size", &self.size)
            .field("position", &self.position)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// A body that begins at the wanted byte.
struct Opened {
    body: Body,
    url: String,
    size: Option<u64>,
}

impl BlobReader {
    pub(crate) fn open(
        client: Client,
        endpoints: Vec<Endpoint>,
        digest: Digest,
        size: Option<u64>,
    ) -> Result<Self, Error> {
        let hasher = Hasher::new(digest.algorithm());
        let mut reader = Self {
            client,
            endpoints,
            digest,
            size,
            hasher,
            position: 0,
            failures: 0,
            url: String::new(),
            body: None,
            state: State::Reading,
        };
        reader.reopen()?;
        Ok(reader)
    }

    /// The size in bytes, if the descriptor or the server told it.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// Bytes read so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Asks the endpoints in turn for the bytes from `position` on.
    fn reopen(&mut self) -> Result<(), Error> {
        let what = format!("blob {}", self.digest);
        let (index, opened) = self.client.first(&what, &self.endpoints, |endpoint, last| {
            let url = format!("{endpoint}/blobs/{}", self.digest);
            // Only the opening counts here: a server that takes each request
            // and cuts each body is stopped by `failures`.
            self.client.retrying(&url, last, || self.request(endpoint, &what))
        })?;
        self.endpoints.rotate_left(index);
        self.url = opened.url;
        self.size = self.size.or(opened.size);
        self.body = Some(opened.body);
        Ok(())
    }

    fn request(&self, endpoint: &Endpoint, what: &str) -> Result<Opened, Error> {
        let path = format!("blobs/{}", self.digest);
        let answer = self.client.fetch(endpoint, &path, what, None, self.position)?;
        let url = answer.url.split('?').next().unwrap_or_default().to_owned();
        if answer.is_html() {
            let why = "it answered with a web page".to_owned();
            return Err(Error::NotARegistry { url, why });
        }
        let skip = self.check_range(&answer, &url)?;
        let length = answer.response.body().content_length();
        let total = length.and_then(|length| length.checked_add(self.position - skip));
        if let (Some(expected), Some(actual)) = (self.size, total)
            && expected != actual
        {
            return Err(Error::SizeMismatch { url, expected, actual });
        }
        let mut body: Body =
            Box::new(answer.response.into_body().into_with_config().limit(u64::MAX).reader());
        self.skip(&mut body, skip, &url)?;
        Ok(Opened { body, url, size: total })
    }

    /// How many bytes come before the wanted one: none if the server honoured
    /// the range, all if it sent the whole blob.
    fn check_range(&self, answer: &Answer, url: &str) -> Result<u64, Error> {
        if self.position == 0 {
            return match answer.status() {
                200 => Ok(0),
                _ => Err(self.bad_range(url, "206 to a request for the whole")),
            };
        }
        if answer.status() == 200 {
            return Ok(self.position);
        }
        let value = answer.header("content-range").unwrap_or("no Content-Range");
        match parse_content_range(value) {
            Some((first, total)) if first == self.position => match (self.size, total) {
                (Some(expected), Some(actual)) if expected != actual => {
                    Err(Error::SizeMismatch { url: url.to_owned(), expected, actual })
                }
                _ => Ok(0),
            },
            _ => Err(self.bad_range(url, value)),
        }
    }

    fn bad_range(&self, url: &str, answer: &str) -> Error {
        Error::Range { url: url.to_owned(), from: self.position, answer: printable(answer) }
    }

    fn skip(&self, body: &mut Body, mut left: u64, url: &str) -> Result<(), Error> {
        let mut buffer = vec![0; if left == 0 { 0 } else { SKIP }];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(SKIP).min(SKIP);
            let cut = |e| explain_body(url, e, self.client.stall_timeout(), self.position);
            match body.read(&mut buffer[..want]).map_err(cut)? {
                0 => return Err(cut(io::ErrorKind::UnexpectedEof.into())),
                n => left -= n as u64,
            }
        }
        Ok(())
    }

    /// One read without retries. None: the connection ended too early.
    fn step(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let Some(body) = &mut self.body else { return Ok(0) };
        let stall = self.client.stall_timeout();
        let n = loop {
            match body.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(explain_body(&self.url, e, stall, self.position)),
                Ok(n) => break n,
            }
        };
        if n == 0 {
            if self.size.is_some_and(|size| self.position < size) {
                let early = io::ErrorKind::UnexpectedEof.into();
                return Err(explain_body(&self.url, early, stall, self.position));
            }
            return Ok(0);
        }
        self.position += n as u64;
        if let Some(expected) = self.size.filter(|size| self.position > *size) {
            let (url, actual) = (self.url.clone(), self.position);
            return Err(Error::SizeMismatch { url, expected, actual });
        }
        self.hasher.update(&buffer[..n]);
        self.failures = 0;
        Ok(n)
    }

    fn finish(&mut self) -> Result<(), Error> {
        self.body = None;
        let actual = self.hasher.digest();
        if actual != self.digest {
            let (url, expected) = (self.url.clone(), self.digest.clone());
            return Err(Error::DigestMismatch { url, expected, actual });
        }
        self.state = State::Done;
        Ok(())
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            if self.body.is_none() {
                self.reopen()?;
            }
            match self.step(buffer) {
                Ok(0) => return self.finish().map(|()| 0),
                Ok(n) => {
                    // The last byte is handed out only once all are right.
                    if self.size == Some(self.position) {
                        self.finish()?;
                    }
                    return Ok(n);
                }
                Err(error) => {
                    self.body = None;
                    self.failures = self.failures.saturating_add(1);
                    if self.client.pause(&self.url, &error, self.failures, true) {
                        continue;
                    }
                    if !error.is_transient() || self.endpoints.len() < 2 {
                        return Err(error);
                    }
                    // This endpoint has had its attempts; the others have the same bytes.
                    self.endpoints.remove(0);
                    self.failures = 0;
                }
            }
        }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.state {
            State::Done => return Ok(0),
            State::Failed => return Err(io::Error::other("the blob has failed before")),
            State::Reading if buffer.is_empty() => return Ok(0),
            State::Reading => {}
        }
        self.next(buffer).map_err(|error| {
            self.state = State::Failed;
            self.body = None;
            io::Error::other(error)
        })
    }
}

/// `bytes FIRST-LAST/TOTAL`: the first byte, and the total where it is told
/// (RFC 9110, 14.4).
fn parse_content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let rest = value.trim().strip_prefix("bytes")?.trim_start();
    let (range, total) = rest.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse::<u64>().ok()?);
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, total))
}

#[cfg(test)]
pub(crate) fn hostile(text: &str) {
    if let Some((first, total)) = parse_content_range(text) {
        assert!(total.is_none_or(|total| first < total));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_content_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes */10", "bytes 9-5/10", "bytes 5-10/10", "items 1-2/3", "bytes 1-2"] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }
}
