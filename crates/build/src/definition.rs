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

const SECTIONS: [&str; 18] = [
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
];

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

/// Reads a definition file with these build arguments.
pub(crate) fn parse(
    text: &str,
    arguments: &BTreeMap<String, String>,
) -> Result<Vec<Stage>, SyntaxError> {
    let defaults = split(text)?;
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
        None => split(&full),
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

fn split(text: &str) -> Result<Vec<Stage>, SyntaxError> {
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
            let mut words = rest.split_whitespace();
            let name = words.next().unwrap_or_default().to_ascii_lowercase();
            if !SECTIONS.contains(&name.as_str()) && name != "appstart" {
                return Err(wrong(line_number, Problem::Instruction(format!("%{name}"))));
            }
            let arguments = words.map(str::to_owned).collect();
            stage.sections.push(Section {
                name,
                arguments,
                text: String::new(),
                line: line_number,
            });
        } else if let Some(section) = stage.sections.last_mut().filter(|_| !header) {
            section.text.push_str(line);
            section.text.push('\n');
        } else if let Some((key, value)) = line.split_once(':').filter(|_| !line.starts_with('#')) {
            stage.header.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        } else if !line.trim().is_empty() && !line.trim_start().starts_with('#') {
            let (what, value) = ("a line of the header", line.to_owned());
            return Err(wrong(line_number, Problem::Value { what, value }));
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

    #[test]
    fn stages_sections_and_arguments() {
        let text = "# c\nBootstrap: docker\nFrom: a:{{ V }}\nStage: one\n\n%arguments\n  V=\"1\"\n\
                    %post -c /bin/bash\n  echo {{V}} {{ .Go }}\n\nbootstrap: scratch\n%files from one\n  /a /b\n";
        let stages = parse(text, &BTreeMap::from([("V".to_owned(), "2".to_owned())])).unwrap();
        let [first, second] = &stages[..] else { panic!() };
        assert_eq!((first.header["from"].as_str(), first.header["stage"].as_str()), ("a:2", "one"));
        assert_eq!(first.sections[1].arguments, ["-c", "/bin/bash"]);
        assert_eq!(first.sections[1].text, "  echo 2 {{ .Go }}\n\n");
        assert_eq!((second.sections[0].arguments[1].as_str(), second.line), ("one", 11));
        assert_eq!(parse(text, &BTreeMap::new()).unwrap()[0].header["from"], "a:1");
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
            let _ = parse(&text, &BTreeMap::from([("a".to_owned(), "{{a}}".to_owned())]));
            let _ = is_definition(&text);
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let none = BTreeMap::new();
        for (text, line) in [
            ("%post\n", 1),
            ("Bootstrap: x\n%nosuch\n", 2),
            ("Bootstrap: x\nFrom: {{ V }}\n", 2),
            ("Bootstrap: x\nnonsense\n", 2),
            ("", 1),
        ] {
            assert_eq!(parse(text, &none).unwrap_err().place.line, line, "{text}");
        }
        let unused = BTreeMap::from([("X".to_owned(), "1".to_owned())]);
        assert!(parse("Bootstrap: x\n", &unused).is_err());
        assert!(is_definition("\n# x\nBootStrap: docker\n") && !is_definition("FROM x\n"));
    }
}
