//! Instructions and their arguments.

use super::lines::{Heredoc, Line, markers};
use super::{NAMES, Place, Problem, SyntaxError, at};

/// An ARG.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    /// Its name.
    pub name: String,
    /// Its default, not expanded.
    pub default: Option<String>,
}

/// A command: for a shell, or words as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Words {
    /// For the stage's shell.
    Shell(String),
    /// As they are.
    Exec(Vec<String>),
}

/// `RUN --mount`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunMount {
    /// `bind`, `cache`, `tmpfs`, `secret` or `ssh`.
    pub kind: String,
    /// Everything else, not expanded.
    pub options: Vec<(String, Option<String>)>,
}

/// Where a mount goes, whatever its type.
const TARGET: [&str; 3] = ["target", "dst", "destination"];
/// What else each type takes.
const MOUNT_OPTIONS: [(&str, &[&str]); 5] = [
    ("bind", &["source", "src", "from", "rw", "readwrite", "ro", "readonly"]),
    (
        "cache",
        &[
            "id",
            "source",
            "src",
            "from",
            "rw",
            "readwrite",
            "ro",
            "readonly",
            "sharing",
            "mode",
            "uid",
            "gid",
        ],
    ),
    ("tmpfs", &["size"]),
    ("secret", &["id", "required", "env", "mode", "uid", "gid"]),
    ("ssh", &["id", "required", "mode", "uid", "gid"]),
];

/// Where COPY takes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A path or pattern, or for ADD an address.
    Path(String),
    /// A document of the Dockerfile.
    Heredoc(Heredoc),
}

/// COPY and ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    /// What, not expanded.
    pub sources: Vec<Source>,
    /// Where to, not expanded.
    pub destination: String,
    /// The stage or image that the sources are in.
    pub from: Option<String>,
    /// Owner.
    pub chown: Option<String>,
    /// Permission bits, octal or symbolic.
    pub chmod: Option<String>,
    /// Whether paths of sources are kept.
    pub parents: bool,
    /// Patterns of what is left out.
    pub exclude: Vec<String>,
    /// Digest of what an address gives, or the commit.
    pub checksum: Option<String>,
    /// Whether `.git` of a repository is kept.
    pub keep_git: bool,
    /// Whether archives are unpacked; None is as ADD has it: those of the context.
    pub unpack: Option<bool>,
}

/// HEALTHCHECK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healthcheck {
    /// What is run.
    pub command: Words,
    /// Times by name, and retries.
    pub options: Vec<(String, String)>,
}

/// What an instruction does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Runs a command.
    Run {
        /// The command as written, markers of documents included.
        command: Words,
        /// Its documents.
        heredocs: Vec<Heredoc>,
        /// Its mounts.
        mounts: Vec<RunMount>,
        /// `default`, `none` or `host`.
        network: Option<String>,
    },
    /// Copies files.
    Copy(Copy),
    /// Copies, unpacks and fetches files.
    Add(Copy),
    /// Variables of processes, values with their quotes.
    Env(Vec<(String, String)>),
    /// Labels, values with their quotes.
    Label(Vec<(String, String)>),
    /// Variables of the build.
    Arg(Vec<Arg>),
    /// Working directory.
    Workdir(String),
    /// User.
    User(String),
    /// The words in front of commands for a shell.
    Shell(Vec<String>),
    /// Ports.
    Expose(Vec<String>),
    /// Directories that hold data.
    Volume(Vec<String>),
    /// The signal that asks the process to end.
    StopSignal(String),
    /// Entrypoint.
    Entrypoint(Words),
    /// Default command.
    Cmd(Words),
    /// How health is asked; None takes an inherited one away.
    Healthcheck(Option<Healthcheck>),
    /// Done by who builds from this image.
    OnBuild(String),
    /// Who made it.
    Maintainer(String),
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Where it is.
    pub place: Place,
    /// As it was written, lines joined, documents left out.
    pub text: String,
    /// What it does.
    pub kind: Kind,
}

