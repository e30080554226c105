//! Hooks: what is read, chosen and run.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// As the NVIDIA Container Toolkit installs it.
const NVIDIA: &str = include_str!("../../../../fuzz/corpus/hook/nvidia.json");

fn parse(text: &str) -> Result<HookFile, HookError> {
    HookFile::parse(Path::new("/etc/hooks.d/x.json"), text.as_bytes())
}

fn with_when(when: &str) -> HookFile {
    let text = format!(
        r#"{{"version":"1.0.0","hook":{{"path":"/h"}},"when":{when},"stages":["prestart"]}}"#
    );
    parse(&text).unwrap()
}

#[test]
fn a_file_becomes_a_hook_for_each_stage() {
    let file = parse(NVIDIA).unwrap();
    let none = BTreeMap::new();
    let situation = Situation { command: "sh", annotations: &none, has_bind_mounts: false };
    let hooks = select(&[file], &situation);
    let stages: Vec<_> = hooks.iter().map(|hook| hook.stage).collect();
    assert_eq!(stages, [Stage::Prestart, Stage::Poststop]);
    assert_eq!(hooks[0].args[1], "prestart");
    assert_eq!(hooks[0].timeout, Some(Duration::from_secs(10)));
    assert!(hooks[0].to_string().contains("/etc/hooks.d/x.json"));
}

