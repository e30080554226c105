//! Variables: literal, ordered, explained.

use harness::Place;

#[test]
fn values_are_literal() {
    let place = Place::new();
    let image = place.image_dir();
    let evil = "$(touch /tmp/never) `id` ; \" ' \\ é";
    let pair = format!("EVIL={evil}");
    let out = place.sampan(&["exec", "--env", &pair, &image, "sh", "-c", "printf '%s' \"$EVIL\""]);
    assert_eq!(out.ok(), evil);
}

#[test]
fn precedence_is_host_then_file_then_flag() {
    let place = Place::new();
    let image = place.image_dir();
    let file = place.write("env", "A=file\nB=file\n# comment\n\nC=two words\n");
    let args = [
        "exec",
        "--env-file",
        file.to_str().unwrap(),
        "-e",
        "B=flag",
        &image,
        "sh",
        "-c",
        "echo $A $B $C $D",
    ];
    let mut command = place.sampan_command(&args);
    let output = command.env("A", "host").env("D", "host").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "file flag two words host\n");
}

#[test]
fn a_clean_environment_has_little() {
    let place = Place::new();
    let mut command = place.sampan_command(&["exec", "--cleanenv", &place.image_dir(), "env"]);
    let output = command.env("SECRET", "1").env("http_proxy", "p").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("SECRET") && text.contains("http_proxy=p"), "{text}");
}

#[test]
fn the_hosts_search_path_stays_outside() {
    let place = Place::new();
    let mut command = place.sampan_command(&["exec", &place.image_dir(), "sh", "-c", "echo $PATH"]);
    let output = command.env("PATH", "/usr/bin:/bin:/opt/host/bin").output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("/opt/host"));
}
