//! A web server for the files of a directory.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

/// Serves a directory until the test process ends; its address,
/// `http://host:port`. A file `NAME.redirect` sends who asks for `NAME` to the address
/// that is written in it; `NAME.authorization` says with what the request must authorize
/// itself.
///
/// # Panics
/// When there is no port.
#[must_use]
pub fn serve(dir: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let dir = dir.clone();
            // A client that hangs up early ends this thread, nothing else.
            std::thread::spawn(move || drop(answer(client, &dir)));
        }
    });
    format!("http://{address}")
}

fn answer(mut client: TcpStream, dir: &Path) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let mut authorization = String::new();
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            if line.to_ascii_lowercase().starts_with("authorization:") {
                authorization = line["authorization:".len()..].trim().to_owned();
            }
            line.clear();
        }
        let path = first.split(' ').nth(1).unwrap_or("/").trim_start_matches('/');
        let path = path.split('?').next().unwrap_or(path);
        let path: PathBuf = dir.join(path);
        let elsewhere = std::fs::read_to_string(format!("{}.redirect", path.display()));
        let wanted = std::fs::read_to_string(format!("{}.authorization", path.display()));
        let (status, body) = match (&elsewhere, std::fs::read(&path)) {
            _ if wanted.is_ok_and(|wanted| wanted.trim() != authorization) => {
                ("401 Unauthorized".to_owned(), Vec::new())
            }
            (Ok(to), _) => (format!("303 See Other\r\nLocation: {}", to.trim()), Vec::new()),
            (_, Ok(body)) => ("200 OK".to_owned(), body),
            (_, Err(_)) => ("404 Not Found".to_owned(), Vec::new()),
        };
        write!(client, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len())?;
        client.write_all(&body)?;
    }
}
