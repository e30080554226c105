//! Steps of a build on standard error: lines, JSON, or on a terminal one line that says
//! what goes on, over those of the steps that are done.

use std::io::Write;
use std::time::Instant;

use build::Watch;
use indicatif::{ProgressBar, ProgressStyle};
use types::ByteSize;

/// How steps are shown.
enum Shown {
    Nothing,
    Lines,
    Json,
    Live(Option<Running>),
}

/// A step that runs, on a terminal.
struct Running {
    title: String,
    start: Instant,
    bar: ProgressBar,
    /// The end of the command's last line.
    last: Vec<u8>,
    said: u64,
}

/// What a build tells of its steps.
pub struct Steps {
    shown: Shown,
}

impl Steps {
    /// Nothing is told.
    pub fn quiet() -> Self {
        Self { shown: Shown::Nothing }
    }

    /// Each step a line, and what commands say.
    pub fn lines() -> Self {
        Self { shown: Shown::Lines }
    }

    /// The same as documents.
    pub fn json() -> Self {
        Self { shown: Shown::Json }
    }

    /// Each step a line with its time, and of what commands say the last line while they
    /// run. No thread draws: containers are started meanwhile.
    pub fn live() -> Self {
        Self { shown: Shown::Live(None) }
    }

    /// Whether nobody has seen what commands said.
    pub fn hides_output(&self) -> bool {
        matches!(self.shown, Shown::Nothing | Shown::Live(_))
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        if let Shown::Live(running) = &mut self.shown {
            end(running, "");
        }
    }
}

fn line(text: &str) {
    // Progress that cannot be shown stops no build.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Leaves a line in place of the one that changes.
fn end(running: &mut Option<Running>, how: &str) {
    let Some(Running { title, start, bar, .. }) = running.take() else { return };
    bar.finish_and_clear();
    let how = if how.is_empty() { seconds(start) } else { how.to_owned() };
    line(&format!("{title}  {how}"));
}

fn seconds(start: Instant) -> String {
    format!("{:.1} s", start.elapsed().as_secs_f32())
}

/// The last line that says something, as far as a terminal may be shown it.
fn last_line(text: &[u8]) -> String {
    let mut lines = text.split(|byte| [b'\n', b'\r'].contains(byte)).rev();
    let last = lines.find(|line| !line.trim_ascii().is_empty()).unwrap_or_default();
    String::from_utf8_lossy(last).chars().filter(|c| !c.is_control()).collect()
}

/// No terminal shows a longer line.
const LONGEST_LINE: usize = 4096;

impl Watch for Steps {
    fn step(&mut self, stage: &str, text: &str) {
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Lines => line(&format!("[{stage}] {text}")),
            Shown::Json => line(&serde_json::json!({"stage": stage, "step": text}).to_string()),
            Shown::Live(running) => {
                end(running, "");
                let first = text.lines().next().unwrap_or_default();
                let title = format!("[{stage}] {first}");
                let style = ProgressStyle::with_template("{spinner} {wide_msg}");
                let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
                let bar = ProgressBar::new_spinner().with_style(style).with_message(title.clone());
                bar.tick();
                let (start, last) = (Instant::now(), Vec::new());
                *running = Some(Running { title, start, bar, last, said: 0 });
            }
        }
    }

    fn cached(&mut self) {
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Lines => line("  (cached)"),
            Shown::Json => line(&serde_json::json!({"cached": true}).to_string()),
            Shown::Live(running) => end(running, "(cached)"),
        }
    }

    fn done(&mut self) {
        if let Shown::Live(running) = &mut self.shown {
            end(running, "");
        }
    }

    fn output(&mut self, bytes: &[u8]) {
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Lines => drop(std::io::stderr().write_all(bytes)),
            Shown::Json => {
                let text = String::from_utf8_lossy(bytes);
                line(&serde_json::json!({ "output": text }).to_string());
            }
            Shown::Live(Some(running)) => {
                running.said += bytes.len() as u64;
                running.last.extend_from_slice(bytes);
                let more = running.last.len().saturating_sub(LONGEST_LINE);
                running.last.drain(..more);
                let Running { title, start, last, said, .. } = &*running;
                let (last, said) = (last_line(last), ByteSize(*said));
                let time = seconds(*start);
                running.bar.set_message(format!("{title}  {time}  {said}  {last}"));
                running.bar.tick();
            }
            Shown::Live(None) => drop(std::io::stderr().write_all(bytes)),
        }
    }

    fn apart(&mut self) {
        if let Shown::Live(running) = &mut self.shown {
            end(running, "");
            self.shown = Shown::Lines;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_shown_without_what_moves_a_cursor() {
        for (text, last) in [
            ("one\ntwo\n", "two"),
            ("10 %\r20 %\r", "20 %"),
            ("a\n\x1b[2Jb\n  \n", "[2Jb"),
            ("", ""),
        ] {
            assert_eq!(last_line(text.as_bytes()), last, "{text:?}");
        }
    }

    #[test]
    fn beside_others_a_step_is_lines() {
        let mut steps = Steps::live();
        assert!(steps.hides_output());
        steps.apart();
        assert!(!steps.hides_output());
        let mut steps = Steps::quiet();
        steps.apart();
        assert!(steps.hides_output());
    }
}
