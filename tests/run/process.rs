//! The process is the caller's own: codes, signals, descriptors, terminals.

use harness::Place;

#[test]
fn exit_codes_and_signals_are_the_commands() {
    let place = Place::new();
    for image in [place.image_dir(), place.image_file()] {
        for (script, code) in
            [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 137), ("kill -15 $$", 143)]
        {
            assert_eq!(place.sampan(&["exec", &image, "sh", "-c", script]).code, code, "{script}");
            let ran = place.sampan(&["exec", "--pid", &image, "sh", "-c", script]);
            assert_eq!(ran.code, code, "--pid {script}: {}", ran.err);
        }
    }
}

#[test]
fn the_callers_process_becomes_the_application() {
    let place = Place::new();
    let script = format!("exec $sampan exec {} sh -c 'echo $$ '", place.image_file());
    let out = place.shell(&format!("echo $$; {script}")).ok();
    let mut lines = out.lines().map(str::trim);
    assert_eq!(lines.next(), lines.next());
}

#[test]
fn descriptors_umask_and_affinity_stay() {
    let place = Place::new();
    let image = place.image_file();
    let script = format!(
        "umask 027; taskset -p 1 $$ >/dev/null; exec 7<<<'through seven'; \
         $sampan exec {image} sh -c 'umask; cat <&7; grep Cpus_allowed: /proc/self/status || cat /proc/self/status' | head -3"
    );
    let out = place.shell(&script).ok();
    assert!(out.starts_with("0027\nthrough seven\n"), "{out}");
    let inside = place.shell(&format!(
        "taskset -p 1 $$ >/dev/null; $sampan exec {image} cat /proc/self/status | grep Cpus_allowed:"
    ));
    assert!(inside.ok().trim_end().ends_with('1'));
}

#[test]
fn a_pipeline_ends_with_the_command() {
    let place = Place::new();
    let image = place.image_file();
    // The image server must hold no end of the pipe: `timeout` turns a hang
    // into a failure.
    let script = format!("timeout 300 bash -c '$sampan exec {image} echo hello | cat'");
    assert_eq!(place.shell(&script).ok(), "hello\n");
}

#[test]
fn no_server_outlives_its_container() {
    let place = Place::new();
    let image = place.image_file();
    assert_eq!(place.sampan(&["exec", &image, "true"]).code, 0);
    let script =
        format!("wait_for \"! pgrep -f '[/]{}' >/dev/null\"", image.trim_start_matches('/'));
    assert_eq!(place.shell(&script).code, 0, "an image server is left");
}

#[test]
fn the_server_is_no_child_of_the_application() {
    let place = Place::new();
    let image = place.image_file();
    let script = "for p in /proc/[0-9]*/stat; do read -r line <$p 2>/dev/null || continue; \
                  set -- ${line##*) }; [ \"$2\" = $$ ] && echo child $p; done; echo done";
    assert_eq!(place.sampan(&["exec", &image, "sh", "-c", script]).ok(), "done\n");
}

/// What the image's server has is not what its first container's caller had.
#[test]
fn the_server_has_nothing_of_its_caller() {
    let place = Place::new();
    let image = place.image_file();
    place.write("work/here/note", "held");
    place.give(&place.path("work/here"));
    // On a terminal, in a directory, on one processor, with few descriptors, small
    // files and descriptors of its own.
    let caller = format!(
        "cd here; exec 7<note 8>written; all=$(grep Cpus_allowed: /proc/self/status); \
         ulimit -Sn 64; ulimit -Sf 100000; ulimit -Sv 4000000; taskset -p 1 $$ >/dev/null; \
         $sampan exec {image} sh -c 'echo >../started; until test -e ../go; do sleep 0.1; done' & \
         wait_for 'test -e ../started'; server=$(pgrep -f -- '^[^ ]*sampan exec .*{image}'); \
         tty >../terminal; {{ readlink /proc/$server/cwd; cut -d' ' -f7 /proc/$server/stat; \
         grep Cpus_allowed: /proc/$server/status; echo \"$all\"; \
         grep -E '^Max (open files|file size|address space)' /proc/$server/limits; \
         ls -l /proc/$server/fd; }} >../server; touch ../go; wait"
    );
    place.write("work/caller", format!("{}\n{caller}", harness::WAIT_FOR));
    let _ = place.shell("script -qec 'bash caller' /dev/null </dev/null >said").ok();
    let read = |name: &str| std::fs::read_to_string(place.path("work").join(name)).unwrap();
    assert!(read("terminal").starts_with("/dev/"), "the caller had no terminal");
    let text = read("server");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["/", "0"], "directory and terminal: {text}");
    assert_eq!(lines[2], lines[3], "processors: {text}");
    for limit in &lines[4..7] {
        // Name, soft, hard, unit.
        let words: Vec<&str> = limit.split_whitespace().rev().collect();
        assert_eq!(words[1], words[2], "{limit}");
    }
    // The directory in which it is found.
    let run = format!("sampan-{}/run", place.shell("id -u").ok().trim());
    for line in lines[7..].iter().filter(|line| line.contains(" -> ")) {
        let (head, target) = line.split_once(" -> ").unwrap();
        let number: u32 = head.rsplit(' ').next().unwrap().parse().unwrap();
        let expected = match number {
            0..=2 => target == "/dev/null",
            // The image, its connection, what those who join need, and the end of it.
            _ => {
                let kinds = ["anon_inode:[", "socket:[", "user:["];
                kinds.iter().any(|kind| target.starts_with(kind))
                    || ["/", "/fuse", "/dev/fuse", &image].contains(&target)
                    || target == place.path("scratch").join(&run).to_str().unwrap()
            }
        };
        assert!(expected, "{line}\n{text}");
    }
}

#[test]
fn no_new_privileges() {
    let place = Place::new();
    let out = place.sampan(&["exec", &place.image_dir(), "cat", "/proc/self/status"]).ok();
    let line = out.lines().find(|l| l.starts_with("NoNewPrivs")).unwrap();
    assert!(line.ends_with('1'), "{line}");
}

#[test]
fn commands_that_cannot_run_say_why() {
    let place = Place::new();
    let root = place.path("rootfs");
    let image = place.image_dir();
    std::fs::write(root.join("bin/plain"), "no program").unwrap();
    std::fs::write(root.join("bin/script"), "#!/no/such/shell\n").unwrap();
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(64, 0);
    elf[18] = 183;
    std::fs::write(root.join("bin/foreign"), elf).unwrap();
    for name in ["script", "foreign"] {
        let path = root.join("bin").join(name);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, mode).unwrap();
    }
    let run = |command: &str, code| place.sampan(&["exec", &image, command]).fails(code);
    assert!(run("missing", 127).contains("missing"));
    assert!(run("/bin/plain", 126).contains("not executable"));
    assert!(run("script", 127).contains("/no/such/shell"));
    assert!(run("foreign", 126).contains("aarch64"));
}

#[test]
fn a_terminated_pid_namespace_leaves_nothing() {
    let place = Place::new();
    let image = place.image_dir();
    // Nobody else on the machine sleeps so long.
    let script = format!(
        "there=\"pgrep -fx 'sleep 4321.$$' >/dev/null\"; \
         $sampan exec --pid {image} sleep 4321.$$ & wait_for \"$there\" && kill -9 $! && \
         wait_for \"! $there\""
    );
    assert_eq!(place.shell(&script).code, 0, "a process survived its supervisor");
}
