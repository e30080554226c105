//! A registry or a network that fails: a transfer goes on where it was cut, or
//! one message says what happened, and no image is left behind.

use harness::{Fault, Layout, Place, Ran, Server};

fn pull(place: &Place, fault: Fault) -> (Server, Ran) {
    if !place.path("layout").exists() {
        let mut layout = Layout::new(place.path("layout"));
        let _ = layout.busybox().finish("v1");
    }
    let server = Server::start(&place.path("layout"), fault);
    let image = format!("docker://{}/team/image:v1", server.address);
    let mut command = place.sampan_command(&["pull", "--quiet", &image]);
    if fault == Fault::Stall {
        command.env("SAMPAN_STALL_TIMEOUT", "5");
    }
    let ran = harness::run(&mut command);
    (server, ran)
}

fn nothing_left(place: &Place) {
    let script = "find $SAMPAN_STORE -name '*.sqfs'; find $SAMPAN_STORE/refs -type f 2>/dev/null";
    assert_eq!(place.shell(script).out, "");
}

#[test]
fn a_cut_transfer_goes_on_where_it_was() {
    let place = Place::new();
    let (server, ran) = pull(&place, Fault::Cut);
    let _ = ran.ok();
    let ranges: Vec<String> = server.requests("/blobs/");
    assert!(ranges.iter().any(|r| !r.ends_with(' ')), "no Range was asked for: {ranges:?}");
    let image = format!("docker://{}/team/image:v1", server.address);
    assert_eq!(place.sampan(&["run", "--pull", "never", &image, "echo", "whole"]).ok(), "whole\n");
}

#[test]
fn too_many_requests_are_waited_out() {
    let place = Place::new();
    let (server, ran) = pull(&place, Fault::TooMany);
    let _ = ran.ok();
    assert!(server.requests("/manifests/").len() >= 3);
}

#[test]
fn a_stalled_transfer_goes_on_after_the_limit() {
    let place = Place::new();
    let (server, ran) = pull(&place, Fault::Stall);
    let _ = ran.ok();
    assert!(server.requests("/blobs/").iter().any(|r| !r.ends_with(' ')));
}

#[test]
fn what_cannot_be_got_is_one_message() {
    for (fault, words) in [
        (Fault::Html, &["web page"][..]),
        (Fault::Garbage, &["HTTP", "protocol"]),
        (Fault::Password, &["login", "credentials"]),
        (Fault::WrongBytes, &["digest"]),
        (Fault::BadManifest, &["manifest"]),
        (Fault::Unavailable, &["503"]),
    ] {
        let place = Place::new();
        let (server, ran) = pull(&place, fault);
        assert_ne!(ran.code, 0, "{fault:?}");
        let code = ran.code;
        let message = ran.fails(code);
        assert!(words.iter().any(|w| message.contains(w)), "{fault:?}: {message}");
        assert!(message.contains(&server.address), "{fault:?} names no registry: {message}");
        assert!(message.lines().count() < 12, "{message}");
        nothing_left(&place);
    }
}
