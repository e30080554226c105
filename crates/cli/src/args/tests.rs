//! What the command line reads as.

use super::*;

fn parse_words(words: &[&str]) -> Result<Cli, clap::Error> {
    parse(std::iter::once("sampan").chain(words.iter().copied()).map(OsString::from).collect())
}

fn run(words: &[&str]) -> RunArgs {
    match parse_words(&[&["run"], words].concat()).unwrap().command {
        Command::Run(args) => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definitions_are_sound() {
    full().debug_assert();
    for name in CONTAINERS {
        short(name).unwrap().debug_assert();
    }
}

#[test]
fn a_container_is_started_also_behind_global_flags() {
    let name = |words: &[&str]| {
        let words: Vec<_> =
            std::iter::once(&"sampan").chain(words).copied().map(OsString::from).collect();
        container_command(&words).map(str::to_owned)
    };
    for words in [
        &["run", "i"][..],
        &["-q", "run", "i"],
        &["--store", "exec", "run", "i"],
        &["--store=/s", "--verbose", "--library=u", "run"],
    ] {
        assert_eq!(name(words).as_deref(), Some("run"), "{words:?}");
    }
    for words in
        [&["images"][..], &["--store", "run"], &["--unknown", "run"], &["-qx", "run"], &["-"], &[]]
    {
        assert_eq!(name(words), None, "{words:?}");
    }
}

#[test]
fn nothing_after_the_image_is_a_flag() {
    for words in [
        &["img", "--root", "-v", "x"][..],
        &["img", "--", "--help"],
        &["img", "sh", "-c", "exit 1"],
        &["img", "--entrypoint=x", "-q"],
        &["img", "--version"],
    ] {
        let args = run(words);
        assert_eq!(args.words, words, "{words:?}");
        assert!(!args.container.root && args.entrypoint.is_none());
    }
    assert_eq!(run(&["--", "img", "a"]).words, ["img", "a"]);
}

#[test]
fn flags_before_the_image() {
    let args = run(&[
        "-v",
        "/a:/b",
        "-B/c",
        "--volume",
        "/d",
        "--bind=/e",
        "-it",
        "--rm",
        "-e",
        "A=b",
        "-eC",
        "--fakeroot",
        "--cwd",
        "/w",
        "--network",
        "none",
        "--dry-run",
        "img",
        "cmd",
    ]);
    let c = &args.container;
    assert_eq!(c.bind, ["/a:/b", "/c", "/d", "/e"]);
    assert_eq!(c.env, ["A=b", "C"]);
    assert!(c.root && c.interactive && c.tty && c.rm);
    assert_eq!(c.workdir.as_deref(), Some(std::path::Path::new("/w")));
    assert_eq!((c.net, c.dry_run), (Some(Net::None), Some(DryRun::Text)));
    assert_eq!(args.words, ["img", "cmd"]);
    assert_eq!(run(&["--dry-run=json", "img"]).container.dry_run, Some(DryRun::Json));
    assert_eq!(run(&["--pwd", "/x", "img"]).container.workdir, Some("/x".into()));
}

#[test]
fn global_flags_stand_anywhere_before_the_image() {
    assert!(parse_words(&["-q", "run", "img"]).unwrap().globals.quiet);
    assert!(parse_words(&["run", "-q", "img"]).unwrap().globals.quiet);
    assert!(!parse_words(&["run", "img", "-q"]).unwrap().globals.quiet);
    let cli = parse_words(&["images", "--store", "/s"]).unwrap();
    let overrides = cli.command.overrides(&cli.globals);
    assert_eq!(overrides, [Override { key: "store", flag: "--store", value: "/s".into() }]);
}

#[test]
fn flags_that_set_configuration() {
    let words =
        ["exec", "--pull", "never", "--platform", "linux/arm64", "--no-mount", "tmp,cwd", "i", "c"];
    let cli = parse_words(&words).unwrap();
    let list = cli.command.overrides(&cli.globals);
    let pairs: Vec<_> = list.iter().map(|o| (o.key, o.value.as_str())).collect();
    assert_eq!(pairs, [("platform", "linux/arm64"), ("pull", "never"), ("no_mount", "tmp,cwd")]);
}

#[test]
fn devices_and_gpus() {
    let args = run(&["--device", "a/b=c", "--device=/dev/x", "--gpu", "img"]);
    assert_eq!(args.container.device, ["a/b=c", "/dev/x"]);
    assert_eq!(args.container.gpu.as_deref(), Some("all"));
    assert_eq!(args.words, ["img"]);
    assert_eq!(run(&["--gpu=amd", "img"]).container.gpu.as_deref(), Some("amd"));
    let args = run(&["--nv", "--rocm", "img", "--nv"]);
    assert!(args.container.nv && args.container.rocm && args.words.len() == 2);
    assert!(matches!(
        parse_words(&["cdi", "validate", "/a", "/b"]).unwrap().command,
        Command::Cdi(CdiArgs { command: CdiCommand::Validate { files } }) if files.len() == 2
    ));
}

#[test]
fn what_is_wrong_is_refused() {
    for words in [
        &["frobnicate"][..],
        &["pull"],
        &["run"],
        &["exec"],
        &["run", "--pull", "sometimes", "img"],
        &["run", "--root", "--user", "1", "img"],
        &["run", "--writable", "--writable-tmpfs", "img"],
        &["run", "--home", "/x", "--no-home", "img"],
        &["run", "--net", "bridge", "img"],
        &["run", "--dry-run=xml", "img"],
        &["run", "--gpu=intel", "img"],
        &["run", "--gpu=none", "--nv", "img"],
        &["cdi"],
        &["images", "--quiet", "--verbose"],
    ] {
        assert!(parse_words(words).is_err(), "{words:?}");
    }
}

#[test]
fn the_short_command_line_has_every_flag_of_the_full_one() {
    for name in CONTAINERS {
        let names = |command: &clap::Command| -> Vec<String> {
            let sub = command.find_subcommand(name).unwrap();
            sub.get_arguments().map(|arg| arg.get_id().to_string()).collect()
        };
        assert_eq!(names(&short(name).unwrap()), names(&full()));
    }
}

#[test]
fn with_a_file_all_words_are_the_command() {
    let args = run(&["--edf", "e", "--image", "img", "--image-entrypoint", "--", "sh", "-x"]);
    assert_eq!(args.words, ["sh", "-x"]);
    assert_eq!(args.container.edf.as_deref(), Some("e"));
    assert!(args.image_entrypoint && args.container.image.as_deref() == Some("img"));
    assert!(run(&["--edf=e"]).words.is_empty());
    for words in [&["run", "--image", "img", "x"][..], &["run"], &["exec", "--edf", "e"]] {
        assert!(parse_words(words).is_err(), "{words:?}");
    }
}
