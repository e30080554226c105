//! The client against a server that misbehaves on purpose.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::Read;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use registry::{BlobReader, Client, Content, Credentials, Error, Notice, Pushed};
use sha2::{Digest as _, Sha256};
use support::{Reply, Request, Server, client, options, raw, reply, write};
use types::{Digest, RegistryRef, media};

const MANIFEST: &[u8] = br#"{"schemaVersion":2,"config":{},"layers":[]}"#;
const OCI: &[(&str, &str)] = &[("Content-Type", media::OCI_MANIFEST)];

fn digest(bytes: &[u8]) -> Digest {
    Digest::sha256(&Sha256::digest(bytes).into())
}

fn name(host: &str, rest: &str) -> RegistryRef {
    format!("{host}/{rest}").parse().unwrap()
}

fn ok(_: &Request, _: usize) -> Reply {
    reply("200 OK", OCI, MANIFEST)
}

fn content() -> Vec<u8> {
    (0..200_000u32).flat_map(u32::to_le_bytes).collect()
}

fn read_all(mut reader: BlobReader) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    reader
        .read_to_end(&mut bytes)
        .map(|_| bytes)
        .map_err(|e| *e.into_inner().unwrap().downcast().unwrap())
}

fn blob(client: &Client, host: &str, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    read_all(client.blob(&name(host, "a/b"), &digest(bytes), Some(bytes.len() as u64))?)
}

/// The bytes from the offset that a Range header asks for.
fn range_start(request: &Request) -> Option<usize> {
    let value = request.header("range")?;
    value.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

#[test]
fn a_manifest_by_tag_and_by_digest() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(ok);
    let (client, notices) = client(home.path());
    let manifest = client.manifest(&name(&server.host, "a/b:v1")).unwrap();
    assert_eq!(manifest.bytes, MANIFEST);
    assert_eq!(manifest.digest, digest(MANIFEST));
    assert_eq!(manifest.media_type, media::OCI_MANIFEST);
    let by_digest = format!("a/b@{}", digest(MANIFEST));
    client.manifest(&name(&server.host, &by_digest)).unwrap();
    let requests = server.requests();
    assert_eq!(requests[0].target, "/v2/a/b/manifests/v1");
    assert!(requests[0].header("accept").unwrap().contains(media::DOCKER_LIST));
    assert_eq!(requests[1].target, format!("/v2/a/b/manifests/{}", digest(MANIFEST)));
    assert!(matches!(notices.lock().unwrap()[..], [Notice::PlainHttp { .. }]));
}

#[test]
fn wrong_digests_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let wrong = digest(b"other").to_string();
    let server =
        Server::start(move |_, _| reply("200 OK", &[("Docker-Content-Digest", &wrong)], MANIFEST));
    let (client, _) = client(home.path());
    let error = client.manifest(&name(&server.host, "a/b:v1")).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    let by_digest = format!("a/b@{}", digest(b"third"));
    let error = client.manifest(&name(&server.host, &by_digest)).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");

    let server = Server::start(|_, _| reply("200 OK", &[], &[7; 1000]));
    let error = blob(&client, &server.host, &[8; 1000]).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    let error = blob(&client, &server.host, &[8; 999]).unwrap_err();
    assert!(matches!(error, Error::SizeMismatch { expected: 999, actual: 1000, .. }), "{error}");
}

#[test]
fn bearer_tokens_are_fetched_with_credentials_and_kept() {
    let home = tempfile::tempdir().unwrap();
    let auth = STANDARD.encode("me:secret");
    let token_server = Server::start(move |request, _| {
        let expected = format!("Basic {auth}");
        assert_eq!(request.header("authorization"), Some(expected.as_str()));
        reply("200 OK", &[], br#"{"access_token":"T0K","expires_in":300}"#)
    });
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"srv x\"", token_server.host);
    let server = Server::start(move |request, _| match request.header("authorization") {
        Some("Bearer T0K") => reply("200 OK", OCI, MANIFEST),
        _ => reply("401 Unauthorized", &[("WWW-Authenticate", &realm)], b""),
    });
    let document = format!(
        "{{\"auths\":{{\"{}/a\":{{\"auth\":\"{}\"}}}}}}",
        server.host,
        STANDARD.encode("me:secret")
    );
    write(&home.path().join(".docker/config.json"), &document);
    let (client, _) = client(home.path());
    for _ in 0..3 {
        client.manifest(&name(&server.host, "a/b:v1")).unwrap();
    }
    let asked = token_server.requests();
    assert_eq!(asked.len(), 1, "the token is asked for once");
    let query = "/token?service=srv%20x&scope=repository%3Aa%2Fb%3Apull&account=me";
    assert_eq!(asked[0].target, query);
}

