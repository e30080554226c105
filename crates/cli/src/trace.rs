//! Warnings of the libraries, on standard error. No registry of spans, no
//! filter language: a container's start pays for one atomic.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::args::Globals;
use crate::report;

struct Stderr {
    most: Level,
}

/// Prints warnings from now on; with `--verbose` everything, with `--quiet`
/// nothing.
pub fn install(globals: &Globals) {
    if globals.quiet {
        return;
    }
    let most = if globals.verbose { Level::DEBUG } else { Level::WARN };
    // Only a second call could fail.
    let _ = tracing::subscriber::set_global_default(Stderr { most });
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = if field.name() == "message" {
            write!(self.0, "{value:?}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}

impl Subscriber for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The libraries below have their own idea of what is worth saying.
        let ours = |crate_: &str| metadata.target().starts_with(crate_);
        *metadata.level() <= self.most
            && ["sampan", "store", "registry", "image", "engine", "runtime", "fuse", "squashfs"]
                .iter()
                .any(|name| ours(name))
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.most.into())
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        match *event.metadata().level() {
            Level::ERROR | Level::WARN => report::warning(&message.0),
            _ => report::note(&message.0),
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
