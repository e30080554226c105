//! .dockerignore: what of a context is not there for a build.

use globset::{GlobBuilder, GlobMatcher};

/// The rules of a file, in order; the last one that matches decides.
#[derive(Debug, Default)]
pub(crate) struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    matcher: GlobMatcher,
    /// `!`: what matches is there after all.
    keep: bool,
}

impl Ignore {
    /// Reads the rules; the pattern that is none.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut rules = Vec::new();
        for line in text.trim_start_matches('\u{feff}').lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (keep, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            let pattern = clean(pattern);
            if !pattern.is_empty() && pattern != "." {
                rules.push(Rule { matcher: matcher(&pattern).ok_or(line)?, keep });
            }
        }
        Ok(Self { rules })
    }

    /// Whether a path, relative to the context, is left out: it or a directory
    /// above it matches.
    pub(crate) fn excludes(&self, path: &str) -> bool {
        let mut excluded = false;
        for rule in &self.rules {
            // A rule that changes nothing need not be looked at.
            if rule.keep == excluded && above(path).any(|part| rule.matcher.is_match(part)) {
                excluded = !rule.keep;
            }
        }
        excluded
    }

    /// Whether something in a directory that is left out may be there.
    pub(crate) fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.keep)
    }
}

/// A path and the directories above it.
fn above(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.map(|end| &path[..end])
}

/// A matcher by Docker's rules: `*` and `?` stay within a directory.
pub(crate) fn matcher(pattern: &str) -> Option<GlobMatcher> {
    let glob = GlobBuilder::new(pattern).literal_separator(true).backslash_escape(true).build();
    Some(glob.ok()?.compile_matcher())
}

/// Without `.` and empty words, and `..` resolved at the top.
fn clean(pattern: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in pattern.split('/') {
        match word {
            "" | "." => {}
            ".." => drop(words.pop()),
            word => words.push(word),
        }
    }
    words.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_that_matches_decides() {
        let text =
            "# a comment\n*.log\n!keep.log\n/build/\n**/tmp\nsrc/*.o\n!src/main.o\n\n./x/../y\n";
        let ignore = Ignore::parse(text).unwrap();
        for (path, expected) in [
            ("a.log", true),
            ("dir/a.log", false),
            ("keep.log", false),
            ("build/x/y", true),
            ("a/b/tmp", true),
            ("tmp/file", true),
            ("src/a.o", true),
            ("src/main.o", false),
            ("y", true),
            ("# a comment", false),
        ] {
            assert_eq!(ignore.excludes(path), expected, "{path}");
        }
        assert!(ignore.has_exceptions());
        let all = Ignore::parse("*\n!src\n").unwrap();
        assert!(all.excludes("a") && !all.excludes("src/deep/file"));
        assert!(Ignore::parse("[a\n").is_err());
    }
}
