//! Packages of a distribution, unchanged.

use std::path::Path;
use std::process::Command;

use harness::Place;

use crate::{build, unpacked};

/// apt drops to a user of its own, packages have owners and capabilities.
#[test]
fn apt_installs_packages_with_their_owners() {
    let place = Place::new();
    let base = format!("{}/base:latest", harness::registry());
    let text = format!(
        "FROM {base}\nENV DEBIAN_FRONTEND=noninteractive\n\
         RUN apt-get update -q && apt-get install -qy --no-install-recommends openssh-client iputils-ping sudo\n\
         RUN stat -c 'seen %u:%g %a' /usr/bin/ssh-agent /etc/shadow && useradd -m new && \
             su new -c 'touch ~/mine' && stat -c 'seen %U %a' /home/new/mine\n"
    );
    let ran = build(&place, &text, &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    for line in ["seen 0:101 2755", "seen 0:42 640", "seen new 644"] {
        assert!(ran.err.contains(line), "{line}\n{}", ran.err);
    }
    let all = unpacked(&place, "made");
    for line in [
        "./usr/bin/ssh-agent regular file 2755 0:101 0,0",
        "./usr/bin/sudo regular file 4755 0:0 0,0",
        "./var/cache/apt/archives/partial directory 700 42:0 0,0",
        "./home/new/mine regular empty file 644 1000:1000 0,0",
        "./usr/bin/ping cap_net_raw=ep",
    ] {
        assert!(all.lines().any(|found| found == line), "{line}\n{all}");
    }
}

/// Programs that make root of somebody, as the distribution has them.
#[test]
fn sudo_and_su_make_root_of_a_user() {
    let place = Place::new();
    let text = format!(
        "FROM {}/base:latest\nENV DEBIAN_FRONTEND=noninteractive\n\
         RUN apt-get update -q && apt-get install -qqy --no-install-recommends sudo >/dev/null 2>&1 \
             && useradd -m app && echo 'app ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/app && \
             chmod 440 /etc/sudoers.d/app && passwd -d root\n\
         USER app\n\
         RUN echo $(id -un) $(sudo id -un) $(sudo -u daemon id -un) $(su -c 'id -un') && \
             sudo apt-get install -qqy --no-install-recommends acl >/dev/null 2>&1 && \
             sudo touch /root/made && sudo chown app /root/made && ! chown root /root/made && \
             touch ~/mine && sudo stat -c '%U %n' /root/made ~/mine /usr/bin/getfacl\n",
        harness::registry()
    );
    let ran = build(&place, &text, &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    for line in
        ["app root daemon root", "app /root/made", "app /home/app/mine", "root /usr/bin/getfacl"]
    {
        assert!(ran.err.contains(line), "{line}\n{}", ran.err);
    }
}

/// apt looks whether it has given root up, which the fast mode does not show; its own
/// configuration has it stay root.
#[test]
fn apt_installs_packages_in_the_fast_mode() {
    let place = Place::new();
    let text = format!(
        "FROM {}/base:latest\nENV DEBIAN_FRONTEND=noninteractive\n\
         RUN apt-config dump APT::Sandbox::User && apt-get update -q && \
             apt-get install -qy --no-install-recommends openssh-client && ssh -V\n",
        harness::registry()
    );
    let ran = build(&place, &text, &["--root-emulation=fast"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("APT::Sandbox::User \"root\";"), "{}", ran.err);
    let all = unpacked(&place, "made");
    assert!(all.contains("./usr/bin/ssh regular file 755 0:0"), "{all}");
    assert!(!all.contains("zz-sampan"), "{all}");
}

/// Package scripts that set what one id cannot express go on without it.
#[test]
fn lists_and_capabilities_are_no_failure_in_the_fast_mode() {
    let place = Place::new();
    let text = format!(
        "FROM {}/base:latest\nENV DEBIAN_FRONTEND=noninteractive\n\
         RUN apt-get update -q && apt-get install -qqy --no-install-recommends acl libcap2-bin attr \
             >/dev/null 2>&1\n\
         RUN touch /f && setfacl -m u:1234:r /f && mkdir /d && setfacl -m d:g:4321:rwx /d && \
             setcap cap_net_raw+ep /f && setfattr -n user.own -v value /f && \
             echo own $(getfattr -n user.own --only-values /f) && ! setfattr -n user.own -v x /none && \
             ! setfacl -m u:1234:r /none && ! setfattr -n system.other -v x /f && echo went on\n",
        harness::registry()
    );
    let ran = build(&place, &text, &["--root-emulation=fast"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("own value") && ran.err.contains("went on"), "{}", ran.err);
}

/// systemd's own tools set access control lists, also of groups that only the image
/// has, through descriptors and /proc.
#[test]
fn access_control_lists_of_systemd_are_kept() {
    let place = Place::new();
    let text = format!(
        "FROM {}/base:latest\nENV DEBIAN_FRONTEND=noninteractive\n\
         RUN apt-get update -q && apt-get install -qqy --no-install-recommends \
             systemd acl >/dev/null 2>&1\n\
         RUN groupadd -g 4321 readers && mkdir -m 2755 -p /var/log/journal /srv/mine /srv/only && \
             touch /srv/mine/file && \
             printf '%s\\n' 'd /srv/made 0750 daemon readers' 'A+ /srv/mine - - - - group:readers:r--' \
             'a+ /srv/only - - - - d:group:readers:rwx' >/etc/tmpfiles.d/own.conf && \
             systemd-tmpfiles --create && getfacl /srv/mine\n\
         RUN getfacl -n /var/log/journal /srv/mine /srv/mine/file /srv/only && \
             getfacl -R /srv >/acl && cp -a /srv /copy && setfacl -bR /srv && cd / && \
             setfacl --restore=/acl && getfacl -R /srv | sed s/srv/copy/ | sort >/a && \
             getfacl -R /copy | sort | diff - /a\n",
        harness::registry()
    );
    let ran = build(&place, &text, &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    for line in ["group:readers:r--", "default:group:4321:rwx", "group:4321:r--", "group:4:r-x"] {
        assert!(ran.err.contains(line), "{line}\n{}", ran.err);
    }
    let all = unpacked(&place, "made");
    let of = |path: &str| {
        let file = format!("# file: ./{path}\n");
        let (_, rest) = all.split_once(&file).unwrap_or_else(|| panic!("{path}\n{all}"));
        rest.split("\n\n").next().unwrap().to_owned()
    };
    assert!(of("var/log/journal").contains("default:group:4:r-x"), "{}", of("var/log/journal"));
    assert!(of("copy/mine/file").contains("group:4321:r--"), "{}", of("copy/mine/file"));
    assert!(of("copy/only").contains("default:group:4321:rwx"), "{}", of("copy/only"));
    assert!(all.contains("./srv/made directory 750 1:4321 0,0"), "{all}");
}

/// Default lists as the kernel inherits them for root: the same commands run on the
/// host, and in three steps.
#[test]
fn default_access_control_lists_are_inherited() {
    let steps = [
        "umask 077; mkdir -m 777 d e; setfacl -m d:u:1234:rwx,d:g:4321:r-x,d:o::x d; \
         setfacl -m d:u::rwx,d:g::rwx,d:o::- e; cd d; touch file; mkdir sub; mkdir -m 711 sub/deep; \
         echo x >sub/deep/f; mkfifo -m 666 pipe; ln -s file link; cp sub/deep/f copy; chmod 604 copy; \
         cp -a sub same; mv copy moved; ln sub/deep/f hard; tar -cf t sub; tar -C e -xf t 2>/dev/null; \
         setpriv --reuid 7 --regid 8 --clear-groups sh -c 'echo >his; mkdir hers'; touch ../e/file",
        "umask 022; touch d/later e/later; mkdir d/sub/later e/more; echo >d/sub/later/x; \
         setfacl -k d/same; touch d/same/plain; rmdir d/sub/deep 2>/dev/null; setfacl -b d/moved; \
         chmod 700 d/file",
    ];
    let show = "find d e ! -type p ! -type l | LC_ALL=C sort | xargs getfacl -n; \
                stat -c '%n %a %u:%g' d/pipe d/link d/*/*";
    let place = Place::new();
    let there = place.path("there");
    std::fs::create_dir_all(&there).unwrap();
    let mut host = std::process::Command::new("bash");
    let all = format!("({}); ({}); ({show}) 2>&1", steps[0], steps[1]);
    let expected = harness::run(host.args(["-c", &all]).current_dir(&there)).ok();
    assert!(expected.contains("default:group:4321:r-x"), "{expected}");
    let text = format!(
        "FROM {}/base:latest\nRUN apt-get update -q && apt-get install -qqy \
         --no-install-recommends acl >/dev/null 2>&1\nWORKDIR /a\nRUN {}\nRUN {}\n\
         RUN ({show}) 2>&1 && echo begin && ({show}) >/shown 2>&1\n",
        harness::registry(),
        steps[0],
        steps[1]
    );
    let ran = build(&place, &text, &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let shown = place.sampan(&["run", "--no-home", "made", "cat", "/shown"]).ok();
    assert_eq!(shown, expected);
    let pushed = unpacked(&place, "made");
    for line in ["default:user:1234:rwx", "group:4321:r-x\t#effective:r--"] {
        assert!(pushed.contains(line), "{line}\n{pushed}");
    }
}

/// As unminimize does it: what dpkg was told to leave out comes back with its owners
/// when packages are installed again.
#[test]
fn a_minimized_system_is_completed() {
    let place = Place::new();
    let text = format!(
        "FROM {}/base:latest\nENV DEBIAN_FRONTEND=noninteractive\n\
         RUN printf '%s\\n' 'path-exclude=/usr/share/doc/*' 'path-exclude=/usr/share/man/*' \
             >/etc/dpkg/dpkg.cfg.d/excludes && apt-get update -q && \
             apt-get install -qy --no-install-recommends openssh-client sudo cron && \
             dpkg-statoverride --update --add root mail 2755 /usr/bin/chage && \
             test ! -e /usr/share/doc/sudo && chown daemon /usr/bin/crontab\n\
         RUN rm /etc/dpkg/dpkg.cfg.d/excludes && dpkg -V 2>/dev/null | grep -c /usr/share/doc; \
             apt-get update -q && dpkg-query -Wf '${{Package}}\\n' openssh-client sudo cron passwd \
             | xargs apt-get install -qy --reinstall && test -e /usr/share/doc/sudo/copyright && \
             test -e /usr/share/man/man1/ssh.1.gz && dpkg -V openssh-client sudo cron\n\
         RUN stat -c '%n %U:%G %a' /usr/bin/ssh-agent /usr/bin/sudo /usr/bin/crontab /usr/bin/chage \
             /usr/bin/expiry /etc/sudoers\n",
        harness::registry()
    );
    let ran = build(&place, &text, &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let expected = "/usr/bin/ssh-agent root:_ssh 2755\n/usr/bin/sudo root:root 4755\n\
                    /usr/bin/crontab root:crontab 2755\n/usr/bin/chage root:mail 2755\n\
                    /usr/bin/expiry root:shadow 2755\n/etc/sudoers root:root 440\n";
    assert!(ran.err.contains(expected), "{}", ran.err);
}

/// Every file below a directory: type, permission bits, owner, link; and capabilities.
fn files(root: &Path) -> Vec<String> {
    let script = "find . -mindepth 1 -printf '%p %y %m %U:%G %l\\n' | sort; getcap -r . | sort";
    let mut command = Command::new("sh");
    let out = harness::run(command.args(["-c", script]).current_dir(root)).ok();
    // The one that buildah binds, and one that is named after a key.
    let odd = |line: &str| line.starts_with("./etc/hosts ") || line.ends_with("-snakeoil.pem");
    out.lines().filter(|line| !odd(line)).map(str::to_owned).collect()
}

/// Built here by somebody with one user id, pushed, pulled by skopeo and unpacked by
/// umoci as root; and built by root with buildah.
#[test]
fn a_whole_system_is_as_root_builds_it() {
    let place = Place::new();
    let registry = harness::registry();
    let text = format!(
        "FROM {registry}/base:latest\nENV DEBIAN_FRONTEND=noninteractive\n\
         RUN apt-get update -q && apt-get install -qy --no-install-recommends openssh-server \\\n\
             systemd postgresql sudo iputils-ping nginx-light\n\
         RUN stat -c 'seen %n %U:%G %a' /var/lib/postgresql /etc/ssl/private /usr/bin/ssh-agent\n"
    );
    place.write("work/ctx/Dockerfile", text);
    let name = format!("{registry}/system-{}:1", std::process::id());
    let ran = place.sampan(&["build", "-t", &name, "ctx"]);
    for line in [
        "seen /var/lib/postgresql postgres:postgres 755\n",
        "seen /etc/ssl/private root:ssl-cert 710\n",
        "seen /usr/bin/ssh-agent root:_ssh 2755\n",
    ] {
        assert!(ran.err.contains(line), "{line}: {}", ran.err);
    }
    let _ = ran.ok();
    let _ = place.sampan(&["push", &name]).ok();
    let path = |name: &str| place.path(name).display().to_string();
    let run = |program: &str, args: &[&str]| harness::run(Command::new(program).args(args)).ok();
    let (ours, theirs) = (format!("oci:{}:x", path("ours")), format!("oci:{}:x", path("theirs")));
    let _ = run("skopeo", &["copy", "--src-tls-verify=false", &format!("docker://{name}"), &ours]);
    let (store, state) = (path("buildah"), path("state"));
    let own = ["--root", &store, "--runroot", &state, "--storage-driver", "vfs"];
    let flags = ["bud", "--isolation", "chroot", "--tls-verify=false", "-t", "system"];
    let _ = run("buildah", &[&own[..], &flags, &[&path("work/ctx")]].concat());
    let _ = run("buildah", &[&own[..], &["push", "system", &theirs]].concat());
    let unpacked = [("ours", "a"), ("theirs", "b")].map(|(layout, bundle)| {
        let (image, bundle) = (format!("{}:x", path(layout)), path(bundle));
        let _ = run("umoci", &["unpack", "--image", &image, &bundle]);
        files(&Path::new(&bundle).join("rootfs"))
    });
    let [ours, theirs] = unpacked;
    assert!(theirs.len() > 10_000 && theirs.iter().any(|line| line.contains("cap_net_raw")));
    let only = |all: &[String], others: &[String]| -> Vec<String> {
        let others: std::collections::HashSet<&String> = others.iter().collect();
        all.iter().filter(|line| !others.contains(line)).cloned().collect()
    };
    let none: [String; 0] = [];
    assert_eq!(only(&ours, &theirs), none, "only here");
    assert_eq!(only(&theirs, &ours), none, "only in root's");
}
