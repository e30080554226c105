//! Packages of a distribution, unchanged.

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
