//! Instructions that change the configuration alone.

use serde_json::{Value, json};

use crate::builder::Builder;
use crate::dockerfile::expand::{expand, expand_words};
use crate::dockerfile::{Kind, Problem, Words};
use crate::error::Result;
use crate::state::State;

impl Builder<'_> {
    /// Instructions that change the configuration alone.
    pub(crate) fn set(&self, state: &mut State, kind: &Kind, cmd: &mut bool) -> Result<()> {
        let escape = self.escape();
        let vars = state.variables();
        let lookup = |name: &str| vars.lookup(name);
        let text = |text: &str| expand(text, escape, &lookup);
        match kind {
            Kind::Env(pairs) => {
                // All of one instruction see what was before it.
                for (name, value) in pairs {
                    state.set_env(&text(name)?, &text(value)?);
                }
            }
            Kind::Label(pairs) => {
                for (name, value) in pairs {
                    let (name, value) = (text(name)?, text(value)?);
                    state.set_of("Labels").insert(name, value.into());
                }
            }
            Kind::Arg(args) => {
                for arg in args {
                    let now = state.variables();
                    let value = self.argument(arg, &|name| now.lookup(name))?;
                    state.args.extend(value.map(|value| (arg.name.clone(), value)));
                }
            }
            Kind::User(user) => drop(state.process().insert("User".to_owned(), text(user)?.into())),
            Kind::StopSignal(signal) => {
                let signal = text(signal)?;
                if types::signal_number(&signal).is_none() {
                    return Err(Problem::Value { what: "a signal", value: signal }.into());
                }
                state.process().insert("StopSignal".to_owned(), signal.into());
            }
            Kind::Shell(words) => {
                state.shell.clone_from(words);
                state.process().insert("Shell".to_owned(), json!(words));
            }
            Kind::Expose(ports) => {
                for port in ports {
                    for word in expand_words(port, escape, &lookup)? {
                        let word = if word.contains('/') { word } else { word + "/tcp" };
                        if !is_port(&word) {
                            return Err(Problem::Value { what: "a port", value: word }.into());
                        }
                        state.set_of("ExposedPorts").insert(word, json!({}));
                    }
                }
            }
            Kind::Volume(paths) => {
                for path in paths {
                    let path = text(path)?;
                    state.set_of("Volumes").insert(path, json!({}));
                }
            }
            Kind::Entrypoint(words) => {
                let words = command(state, words);
                state.process().insert("Entrypoint".to_owned(), json!(words));
                if !*cmd {
                    // What the base runs is no argument of another entrypoint.
                    state.process().remove("Cmd");
                }
            }
            Kind::Cmd(words) => {
                let words = command(state, words);
                state.process().insert("Cmd".to_owned(), json!(words));
                *cmd = true;
            }
            Kind::Healthcheck(check) => {
                let value = match check {
                    None => json!({"Test": ["NONE"]}),
                    Some(check) => healthcheck(check),
                };
                state.process().insert("Healthcheck".to_owned(), value);
            }
            Kind::OnBuild(text) => {
                let list = state.process().entry("OnBuild").or_insert(json!([]));
                if let Value::Array(list) = list {
                    list.push(text.as_str().into());
                }
            }
            Kind::Maintainer(name) => state.config["author"] = text(name)?.into(),
            Kind::Run { .. } | Kind::Copy(_) | Kind::Add(_) | Kind::Workdir(_) => {}
        }
        Ok(())
    }
}

/// `PORT[-PORT]/PROTOCOL`
fn is_port(text: &str) -> bool {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, ""));
    let number = |text: &str| text.parse::<u16>().is_ok();
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    number(first)
        && number(last)
        && ["tcp", "udp", "sctp"].contains(&&*protocol.to_ascii_lowercase())
}

fn command(state: &State, words: &Words) -> Vec<String> {
    state.command(words)
}

fn healthcheck(check: &crate::dockerfile::Healthcheck) -> Value {
    let test: Vec<String> = match &check.command {
        Words::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
        Words::Exec(words) => [&["CMD".to_owned()][..], words].concat(),
    };
    let mut value = json!({ "Test": test });
    for (name, text) in &check.options {
        let (key, number) = match name.as_str() {
            "interval" => ("Interval", crate::dockerfile::duration(text)),
            "timeout" => ("Timeout", crate::dockerfile::duration(text)),
            "start-period" => ("StartPeriod", crate::dockerfile::duration(text)),
            "start-interval" => ("StartInterval", crate::dockerfile::duration(text)),
            _ => ("Retries", text.parse().ok()),
        };
        value[key] = number.into();
    }
    value
}