#[test]
fn identity_tokens_are_exchanged_by_post() {
    let home = tempfile::tempdir().unwrap();
    let token_server = Server::start(|request, _| {
        assert_eq!(request.method, "POST");
        assert!(request.body.contains("grant_type=refresh_token"), "{}", request.body);
        assert!(request.body.contains("refresh_token=IDT"), "{}", request.body);
        reply("200 OK", &[], br#"{"access_token":"T1"}"#)
    });
    let realm = format!("Bearer realm=\"http://{}/token\"", token_server.host);
    let server = Server::start(move |request, _| match request.header("authorization") {
        Some("Bearer T1") => reply("200 OK", OCI, MANIFEST),
        _ => reply("401 Unauthorized", &[("WWW-Authenticate", &realm)], b""),
    });
    let (mut options, _) = options(home.path());
    options.credentials = Some(Credentials::IdentityToken("IDT".into()));
    let client = Client::new(options).unwrap();
    client.manifest(&name(&server.host, "a/b:v1")).unwrap();
}

#[test]
fn basic_login_is_verified_stored_and_forgotten() {
    let home = tempfile::tempdir().unwrap();
    let expected = format!("Basic {}", STANDARD.encode("me:good"));
    let server = Server::start(move |request, _| {
        if request.header("authorization") == Some(&expected) {
            return reply("200 OK", OCI, MANIFEST);
        }
        let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"log in"}]}"#;
        reply("401 Unauthorized", &[("WWW-Authenticate", "Basic realm=\"r\"")], body)
    });
    let (client, _) = client(home.path());
    let image = name(&server.host, "a/b:v1");
    let error = client.manifest(&image).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { with_credentials: false, .. }), "{error}");
    assert!(error.hint().unwrap().contains(&format!("sampan login {}", server.host)));
    let login = |password: &str| {
        let username = "me".to_owned();
        let credentials = Credentials::Password { username, password: password.into() };
        client.login(&server.host, &credentials)
    };
    let error = login("bad").unwrap_err();
    assert!(matches!(error, Error::Unauthorized { with_credentials: true, .. }), "{error}");
    assert!(!home.path().join(".config/containers/auth.json").exists());
    login("good").unwrap();
    client.manifest(&image).unwrap();
    assert_eq!(client.logout(&server.host).unwrap().len(), 1);
}

#[test]
fn a_cut_connection_resumes_by_range() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content();
    let served = bytes.clone();
    let server = Server::start(move |request, before| {
        let start = range_start(request).unwrap_or(0);
        let rest = &served[start..];
        // Each connection breaks after 300 kB.
        let part = &rest[..rest.len().min(300_000)];
        let range = format!("bytes {start}-{}/{}", served.len() - 1, served.len());
        match before {
            0 => Reply::Close(raw("200 OK", &[], part, rest.len())),
            _ => Reply::Close(raw(
                "206 Partial Content",
                &[("Content-Range", &range)],
                part,
                rest.len(),
            )),
        }
    });
    let (client, notices) = client(home.path());
    assert!(blob(&client, &server.host, &bytes).unwrap() == bytes);
    assert!(server.requests().len() >= 3);
    assert!(server.requests()[1..].iter().all(|r| range_start(r).is_some()));
    let notices = notices.lock().unwrap();
    assert!(notices.iter().any(|n| matches!(n, Notice::Retry { failures: 1, .. })));
}

#[test]
fn a_server_that_ignores_ranges_is_skipped_through() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content();
    let served = bytes.clone();
    let server = Server::start(move |_, before| {
        let part = if before == 0 { &served[..500_000] } else { &served[..] };
        Reply::Close(raw("200 OK", &[], part, served.len()))
    });
    let (client, _) = client(home.path());
    assert!(blob(&client, &server.host, &bytes).unwrap() == bytes);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn another_range_than_asked_for_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content();
    let served = bytes.clone();
    let server = Server::start(move |_, before| match before {
        0 => Reply::Close(raw("200 OK", &[], &served[..5000], served.len())),
        _ => reply("206 Partial Content", &[("Content-Range", "bytes 0-9/800000")], b"0123456789"),
    });
    let (client, _) = client(home.path());
    let error = blob(&client, &server.host, &bytes).unwrap_err();
    assert!(matches!(error, Error::Range { .. }), "{error}");
}

