//! Variables and quotes, as Docker's own lexer has them.

use super::Problem;

/// What is known of variables.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Deepest substitution inside substitutions.
const DEEPEST: usize = 32;
/// Most bytes that variables bring into one text: the kernel takes no longer string
/// (execve(2), MAX_ARG_STRLEN).
const LONGEST: usize = 128 << 10;
/// The same of a document.
const LONGEST_DOCUMENT: usize = 64 << 20;
/// Longest value that patterns are looked for in.
const LONGEST_MATCHED: usize = 4 << 10;

/// Expands variables and removes quotes.
///
/// # Errors
/// When a quote or substitution does not end, or a needed variable is not set.
pub fn expand(text: &str, escape: char, lookup: Lookup<'_>) -> Result<String, Problem> {
    Ok(words_of(text, escape, lookup, false)?.concat())
}

/// The same, split at blanks outside of quotes.
///
/// # Errors
/// As [`expand`].
pub fn expand_words(text: &str, escape: char, lookup: Lookup<'_>) -> Result<Vec<String>, Problem> {
    words_of(text, escape, lookup, true)
}

/// Expands variables and leaves quotes alone, as in a heredoc.
///
/// # Errors
/// As [`expand`].
pub fn expand_heredoc(text: &str, lookup: Lookup<'_>) -> Result<String, Problem> {
    let mut lexer = Lexer { rest: text, escape: '\\', lookup, room: LONGEST_DOCUMENT };
    let mut out = String::new();
    while let Some(c) = lexer.next() {
        match c {
            '\\' if lexer.rest.starts_with(['$', '\\']) => out.extend(lexer.next()),
            '$' => out.push_str(&lexer.variable(0)?),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn words_of(
    text: &str,
    escape: char,
    lookup: Lookup<'_>,
    split: bool,
) -> Result<Vec<String>, Problem> {
    let mut lexer = Lexer { rest: text, escape, lookup, room: LONGEST };
    let mut words = Vec::new();
    // Quotes make a word even where there is nothing in them.
    let mut word: Option<String> = None;
    while let Some(c) = lexer.next() {
        match c {
            ' ' | '\t' if split => words.extend(word.take()),
            '\'' => word.get_or_insert_default().push_str(&lexer.literal()?),
            '"' => word.get_or_insert_default().push_str(&lexer.quoted(0)?),
            c if c == escape => word.get_or_insert_default().extend(lexer.next()),
            '$' => {
                let value = lexer.variable(0)?;
                if !value.is_empty() || !split {
                    word.get_or_insert_default().push_str(&value);
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

struct Lexer<'a> {
    rest: &'a str,
    escape: char,
    lookup: Lookup<'a>,
    /// Bytes that variables may still bring.
    room: usize,
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn unended(&self) -> Problem {
        Problem::Substitution("a quote or ${ that does not end".to_owned())
    }

    fn literal(&mut self) -> Result<String, Problem> {
        let end = self.rest.find('\'').ok_or_else(|| self.unended())?;
        let text = self.rest[..end].to_owned();
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    fn quoted(&mut self, depth: usize) -> Result<String, Problem> {
        let mut out = String::new();
        loop {
            match self.next().ok_or_else(|| self.unended())? {
                '"' => return Ok(out),
                '$' => out.push_str(&self.variable(depth)?),
                c if c == self.escape => match self.next().ok_or_else(|| self.unended())? {
                    c @ ('"' | '$') => out.push(c),
                    c if c == self.escape => out.push(c),
                    c => out.extend([self.escape, c]),
                },
                c => out.push(c),
            }
        }
    }

    fn name(&mut self) -> String {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let mut end = end.unwrap_or(self.rest.len());
        if self.rest.starts_with(|c: char| c.is_ascii_digit()) {
            // `$10` is `$1` and a zero.
            end = 1;
        }
        let name = self.rest[..end].to_owned();
        self.rest = &self.rest[end..];
        name
    }

    /// What comes after a `$`.
    fn variable(&mut self, depth: usize) -> Result<String, Problem> {
        let value = self.substitution(depth)?;
        let left = self.room.checked_sub(value.len());
        let long = || Problem::Substitution("a text that its variables make too long".to_owned());
        self.room = left.ok_or_else(long)?;
        Ok(value)
    }

    fn substitution(&mut self, depth: usize) -> Result<String, Problem> {
        if depth > DEEPEST {
            return Err(Problem::Substitution("a substitution in too many others".to_owned()));
        }
        if !self.rest.starts_with('{') {
            let name = self.name();
            return Ok(if name.is_empty() {
                "$".to_owned()
            } else {
                (self.lookup)(&name).unwrap_or_default()
            });
        }
        let whole = self.rest;
        self.next();
        let name = self.name();
        let bad = || Problem::Substitution(format!("${}", first_line(whole)));
        if name.is_empty() {
            return Err(bad());
        }
        let value = (self.lookup)(&name);
        let mut operator = self.next().ok_or_else(bad)?;
        if operator == '}' {
            return Ok(value.unwrap_or_default());
        }
        let colon = operator == ':';
        if colon {
            operator = self.next().ok_or_else(bad)?;
        }
        let set = value.clone().filter(|value| !colon || !value.is_empty());
        let double =
            !colon && matches!(operator, '#' | '%' | '/') && self.rest.starts_with(operator);
        if double {
            self.next();
        }
        let slash = operator == '/';
        let word = self.until(depth, if slash { &['/', '}'] } else { &['}'] })?;
        let value = value.unwrap_or_default();
        if matches!(operator, '#' | '%' | '/') && value.len() > LONGEST_MATCHED {
            return Err(bad());
        }
        Ok(match operator {
            '-' => set.unwrap_or(word.0),
            '+' => set.map_or_else(String::new, |_| word.0),
            '?' => set.ok_or(Problem::Required { name, message: word.0 })?,
            '#' if !colon => cut_front(&value, &word.0, double).to_owned(),
            '%' if !colon => cut_back(&value, &word.0, double).to_owned(),
            '/' if !colon => {
                let with = if word.1 == '/' { self.until(depth, &['}'])?.0 } else { String::new() };
                replace(&value, &word.0, &with, double)
            }
            _ => return Err(bad()),
        })
    }

    /// Text up to one of the ends, expanded; which end it was.
    fn until(&mut self, depth: usize, ends: &[char]) -> Result<(String, char), Problem> {
        let mut out = String::new();
        loop {
            match self.next().ok_or_else(|| self.unended())? {
                c if ends.contains(&c) => return Ok((out, c)),
                '\'' => out.push_str(&self.literal()?),
                '"' => out.push_str(&self.quoted(depth + 1)?),
                '$' => out.push_str(&self.variable(depth + 1)?),
                c if c == self.escape => out.extend(self.next()),
                c => out.push(c),
            }
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Whether a pattern of `*` and `?` matches a whole text.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and how much of the text it has taken.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (p, t) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Places where a text may be cut.
fn cuts(text: &str) -> impl DoubleEndedIterator<Item = usize> + '_ {
    text.char_indices().map(|(at, _)| at).chain([text.len()])
}

fn cut_front<'a>(value: &'a str, pattern: &str, longest: bool) -> &'a str {
    let fits = |at: &usize| matches(pattern, &value[..*at]);
    let cut = if longest { cuts(value).rev().find(fits) } else { cuts(value).find(fits) };
    &value[cut.unwrap_or(0)..]
}

fn cut_back<'a>(value: &'a str, pattern: &str, longest: bool) -> &'a str {
    let fits = |at: &usize| matches(pattern, &value[*at..]);
    let cut = if longest { cuts(value).find(fits) } else { cuts(value).rev().find(fits) };
    &value[..cut.unwrap_or(value.len())]
}

fn replace(value: &str, pattern: &str, with: &str, all: bool) -> String {
    let mut out = String::new();
    let mut rest = value;
    while !rest.is_empty() {
        let end = cuts(rest).rev().find(|end| *end > 0 && matches(pattern, &rest[..*end]));
        if let Some(end) = end {
            out.push_str(with);
            rest = &rest[end..];
            if !all {
                break;
            }
        } else {
            let next = cuts(rest).nth(1).unwrap_or(rest.len());
            out.push_str(&rest[..next]);
            rest = &rest[next..];
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "A" => Some("one".into()),
            "EMPTY" => Some(String::new()),
            "FILE" => Some("/a/b/c.tar.gz".into()),
            "SP" => Some("x y".into()),
            _ => None,
        }
    }

    fn one(text: &str) -> String {
        expand(text, '\\', &lookup).unwrap()
    }

    #[test]
    fn every_form_expands() {
        for (text, expected) in [
            ("$A-${A}x$NO.", "one-onex."),
            ("${NO:-d}${EMPTY:-d}${EMPTY-d}${A:-d}", "ddone"),
            ("${A:+y}${EMPTY:+y}${EMPTY+y}${NO+y}", "yy"),
            ("${NO:-${A}${NO:-z}}", "onez"),
            (
                "${FILE#*/}|${FILE##*/}|${FILE%.*}|${FILE%%.*}",
                "a/b/c.tar.gz|c.tar.gz|/a/b/c.tar|/a/b/c",
            ),
            ("${FILE/a/X}|${FILE//a/X}|${A/e}", "/X/b/c.tar.gz|/X/b/c.tXr.gz|on"),
            ("'$A' \"$A\" \\$A", "$A one $A"),
            ("\"a\\\"b\\n\"", "a\"b\\n"),
            ("$ $1 100%", "$  100%"),
        ] {
            assert_eq!(one(text), expected, "{text}");
        }
        assert_eq!(
            expand_words("a $SP \"$SP\" '' $NO", '\\', &lookup).unwrap(),
            ["a", "x y", "x y", ""]
        );
        assert_eq!(expand_heredoc("'$A' \\$A \\x", &lookup).unwrap(), "'one' $A \\x");
    }

    #[test]
    fn what_does_not_end_is_an_error() {
        for bad in ["${A", "'a", "\"a", "${}", "${A!x}", "${A:#x}", "${NO:?why}"] {
            assert!(expand(bad, '\\', &lookup).is_err(), "{bad}");
        }
        // Each line of a file may double what is there.
        let long = |_: &str| Some("x".repeat(LONGEST / 2));
        assert!(expand("$A$A", '\\', &long).is_ok());
        for bad in ["$A$A$A", "\"$A${A:-x}\"$A", "${A%x}"] {
            assert!(expand(bad, '\\', &long).is_err(), "{bad}");
        }
        let deep = "${NO:-".repeat(100);
        assert!(expand(&deep, '\\', &lookup).is_err());
    }
}
