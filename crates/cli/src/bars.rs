//! Progress on standard error: bars on a terminal, lines elsewhere.

use std::io::{IsTerminal, stderr};
use std::sync::{Arc, Mutex, PoisonError};

use engine::{Event, LayerInfo, Progress, SharedProgress, Silent};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use types::ByteSize;

use crate::args::Globals;
use crate::report;

/// The progress that these flags and this terminal ask for. No thread draws:
/// a container may be started right after.
pub fn progress(globals: &Globals) -> SharedProgress {
    if globals.quiet {
        Arc::new(Silent)
    } else if stderr().is_terminal() {
        Arc::new(Bars::default())
    } else {
        Arc::new(Lines::default())
    }
}

/// How a layer is called.
fn name(layer: &LayerInfo) -> &str {
    layer.digest.short()
}

#[derive(Default)]
struct Bars {
    state: Mutex<BarState>,
}

#[derive(Default)]
struct BarState {
    multi: MultiProgress,
    layers: Vec<ProgressBar>,
    line: Option<ProgressBar>,
}

impl BarState {
    /// One line for whatever goes on beside layers.
    fn say(&mut self, text: String) {
        let multi = &self.multi;
        let line = self.line.get_or_insert_with(|| {
            multi.add(ProgressBar::new_spinner().with_style(style("{spinner} {msg}")))
        });
        line.set_message(text);
        line.tick();
    }

    /// A bar for what is fetched.
    fn transfer(&mut self, name: String, size: u64) {
        let template = "{prefix} {bar:30} {bytes:>11} / {total_bytes:11} {bytes_per_sec}";
        let bar = ProgressBar::new(size).with_style(style(template));
        self.layers.push(self.multi.add(bar.with_prefix(name)));
    }

    fn clear(&mut self) {
        for bar in self.layers.drain(..).chain(self.line.take()) {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸ ")
}

impl Progress for Bars {
    fn event(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Resolving { name } => state.say(format!("asking for {name}")),
            Event::Waiting { holder } => {
                let who = holder.unwrap_or_else(|| "another process".to_owned());
                state.say(format!("waiting for {who}, which makes the same"));
            }
            Event::Layers { layers, .. } => {
                layers.iter().for_each(|layer| state.transfer(name(layer).to_owned(), layer.size));
            }
            Event::Packages { count, size } => state.transfer(format!("{count} packages"), size),
            Event::Bytes { layer, count } => {
                if let Some(bar) = state.layers.get(layer) {
                    bar.inc(count);
                }
            }
            Event::LayerDone { layer } => {
                if let Some(bar) = state.layers.get(layer) {
                    bar.finish();
                }
            }
            Event::Finishing => state.say("completing the image".to_owned()),
            Event::Done => state.clear(),
            Event::Note(text) => state.multi.suspend(|| report::note(&text)),
            Event::Notice(text) => state.multi.suspend(|| report::warning(&text)),
            _ => {}
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.clear();
    }
}

#[derive(Default)]
struct Lines {
    state: Mutex<LineState>,
}

#[derive(Default)]
struct LineState {
    layers: Vec<LayerInfo>,
    waiting: bool,
}

impl Progress for Lines {
    fn event(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Waiting { holder } => {
                if !state.waiting {
                    let who = holder.unwrap_or_else(|| "another process".to_owned());
                    report::note(&format!("waiting for {who}, which makes the same"));
                }
                state.waiting = true;
            }
            Event::Layers { layers, remote: true } => {
                let bytes = layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
                let count = layers.len();
                let plural = if count == 1 { "" } else { "s" };
                report::note(&format!("fetching {count} layer{plural}, {}", ByteSize(bytes)));
                state.layers = layers;
            }
            Event::Packages { count, size } => {
                report::note(&format!("fetching {count} packages, {}", ByteSize(size)));
            }
            Event::Note(text) => report::note(&text),
            Event::LayerDone { layer } => {
                if let Some(layer) = state.layers.get(layer) {
                    report::note(&format!("{}: {}", name(layer), ByteSize(layer.size)));
                }
            }
            Event::Notice(text) => report::warning(&text),
            _ => {}
        }
    }
}
