//! Errors and warnings, as people read them.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _, stderr};

/// Whether standard error takes colours: a terminal, and nobody objects
/// (no-color.org).
fn coloured() -> bool {
    stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn label(text: &str, colour: u8, coloured: bool) -> String {
    if coloured { format!("\x1b[1;{colour}m{text}\x1b[0m") } else { text.to_owned() }
}

/// What failed, why, and what to do: one line each.
fn render(error: &dyn StdError, hint: Option<&str>, coloured: bool) -> String {
    let mut said = error.to_string();
    let mut text = format!("{}: {}", label("error", 31, coloured), clean(&said));
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !said.contains(&more) {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n  {}: {}", label("caused by", 33, coloured), clean(&more));
        }
        said = more;
        next = cause.source();
    }
    if let Some(hint) = hint {
        let _ = write!(text, "\n  {}: {}", label("hint", 36, coloured), clean(hint));
    }
    text
}

/// Texts of registries and images must not drive the terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{FFFD}' } else { c }).collect()
}

fn print(text: &str) {
    // Nobody is left to tell.
    let _ = writeln!(stderr(), "{text}");
}

/// Prints an error with its causes and a hint.
pub fn error(error: &dyn StdError, hint: Option<&str>) {
    print(&render(error, hint, coloured()));
}

/// Prints an error that is one sentence.
pub fn plain(text: &str, hint: Option<&str>) {
    print(&format!("{}: {text}", label("error", 31, coloured())));
    if let Some(hint) = hint {
        print(&format!("  {}: {hint}", label("hint", 36, coloured())));
    }
}

/// Prints a warning.
pub fn warning(text: &str) {
    print(&format!("{}: {}", label("warning", 33, coloured()), clean(text)));
}

/// Prints something that is neither.
pub fn note(text: &str) {
    print(&clean(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start: middle")]
    struct Top(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("middle")]
    struct Middle(#[source] Bottom);

    #[derive(Debug, thiserror::Error)]
    #[error("bottom\x1b[2J")]
    struct Bottom;

    #[test]
    fn causes_are_told_once_each_and_cannot_drive_a_terminal() {
        let text = render(&Top(Middle(Bottom)), Some("try again"), false);
        assert_eq!(
            text,
            "error: cannot start: middle\n  caused by: bottom\u{FFFD}[2J\n  hint: try again"
        );
        let text = render(&Middle(Bottom), None, true);
        assert!(text.starts_with("\x1b[1;31merror\x1b[0m: middle\n"), "{text}");
        assert!(!text.contains("hint"));
    }
}
