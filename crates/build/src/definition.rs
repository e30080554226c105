//! Apptainer's definition files.
//!
//! ```text
//! Bootstrap: docker        header, then sections; another Bootstrap begins the
//! From: debian:12          next stage
//! %post
//!     apt-get update
//! ```
//!
//! `{{ name }}` is replaced everywhere by a build argument or its default in
//! %arguments; one without a value, and an argument that nothing uses, is an
//! error.

use std::collections::{BTreeMap, BTreeSet};

use crate::dockerfile::{Place, Problem, SyntaxError};

/// A stage of a definition file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stage {
    /// Keys in lower case.
    pub(crate) header: BTreeMap<String, String>,
    pub(crate) sections: Vec<Section>,
    pub(crate) line: usize,
}

/// `%name arguments` and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    /// In lower case, without the percent sign.
    pub(crate) name: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// Keys of a header that are read.
const KEYS: [&str; 17] = [
    "bootstrap",
    "from",
    "stage",
    "fingerprints",
    "library",
    "registry",
    "namespace",
    "mirrorurl",
    "updateurl",
    "osversion",
    "include",
    "keyring",
    "gpg",
    "components",
    "variant",
    "check-valid-until",
    "exclude",
];
/// Those that Apptainer has besides: subscriptions to SUSE, files and options for dnf,
/// and what Singularity 2 did.
const UNSUPPORTED_KEYS: [&str; 10] = [
    "includecmd",
    "product",
    "user",
    "regcode",
    "productpgp",
    "registerurl",
    "modules",
    "confurl",
    "setopt",
    "otherurl",
];

impl Section {
    /// The shell that it asks for.
    pub(crate) fn shell(&self) -> Option<&str> {
        let at = self.arguments.iter().position(|word| word == "-c")?;
        self.arguments.get(at + 1).map(String::as_str)
    }

    /// The words before its text: a failing command ends it, as Apptainer has it.
    pub(crate) fn interpreter(&self) -> Vec<String> {
        match self.shell() {
            Some(shell) => vec![shell.to_owned(), "-c".to_owned()],
            None => ["/bin/sh", "-e", "-c"].map(str::to_owned).to_vec(),
        }
    }
}

const SECTIONS: [&str; 19] = [
    "arguments",
    "pre",
    "setup",
    "files",
    "post",
    "environment",
    "runscript",
    "startscript",
    "test",
    "labels",
    "help",
    "appinstall",
    "appfiles",
    "appenv",
    "apptest",
    "apphelp",
    "apprun",
    "applabels",
    "appstart",
];
/// Those whose script may name its shell: `%post -c /bin/bash`.
const WITH_SHELL: [&str; 6] = ["pre", "setup", "post", "test", "runscript", "startscript"];
/// Those that are told apart by their arguments, and of which there may be several.
const SEVERAL: [&str; 2] = ["files", "appfiles"];

impl Stage {
    /// A line of the header, with what is no comment.
    fn key(&mut self, line: &str) -> Result<(), Problem> {
        let mut comments = line.match_indices('#').map(|(at, _)| at);
        // An address may have one too.
        let comment = comments.find(|at| !line[..*at].ends_with(|c: char| !c.is_whitespace()));
        let line = line[..comment.unwrap_or(line.len())].trim();
        if line.is_empty() {
            return Ok(());
        }
        let value = |what| Problem::Value { what, value: line.to_owned() };
        let (key, text) = line.split_once(':').ok_or_else(|| value("a line of the header"))?;
        let key = key.trim().to_ascii_lowercase();
        let plain = key.trim_end_matches(|c: char| c.is_ascii_digit());
        if UNSUPPORTED_KEYS.contains(&plain) {
            return Err(Problem::Unsupported(line.to_owned()));
        }
        if !KEYS.contains(&key.as_str()) {
            return Err(value("a key of the header"));
        }
        self.header.insert(key, text.trim().to_owned());
        Ok(())
    }