#[test]
fn a_connection_that_is_always_cut_ends() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| Reply::Close(raw("200 OK", &[], b"", 1000)));
    let (client, _) = client(home.path());
    let error = blob(&client, &server.host, &[1; 1000]).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    assert_eq!(server.requests().len(), 4, "as many as the policy has attempts");
}

#[test]
fn a_silent_server_is_given_up() {
    let home = tempfile::tempdir().unwrap();
    let bytes = vec![3; 2000];
    let served = bytes.clone();
    let server = Server::start(move |request, before| match before {
        usize::MAX => reply("200 OK", &[], b""),
        0 => Reply::Hang(raw("200 OK", &[], &served[..100], 2000)),
        _ => {
            assert_eq!(range_start(request), Some(100));
            let range = [("Content-Range", "bytes 100-1999/2000")];
            reply("206 Partial Content", &range, &served[100..])
        }
    });
    let (mut options, notices) = options(home.path());
    options.stall_timeout = Duration::from_secs(1);
    options.retry.attempts = 2;
    let client = Client::new(options).unwrap();
    assert!(blob(&client, &server.host, &bytes).unwrap() == bytes);
    let text = format!("{:?}", notices.lock().unwrap());
    assert!(text.contains("sent nothing for 1 s"), "{text}");

    let dead = Server::start(|_, before| match before {
        usize::MAX => reply("200 OK", &[], b""),
        _ => Reply::Hang(Vec::new()),
    });
    let error = client.manifest(&name(&dead.host, "a/b:v1")).unwrap_err();
    assert!(matches!(error, Error::Stalled { .. }), "{error:?}");
}

#[test]
fn retry_after_is_honoured_within_the_bound() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(|_, before| match before {
        0 => reply("429 Too Many Requests", &[("Retry-After", "0")], b""),
        1 => reply("503 Service Unavailable", &[("Retry-After", "3600")], b""),
        2 => reply("503 Service Unavailable", &[], b""),
        _ => reply("200 OK", OCI, MANIFEST),
    });
    let (client, notices) = client(home.path());
    client.manifest(&name(&server.host, "a/b:v1")).unwrap();
    let delays: Vec<Duration> = notices
        .lock()
        .unwrap()
        .iter()
        .filter_map(|n| match n {
            Notice::Retry { delay, .. } => Some(*delay),
            _ => None,
        })
        .collect();
    assert_eq!(delays[0], Duration::ZERO);
    assert_eq!(delays[1], Duration::from_millis(20), "the bound of the policy");
    assert_eq!(delays.len(), 3);

    let busy = Server::start(|_, before| match before {
        usize::MAX => reply("200 OK", &[], b""),
        _ => reply("429 Too Many Requests", &[("Retry-After", "7")], b""),
    });
    let error = client.manifest(&name(&busy.host, "a/b:v1")).unwrap_err();
    assert!(matches!(error, Error::RateLimited { status: 429, .. }), "{error}");
    assert!(error.hint().unwrap().contains("7 s"));
    assert_eq!(busy.requests().len(), 4);
}

#[test]
fn what_is_no_registry_is_called_so() {
    let home = tempfile::tempdir().unwrap();
    let (client, _) = client(home.path());
    let html = [("Content-Type", "text/html; charset=utf-8")];
    for status in ["200 OK", "404 Not Found", "403 Forbidden"] {
        let server = Server::start(move |_, _| reply(status, &html, b"<html>Log in</html>"));
        let error = client.manifest(&name(&server.host, "a/b:v1")).unwrap_err();
        assert!(matches!(error, Error::NotARegistry { .. }), "{status}: {error}");
    }
    let server = Server::start(|_, _| reply("200 OK", &[], b"hello, this is not JSON"));
    let error = client.manifest(&name(&server.host, "a/b:v1")).unwrap_err();
    assert!(matches!(error, Error::NotARegistry { .. }), "{error}");
    let server = Server::start(|_, _| Reply::Close(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec()));
    let error = client.manifest(&name(&server.host, "a/b:v1")).unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    let huge = vec![b' '; (4 << 20) + 1];
    let server = Server::start(move |_, _| reply("200 OK", &[], &huge));
    let error = client.manifest(&name(&server.host, "a/b:v1")).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[test]
fn a_missing_image_is_told_in_the_registrys_words() {
    let home = tempfile::tempdir().unwrap();
    let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
    let server = Server::start(|_, _| reply("404 Not Found", &[], body));
    let (client, _) = client(home.path());
    let error = client.manifest(&name(&server.host, "a/b:nope")).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }));
    let text = error.to_string();
    assert!(text.contains("a/b:nope") && text.contains("MANIFEST_UNKNOWN"), "{text}");
    assert_eq!(server.requests().len(), 1, "what is missing is not asked for again");
}