/// Reads one instruction, as ONBUILD keeps them.
///
/// # Errors
/// When it is none.
pub fn parse_instruction(text: &str) -> Result<Instruction, SyntaxError> {
    let line = super::lines::Lines::new(text).next()?;
    let place = Place { line: 1, column: 1 };
    let line = line.ok_or_else(|| at(place, Problem::Instruction(String::new())))?;
    of_line(&line, '\\')
}

pub(super) fn of_line(line: &Line, escape: char) -> Result<Instruction, SyntaxError> {
    let name = line.name.to_ascii_uppercase();
    if !NAMES.contains(&name.as_str()) {
        return Err(at(line.place, Problem::Instruction(line.name.clone())));
    }
    let parser = Parser { name: &name, place: line.place, escape };
    let kind = parser.kind(&line.rest, &line.heredocs)?;
    Ok(Instruction { place: line.place, text: format!("{name} {}", line.rest), kind })
}

struct Parser<'a> {
    name: &'a str,
    place: Place,
    escape: char,
}

type Flags = Vec<(String, Option<String>)>;

impl Parser<'_> {
    fn needs(&self, expected: &'static str) -> SyntaxError {
        at(self.place, Problem::Arguments { name: self.name.to_owned(), expected })
    }

    fn kind(&self, rest: &str, heredocs: &[Heredoc]) -> Result<Kind, SyntaxError> {
        let (flags, rest) = self.flags(rest);
        let plain = |known: &[&str]| self.known(&flags, known);
        if rest.is_empty() {
            return Err(self.needs("an argument"));
        }
        match self.name {
            "RUN" => self.run(&flags, rest, heredocs),
            "COPY" => Ok(Kind::Copy(self.copy(&flags, rest, heredocs, false)?)),
            "ADD" => Ok(Kind::Add(self.copy(&flags, rest, heredocs, true)?)),
            "HEALTHCHECK" => self.healthcheck(&flags, rest),
            _ => {
                plain(&[])?;
                self.simple(rest, heredocs)
            }
        }
    }

    fn simple(&self, rest: &str, heredocs: &[Heredoc]) -> Result<Kind, SyntaxError> {
        let one = |make: fn(String) -> Kind| Ok(make(rest.to_owned()));
        match self.name {
            "ENV" => Ok(Kind::Env(self.pairs(rest, true)?)),
            "LABEL" => Ok(Kind::Label(self.pairs(rest, true)?)),
            "ARG" => {
                let arg = |word: String| match word.split_once('=') {
                    Some((name, value)) => {
                        Arg { name: name.to_owned(), default: Some(value.to_owned()) }
                    }
                    None => Arg { name: word, default: None },
                };
                let args: Vec<Arg> = self.words(rest).into_iter().map(arg).collect();
                match args.iter().find(|arg| arg.name.is_empty()) {
                    Some(_) => Err(self.needs("a name")),
                    None => Ok(Kind::Arg(args)),
                }
            }
            "WORKDIR" => one(Kind::Workdir),
            "USER" => one(Kind::User),
            // One with a variable is looked at when it is known.
            "STOPSIGNAL" if !rest.contains('$') && types::signal_number(rest).is_none() => {
                let (what, value) = ("a signal", rest.to_owned());
                Err(at(self.place, Problem::Value { what, value }))
            }
            "STOPSIGNAL" => one(Kind::StopSignal),
            "MAINTAINER" => one(Kind::Maintainer),
            "SHELL" => match json(rest) {
                Some(words) if !words.is_empty() => Ok(Kind::Shell(words)),
                _ => Err(self.needs("a list in JSON form, for example [\"/bin/bash\", \"-c\"]")),
            },
            "EXPOSE" => Ok(Kind::Expose(self.words(rest))),
            "VOLUME" => Ok(Kind::Volume(json(rest).unwrap_or_else(|| self.words(rest)))),
            "ENTRYPOINT" => Ok(Kind::Entrypoint(command(rest))),
            "CMD" => Ok(Kind::Cmd(command(rest))),
            "ONBUILD" => {
                let word = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
                if ["ONBUILD", "FROM", "MAINTAINER"].contains(&word.as_str()) {
                    let what = "an instruction of ONBUILD";
                    return Err(at(self.place, Problem::Value { what, value: word }));
                }
                let mut all = rest.to_owned();
                for Heredoc { content, name, .. } in heredocs {
                    all.push_str(&format!("\n{content}{name}"));
                }
                // Told now, not to who builds from this image.
                parse_instruction(&all)
                    .map_err(|error| SyntaxError { place: self.place, ..error })?;
                Ok(Kind::OnBuild(all))
            }
            _ => Err(at(self.place, Problem::Instruction(self.name.to_owned()))),
        }
    }

    /// `--name[=value]` right behind the instruction's name.
    fn flags<'t>(&self, mut rest: &'t str) -> (Flags, &'t str) {
        let mut flags = Vec::new();
        if !["RUN", "COPY", "ADD", "HEALTHCHECK"].contains(&self.name) {
            return (flags, rest);
        }
        while let Some(text) = rest.strip_prefix("--") {
            let end = end_of_word(text, self.escape);
            let word = text[..end].replace(['"', '\''], "");
            match word.split_once('=') {
                Some((name, value)) => flags.push((name.to_owned(), Some(value.to_owned()))),
                None => flags.push((word, None)),
            }
            rest = text[end..].trim_start();
        }
        (flags, rest)
    }

    fn known(&self, flags: &Flags, known: &[&str]) -> Result<(), SyntaxError> {
        match flags.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((flag, _)) => {
                let (name, flag) = (self.name.to_owned(), flag.clone());
                Err(at(self.place, Problem::Flag { name, flag }))
            }
            None => Ok(()),
        }
    }

    fn run(&self, flags: &Flags, rest: &str, heredocs: &[Heredoc]) -> Result<Kind, SyntaxError> {
        self.known(flags, &["mount", "network", "security"])?;
        let mut mounts = Vec::new();
        for (_, value) in flags.iter().filter(|(name, _)| name == "mount") {
            let mut kind = "bind".to_owned();
            let mut options = Vec::new();
            for part in value.as_deref().unwrap_or_default().split(',') {
                match part.split_once('=') {
                    Some(("type", value)) => kind = value.to_owned(),
                    Some((name, value)) => options.push((name.to_owned(), Some(value.to_owned()))),
                    None if part.is_empty() => return Err(self.needs("options behind --mount=")),
                    None => options.push((part.to_owned(), None)),
                }
            }
            let own = MOUNT_OPTIONS.iter().find(|(known, _)| *known == kind);
            let Some((_, own)) = own else {
                let what = "the type of a mount";
                return Err(at(self.place, Problem::Value { what, value: kind }));
            };
            let known = |name: &str| TARGET.contains(&name) || own.contains(&name);
            if let Some((option, _)) = options.iter().find(|(name, _)| !known(name)) {
                let text = format!("RUN --mount=type={kind},{option}");
                return Err(at(self.place, Problem::Unsupported(text)));
            }
            let sharing = options.iter().find(|(name, _)| name == "sharing");
            if let Some((_, value)) = sharing
                && !value
                    .as_deref()
                    .is_some_and(|value| ["shared", "private", "locked"].contains(&value))
            {
                let value = value.clone().unwrap_or_default();
                let text = format!("RUN --mount=type=cache,sharing={value}");
                return Err(at(self.place, Problem::Unsupported(text)));
            }
            mounts.push(RunMount { kind, options });
        }
        let value = |name: &str| flags.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.clone());
        let network = value("network");
        if let Some(network) = &network
            && !["default", "none", "host"].contains(&network.as_str())
        {
            let (what, value) = ("--network", network.clone());
            return Err(at(self.place, Problem::Value { what, value }));
        }
        if let Some(security) = value("security").filter(|value| value != "sandbox") {
            let text = format!("RUN --security={security}");
            return Err(at(self.place, Problem::Unsupported(text)));
        }
        Ok(Kind::Run { command: command(rest), heredocs: heredocs.to_vec(), mounts, network })
    }

    fn copy(
        &self,
        flags: &Flags,
        rest: &str,
        heredocs: &[Heredoc],
        add: bool,
    ) -> Result<Copy, SyntaxError> {
        let common = ["chown", "chmod", "link", "exclude", "parents"];
        let own: &[&str] = if add { &["checksum", "keep-git-dir", "unpack"] } else { &["from"] };
        self.known(flags, &[&common[..], own].concat())?;
        let value = |name: &str| flags.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.clone());
        let mut words = json(rest).unwrap_or_else(|| self.words(rest));
        let needs = || self.needs("at least one source and a destination");
        let destination = words.pop().ok_or_else(needs)?;
        let mut documents = heredocs.iter();
        let sources = words.into_iter().map(|word| match markers(&word)[..] {
            [_] if word.starts_with("<<") => {
                documents.next().map_or(Source::Path(word), |doc| Source::Heredoc(doc.clone()))
            }
            _ => Source::Path(word),
        });
        let sources: Vec<Source> = sources.collect();
        if sources.is_empty() {
            return Err(needs());
        }
        let on = |value: Option<Option<String>>| {
            value.is_some_and(|value| value.is_none_or(|text| text != "false"))
        };
        let flag = |name: &str| flags.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        let exclude = flags.iter().filter(|(name, _)| name == "exclude");
        Ok(Copy {
            sources,
            destination,
            from: value("from"),
            chown: value("chown"),
            chmod: value("chmod"),
            parents: on(flag("parents")),
            exclude: exclude.filter_map(|(_, value)| value.clone()).collect(),
            checksum: value("checksum"),
            keep_git: on(flag("keep-git-dir")),
            unpack: flag("unpack").map(|value| on(Some(value))),
        })
    }

    fn healthcheck(&self, flags: &Flags, rest: &str) -> Result<Kind, SyntaxError> {
        let known = ["interval", "timeout", "start-period", "start-interval", "retries"];
        self.known(flags, &known)?;
        let (word, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        if word.eq_ignore_ascii_case("NONE") && rest.is_empty() {
            return Ok(Kind::Healthcheck(None));
        }
        if !word.eq_ignore_ascii_case("CMD") || rest.trim().is_empty() {
            return Err(self.needs("NONE, or CMD and a command"));
        }
        let mut options = Vec::new();
        for (name, value) in flags {
            let value = value.clone().unwrap_or_default();
            let good = if name == "retries" {
                value.parse::<u32>().is_ok()
            } else {
                duration(&value).is_some()
            };
            if !good {
                return Err(at(self.place, Problem::Value { what: "a time or count", value }));
            }
            options.push((name.clone(), value));
        }
        Ok(Kind::Healthcheck(Some(Healthcheck { command: command(rest.trim()), options })))
    }

    /// `NAME=value …`, or `NAME the rest of the line`.
    fn pairs(&self, rest: &str, old: bool) -> Result<Vec<(String, String)>, SyntaxError> {
        let words = self.words(rest);
        let first = words.first().map_or("", String::as_str);
        if old && !first.contains('=') {
            let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            if value.trim().is_empty() {
                return Err(self.needs("NAME=VALUE"));
            }
            return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
        }
        let pair = |word: String| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(self.needs("NAME=VALUE")),
        };
        words.into_iter().map(pair).collect()
    }

    /// Words at blanks outside of quotes, as they are written.
    fn words(&self, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let end = end_of_word(rest, self.escape);
            words.push(rest[..end].to_owned());
            rest = rest[end..].trim_start();
        }
        words
    }
}

/// Where the first word ends, blanks in quotes being part of it.
fn end_of_word(text: &str, escape: char) -> usize {
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => return at,
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), c) if c == escape => drop(chars.next()),
            _ => {}
        }
    }
    text.len()
}

/// A JSON list of strings.
fn json(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    text.starts_with('[').then(|| serde_json::from_str(text).ok()).flatten()
}

/// What is no JSON list is for the shell, as Docker has it.
fn command(text: &str) -> Words {
    match json(text) {
        Some(words) if !words.is_empty() => Words::Exec(words),
        _ => Words::Shell(text.to_owned()),
    }
}

/// A time such as `1m30s`, in nanoseconds.
pub(crate) fn duration(text: &str) -> Option<u64> {
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit_end =
            rest[end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |e| end + e);
        let unit = match &rest[end..unit_end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then_some(total as u64)
}
