//! Listings for people.

use std::fmt::Write;

use comfy_table::{Table, presets};
use engine::{CdiDevice, Check, Checked, Inspected, Instance, Shown, Stats, Status};
use store::{ImageEntry, PruneReport, PrunedKind, Removed};
use types::ByteSize;

use crate::text::age;

/// A table without lines, as pipes and people like it.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
}

/// The images of the stores, one line for each name.
pub fn images(entries: &[ImageEntry], whole: bool, now: u64) -> String {
    let mut rows = Vec::new();
    for entry in entries {
        let id = if whole { entry.id.to_string() } else { entry.id.short().to_owned() };
        let row = |name: String, platform: String, then: u64| {
            let size = ByteSize(entry.size).to_string();
            let store = if entry.site { "site" } else { "own" };
            vec![name, id.clone(), platform, size, age(then, now), store.to_owned()]
        };
        let record = &entry.record;
        if entry.references.is_empty() {
            rows.push(row("<none>".to_owned(), record.platform.to_string(), record.created_at));
        }
        for name in &entry.references {
            rows.push(row(name.reference.clone(), name.platform.to_string(), name.pulled_at));
        }
    }
    table(&["IMAGE", "DIGEST", "PLATFORM", "SIZE", "PULLED", "STORE"], rows)
}

/// Instances, those of other nodes last.
pub fn instances(all: &[Instance], logs: bool, now: u64) -> String {
    let row = |one: &Instance| {
        let node = if one.here { "here".to_owned() } else { one.node.clone() };
        let mut row = vec![one.name.clone(), one.pid.to_string(), node];
        match logs {
            true => row.extend([&one.out, &one.err].map(|path| path.display().to_string())),
            false => row.extend([age(one.started_at, now), one.image.clone()]),
        }
        row
    };
    let header: &[&str] = match logs {
        true => &["INSTANCE NAME", "PID", "NODE", "OUTPUT", "ERRORS"],
        false => &["INSTANCE NAME", "PID", "NODE", "STARTED", "IMAGE"],
    };
    table(header, all.iter().map(row).collect())
}

/// What an instance uses.
pub fn stats(name: &str, stats: &Stats) -> String {
    let size = |bytes: u64| ByteSize(bytes).to_string();
    let share = stats.memory as f64 / stats.memory_limit.max(1) as f64 * 100.0;
    let row = vec![
        name.to_owned(),
        format!("{:.2}%", stats.cpu_percent),
        format!("{} / {}", size(stats.memory), size(stats.memory_limit)),
        format!("{share:.2}%"),
        format!("{} / {}", size(stats.block_read), size(stats.block_written)),
        stats.threads.to_string(),
    ];
    let header = ["INSTANCE NAME", "CPU USAGE", "MEM USAGE / LIMIT", "MEM %", "BLOCK I/O", "PIDS"];
    table(&header, vec![row])
}

/// What is known about an image.
pub fn inspected(found: &Inspected, now: u64) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name:<13} {value}");
        }
    };
    match found {
        Inspected::Directory { path, .. } => {
            line("Directory", &path.display().to_string());
        }
        Inspected::File { path, size, inodes, block_size, layers, .. } => {
            line("File", &path.display().to_string());
            line("Size", &ByteSize(*size).to_string());
            line("Inodes", &inodes.to_string());
            line("Block size", &ByteSize(u64::from(*block_size)).to_string());
            if *layers > 1 {
                line("Layers", &layers.to_string());
            }
        }
        Inspected::Stored { entry, .. } => stored(entry, now, &mut line),
    }
    let texts = found.texts();
    // Those of a stored image are in its configuration.
    if found.config().is_none() {
        for (name, value) in &texts.labels {
            line("Label", &format!("{name}={value}"));
        }
    }
    line("Scripts", &texts.names().join(", "));
    let apps: Vec<&str> = texts.apps.keys().map(String::as_str).collect();
    line("Apps", &apps.join(", "));
    out
}

fn stored(entry: &ImageEntry, now: u64, line: &mut dyn FnMut(&str, &str)) {
    let record = &entry.record;
    let config = &record.config;
    line("Digest", &entry.id.to_string());
    for name in &entry.references {
        line(
            "Name",
            &format!("{} ({}, {})", name.reference, name.platform, age(name.pulled_at, now)),
        );
    }
    line("Platform", &record.platform.to_string());
    line("Created", config.created.as_deref().unwrap_or_default());
    line("File", &entry.path.display().to_string());
    line("Size", &ByteSize(entry.size).to_string());
    line("Store", if entry.site { "site, read only" } else { "own" });
    for layer in &record.layers {
        line("Layer", &format!("{} {}", layer.digest, ByteSize(layer.size)));
    }
    line("Entrypoint", &words(&config.entrypoint));
    line("Command", &words(&config.cmd));
    line("Directory", config.working_dir.as_deref().unwrap_or_default());
    line("User", config.user.as_deref().unwrap_or_default());
    line("Stop signal", config.stop_signal.as_deref().unwrap_or_default());
    for variable in &config.env {
        line("Variable", variable);
    }
    for (name, value) in &config.labels {
        line("Label", &format!("{name}={value}"));
    }
}