#[test]
fn a_redirect_to_another_host_loses_the_authorization() {
    let home = tempfile::tempdir().unwrap();
    let bytes = content();
    let served = bytes.clone();
    let cdn = Server::start(move |_, _| reply("200 OK", &[], &served));
    let location = format!("http://{}/store?sig=x", cdn.host);
    let server = Server::start(move |request, _| {
        match (request.header("authorization"), request.target.as_str()) {
            (None, _) => reply("401 Unauthorized", &[("WWW-Authenticate", "Basic realm=r")], b""),
            (Some(_), "/moved") => reply("302 Found", &[("Location", &location)], b""),
            _ => reply("307 Temporary Redirect", &[("Location", "/moved")], b""),
        }
    });
    let (mut options, _) = options(home.path());
    let (username, password) = ("me".to_owned(), "pw".to_owned());
    options.credentials = Some(Credentials::Password { username, password });
    let client = Client::new(options).unwrap();
    assert!(blob(&client, &server.host, &bytes).unwrap() == bytes);
    let moved = server.requests().into_iter().find(|r| r.target == "/moved").unwrap();
    assert!(moved.header("authorization").is_some(), "the same host keeps it");
    let requests = cdn.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].header("authorization"), None);
    assert_eq!(requests[0].target, "/store?sig=x");
}

#[test]
fn redirects_in_a_circle_end() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| reply("302 Found", &[("Location", "/again")], b""));
    let (client, _) = client(home.path());
    let error = client.manifest(&name(&server.host, "a/b:v1")).unwrap_err();
    assert!(matches!(error, Error::Redirect { .. }), "{error}");
}

#[test]
fn mirrors_are_tried_in_order_and_the_error_lists_all() {
    let home = tempfile::tempdir().unwrap();
    let broken = Server::start(|_, _| reply("404 Not Found", &[], b""));
    let good = Server::start(ok);
    let conf = |second: &str| {
        format!(
            "[[registry]]\nprefix = \"r.invalid/x\"\nlocation = \"{0}/none\"\ninsecure = true\n\
             [[registry.mirror]]\nlocation = \"{0}/m1\"\n[[registry.mirror]]\nlocation = \"{1}/m2\"\n",
            broken.host, second
        )
    };
    let path = home.path().join("etc/containers/registries.conf");
    write(&path, &conf(&good.host));
    let (client, notices) = client(home.path());
    let manifest = client.manifest(&name("r.invalid", "x/y:v1")).unwrap();
    assert_eq!(manifest.name, name("r.invalid", "x/y:v1"));
    assert_eq!(broken.requests()[0].target, "/v2/m1/y/manifests/v1");
    assert_eq!(good.requests()[0].target, "/v2/m2/y/manifests/v1");
    assert!(notices.lock().unwrap().iter().any(|n| matches!(n, Notice::NextEndpoint { .. })));
    // The blob is asked for where the manifest was.
    let asked = broken.requests().len();
    let reader = client.blob(&manifest.name, &digest(MANIFEST), None).unwrap();
    assert_eq!(read_all(reader).unwrap(), MANIFEST);
    assert_eq!(broken.requests().len(), asked);

    write(&path, &conf(&broken.host));
    let (client, _) = support::client(home.path());
    let error = client.manifest(&name("r.invalid", "x/y:v1")).unwrap_err();
    let text = error.to_string();
    for place in ["/m1/y: ", "/m2/y: ", "/none/y: "] {
        assert!(text.contains(place), "{text}");
    }
    assert!(matches!(error.root(), Error::NotFound { .. }));
}

#[test]
fn a_mirror_with_other_content_is_passed_over() {
    let home = tempfile::tempdir().unwrap();
    let bad = Server::start(|_, _| reply("200 OK", OCI, b"{\"changed\":true}"));
    let good = Server::start(ok);
    write(
        &home.path().join("etc/containers/registries.conf"),
        &format!(
            "[[registry]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\n",
            good.host, bad.host
        ),
    );
    let (client, _) = client(home.path());
    let image = format!("x@{}", digest(MANIFEST));
    assert_eq!(client.manifest(&name(&good.host, &image)).unwrap().bytes, MANIFEST);
    assert_eq!(bad.requests().len(), 1);
}

