//! The manual: pages made from the command line's own definition.

use std::path::Path;

use clap_mangen::Man;

use crate::args;
use crate::error::CliError;
use crate::output;

/// The page of a command, or of the whole.
pub fn page(command: Option<&str>) -> Result<String, CliError> {
    let mut whole = args::full().disable_help_subcommand(true);
    whole.build();
    let Some(name) = command else { return render(whole) };
    let found = whole.get_subcommands().find(|sub| sub.get_name() == name);
    match found {
        Some(sub) => render(titled(sub)),
        None => Err(CliError::NoCommand(name.to_owned())),
    }
}

fn titled(sub: &clap::Command) -> clap::Command {
    sub.clone().name(format!("sampan-{}", sub.get_name())).version(env!("CARGO_PKG_VERSION"))
}

fn render(command: clap::Command) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    Man::new(command).render(&mut bytes).map_err(CliError::Output)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes every page into a directory.
pub fn write_all(dir: &Path) -> Result<(), CliError> {
    let mut whole = args::full().disable_help_subcommand(true);
    whole.build();
    let write = |name: &str, text: String| {
        let path = dir.join(format!("{name}.1"));
        std::fs::write(&path, text).map_err(|source| CliError::Page { path, source })
    };
    std::fs::create_dir_all(dir)
        .map_err(|source| CliError::Page { path: dir.to_owned(), source })?;
    for sub in whole.get_subcommands() {
        write(&format!("sampan-{}", sub.get_name()), render(titled(sub))?)?;
    }
    write("sampan", render(whole.clone())?)
}

/// The completion script of a shell.
pub fn completions(shell: clap_complete::Shell) -> Result<(), CliError> {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut args::full(), "sampan", &mut bytes);
    output::print(&String::from_utf8_lossy(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        write_all(dir.path()).unwrap();
        let run = std::fs::read_to_string(dir.path().join("sampan-run.1")).unwrap();
        assert!(run.contains(".TH sampan-run 1") && run.contains("writable\\-tmpfs"), "{run}");
        let whole = page(None).unwrap();
        assert!(whole.contains(".TH sampan 1") && whole.contains("no space or quota"));
        assert!(page(Some("pull")).unwrap().contains("compression"));
        assert!(page(Some("nothing")).is_err());
    }
}
