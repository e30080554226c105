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
        copying(job, ordinary),
        emulation(job, ordinary, &base),
    ])
}

/// A whole build that copies many small files, against cp of the same.
fn copying(job: &Job, who: &As) -> Work {
    let (sampan, home) = (job.sampan.display(), &who.home);
    let make = format!(
        "[ -e {home}/bench-many/19999 ] || {{ mkdir -p {home}/bench-many; cd {home}/bench-many; \
         for i in $(seq 0 19999); do head -c $((i % 3000)) /bin/bash >$i; done; }}; \
         printf 'FROM scratch\\nCOPY . /many\\n' >{home}/bench-copy; rm -rf {home}/bench-copied"
    );
    let build = format!(
        "{sampan} --store {home}/bench-store build -q --no-cache -f {home}/bench-copy {home}/bench-many"
    );
    let cp = format!("cp -a {home}/bench-many {home}/bench-copied");
    let tool = |name: &'static str, line: &str| {
        let mut tool: Tool = who.tool(name, line, &[]);
        tool.before = Some(make.clone());
        tool.cwd = PathBuf::from(home);
        tool
    };
    Work {
        key: "build-copy".to_owned(),
        title: "build that copies 20,000 small files".to_owned(),
        tools: vec![tool("sampan", &build), tool("cp -a", &cp)],
        bars: vec![Bar::time("sampan", 1.25, "cp -a")],
    }
}

/// What it costs to record and show owners, against saying yes.
fn emulation(job: &Job, who: &As, base: &str) -> Work {
    let (sampan, home) = (job.sampan.display(), &who.home);
    let store = format!("{sampan} --store {home}/bench-store");
    let make = format!(
        "printf '%s\\n' 'FROM {base}' 'RUN apt-get update -q && apt-get install -qy --download-only \
         build-essential' 'ENV DEBIAN_FRONTEND=noninteractive' >{home}/bench-packages; \
         mkdir -p {home}/bench-none; \
         {store} build -q -t bench-packages -f {home}/bench-packages {home}/bench-none"
    );
    let tool = |name: &'static str, mode: &str| {
        let line = format!(
            "{store} exec --root --root-emulation {mode} --writable-tmpfs --contain bench-packages \
             apt-get install -qqy --no-download build-essential"
        );
        let mut tool: Tool = who.tool(name, &line, &[]);
        tool.before = Some(make.clone());
        tool.cwd = PathBuf::from(home);
        tool
    };
    Work {
        key: "emulation".to_owned(),
        title: "apt-get install of build-essential, packages at hand".to_owned(),
        tools: vec![tool("sampan", "consistent"), tool("sampan fast", "fast")],
        bars: vec![Bar::time("sampan", 1.2, "sampan fast")],
    }
}
