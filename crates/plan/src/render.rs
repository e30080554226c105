//! A plan as text for people.

use std::fmt::Write;

use crate::{IdRange, ImageMount, MountFlags, Op, Plan, RootSource, SkeletonKind, Upper};

/// The plan as text, one line a step; `reasons` adds why.
#[must_use]
pub fn render_text(plan: &Plan, reasons: bool) -> String {
    let mut out = String::new();
    let mut line = |indent: usize, text: &str, reason: &str| {
        let pad = " ".repeat(indent);
        // Writing to a String cannot fail.
        let _ = if reasons && !reason.is_empty() {
            writeln!(out, "{pad}{text:<52} # {reason}")
        } else {
            writeln!(out, "{pad}{text}")
        };
    };
    let ids = plan.id_map;
    let who = format!("uid {} gid {} (host {} {})", ids.uid, ids.gid, ids.host_uid, ids.host_gid);
    line(0, &format!("identity: {who}"), "");
    if let Some(ids) = &plan.sub_ids {
        for (what, ranges) in [("users", &ids.uids), ("groups", &ids.gids)] {
            let text = |r: &IdRange| format!("{}+{} (host {})", r.inside, r.count, r.host);
            let all: Vec<String> = ranges.iter().map(text).collect();
            line(2, &format!("{what} {}", all.join(", ")), "--root-emulation=subid");
        }
    }
    let one = if plan.one { "one with those that the same process starts" } else { "" };
    line(0, &format!("namespaces: {}", namespaces(plan)), one);
    line(0, "root file system:", "");
    for (text, reason) in rootfs(plan) {
        line(2, &text, &reason);
    }
    line(0, "steps:", "");
    for step in &plan.ops {
        line(2, &describe(&step.op), &step.reason);
    }
    line(0, "environment:", "");
    for var in &plan.env {
        let pair = format!("{}={}", var.name.to_string_lossy(), var.value.to_string_lossy());
        line(2, &pair, &var.reason);
    }
    let argv: Vec<String> = plan.process.argv.iter().map(|w| quote(&w.to_string_lossy())).collect();
    line(0, "process:", "");
    let cwd: Vec<String> = plan.process.cwd.iter().map(|d| d.display().to_string()).collect();
    line(2, &format!("directory {}", cwd.join(", else ")), &plan.process.cwd_reason);
    line(2, &format!("exec {}", argv.join(" ")), "");
    if !plan.hooks.is_empty() {
        line(0, "hooks:", "");
    }
    for hook in &plan.hooks {
        let (stage, path) = (hook.stage.name(), hook.path.display());
        line(2, &format!("{stage} {path}"), &hook.origin.display().to_string());
    }
    if let Some(remote) = &plan.remote {
        let words: Vec<String> = remote.again.iter().map(|w| quote(&w.to_string_lossy())).collect();
        line(0, &format!("other nodes: {} {} …", remote.shell, words.join(" ")), "--mpi=container");
    }
    for warning in &plan.warnings {
        line(0, &format!("warning: {warning}"), "");
    }
    out
}

fn namespaces(plan: &Plan) -> String {
    let n = plan.namespaces;
    let all = [
        (n.user, "user"),
        (true, "mount"),
        (n.pid, "pid"),
        (n.ipc, "ipc"),
        (n.uts, "uts"),
        (n.net, "net"),
    ];
    let names: Vec<&str> = all.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    names.join(" ")
}

fn rootfs(plan: &Plan) -> Vec<(String, String)> {
    let root = &plan.rootfs;
    let mut list = Vec::new();
    let how = match root.mount {
        ImageMount::Fuse if plan.view() => "served by the FUSE server, with what is added",
        ImageMount::Fuse => "served by the FUSE server",
        ImageMount::KernelSquashfs => "mounted by the kernel",
        ImageMount::Bind => "bound",
    };
    let mode = if root.in_place { "writable" } else { "read-only" };
    let mut add = |what: String| list.push((format!("{what}, {mode}"), how.to_owned()));
    match &root.source {
        RootSource::Directory { path } => add(format!("directory {}", path.display())),
        RootSource::Squashfs { parts } => {
            parts.iter().rev().for_each(|part| add(format!("squashfs {part}")));
        }
    }
    for dir in &root.lowers {
        list.push((format!("overlay {}, read-only", dir.display()), "--overlay".to_owned()));
    }
    match &root.upper {
        Upper::None => {}
        Upper::Tmpfs => list.push(("writable layer in memory".into(), "--writable-tmpfs".into())),
        Upper::Directory { path, .. } => {
            list.push((format!("writable layer {}", path.display()), "--overlay".to_owned()));
        }
    }
    for entry in &root.skeleton {
        let path = entry.path.display();
        let text = match &entry.kind {
            SkeletonKind::Directory => format!("add directory {path}"),
            SkeletonKind::Symlink(to) => format!("add link {path} -> {}", to.display()),
            SkeletonKind::File(bytes) => format!("add file {path} ({} bytes)", bytes.len()),
        };
        list.push((text, entry.reason.clone()));
    }
    list
}

fn flags(flags: MountFlags) -> &'static str {
    match (flags.read_only, flags.recursive) {
        (true, true) => " (read-only, with what is below)",
        (true, false) => " (read-only)",
        (false, true) => " (with what is below)",
        (false, false) => "",
    }
}

fn describe(op: &Op) -> String {
    match op {
        Op::Bind { source, target, flags: f, .. } => {
            format!("bind {} on {}{}", source.display(), target.display(), flags(*f))
        }
        Op::Tmpfs { target, size, mode, .. } => match size {
            Some(size) => format!("tmpfs on {} ({size} bytes, mode {mode:o})", target.display()),
            None => format!("tmpfs on {} (mode {mode:o})", target.display()),
        },
        Op::Proc { target } => format!("proc on {}", target.display()),
        Op::Sysfs { target } => format!("sysfs on {}", target.display()),
        Op::Mqueue { target } => format!("mqueue on {}", target.display()),
        Op::Devpts { target } => format!("devpts on {}", target.display()),
        Op::Mkdir { target, mode } => format!("mkdir {} (mode {mode:o})", target.display()),
        Op::Symlink { to, target } => format!("symlink {} -> {}", target.display(), to.display()),
        Op::Mask { target } => format!("mask {}", target.display()),
        Op::Protect { target } => format!("protect {}", target.display()),
        Op::Hostname { name } => format!("hostname {name}"),
        Op::LoopbackUp => "bring up lo".to_owned(),
        Op::DropCapabilities => "drop capabilities".to_owned(),
    }
}

/// Quotes a word so that a person sees where it ends.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%^".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
