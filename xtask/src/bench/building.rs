//! Building: a Dockerfile of four steps with a package of Debian, on a base
//! that is at hand. buildah and podman have a subuid range; sampan has none.

use std::path::PathBuf;

use super::Job;
use super::peers::{As, Bar, Tool, Work};
use crate::error::Result;

/// `$BASE` is what the tool calls the base.
const DOCKERFILE: &str = "FROM $BASE\n\
    RUN apt-get update -q >/dev/null\n\
    RUN DEBIAN_FRONTEND=noninteractive apt-get install -qy openssh-client >/dev/null 2>&1\n\
    COPY file /srv/file\n\
    RUN stat -c %u:%g /usr/bin/ssh-agent >/owner\n";

/// The rows: from nothing but the base, and with every step in the cache.
pub(super) fn works(job: &Job, ordinary: &As, subid: &As) -> Result<Vec<Work>> {
    let base = format!("{}/base:latest", job.registry);
    let sampan = job.sampan.display();
    let context = |home: &str, from: &str| {
        let text = DOCKERFILE.replace("$BASE", from);
        format!(
            "mkdir -p {home}/bench-ctx; echo x >{home}/bench-ctx/file; \
             printf '%s' '{text}' >{home}/bench-ctx/Dockerfile; "
        )
    };
    let store = format!("{}/bench-store", ordinary.home);
    let podman_root = format!("{}/bench-podman", subid.home);
    let common =
        format!("--root {podman_root} --runroot {}/run --storage-driver overlay", subid.home);
    let (ours, theirs) = (&ordinary.home, &subid.home);
    let build = format!("{sampan} --store {store} build --quiet -t bench {ours}/bench-ctx");
    let buildah = format!(
        "buildah {common} bud --isolation chroot --layers --tls-verify=false -q -t bench {theirs}/bench-ctx"
    );
    let podman = format!(
        "podman {common} --cgroup-manager cgroupfs --events-backend file build --network host \
         --tls-verify=false -q -t bench {theirs}/bench-ctx"
    );
    let wipe = format!(
        "buildah {common} rm -a >/dev/null 2>&1 || true; buildah {common} rmi -a -f >/dev/null 2>&1 || true; buildah {common} pull -q --tls-verify=false {base} >/dev/null"
    );
    let cold = [
        (
            ordinary,
            "sampan",
            &build,
            format!(
                "{sampan} --store {store} prune -q --all >/dev/null 2>&1 || true; {sampan} --store {store} pull -q docker://{base} >/dev/null"
            ),
        ),
        (subid, "buildah", &buildah, wipe.clone()),
        (subid, "podman build", &podman, wipe),
    ];
    let row = |key: &str, title: &str, cached: bool, most: f64| Work {
        key: key.to_owned(),
        title: title.to_owned(),
        tools: cold
            .iter()
            .map(|(who, name, line, fresh)| {
                let mut tool: Tool = who.tool(name, line, &[]);
                let context = context(&who.home, &base);
                let warm = format!("{context}{line} >/dev/null");
                tool.before = Some(if cached { warm } else { format!("{context}{fresh}") });
                tool.cwd = PathBuf::from(&who.home);
                tool
            })
            .collect(),
        bars: vec![Bar::time("sampan", most, "buildah"), Bar::time("sampan", most, "podman build")],
    };
    Ok(vec![
        row("build-cold", "build four steps with apt, base at hand", false, 1.0),
        row("build-cached", "the same, every step in the cache", true, 0.2),
    ])
}
