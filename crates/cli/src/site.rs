//! `site`: what an administrator begins with.

use std::fmt::Write;
use std::path::Path;

use engine::{Config, Engine, SiteFacts};

use crate::args::{Globals, ModuleArgs, ModuleFormat, SiteCommand};
use crate::error::CliError;
use crate::{module, output};

/// Does what needs no configuration; false where it is needed.
pub fn run(command: &SiteCommand) -> Result<bool, CliError> {
    match command {
        SiteCommand::Init { output, force } => {
            let text = configuration(&SiteFacts::probe());
            match output {
                Some(path) => write(path, &text, *force)?,
                None => output::print(&text)?,
            }
        }
        SiteCommand::Module(args) => match args.tree() {
            Some(tree) if args.remove => module::remove(&tree)?,
            _ => return Ok(false),
        },
    }
    Ok(true)
}

/// Does the rest: writes a module of an image, or prints one.
pub fn install(engine: &Engine, globals: &Globals, command: &SiteCommand) -> Result<(), CliError> {
    let SiteCommand::Module(args) = command else { return Ok(()) };
    match (args.tree(), &args.image) {
        (Some(tree), Some(image)) => module::install(engine, globals, image, &tree),
        (None, Some(image)) => print(engine.config(), args, image),
        _ => Ok(()),
    }
}

/// Prints one modulefile.
fn print(config: &Config, args: &ModuleArgs, image: &str) -> Result<(), CliError> {
    let image = module::lasting(image)?;
    let site = config.module_template.value.as_ref().filter(|_| args.format.is_none());
    let page = match args.template.as_ref().or(site) {
        Some(path) => {
            let template = std::fs::read_to_string(path)
                .map_err(|source| CliError::Template { path: path.clone(), source })?;
            fill(&template, &image, &args.command, &args.description)
        }
        None => {
            let name = name(&image);
            let page = module::Printed { name: &name, image: &image, commands: &args.command };
            match args.format.unwrap_or(ModuleFormat::Lua) {
                ModuleFormat::Lua => page.lua(&args.description)?,
                ModuleFormat::Tcl => page.tcl(&args.description)?,
            }
        }
    };
    output::print(&page)
}

/// What a module of an image is called.
fn name(image: &str) -> String {
    let stem = Path::new(image).file_stem();
    stem.map_or_else(|| image.to_owned(), |stem| stem.to_string_lossy().into_owned())
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

/// Fills a template; a line with `{command}` stands once for each. The site's template
/// has the quotes that its language needs.
fn fill(template: &str, image: &str, commands: &[String], description: &str) -> String {
    let name = name(image);
    let mut out = String::new();
    for line in template.lines() {
        let once = [String::new()];
        let all = if line.contains("{command}") { commands } else { &once };
        for command in all {
            let words = [
                ("{image}", image),
                ("{name}", &name),
                ("{description}", description),
                ("{command}", command),
            ];
            out.push_str(&replaced(line, &words));
            out.push('\n');
        }
    }
    out
}

/// A line with words replaced; what one of them stands for is not looked at again.
fn replaced(line: &str, words: &[(&str, &str)]) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let found = words.iter().find(|(word, _)| rest.starts_with(word));
        let (length, text) = found.map_or((1, "{"), |(word, text)| (word.len(), text));
        out.push_str(text);
        rest = &rest[length..];
    }
    out + rest
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
    fn templates_have_a_line_for_each_command() {
        let commands = ["solve".to_owned(), "mesh".to_owned()];
        let template = "# {name}: {description} {x}\nalias {command} {image}\n";
        let text = fill(template, "/apps/{command}.sqsh", &commands, "a {name}");
        let expected = "# {command}: a {name} {x}\nalias solve /apps/{command}.sqsh\n\
                        alias mesh /apps/{command}.sqsh\n";
        assert_eq!(text, expected);
    }
}
