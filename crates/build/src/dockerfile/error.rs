//! What can be wrong with a Dockerfile.

use std::fmt;

/// A place in the file, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Why a Dockerfile cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct SyntaxError {
    /// Where.
    pub place: Place,
    /// What.
    pub problem: Problem,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No such instruction.
    #[error("{0:?} is no instruction")]
    Instruction(String),
    /// Only ARG may come before FROM.
    #[error("{0} before the first FROM")]
    BeforeFrom(String),
    /// There is no FROM at all.
    #[error("there is no FROM")]
    NoFrom,
    /// An instruction without what it needs.
    #[error("{name} needs {expected}")]
    Arguments {
        /// The instruction.
        name: String,
        /// What it needs.
        expected: &'static str,
    },
    /// A flag that the instruction does not have.
    #[error("{name} has no flag --{flag}")]
    Flag {
        /// The instruction.
        name: String,
        /// The flag.
        flag: String,
    },
    /// A value that cannot be.
    #[error("{what} cannot be {value:?}")]
    Value {
        /// Of what.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// A heredoc whose last line is missing.
    #[error("the heredoc {0:?} does not end")]
    Heredoc(String),
    /// Two stages of one name.
    #[error("there is a stage {0:?} already")]
    Stage(String),
    /// A substitution that is none.
    #[error("{0:?} cannot be expanded")]
    Substitution(String),
    /// `${NAME:?message}` of a variable that is not set.
    #[error("the variable {name} is needed: {message}")]
    Required {
        /// The variable.
        name: String,
        /// What the file says of it.
        message: String,
    },
    /// Something of the syntax that cannot be honoured.
    #[error("{0} is not supported")]
    Unsupported(String),
}

impl SyntaxError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match &self.problem {
            Problem::Instruction(word) => {
                let near = super::NAMES.iter().find(|name| distance(name, word) <= 2)?;
                Some(format!("did you mean {near}?"))
            }
            Problem::BeforeFrom(_) | Problem::NoFrom => {
                Some("begin with FROM IMAGE, or FROM scratch".to_owned())
            }
            _ => None,
        }
    }
}

/// Edits from one word to another (Levenshtein), for short words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_ascii_uppercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_told() {
        let error = |word: &str| SyntaxError {
            place: Place { line: 1, column: 1 },
            problem: Problem::Instruction(word.to_owned()),
        };
        assert_eq!(error("RNU").hint().as_deref(), Some("did you mean RUN?"));
        assert_eq!(error("COYP").hint().as_deref(), Some("did you mean COPY?"));
        assert_eq!(error("FROBNICATE").hint(), None);
    }
}
