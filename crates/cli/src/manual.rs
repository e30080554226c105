//! The manual: pages made from the command line's own definition.

use std::path::Path;

use clap_mangen::Man;

use crate::args;
use crate::error::CliError;
use crate::output;

/// The page of a command, or of the whole. A command of a command is written with a
/// hyphen: `instance-start`.
pub fn page(command: Option<&str>) -> Result<String, CliError> {
    let title = command.map_or("sampan".to_owned(), |name| format!("sampan-{name}"));
    match all().into_iter().find(|page| page.get_name() == title) {
        Some(page) => render(page),
        None => Err(CliError::NoCommand(command.unwrap_or_default().to_owned())),
    }
}

/// Every command that is shown, by the names of their pages.
fn all() -> Vec<clap::Command> {
    let mut whole = args::full().disable_help_subcommand(true);
    whole.build();
    let mut pages = vec![whole];
    let mut next = 0;
    while let Some(page) = pages.get(next) {
        let titled = |sub: &clap::Command| {
            let title = format!("{}-{}", page.get_name(), sub.get_name());
            sub.clone().name(title).version(env!("CARGO_PKG_VERSION"))
        };
        let subs: Vec<_> =
            page.get_subcommands().filter(|sub| !sub.is_hide_set()).map(titled).collect();
        pages.extend(subs);
        next += 1;
    }
    pages
}

fn render(command: clap::Command) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    Man::new(command).render(&mut bytes).map_err(CliError::Output)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes every page into a directory.
pub fn write_all(dir: &Path) -> Result<(), CliError> {
    let write = |name: &str, text: String| {
        let path = dir.join(format!("{name}.1"));
        std::fs::write(&path, text).map_err(|source| CliError::Page { path, source })
    };
    std::fs::create_dir_all(dir)
        .map_err(|source| CliError::Page { path: dir.to_owned(), source })?;
    for page in all() {
        let name = page.get_name().to_owned();
        write(&name, render(page)?)?;
    }
    Ok(())
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
        let start = std::fs::read_to_string(dir.path().join("sampan-instance-start.1")).unwrap();
        assert!(start.contains("pid\\-file") && page(Some("instance-start")).unwrap() == start);
        let whole = page(None).unwrap();
        assert!(whole.contains(".TH sampan 1") && whole.contains("no space or quota"));
        assert!(page(Some("pull")).unwrap().contains("compression"));
        assert!(page(Some("nothing")).is_err());
    }
}