fn words(list: &[String]) -> String {
    let quoted = |word: &String| {
        if word.is_empty() || word.contains(|c: char| c.is_whitespace() || c == '"') {
            format!("{word:?}")
        } else {
            word.clone()
        }
    };
    list.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// What `rm` did.
pub fn removed(removed: &Removed) -> String {
    let mut out = String::new();
    for name in &removed.untagged {
        let _ = writeln!(out, "untagged {} ({})", name.reference, name.platform);
    }
    for id in &removed.deleted {
        let _ = writeln!(out, "deleted {id}");
    }
    out
}

/// What `prune` did, or would do.
pub fn pruned(report: &PruneReport, dry_run: bool) -> String {
    let mut out = String::new();
    for thing in &report.removed {
        let kind = match thing.kind {
            PrunedKind::Temporary => "temporary file",
            PrunedKind::Lock => "lock",
            PrunedKind::Lease => "lease",
            PrunedKind::Broken => "damaged file",
            PrunedKind::Image => "image",
            PrunedKind::Reference => "name",
            PrunedKind::Blob => "blob",
            PrunedKind::Profile => "start profile",
        };
        let _ = writeln!(out, "{kind} {} ({})", thing.name, ByteSize(thing.bytes));
    }
    for id in &report.leased {
        let _ = writeln!(out, "kept {id}: in use");
    }
    let verb = if dry_run { "would free" } else { "freed" };
    let _ = writeln!(out, "{verb} {}", ByteSize(report.bytes));
    out
}

/// What `doctor` found.
pub fn checks(checks: &[Check], colours: bool) -> String {
    let mut out = String::new();
    let paint = |text: &str, colour: u8| match colours {
        true => format!("\x1b[1;{colour}m{text}\x1b[0m"),
        false => text.to_owned(),
    };
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    for check in checks {
        let status = match check.status {
            Status::Ok => paint("ok  ", 32),
            Status::Warn => paint("warn", 33),
            Status::Fail => paint("fail", 31),
        };
        let _ = writeln!(out, "{status}  {:<width$}  {}", check.name, check.detail);
        if let Some(fix) = &check.fix {
            let _ = writeln!(out, "      {:<width$}  fix: {fix}", "");
        }
    }
    out
}

/// The configuration.
pub fn config(values: &[Shown]) -> String {
    let row =
        |shown: &Shown| vec![shown.key.to_owned(), shown.value.clone(), shown.origin.to_string()];
    table(&["KEY", "VALUE", "FROM"], values.iter().map(row).collect())
}

/// CDI devices; names alone where `quiet`.
pub fn cdi(devices: &[CdiDevice], quiet: bool) -> String {
    if quiet {
        return devices.iter().map(|device| format!("{}\n", device.name)).collect();
    }
    let row = |device: &CdiDevice| {
        let spec = device.spec.display().to_string();
        vec![device.name.to_string(), device.version.clone(), spec]
    };
    table(&["DEVICE", "CDI", "SPEC"], devices.iter().map(row).collect())
}

/// What is wrong with CDI specs; good ones are told unless `quiet`.
pub fn cdi_checked(checked: &[Checked], quiet: bool) -> String {
    let mut out = String::new();
    for Checked { path, outcome } in checked {
        match outcome {
            Ok(_) if quiet => {}
            Ok(count) => {
                let s = if *count == 1 { "" } else { "s" };
                let _ = writeln!(out, "{}: good, {count} device{s}", path.display());
            }
            Err(errors) => {
                for error in errors {
                    let _ = writeln!(out, "{}", error.with_cause());
                }
            }
        }
    }
    out
}

/// What host and image have of MPI, and what would be done.
pub fn mpi(check: &host::mpi::Check) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    // Writing to a String cannot fail.
    let side = |out: &mut String, name: &str, all: &[host::mpi::Mpi]| {
        if all.is_empty() {
            let _ = writeln!(out, "{name:<8} no MPI");
        }
        for (index, mpi) in all.iter().enumerate() {
            let _ = writeln!(out, "{:<8} {mpi}", if index == 0 { name } else { "" });
        }
    };
    side(&mut out, "host", &check.host);
    side(&mut out, "image", &check.image);
    let _ = writeln!(out, "{:<8} {}", "", check.libc);
    let _ = writeln!(out, "policy   {}", check.policy);
    match &check.error {
        Some(error) => {
            let _ = writeln!(out, "verdict  --mpi=host cannot be used: {error}");
            let _ = writeln!(out, "         {}", error.hint());
        }
        None => {
            let (replaced, all) = (check.replaced(), check.injection.taken.len());
            let _ = writeln!(
                out,
                "verdict  --mpi=host can be used: {replaced} of the image's libraries are replaced, {all} are taken in all"
            );
        }
    }
    for warning in &check.warnings {
        let _ = writeln!(out, "warning  {warning}");
    }
    for taken in &check.injection.taken {
        let what = if taken.replaces.is_empty() { "add" } else { "replace" };
        let (name, source) = (&taken.name, taken.source.display());
        let _ =
            writeln!(out, "{what:<8} {name} {} from {source} ({})", taken.version, taken.reason);
    }
    for kept in &check.injection.kept {
        let _ = writeln!(out, "keep     {} {} of the image", kept.name, kept.version);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_have_their_fix_below() {
        let check = Check {
            name: "FUSE".into(),
            status: Status::Warn,
            detail: "closed".into(),
            fix: Some("chmod".into()),
        };
        assert_eq!(
            checks(std::slice::from_ref(&check), false),
            "warn  FUSE  closed\n            fix: chmod\n"
        );
        assert!(checks(&[check], true).starts_with("\x1b[1;33mwarn"));
    }

    #[test]
    fn an_empty_listing_has_its_header() {
        assert_eq!(images(&[], false, 0), "IMAGE  DIGEST  PLATFORM  SIZE  PULLED  STORE\n");
    }

    #[test]
    fn words_are_quoted_where_they_must_be() {
        assert_eq!(words(&["sh".into(), "-c".into(), "a b".into()]), "sh -c \"a b\"");
    }
}
