//! `site`: what an administrator begins with.

use std::fmt::Write;
use std::path::Path;

use engine::{Engine, SiteFacts};

use crate::args::{Globals, ModuleArgs, ModuleFormat, SiteCommand};
use crate::error::CliError;
use crate::{module, output};

/// Does what needs no image; false where one is needed.
pub fn run(command: &SiteCommand) -> Result<bool, CliError> {
    match command {
        SiteCommand::Init { output, force } => {
            let text = configuration(&SiteFacts::probe());
            match output {
                Some(path) => write(path, &text, *force)?,
                None => output::print(&text)?,
            }
        }
        SiteCommand::Module(args) => match (args.tree(), &args.image) {
            (Some(tree), _) if args.remove => module::remove(&tree)?,
            (Some(_), _) => return Ok(false),
            (None, image) => print(args, image.as_deref().unwrap_or_default())?,
        },
    }
    Ok(true)
}

/// Does what needs an image.
pub fn install(engine: &Engine, globals: &Globals, command: &SiteCommand) -> Result<(), CliError> {
    let SiteCommand::Module(args) = command else { return Ok(()) };
    match (args.tree(), &args.image) {
        (Some(tree), Some(image)) => module::install(engine, globals, image, &tree),
        _ => Ok(()),
    }
}

/// Prints one modulefile.
fn print(args: &ModuleArgs, image: &str) -> Result<(), CliError> {
    let own;
    let template = match (&args.template, args.format) {
        (Some(path), _) => {
            own = std::fs::read_to_string(path)
                .map_err(|source| CliError::Template { path: path.clone(), source })?;
            own.as_str()
        }
        (None, ModuleFormat::Lua) => LUA,
        (None, ModuleFormat::Tcl) => TCL,
    };
    output::print(&fill(template, &module::lasting(image)?, &args.command, &args.description))
}

fn write(path: &Path, text: &str, force: bool) -> Result<(), CliError> {
    let failed = |source| CliError::Page { path: path.to_owned(), source };
    if !force && path.exists() {
        return Err(failed(std::io::Error::other("it is there already; --force replaces it")));
    }
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, text).map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)?;
    output::print(&format!("{}\n", path.display()))
}

const LUA: &str = r#"-- Commands of the image {image}, run by sampan.
help([[{name}: commands of the image {image}]])
whatis("Name: {name}")
whatis("Description: {description}")
set_shell_function("{command}", 'sampan exec {image} {command} "$@"', "sampan exec {image} {command} $*")
"#;

const TCL: &str = r#"#%Module1.0
# Commands of the image {image}, run by sampan.
module-whatis "{name}: {description}"
set-function {command} {sampan exec {image} {command} "$@"}
"#;

/// Fills a template; a line with `{command}` stands once for each.
fn fill(template: &str, image: &str, commands: &[String], description: &str) -> String {
    let path = Path::new(image);
    let name = path.file_stem().map_or_else(|| image.into(), |stem| stem.to_string_lossy());
    let mut out = String::new();
    for line in template.lines() {
        let line = line.replace("{image}", image).replace("{name}", &name);
        let line = line.replace("{description}", description);
        let once = [String::new()];
        let all = if line.contains("{command}") { commands } else { &once };
        for command in all {
            out.push_str(&line.replace("{command}", command));
            out.push('\n');
        }
    }
    out
}

/// A configuration with what was found set, and the rest explained.
fn configuration(facts: &SiteFacts) -> String {
    let mut out = String::from(
        "# sampan's configuration of this site, to be /etc/sampan/config.toml.\n\
         # Flags win over SAMPAN_* variables, those over a user's file, that over this one.\n\
         # sampan config check reads it; sampan config show says where values come from.\n",
    );
    let mut say = |text: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{text}");
    };
    let list = |paths: &[std::path::PathBuf]| {
        let words: Vec<String> =
            paths.iter().map(|path| format!("{:?}", path.display().to_string())).collect();
        format!("[{}]", words.join(", "))
    };
    say("\n# --- Images ---");
    say("# A read-only store of the site, searched after the user's own.");
    say("#site_stores = [\"/apps/sampan/store\"]");
    for (path, kind) in &facts.shared {
        say(&format!("# {} is shared by nodes ({kind}).", path.display()));
    }
    say("# Where users may fetch images from; everywhere without it.");
    say("#allowed_registries = [\"registry.example.org\", \"docker.io/library\"]");
    say("\n# --- Disks of the nodes ---");
    match &facts.scratch {
        Some(path) => {
            say("# Sockets of image servers, and images that have to be unpacked.");
            say(&format!("scratch = {:?}", path.display().to_string()));
            say("# Copies images here before they run, where the stores' file system is slow.");
            say(&format!("#node_cache = {:?}", path.join("sampan-images").display().to_string()));
        }
        None => {
            say("# Without a disk of its own a node uses /tmp.");
            say("#scratch = \"/local/scratch\"");
            say("#node_cache = \"/local/scratch/sampan-images\"");
        }
    }
    say("#node_cache_size = \"64G\"");
    say("\n# --- Mounts ---");
    say("# Shown in every container; a node that lacks one says so and goes on.");
    let binds: Vec<_> = facts.shared.iter().map(|(path, _)| path.clone()).collect();
    if binds.is_empty() {
        say("#binds = [\"/work\", \"/apps:/apps:ro\"]");
    } else {
        say(&format!("binds = {}", list(&binds)));
    }
    say("# Shown whatever a user asks for, and never shown by a user's bind.");
    say("#forced_binds = [\"/etc/site-banner:/etc/motd:ro\"]");
    say("#forbidden_binds = [\"/var/spool/slurm\"]");
    say("# Whose libfabric, UCX and verbs serve the image's MPI: none (the image's) or host.");
    say("#fabric = \"none\"");
    say("\n[mpi]");
    say(
        "# auto: the image's MPI with the host's launcher; host: the host's libraries in its place.",
    );
    say("#mode = \"auto\"");
    say("# How well the host's has to fit: major, full or strict.");
    say("#policy = \"major\"");
    for mpi in &facts.mpi {
        say(&format!("# found: {mpi}"));
    }
    say("#path = [\"/opt/mpi\"]");
    say("\n[gpu]");
    say("# GPUs that containers get unasked: none, all, nvidia or amd.");
    match &facts.gpu {
        Some(gpu) => {
            say(&format!("# found: {gpu}"));
            say("#mode = \"all\"");
        }
        None => say("#mode = \"none\""),
    }
    say("\n[cdi]");
    say("#dirs = [\"/etc/cdi\", \"/var/run/cdi\"]");
    say("\n[hooks]");
    say("# Directories of OCI hooks (oci-hooks(5)).");
    say("#dirs = [\"/etc/sampan/hooks.d\"]");
    for text in &facts.notes {
        say(&format!("\n# {text}"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_have_a_line_for_each_command() {
        let commands = ["solve".to_owned(), "mesh".to_owned()];
        for template in [LUA, TCL] {
            let text = fill(template, "/apps/solver.sqsh", &commands, "a solver");
            assert_eq!(
                text.matches("sampan exec /apps/solver.sqsh mesh").count(),
                template.matches("sampan exec").count()
            );
            assert!(text.contains("solver: ") && !text.contains("{command}"), "{text}");
        }
    }
}
