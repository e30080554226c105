//! Permission bits as chmod(1) takes them: octal, or symbolic clauses.

use crate::dockerfile::Problem;

/// What --chmod says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chmod {
    /// All bits.
    Octal(u16),
    /// Changes, one after the other.
    Symbolic(Vec<Clause>),
}

/// `ug+rX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clause {
    /// The bits of those it is about, read, write, execute and special ones.
    who: u16,
    operator: char,
    /// What is given, as if for everybody.
    bits: u16,
    /// X: execute for directories, and where somebody may execute already.
    maybe: bool,
    /// Bits of another class, which are copied.
    like: Option<u16>,
}

const EXECUTE: u16 = 0o111;

impl Chmod {
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = || Problem::Value { what: "--chmod", value: text.to_owned() };
        if let Ok(bits) = u16::from_str_radix(text, 8) {
            return if bits <= 0o7777 { Ok(Self::Octal(bits)) } else { Err(wrong()) };
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            let at = part.find(['+', '-', '=']).ok_or_else(wrong)?;
            let (classes, mut rest) = part.split_at(at);
            let mut who = 0;
            for class in classes.chars() {
                who |= match class {
                    'u' => 0o4700,
                    'g' => 0o2070,
                    'o' => 0o1007,
                    'a' => 0o7777,
                    _ => return Err(wrong()),
                };
            }
            // Everybody, as with a umask of zero.
            let who = if who == 0 { 0o7777 } else { who };
            while let Some(operator) = rest.chars().next() {
                let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |end| end + 1);
                let clause = clause(who, operator, &rest[1..end]).ok_or_else(wrong)?;
                clauses.push(clause);
                rest = &rest[end..];
            }
        }
        Ok(Self::Symbolic(clauses))
    }

    /// The bits of an entry that had others.
    pub(crate) fn apply(&self, old: u16, directory: bool) -> u16 {
        match self {
            Self::Octal(bits) => *bits,
            Self::Symbolic(clauses) => clauses.iter().fold(old, |mode, clause| {
                let mut bits = clause.bits;
                if clause.maybe && (directory || mode & EXECUTE != 0) {
                    bits |= EXECUTE;
                }
                if let Some(shift) = clause.like {
                    bits |= (mode >> shift & 7) * EXECUTE;
                }
                let bits = bits & clause.who;
                match clause.operator {
                    '+' => mode | bits,
                    '-' => mode & !bits,
                    // Special bits of directories stay unless they are named.
                    _ if directory => mode & !(clause.who & 0o777) | bits,
                    _ => mode & !clause.who | bits,
                }
            }),
        }
    }
}

fn clause(who: u16, operator: char, text: &str) -> Option<Clause> {
    let mut clause = Clause { who, operator, bits: 0, maybe: false, like: None };
    clause.like = match text {
        "u" => Some(6),
        "g" => Some(3),
        "o" => Some(0),
        _ => None,
    };
    if clause.like.is_some() {
        return Some(clause);
    }
    for bit in text.chars() {
        match bit {
            'r' => clause.bits |= 0o444,
            'w' => clause.bits |= 0o222,
            'x' => clause.bits |= EXECUTE,
            'X' => clause.maybe = true,
            's' => clause.bits |= 0o6000,
            't' => clause.bits |= 0o1000,
            _ => return None,
        }
    }
    Some(clause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbolic_modes_are_those_of_chmod() {
        for (text, old, directory, new) in [
            ("755", 0o600, false, 0o755),
            ("u+x", 0o644, false, 0o744),
            ("+x", 0o644, false, 0o755),
            ("a=rX", 0o755, false, 0o555),
            ("a=rX", 0o644, false, 0o444),
            ("a=rX", 0o700, true, 0o555),
            ("go-rwx,u=rw", 0o777, false, 0o600),
            ("u=rwX,go=rX", 0o640, false, 0o644),
            ("g=u", 0o640, false, 0o660),
            ("u+s,g+s,+t", 0o755, false, 0o7755),
            ("u-s", 0o4755, false, 0o755),
            ("g+w-x", 0o755, false, 0o765),
            ("a=", 0o777, false, 0),
            ("u=rwx", 0o2755, true, 0o2755),
        ] {
            let chmod = Chmod::parse(text).unwrap();
            assert_eq!(chmod.apply(old, directory), new, "{text} of {old:o}");
        }
        for wrong in ["", "9", "77777", "u", "z+x", "u+q", "u+x,", "=rx+é"] {
            assert!(Chmod::parse(wrong).is_err(), "{wrong}");
        }
    }
}