#[test]
fn blocked_names_are_not_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(ok);
    write(
        &home.path().join("etc/containers/registries.conf"),
        &format!("[[registry]]\nlocation = \"{}\"\nblocked = true\n", server.host),
    );
    let (client, _) = client(home.path());
    let error = client.manifest(&name(&server.host, "a/b:v1")).unwrap_err();
    assert!(matches!(error, Error::Blocked { .. }), "{error}");
    assert!(server.requests().is_empty());
}

#[test]
fn short_names_are_searched_in_order() {
    let home = tempfile::tempdir().unwrap();
    let first = Server::start(|_, _| reply("404 Not Found", &[], b""));
    let second = Server::start(ok);
    write(
        &home.path().join(".config/containers/registries.conf"),
        &format!("unqualified-search-registries = [\"{}\", \"{}\"]", first.host, second.host),
    );
    let (client, _) = client(home.path());
    let found = client.manifest(&"tool:1".parse().unwrap()).unwrap();
    assert_eq!(found.name, name(&second.host, "tool:1"));
    assert_eq!(first.requests().len(), 1);
}

#[test]
fn an_unreachable_registry_and_proxy_are_named() {
    let home = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (client, _) = client(home.path());
    let error = client.manifest(&name(&host, "a/b:v1")).unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");

    let (mut options, _) = options(home.path());
    options.environment.variables.insert("https_proxy".into(), format!("http://u:secret@{host}"));
    let client = Client::new(options).unwrap();
    let error = client.manifest(&name("r.invalid", "a/b:v1")).unwrap_err();
    assert!(matches!(error, Error::Proxy { .. }), "{error:?}");
    assert!(!error.to_string().contains("secret"));
}

#[test]
fn a_proxy_gets_the_name_and_its_own_credentials_only() {
    let home = tempfile::tempdir().unwrap();
    let proxy = Server::start(|_, _| reply("403 Forbidden", &[], b""));
    let (mut options, _) = options(home.path());
    let (username, password) = ("me".to_owned(), "registry-secret".to_owned());
    options.credentials = Some(Credentials::Password { username, password });
    let variables = &mut options.environment.variables;
    variables.insert("HTTPS_PROXY".into(), format!("http://u:p@{}", proxy.host));
    variables.insert("NO_PROXY".into(), "direct.invalid".into());
    let client = Client::new(options).unwrap();
    let error = client.manifest(&name("r.invalid", "a/b:v1")).unwrap_err();
    assert!(matches!(error, Error::Proxy { .. }), "{error:?}");
    let requests = proxy.requests();
    assert_eq!(
        (requests[0].method.as_str(), requests[0].target.as_str()),
        ("CONNECT", "r.invalid:443")
    );
    let expected = format!("Basic {}", STANDARD.encode("u:p"));
    assert_eq!(requests[0].header("proxy-authorization"), Some(expected.as_str()));
    assert_eq!(requests[0].header("authorization"), None);
    let asked = requests.len();
    let error = client.manifest(&name("direct.invalid", "a/b:v1")).unwrap_err();
    assert!(matches!(error, Error::Resolve { .. }), "{error:?}");
    assert_eq!(proxy.requests().len(), asked);
}

#[test]
fn an_https_registry_with_an_unknown_name_is_not_asked_in_plain_http() {
    let home = tempfile::tempdir().unwrap();
    // The name resolves to a server that would answer plain HTTP.
    let server = Server::start(ok);
    let port = server.host.rsplit_once(':').unwrap().1;
    write(&home.path().join("etc/hosts"), "127.0.0.1 reg.test\n");
    let (client, _) = client(home.path());
    let error = client.manifest(&name(&format!("reg.test:{port}"), "a/b:v1")).unwrap_err();
    assert!(error.is_transient() || matches!(error, Error::Tls { .. }), "{error:?}");
    assert!(server.requests().is_empty());
}

#[test]
fn clients_move_between_threads() {
    fn check<T: Send>() {}
    check::<BlobReader>();
    check::<Client>();
    // Threads share one client.
    let home = tempfile::tempdir().unwrap();
    let bytes = content();
    let served = bytes.clone();
    let server = Server::start(move |_, _| reply("200 OK", &[], &served));
    let (client, _) = client(home.path());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(blob(&client, &server.host, &bytes).unwrap() == bytes));
        }
    });
}

