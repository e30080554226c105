//! Logical lines: comments, continuations, heredocs.

use super::{Place, Problem, SyntaxError, at};

/// A document inside the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// What ends it.
    pub name: String,
    /// What it holds.
    pub content: String,
    /// Whether variables are expanded: its name has no quotes.
    pub expand: bool,
}

/// An instruction as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) place: Place,
    pub(super) name: String,
    /// Everything behind the name, lines joined.
    pub(super) rest: String,
    pub(super) heredocs: Vec<Heredoc>,
}

pub(super) struct Lines<'a> {
    lines: Vec<&'a str>,
    at: usize,
    pub(super) escape: char,
    /// Who should read the file, and on which line that is said.
    pub(super) syntax: Option<(usize, String)>,
}

/// The instructions that take documents.
const WITH_HEREDOC: [&str; 3] = ["RUN", "COPY", "ADD"];

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines: Vec<&str> =
            text.split('\n').map(|l| l.strip_suffix('\r').unwrap_or(l)).collect();
        // Directives come before everything else.
        let directives = lines.iter().enumerate().map_while(|(index, line)| {
            let (key, value) = line.trim_start().strip_prefix('#')?.split_once('=')?;
            let key = key.trim().to_ascii_lowercase();
            ["syntax", "escape", "check"]
                .contains(&key.as_str())
                .then(|| (key, value.trim(), index + 1))
        });
        let (mut escape, mut syntax) = ('\\', None);
        for (key, value, line) in directives {
            match key.as_str() {
                "escape" => escape = if value == "`" { '`' } else { '\\' },
                "syntax" => syntax = Some((line, value.to_owned())),
                // Rules for linters.
                _ => {}
            }
        }
        Self { lines, at: 0, escape, syntax }
    }

    /// The next instruction.
    pub(super) fn next(&mut self) -> Result<Option<Line>, SyntaxError> {
        let skip = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
        while self.at < self.lines.len() && skip(self.lines[self.at]) {
            self.at += 1;
        }
        let Some(first) = self.lines.get(self.at) else { return Ok(None) };
        let indent = first.chars().take_while(|c| c.is_whitespace()).count();
        let place = Place { line: self.at + 1, column: indent + 1 };
        let mut text = String::new();
        while let Some(line) = self.lines.get(self.at) {
            self.at += 1;
            // Inside an instruction too, comments and empty lines are nothing.
            if !text.is_empty() && skip(line) {
                continue;
            }
            let part = line.trim_end().strip_suffix(self.escape);
            // Two of them are one that means itself.
            match part.filter(|part| !part.ends_with(self.escape)) {
                Some(part) => text.push_str(part),
                None => {
                    text.push_str(line);
                    break;
                }
            }
        }
        let text = text.trim();
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let (name, rest) = (name.to_owned(), rest.trim().to_owned());
        let takes = |name: &str| WITH_HEREDOC.iter().any(|known| name.eq_ignore_ascii_case(known));
        let onbuild = name.eq_ignore_ascii_case("ONBUILD")
            && rest.split_whitespace().next().is_some_and(takes);
        let mut heredocs = Vec::new();
        if takes(&name) || onbuild {
            for (name, strip, expand) in markers(&rest) {
                let content = self.document(&name, strip, place)?;
                heredocs.push(Heredoc { name, content, expand });
            }
        }
        Ok(Some(Line { place, name, rest, heredocs }))
    }

    /// The lines up to one that says only the name.
    fn document(&mut self, name: &str, strip: bool, place: Place) -> Result<String, SyntaxError> {
        let mut content = String::new();
        while let Some(line) = self.lines.get(self.at) {
            self.at += 1;
            let line = if strip { line.trim_start_matches('\t') } else { line };
            if line == name {
                return Ok(content);
            }
            content.push_str(line);
            content.push('\n');
        }
        Err(at(place, Problem::Heredoc(name.to_owned())))
    }
}

/// The documents that a line announces: name, whether tabs go, whether
/// variables are expanded. A marker begins a word, but for the number of a descriptor:
/// `$((1<<4))` has none.
pub(super) fn markers(text: &str) -> Vec<(String, bool, bool)> {
    let mut all = Vec::new();
    let mut quote = None;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let begins = || {
            let before = &text[..text.len() - rest.len()];
            let before = before.trim_end_matches(|c: char| c.is_ascii_digit());
            before.chars().next_back().is_none_or(char::is_whitespace)
        };
        if quote.is_none() && rest.starts_with("<<") && !rest.starts_with("<<<") && begins() {
            let after = &rest[2..];
            let (strip, after) = match after.strip_prefix('-') {
                Some(after) => (true, after),
                None => (false, after),
            };
            if let Some((name, expand, len)) = name(after) {
                all.push((name, strip, expand));
                rest = &after[len..];
                continue;
            }
        }
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
        // A here-string is none of ours.
        let len = if rest.starts_with("<<<") { 3 } else { c.len_utf8() };
        rest = &rest[len..];
    }
    all
}

/// A document's name, whether it is plain, and how long it is as written.
fn name(text: &str) -> Option<(String, bool, usize)> {
    let open = text.chars().next()?;
    if open == '"' || open == '\'' {
        let end = text[1..].find(open)?;
        return (end > 0).then(|| (text[1..=end].to_owned(), false, end + 2));
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && !"_-.".contains(c));
    let end = end.unwrap_or(text.len());
    (end > 0).then(|| (text[..end].to_owned(), true, end))
}