    /// `name arguments` behind a percent sign. What is there already goes on.
    fn begin(&mut self, text: &str, line: usize) -> Result<(), SyntaxError> {
        let mut words = text.split_whitespace();
        let name = words.next().unwrap_or_default().to_ascii_lowercase();
        let arguments: Vec<String> = words.map(str::to_owned).collect();
        if !SECTIONS.contains(&name.as_str()) {
            return Err(wrong(line, Problem::Instruction(format!("%{name}"))));
        }
        let expected = match (name.as_str(), &arguments[..]) {
            ("files", [from, _]) if from == "from" => None,
            ("files", []) => None,
            ("files", _) => Some("nothing behind it, or from STAGE"),
            (app, [name]) if app.starts_with("app") && plain_word(name) => None,
            (app, _) if app.starts_with("app") => Some("the name of an app"),
            (_, []) => None,
            (script, [flag, _]) if flag == "-c" && WITH_SHELL.contains(&script) => None,
            (script, _) if WITH_SHELL.contains(&script) => {
                Some("nothing behind it, or -c and a shell")
            }
            _ => Some("nothing behind it"),
        };
        if let Some(expected) = expected {
            return Err(wrong(line, Problem::Arguments { name: format!("%{name}"), expected }));
        }
        let same = |other: &Section| {
            other.name == name && (other.arguments == arguments || WITH_SHELL.contains(&&*name))
        };
        let found = self.sections.iter().position(same).filter(|_| !SEVERAL.contains(&&*name));
        let section = match found {
            Some(at) => {
                let mut section = self.sections.remove(at);
                if section.arguments.is_empty() {
                    section.arguments = arguments;
                }
                section
            }
            None => Section { name, arguments, text: String::new(), line },
        };
        self.sections.push(section);
        Ok(())
    }
}

/// A name that is one directory's.
fn plain_word(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    name.chars().all(good) && !name.starts_with('.')
}

/// Whether a recipe is a definition file: it begins with `Bootstrap:`.
#[must_use]
pub fn is_definition(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    first.is_some_and(|line| line.to_ascii_lowercase().starts_with("bootstrap:"))
}

fn wrong(line: usize, problem: Problem) -> SyntaxError {
    SyntaxError { place: Place { line, column: 1 }, problem }
}

/// A definition file with these build arguments in their places.
pub(crate) fn filled(
    text: &str,
    arguments: &BTreeMap<String, String>,
) -> Result<String, SyntaxError> {
    let defaults = parse(text)?;
    let mut values = BTreeMap::new();
    let sections = defaults.iter().flat_map(|stage| &stage.sections);
    for section in sections.filter(|section| section.name == "arguments") {
        for line in section.text.lines().map(str::trim) {
            if let Some((name, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
                let value = value.trim().trim_matches(['"', '\'']);
                values.insert(name.trim().to_owned(), value.to_owned());
            }
        }
    }
    values.extend(arguments.clone());
    let mut used = BTreeSet::new();
    let mut full = String::new();
    for (index, line) in text.lines().enumerate() {
        full.push_str(&replaced(line, index + 1, &values, &mut used)?);
        full.push('\n');
    }
    match arguments.keys().find(|name| !used.contains(*name)) {
        Some(name) => {
            let what = "a build argument that the file does not use";
            Err(wrong(1, Problem::Value { what, value: name.clone() }))
        }
        None => Ok(full),
    }
}

/// A line with its `{{ name }}` replaced.
fn replaced(
    line: &str,
    number: usize,
    values: &BTreeMap<String, String>,
    used: &mut BTreeSet<String>,
) -> Result<String, SyntaxError> {
    let mut out = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, behind)) = after.split_once("}}") else { break };
        let name = name.trim();
        let plain = !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        out.push_str(before);
        if plain {
            let message = "a build argument, or a default in %arguments".to_owned();
            let missing = || Problem::Required { name: name.to_owned(), message };
            out.push_str(values.get(name).ok_or_else(|| wrong(number, missing()))?);
            used.insert(name.to_owned());
        } else {
            out.push_str(&format!("{{{{{}}}}}", &after[..after.len() - behind.len() - 2]));
        }
        rest = behind;
    }
    Ok(out + rest)
}