/// A registry that breaks the first upload of a blob after its first 1000
/// bytes, and remembers them only if `keeps`.
fn breaking(keeps: bool) -> Server {
    let place = [("Location", "/v2/a/b/blobs/uploads/1?s=x")];
    Server::start(move |request, _| match request.method.as_str() {
        "HEAD" => reply("404 Not Found", &[], b""),
        "POST" => reply("202 Accepted", &place, b""),
        "PATCH" if request.header("content-range").is_none() => {
            reply("500 Internal Server Error", &[], b"")
        }
        "GET" if keeps => reply(
            "204 No Content",
            &[("Location", "/v2/a/b/blobs/uploads/1?s=y"), ("Range", "0-999")],
            b"",
        ),
        "GET" => reply("404 Not Found", &[], b""),
        "PATCH" => reply("202 Accepted", &place, b""),
        "PUT" => reply("201 Created", &[], b""),
        _ => reply("405 Method Not Allowed", &[], b""),
    })
}

fn push(server: &Server, home: &std::path::Path, bytes: &[u8]) -> Result<Pushed, Error> {
    push_from(server, home, bytes, None)
}

fn push_from(
    server: &Server,
    home: &std::path::Path,
    bytes: &[u8],
    from: Option<&str>,
) -> Result<Pushed, Error> {
    let (client, _) = client(home);
    let digest = digest(bytes);
    let mut open = || Ok(Box::new(bytes) as Box<dyn Read + Send + '_>);
    let content = Content { digest: &digest, size: bytes.len() as u64, open: &mut open };
    client.push_blob(&name(&server.host, "a/b:v1"), content, from)
}

#[test]
fn a_broken_upload_goes_on_where_it_broke() {
    let home = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..5000).map(|i| b'a' + (i % 26) as u8).collect();
    let server = breaking(true);
    assert_eq!(push(&server, home.path(), &bytes).unwrap(), Pushed::Sent);
    let requests = server.requests();
    let methods: Vec<&str> = requests.iter().map(|r| r.method.as_str()).collect();
    assert_eq!(methods, ["HEAD", "POST", "PATCH", "GET", "PATCH", "PUT"]);
    assert_eq!(requests[4].header("content-range"), Some("1000-4999"));
    assert_eq!(requests[4].body.as_bytes(), &bytes[1000..]);
    assert!(requests[4].target.ends_with("?s=y"));
    assert_eq!(
        requests[5].target,
        format!("/v2/a/b/blobs/uploads/1?s=x&digest={}", digest(&bytes))
    );
}

#[test]
fn a_forgotten_upload_begins_again_but_not_for_ever() {
    let home = tempfile::tempdir().unwrap();
    let server = breaking(false);
    let error = push(&server, home.path(), &[b'x'; 5000]).unwrap_err();
    assert!(matches!(error, Error::Server { status: 500, .. }), "{error}");
    let begun = server.requests().iter().filter(|r| r.method == "POST").count();
    assert_eq!(begun, 4, "{:?}", server.requests());
}

#[test]
fn what_another_repository_has_is_mounted_or_sent() {
    let home = tempfile::tempdir().unwrap();
    for (status, pushed) in [("201 Created", Pushed::Mounted), ("202 Accepted", Pushed::Sent)] {
        let server = Server::start(move |request, _| match request.method.as_str() {
            "HEAD" => reply("404 Not Found", &[], b""),
            "POST" => reply(status, &[("Location", "/v2/a/b/blobs/uploads/1")], b""),
            "PATCH" => reply("202 Accepted", &[("Location", "/v2/a/b/blobs/uploads/1")], b""),
            _ => reply("201 Created", &[], b""),
        });
        assert_eq!(push_from(&server, home.path(), b"bytes", Some("base/os")).unwrap(), pushed);
        let requests = server.requests();
        let wanted = format!("/v2/a/b/blobs/uploads/?mount={}&from=base/os", digest(b"bytes"));
        assert_eq!(requests[1].target, wanted);
        assert_eq!(requests.len(), if pushed == Pushed::Mounted { 2 } else { 4 });
    }
}

#[test]
fn what_the_registry_has_is_not_sent() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| reply("200 OK", &[], b""));
    assert_eq!(push(&server, home.path(), b"bytes").unwrap(), Pushed::Present);
    let server = Server::start(|request, _| match request.method.as_str() {
        "HEAD" => reply("404 Not Found", &[], b""),
        _ => reply("202 Accepted", &[], b""),
    });
    let error = push(&server, home.path(), b"bytes").unwrap_err();
    assert!(matches!(error, Error::NotARegistry { .. }), "{error}");
}
