//! A server that answers by script, at the seam where bytes come in.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use registry::{Client, ClientOptions, Environment, Notice, RetryPolicy};

/// What a client asked.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What the script answers.
pub enum Reply {
    /// These bytes, then the end of the connection.
    Close(Vec<u8>),
    /// These bytes, then silence until the client gives up.
    Hang(Vec<u8>),
}

pub fn reply(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    Reply::Close(raw(status, headers, body, body.len()))
}

/// A reply whose Content-Length is `length`, whatever the body has.
pub fn raw(status: &str, headers: &[(&str, &str)], body: &[u8], length: usize) -> Vec<u8> {
    let mut text =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

type Script = dyn Fn(&Request, usize) -> Reply + Send + Sync;

/// A scripted server on a free loopback port. The script gets the request and
/// how many came before it; an anonymous `/v2/`, which finds out the scheme, is
/// not counted and comes with `usize::MAX`.
pub struct Server {
    pub host: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(script: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let log = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Script> = Arc::new(script);
        let shared = Arc::clone(&log);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, log) = (Arc::clone(&script), Arc::clone(&shared));
                thread::spawn(move || serve(stream, &script, &log));
            }
        });
        Self { host, log }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, script: &Arc<Script>, log: &Mutex<Vec<Request>>) {
    let mut first = [0];
    // A TLS greeting: this server speaks plain HTTP only.
    if !matches!(stream.peek(&mut first), Ok(1)) || first[0] == 0x16 {
        return;
    }
    let Some(request) = read_request(&stream) else { return };
    let answer = if request.target == "/v2/" && request.header("authorization").is_none() {
        script(&request, usize::MAX)
    } else {
        let before = {
            let mut log = log.lock().unwrap();
            log.push(request.clone());
            log.len() - 1
        };
        script(&request, before)
    };
    let mut stream = stream;
    // The client may have gone.
    match answer {
        Reply::Close(bytes) => drop(stream.write_all(&bytes)),
        Reply::Hang(bytes) => {
            drop(stream.write_all(&bytes));
            drop(stream.read(&mut [0]));
        }
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, target, headers, body: String::from_utf8(body).unwrap() })
}

pub type Notices = Arc<Mutex<Vec<Notice>>>;

/// Options with short limits, and nothing of this machine's configuration.
pub fn options(home: &Path) -> (ClientOptions, Notices) {
    let notices = Notices::default();
    let sink = Arc::clone(&notices);
    let variables = [("HOME".to_owned(), home.display().to_string())].into();
    let options = ClientOptions {
        environment: Environment { variables, system: home.join("etc") },
        connect_timeout: Duration::from_secs(10),
        stall_timeout: Duration::from_secs(10),
        retry: RetryPolicy {
            attempts: 4,
            first_delay: Duration::from_millis(2),
            max_delay: Duration::from_millis(10),
            max_retry_after: Duration::from_millis(20),
        },
        notices: Some(Arc::new(move |notice| sink.lock().unwrap().push(notice.clone()))),
        ..ClientOptions::default()
    };
    (options, notices)
}

pub fn client(home: &Path) -> (Client, Notices) {
    let (options, notices) = options(home);
    (Client::new(options).unwrap(), notices)
}

pub fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}