/// Reads a definition file.
pub(crate) fn parse(text: &str) -> Result<Vec<Stage>, SyntaxError> {
    let mut stages: Vec<Stage> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line_number = index + 1;
        let header = line.to_ascii_lowercase().starts_with("bootstrap:");
        if header {
            stages.push(Stage { line: line_number, ..Stage::default() });
        }
        let Some(stage) = stages.last_mut() else {
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            return Err(wrong(line_number, Problem::BeforeFrom(line.trim().to_owned())));
        };
        if let Some(rest) = line.strip_prefix('%').filter(|rest| !rest.trim().is_empty()) {
            stage.begin(rest, line_number)?;
        } else if let Some(section) = stage.sections.last_mut().filter(|_| !header) {
            section.text.push_str(line);
            section.text.push('\n');
        } else {
            stage.key(line).map_err(|problem| wrong(line_number, problem))?;
        }
    }
    if stages.is_empty() {
        return Err(wrong(1, Problem::NoFrom));
    }
    Ok(stages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, arguments: &BTreeMap<String, String>) -> Result<Vec<Stage>, SyntaxError> {
        parse(&filled(text, arguments)?)
    }

    #[test]
    fn stages_sections_and_arguments() {
        let text = "# c\nBootstrap: docker\nFrom: a:{{ V }}\nStage: one\n\n%arguments\n  V=\"1\"\n\
                    %post -c /bin/bash\n  echo {{V}} {{ .Go }}\n\nbootstrap: scratch\n%files from one\n  /a /b\n";
        let stages = read(text, &BTreeMap::from([("V".to_owned(), "2".to_owned())])).unwrap();
        let [first, second] = &stages[..] else { panic!() };
        assert_eq!((first.header["from"].as_str(), first.header["stage"].as_str()), ("a:2", "one"));
        assert_eq!(first.sections[1].arguments, ["-c", "/bin/bash"]);
        assert_eq!(first.sections[1].text, "  echo 2 {{ .Go }}\n\n");
        assert_eq!((second.sections[0].arguments[1].as_str(), second.line), ("one", 11));
        assert_eq!(read(text, &BTreeMap::new()).unwrap()[0].header["from"], "a:1");
    }

    #[test]
    fn any_mixture_of_tokens_is_read_or_refused() {
        let tokens = [
            "Bootstrap: x\n",
            "From: ",
            "%post",
            "%files from ",
            "%arguments\n",
            "{{",
            "}}",
            " a ",
            "=",
            "\n",
            "#",
            "%",
            "é",
            ":",
            "%appenv x\n",
            "\"",
            "-c ",
        ];
        let mut state = 11_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..12 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                text.push_str(tokens[(state >> 33) as usize % tokens.len()]);
            }
            let _ = read(&text, &BTreeMap::from([("a".to_owned(), "{{a}}".to_owned())]));
            let _ = is_definition(&text);
        }
    }

    #[test]
    fn headers_have_comments_and_sections_go_on() {
        let text = "Bootstrap: docker # c\nFrom: http://x/#y # c\n  # c\n%post\n a\n%help\n h\n\
                    %post -c /bin/bash\n b\n%files\n x\n%files\n y\n%appenv p\n 1\n%appenv q\n 2\n";
        let [stage] = &read(text, &BTreeMap::new()).unwrap()[..] else { panic!() };
        assert_eq!(stage.header["bootstrap"], "docker");
        assert_eq!(stage.header["from"], "http://x/#y");
        let names: Vec<&str> = stage.sections.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["help", "post", "files", "files", "appenv", "appenv"]);
        assert_eq!(stage.sections[1].text, " a\n b\n");
        assert_eq!(stage.sections[1].arguments, ["-c", "/bin/bash"]);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let none = BTreeMap::new();
        for (text, line) in [
            ("%post\n", 1),
            ("Bootstrap: x\n%nosuch\n", 2),
            ("Bootstrap: x\nFrom: {{ V }}\n", 2),
            ("Bootstrap: x\nnonsense\n", 2),
            ("Bootstrap: x\nFrm: y\n", 2),
            ("Bootstrap: x\nOtherURL1: y\n", 2),
            ("Bootstrap: x\n%files form y\n", 2),
            ("Bootstrap: x\n%apprun\n", 2),
            ("Bootstrap: x\n%apprun ../a\n", 2),
            ("Bootstrap: x\n%post bash\n", 2),
            ("Bootstrap: x\n%environment -c bash\n", 2),
            ("", 1),
        ] {
            assert_eq!(read(text, &none).unwrap_err().place.line, line, "{text}");
        }
        let unused = BTreeMap::from([("X".to_owned(), "1".to_owned())]);
        assert!(read("Bootstrap: x\n", &unused).is_err());
        assert!(is_definition("\n# x\nBootStrap: docker\n") && !is_definition("FROM x\n"));
    }
}
