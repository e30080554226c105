//! `inspect` and `run-help`: what is known about an image.

use std::collections::BTreeMap;

use engine::{Engine, Metadata};
use store::unix_now;

use crate::args::{Chosen, InspectArgs, RunHelpArgs};
use crate::error::CliError;
use crate::{listing, output};

impl Chosen {
    fn any(&self) -> bool {
        let texts = [self.labels, self.deffile, self.environment, self.helpfile, self.runscript];
        let more = [self.startscript, self.test, self.list_apps, self.all, self.app.is_some()];
        texts.iter().chain(&more).any(|chosen| *chosen)
    }

    /// Of an image's or an app's texts, those that are chosen.
    fn of(&self, all: &Metadata) -> Metadata {
        let text =
            |chosen: bool, text: &Option<String>| text.clone().filter(|_| chosen || self.all);
        let map = |chosen: bool, map: &BTreeMap<String, String>| {
            if chosen || self.all { map.clone() } else { BTreeMap::new() }
        };
        let only_app = !(self.deffile || self.environment || self.helpfile || self.runscript)
            && !(self.startscript || self.test || self.list_apps);
        Metadata {
            apps: if self.all { all.apps.clone() } else { BTreeMap::new() },
            environment: map(self.environment, &all.environment),
            labels: map(self.labels || only_app, &all.labels),
            runscript: text(self.runscript, &all.runscript),
            test: text(self.test, &all.test),
            helpfile: text(self.helpfile, &all.helpfile),
            deffile: text(self.deffile, &all.deffile),
            startscript: text(self.startscript, &all.startscript),
        }
    }
}

/// An image's texts, or those of an app in it.
fn texts_of<'a>(all: &'a Metadata, app: Option<&str>) -> Result<&'a Metadata, CliError> {
    let Some(app) = app else { return Ok(all) };
    all.apps.get(app).ok_or_else(|| CliError::NoApp(app.to_owned()))
}

/// Texts as they are, in Apptainer's order.
fn plain(texts: &Metadata) -> String {
    let scripts = [&texts.deffile, &texts.runscript, &texts.startscript, &texts.test];
    let mut out = String::new();
    for text in scripts.into_iter().chain([&texts.helpfile]).flatten() {
        out += &format!("{text}\n");
    }
    for (path, text) in &texts.environment {
        out += &format!("=== {path} ===\n{text}\n\n");
    }
    for (name, value) in &texts.labels {
        out += &format!("{name}: {value}\n");
    }
    out
}

/// `inspect`.
pub fn inspect(engine: &Engine, args: &InspectArgs) -> Result<(), CliError> {
    let found = args.images.iter().map(|name| engine.inspect(name));
    let found = found.collect::<Result<Vec<_>, _>>()?;
    let chosen = &args.chosen;
    if !chosen.any() {
        if args.json {
            return output::json(&found);
        }
        let texts: Vec<String> =
            found.iter().map(|one| listing::inspected(one, unix_now())).collect();
        return output::print(&texts.join("\n"));
    }
    for one in &found {
        let texts = chosen.of(texts_of(one.texts(), chosen.app.as_deref())?);
        if args.json || chosen.all {
            let apps = chosen.app.iter().map(|app| (app.clone(), texts.clone())).collect();
            let of_app = Metadata { apps, ..Metadata::default() };
            let texts = if chosen.app.is_some() { &of_app } else { &texts };
            output::json(&texts.document())?;
            continue;
        }
        output::print(&plain(&texts))?;
        if chosen.list_apps {
            let names: String = one.texts().apps.keys().map(|name| format!("{name}\n")).collect();
            output::print(&names)?;
        }
    }
    Ok(())
}

/// `run-help`.
pub fn run_help(engine: &Engine, args: &RunHelpArgs) -> Result<(), CliError> {
    let found = engine.inspect(&args.image)?;
    let help = &texts_of(found.texts(), args.app.as_deref())?.helpfile;
    let help = help.as_ref().ok_or_else(|| CliError::NoHelp(args.image.clone()))?;
    output::print(&format!("{help}\n"))
}
