//! A registry that misbehaves on order: the one seam where a fake says more
//! than the real thing, which answers well.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// What the server does to a request before, or instead of, answering it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Half of a blob, then the end of the connection. A range is served whole.
    Cut,
    /// 429 with Retry-After, twice.
    TooMany,
    /// 503 for ever.
    Unavailable,
    /// A login page with status 200.
    Html,
    /// Bytes that are no HTTP.
    Garbage,
    /// 401 that asks for a password.
    Password,
    /// A blob with one byte changed.
    WrongBytes,
    /// The head of an answer, then silence.
    Stall,
    /// A manifest that is no JSON.
    BadManifest,
}

/// A running server; it ends with the test process.
pub struct Server {
    /// `host:port`.
    pub address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Serves the image of an OCI layout as `NAME/image:v1`.
    ///
    /// # Panics
    /// When the layout cannot be read or there is no port.
    #[must_use]
    pub fn start(layout: &Path, fault: Fault) -> Self {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(layout.join("blobs/sha256")).unwrap() {
            let entry = entry.unwrap();
            let name = format!("sha256:{}", entry.file_name().to_string_lossy());
            files.insert(name, std::fs::read(entry.path()).unwrap());
        }
        let index = std::fs::read(layout.join("index.json")).unwrap();
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        let digest = index["manifests"][0]["digest"].as_str().unwrap();
        files.insert("v1".to_owned(), files[digest].clone());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (files, seen) = (Arc::new(files), Arc::clone(&requests));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (files, seen) = (Arc::clone(&files), Arc::clone(&seen));
                // A client that hangs up early ends this thread, nothing else.
                std::thread::spawn(move || drop(answer(client, fault, &files, &seen)));
            }
        });
        Self { address, requests }
    }

    /// The requests whose path holds a word, in order, first line and Range.
    ///
    /// # Panics
    /// When a thread of the server has panicked.
    #[must_use]
    pub fn requests(&self, word: &str) -> Vec<String> {
        let seen = self.requests.lock().unwrap();
        seen.iter().filter(|line| line.contains(word)).cloned().collect()
    }
}

/// The first byte of who speaks TLS (RFC 8446, section 5.1); that one is hung up on.
const HANDSHAKE: u8 = 22;

fn head(client: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        if head.is_empty() && byte[0] == HANDSHAKE {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn reply(client: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
        body.len()
    );
    client.write_all(head.as_bytes())?;
    client.write_all(body)
}

fn answer(
    mut client: TcpStream,
    fault: Fault,
    files: &BTreeMap<String, Vec<u8>>,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let head = head(&mut client)?;
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let lower = head.to_ascii_lowercase();
    let range = lower.split("range: bytes=").nth(1).and_then(|rest| rest.split('-').next());
    let from = range.and_then(|number| number.parse::<usize>().ok());
    let count = {
        let mut seen = seen.lock().unwrap();
        seen.push(format!("{path} {}", range.unwrap_or_default()));
        seen.iter().filter(|line| line.starts_with(&format!("{path} "))).count()
    };
    let name = path.rsplit('/').next().unwrap_or_default();
    let blob = path.contains("/blobs/");
    match fault {
        Fault::TooMany if path != "/v2/" && count <= 2 => {
            return reply(&mut client, "429 Too Many Requests", "Retry-After: 0\r\n", b"");
        }
        Fault::Unavailable => return reply(&mut client, "503 Service Unavailable", "", b"later"),
        Fault::Html => {
            let page = b"<!DOCTYPE html><html><body>Please log in to the network</body></html>";
            return reply(&mut client, "200 OK", "Content-Type: text/html\r\n", page);
        }
        Fault::Garbage => return client.write_all(b"\0\x01\x02 not http at all\n"),
        Fault::Password => {
            let ask = "WWW-Authenticate: Basic realm=\"test\"\r\n";
            return reply(&mut client, "401 Unauthorized", ask, b"{}");
        }
        Fault::BadManifest if path.contains("/manifests/") => {
            let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n";
            return reply(&mut client, "200 OK", kind, b"{\"schemaVersion\": 2, \"layers\": ");
        }
        _ => {}
    }
    if path == "/v2/" {
        return reply(&mut client, "200 OK", "", b"{}");
    }
    let Some(bytes) = files.get(name) else {
        return reply(&mut client, "404 Not Found", "", b"{}");
    };
    if !blob {
        let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n";
        return reply(&mut client, "200 OK", kind, bytes);
    }
    let total = bytes.len();
    let mut bytes = bytes.clone();
    if fault == Fault::WrongBytes {
        let middle = total / 2;
        bytes[middle] ^= 1;
    }
    if let Some(from) = from {
        let part = format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1);
        return reply(&mut client, "206 Partial Content", &part, &bytes[from..]);
    }
    match fault {
        Fault::Cut | Fault::Stall if total > 1 << 16 => {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n");
            client.write_all(head.as_bytes())?;
            client.write_all(&bytes[..total / 2])?;
            if fault == Fault::Stall {
                // Until the client gives up.
                let _ = client.read(&mut [0]);
            }
            Ok(())
        }
        _ => reply(&mut client, "200 OK", "", &bytes),
    }
}
