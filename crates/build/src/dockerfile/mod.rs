//! Dockerfiles, with the stable syntax of BuildKit.
//!
//! [`parse`] turns a file into stages of instructions, with the place of each.
//! Variables are not expanded here: [`expand`](expand::expand) does that when a
//! step's values are known. What the syntax does not have, and what cannot be
//! honoured, is a [`SyntaxError`]; nothing is dropped in silence.

mod error;
pub mod expand;
mod instruction;
mod lines;

pub use error::{Place, Problem, SyntaxError};
pub(crate) use instruction::duration;
pub use instruction::{
    Arg, Copy, Healthcheck, Instruction, Kind, RunMount, Source, Words, parse_instruction,
};
pub use lines::Heredoc;

use lines::Lines;

/// Every instruction's name.
pub(crate) const NAMES: [&str; 18] = [
    "FROM",
    "RUN",
    "COPY",
    "ADD",
    "ENV",
    "ARG",
    "LABEL",
    "WORKDIR",
    "USER",
    "SHELL",
    "EXPOSE",
    "VOLUME",
    "STOPSIGNAL",
    "HEALTHCHECK",
    "ENTRYPOINT",
    "CMD",
    "ONBUILD",
    "MAINTAINER",
];

/// What `# syntax=` may say: other images read other languages.
const OWN_SYNTAX: [&str; 4] = [
    "docker/dockerfile",
    "docker/dockerfile-upstream",
    "docker.io/docker/dockerfile",
    "docker.io/docker/dockerfile-upstream",
];

/// A Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    /// The escape character.
    pub escape: char,
    /// ARGs before the first FROM.
    pub args: Vec<Arg>,
    /// The stages, in their order.
    pub stages: Vec<Stage>,
}

/// What begins with a FROM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The image or stage that it begins from, not expanded.
    pub from: String,
    /// The platform, not expanded.
    pub platform: Option<String>,
    /// Its name, in lower case.
    pub name: Option<String>,
    /// Where it begins.
    pub place: Place,
    /// What it does.
    pub instructions: Vec<Instruction>,
}

fn at(place: Place, problem: Problem) -> SyntaxError {
    SyntaxError { place, problem }
}

/// Reads a Dockerfile.
///
/// # Errors
/// Where it is no Dockerfile.
pub fn parse(text: &str) -> Result<Dockerfile, SyntaxError> {
    let mut lines = Lines::new(text);
    if let Some((line, syntax)) = &lines.syntax
        && !OWN_SYNTAX.contains(&syntax.split([':', '@']).next().unwrap_or_default())
    {
        let text = format!("the language of {syntax}");
        return Err(at(Place { line: *line, column: 1 }, Problem::Unsupported(text)));
    }
    let mut file = Dockerfile { escape: lines.escape, args: Vec::new(), stages: Vec::new() };
    while let Some(line) = lines.next()? {
        let name = line.name.to_ascii_uppercase();
        if name == "FROM" {
            let stage = from(&line.rest, line.place)?;
            if let Some(name) = &stage.name
                && file.stages.iter().any(|other| other.name.as_ref() == Some(name))
            {
                return Err(at(line.place, Problem::Stage(name.clone())));
            }
            file.stages.push(stage);
            continue;
        }
        let instruction = instruction::of_line(&line, lines.escape)?;
        match (file.stages.last_mut(), instruction.kind) {
            (Some(stage), kind) => stage.instructions.push(Instruction { kind, ..instruction }),
            (None, Kind::Arg(args)) => file.args.extend(args),
            (None, _) => return Err(at(line.place, Problem::BeforeFrom(name))),
        }
    }
    if file.stages.is_empty() {
        return Err(at(Place { line: 1, column: 1 }, Problem::NoFrom));
    }
    Ok(file)
}

/// `[--platform=P] IMAGE [AS NAME]`
fn from(rest: &str, place: Place) -> Result<Stage, SyntaxError> {
    let name = || "FROM".to_owned();
    let needs = |expected| at(place, Problem::Arguments { name: name(), expected });
    let mut platform = None;
    let mut words = Vec::new();
    for word in rest.split_whitespace() {
        match word.strip_prefix("--") {
            Some(flag) if words.is_empty() => match flag.split_once('=') {
                Some(("platform", value)) => platform = Some(value.to_owned()),
                _ => {
                    let flag = flag.split('=').next().unwrap_or_default().to_owned();
                    return Err(at(place, Problem::Flag { name: name(), flag }));
                }
            },
            _ => words.push(word),
        }
    }
    let stage = match words[..] {
        [_] => None,
        [_, word, stage] if word.eq_ignore_ascii_case("as") => Some(stage.to_ascii_lowercase()),
        _ => return Err(needs("an image, and AS NAME to name the stage")),
    };
    if let Some(stage) = &stage
        && !stage.chars().enumerate().all(|(i, c)| {
            c.is_ascii_lowercase() || (i > 0 && (c.is_ascii_digit() || "-_.".contains(c)))
        })
    {
        return Err(at(place, Problem::Value { what: "a stage's name", value: stage.clone() }));
    }
    let from = words[0].to_owned();
    Ok(Stage { from, platform, name: stage, place, instructions: Vec::new() })
}

#[cfg(test)]
mod tests;
