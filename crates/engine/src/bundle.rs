//! The directory that hooks are told of: the container's config.json, as an OCI
//! runtime would have it (OCI Runtime Specification, config.md).
//!
//! `SCRATCH/sampan-UID/run/bundle-PID/config.json`, one for each container that
//! has hooks. The helper that runs them removes it.

use std::path::{Path, PathBuf};

use plan::{Op, Plan};
use serde_json::{Value, json};

use crate::{Error, Result, unpack};

/// Writes it; the directory.
pub(crate) fn write(plan: &Plan, scratch: &Path) -> Result<PathBuf> {
    let run = unpack::own_directory(&unpack::cache(scratch))?;
    let run = unpack::own_directory(&run.join(unpack::RUN))?;
    let dir = run.join(format!("bundle-{}", std::process::id()));
    let failed = |source| Error::Bundle { path: dir.clone(), source };
    std::fs::create_dir_all(&dir).map_err(failed)?;
    let text = serde_json::to_vec_pretty(&config(plan)).unwrap_or_default();
    std::fs::write(dir.join("config.json"), text).map_err(failed)?;
    Ok(dir)
}

/// The container's configuration, as far as a plan has it.
pub(crate) fn config(plan: &Plan) -> Value {
    let text = |word: &std::ffi::OsString| word.to_string_lossy().into_owned();
    let args: Vec<String> = plan.process.argv.iter().map(text).collect();
    let env: Vec<String> =
        plan.env.iter().map(|var| format!("{}={}", text(&var.name), text(&var.value))).collect();
    let mount = |op: &Op| match op {
        Op::Bind { source, target, flags, .. } => {
            let options = if flags.read_only { vec!["rbind", "ro"] } else { vec!["rbind"] };
            Some(
                json!({"destination": target, "source": source, "type": "bind", "options": options}),
            )
        }
        Op::Tmpfs { target, .. } => Some(json!({"destination": target, "type": "tmpfs"})),
        _ => None,
    };
    let mounts: Vec<Value> = plan.ops.iter().filter_map(|step| mount(&step.op)).collect();
    let ids = plan.id_map;
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": ids.uid, "gid": ids.gid},
            "args": args,
            "env": env,
            "cwd": plan.process.cwd.first(),
        },
        // The root of the process, once it has changed.
        "root": {"path": format!("/proc/{}/root", std::process::id())},
        "mounts": mounts,
        "annotations": plan.annotations,
    })
}