#[test]
fn all_conditions_have_to_match() {
    let annotations =
        BTreeMap::from([("com.example.dept".to_owned(), "fluid-dynamics".to_owned())]);
    let situation =
        Situation { command: "/usr/sbin/init", annotations: &annotations, has_bind_mounts: true };
    for (when, expected) in [
        (r#"{"always": true}"#, true),
        (r#"{"always": false}"#, false),
        (r#"{"commands": ["/init$"]}"#, true),
        (r#"{"commands": ["^init$", "bash"]}"#, false),
        (r#"{"commands": []}"#, false),
        (r#"{"always": true, "commands": ["bash"]}"#, false),
        (r#"{"hasBindMounts": true}"#, true),
        (r#"{"hasBindMounts": false}"#, false),
        (r#"{"annotations": {"^com\\.example\\.dept$": "^fluid"}}"#, true),
        (r#"{"annotations": {"^com\\.example\\.dept$": "^solid"}}"#, false),
        (r#"{"annotations": {"dept": "fluid", "other": "."}}"#, false),
    ] {
        assert_eq!(with_when(when).matches(&situation), expected, "{when}");
    }
    let other = Situation { has_bind_mounts: false, ..situation };
    assert!(!with_when(r#"{"hasBindMounts": true}"#).matches(&other));
}

/// The examples of oci-hooks(5), and its rules.
#[test]
fn the_older_schema_is_read() {
    let annotations = BTreeMap::from([("dept".to_owned(), "x fluid-dynamics".to_owned())]);
    let situation =
        Situation { command: "/usr/sbin/init", annotations: &annotations, has_bind_mounts: true };
    for (conditions, expected) in [
        (r#""cmds": [".*/init$", "bash"]"#, true),
        (r#""cmd": ["bash"]"#, false),
        (r#""annotations": [".*fluid-dynamics.*"]"#, true),
        (r#""annotation": ["^fluid"]"#, false),
        (r#""hasbindmounts": true"#, true),
        (r#""hasbindmounts": false"#, false),
        // One is enough.
        (r#""cmds": ["bash"], "hasbindmounts": true"#, true),
        (r#""version": "0.1.0", "cmds": ["bash"], "annotations": ["solid"]"#, false),
    ] {
        let text = format!(
            r#"{{"hook": "/h", "arguments": ["--debug"], "stages": ["precreate", "poststop"], {conditions}}}"#
        );
        let file = parse(&text).unwrap();
        assert_eq!(file.matches(&situation), expected, "{conditions}");
        assert_eq!(file.hooks[0].args, ["/h", "--debug"]);
        assert_eq!(
            file.hooks.iter().map(|h| h.stage).collect::<Vec<_>>(),
            [Stage::Precreate, Stage::Poststop]
        );
    }
    for (text, word) in [
        (r#"{"stages": ["poststop"], "cmds": ["a"]}"#, "hook"),
        (r#"{"hook": "h", "stages": ["poststop"], "cmds": ["a"]}"#, "absolute"),
        (r#"{"hook": "/h", "cmds": ["a"]}"#, "stages"),
        (r#"{"hook": "/h", "stages": ["poststop"]}"#, "no condition"),
        (r#"{"hook": "/h", "stages": ["a"], "stage": ["b"], "cmds": ["a"]}"#, "stage"),
        (r#"{"hook": "/h", "stages": ["poststop"], "cmds": ["("]}"#, "cmds"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn a_filters_output_is_what_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let hook = script(dir.path(), "sed s/a/b/; echo aside >&2");
    assert_eq!(filter(&hook, b"{a}").unwrap(), b"{b}");
    let hook = script(dir.path(), "head -c 20000000 /dev/zero");
    let error = filter(&hook, b"{}").unwrap_err().to_string();
    assert!(error.contains("more than"), "{error}");
    let hook = script(dir.path(), "echo no >&2; exit 1");
    assert!(matches!(filter(&hook, b"{}"), Err(HookError::Failed { .. })));
}

#[test]
fn what_is_wrong_names_file_and_field() {
    let change = |from: &str, to: &str| NVIDIA.replace(from, to);
    for (text, word) in [
        (String::new(), "EOF"),
        ("[]".to_owned(), "invalid"),
        (change("1.0.0", "0.2.0"), "version: \"0.2.0\""),
        (change("1.0.0", "0.1.0"), "hook"),
        (change("\"/usr/bin/", "\"usr/bin/"), "hook.path"),
        (change("\"timeout\": 10", "\"timeout\": 0"), "hook.timeout"),
        (change("\"timeout\": 10", "\"timeout\": \"10\""), "hook.timeout"),
        (change("\"poststop\"", "\"poststep\""), "\"poststep\" is no stage"),
        (change("[\"prestart\", \"poststop\"]", "[]"), "stages: there is no stage"),
        (change("\".*\"", "\"(\""), "when.commands"),
        (change("\"always\": true, \"commands\": [\".*\"]", ""), "when: there is no condition"),
        (change("\"always\"", "\"allways\""), "allways"),
        (change("\"args\"", "\"arguments\""), "arguments"),
        (NVIDIA.to_owned() + "x", "trailing"),
    ] {
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.starts_with("/etc/hooks.d/x.json: "), "{error}");
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn later_directories_hide_earlier_ones_and_names_give_the_order() {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, path: &str| {
        let file = root.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let text = format!(
            r#"{{"version":"1.0.0","hook":{{"path":"{path}"}},"when":{{"always":true}},"stages":["prestart"]}}"#
        );
        fs::write(file, text).unwrap();
    };
    write("usr/hooks.d/01-b.json", "/hidden");
    write("usr/hooks.d/02-c.json", "/c");
    write("etc/hooks.d/01-b.json", "/b");
    write("etc/hooks.d/00-UPPER.json", "/a");
    fs::write(root.path().join("etc/hooks.d/README"), "not a hook").unwrap();
    let dirs = ["/usr/hooks.d", "/etc/hooks.d", "/no/such"].map(PathBuf::from);
    let files = load(root.path(), &dirs).unwrap();
    let paths: Vec<_> = files.iter().map(|file| file.hooks[0].path.clone()).collect();
    assert_eq!(paths, ["/a", "/b", "/c"].map(PathBuf::from));
    fs::write(root.path().join("etc/hooks.d/03.json"), "{").unwrap();
    assert!(matches!(load(root.path(), &dirs), Err(HookError::File { .. })));
}

#[test]
fn files_that_are_too_large_are_not_read() {
    let root = tempfile::tempdir().unwrap();
    let file = fs::File::create(root.path().join("x.json")).unwrap();
    file.set_len(LIMIT + 1).unwrap();
    let error = load(root.path(), &[PathBuf::from("/")]).unwrap_err();
    assert!(matches!(error, HookError::Read { .. }), "{error}");
}

/// A shell script as a hook.
fn script(dir: &Path, text: &str) -> Hook {
    let path = dir.join("hook");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Hook {
        stage: Stage::CreateRuntime,
        // A script that was just written may still be open for writing in a
        // child of another test, and could not be executed.
        args: vec!["sh".into(), path.to_str().unwrap().into(), "one".into()],
        path: "/bin/sh".into(),
        env: vec!["A=b=c".into(), "PATH=/usr/bin:/bin".into()],
        timeout: None,
        origin: "/etc/hooks.d/x.json".into(),
    }
}

#[test]
fn a_hook_gets_state_words_and_only_its_environment() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let hook =
        script(dir.path(), &format!("{{ cat; echo; echo $1 $A $HOME; pwd; }} > {}", out.display()));
    let state = State {
        oci_version: "1.0.2".into(),
        id: "c1".into(),
        status: Status::Creating,
        pid: Some(7),
        bundle: "/b".into(),
        annotations: BTreeMap::new(),
    };
    run(&hook, &serde_json::to_vec(&state).unwrap()).unwrap();
    assert_eq!(
        fs::read_to_string(out).unwrap(),
        "{\"ociVersion\":\"1.0.2\",\"id\":\"c1\",\"status\":\"creating\",\"pid\":7,\
         \"bundle\":\"/b\"}\none b=c\n/\n"
    );
}

#[test]
fn a_failure_says_what_the_hook_said() {
    let dir = tempfile::tempdir().unwrap();
    let hook = script(dir.path(), "echo 'no such GPU' >&2; exit 3");
    let error = run(&hook, b"{}").unwrap_err().to_string();
    assert!(error.contains("exit status: 3") && error.ends_with("no such GPU"), "{error}");
    // More than a pipe holds does not block, and the end of it is what is kept.
    let hook =
        script(dir.path(), "head -c 300000 /dev/zero | tr '\\0' x >&2; echo END >&2; exit 1");
    let error = run(&hook, &vec![b' '; 1 << 20]).unwrap_err().to_string();
    assert!(error.ends_with("xEND") && error.len() < 2 * 4096, "{}", error.len());
}

#[test]
fn a_hook_that_hangs_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut hook = script(dir.path(), "echo waiting >&2; exec sleep 600");
    hook.timeout = Some(Duration::from_secs(1));
    let error = run(&hook, b"{}").unwrap_err();
    assert!(matches!(&error, HookError::Timeout { stderr, .. } if stderr == "waiting"), "{error}");
}

#[test]
fn what_a_hook_leaves_behind_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let hook = script(dir.path(), "sleep 30 & echo $! > \"$0.pid\"");
    let start = std::time::Instant::now();
    run(&hook, b"{}").unwrap();
    assert!(start.elapsed() < Duration::from_secs(20));
    let pid = fs::read_to_string(dir.path().join("hook.pid")).unwrap();
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let hook = Hook { path: "/no/such/hook".into(), ..script(dir.path(), "") };
    let error = run(&hook, b"{}").unwrap_err();
    assert!(matches!(error, HookError::Start { .. }));
    assert!(error.to_string().contains("/no/such/hook"));
}
