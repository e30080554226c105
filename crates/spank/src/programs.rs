//! `srun --multi-prog`: a program for each task, all in one container.
//!
//! srun sends the text of a file with lines `TASKS PROGRAM ARG…` (srun(1), "MULTIPLE
//! PROGRAM CONFIGURATION"). slurmstepd makes each task's words of it before it calls a
//! plugin, and shows them to none. So the plugin in srun puts a word before each
//! PROGRAM, the path at which the plugin on the node opens the script of the step:
//!
//! ```text
//! 0    solver -x            0    /proc/self/fd/250 solver -x
//! 1-3  worker %t            1-3  /proc/self/fd/250 worker %t
//! ```

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Where the script is open in each task; the least limit of descriptors that is in
/// use is 256.
pub const PLACE: i32 = 250;
/// The same as a path.
const PATH: &str = "/proc/self/fd/250";

/// A line that begins tasks: what it says of them with the blanks behind, and the rest.
fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = line.len() - line.trim_ascii_start().len();
    let range = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b',' | b'-' | b'*' | b':');
    let length = line[start..].iter().position(u8::is_ascii_whitespace)?;
    let behind = &line[start + length..];
    let rest = behind.trim_ascii_start();
    let good = length > 0 && line[start..start + length].iter().all(range) && !rest.is_empty();
    good.then(|| line.split_at(line.len() - rest.len()))
}

/// The lines of a text, and whether each begins tasks: not what is empty, a comment, or
/// goes on with the line before.
fn lines(text: &[u8]) -> impl Iterator<Item = (bool, &[u8])> {
    let mut goes_on = false;
    text.split(|byte| *byte == b'\n').map(move |line| {
        let trimmed = line.trim_ascii();
        let begins = !goes_on && !trimmed.is_empty() && !trimmed.starts_with(b"#");
        goes_on = line.ends_with(b"\\");
        (begins, line)
    })
}

/// Whether the words are those of `--multi-prog`: a file's name and what is in it.
#[must_use]
pub fn are(argv: &[OsString]) -> bool {
    let [file, text, ..] = argv else { return false };
    let text = text.as_bytes();
    let mut all = lines(text).filter(|(begins, _)| *begins).peekable();
    if all.peek().is_none() || !all.all(|(_, line)| split(line).is_some()) {
        return false;
    }
    match std::fs::read(file) {
        Ok(content) if content == text => true,
        // The file is on another node: what looks so much like one is one.
        other => first(argv).is_some() || other.is_err() && text.contains(&b'\n'),
    }
}

/// The text with the path of the script before each program.
#[must_use]
pub fn wrap(text: &OsStr) -> Vec<u8> {
    let wrapped = lines(text.as_bytes()).map(|(begins, line)| match split(line) {
        Some((tasks, rest)) if begins => [tasks, PATH.as_bytes(), b" ", rest].concat(),
        _ => line.to_vec(),
    });
    wrapped.collect::<Vec<_>>().join(&b'\n')
}

/// The first program of a text that [`wrap`] has made; None of any other.
#[must_use]
pub fn first(argv: &[OsString]) -> Option<OsString> {
    let text = argv.get(1)?.as_bytes();
    let mut programs = lines(text).filter(|(begins, _)| *begins).map(|(_, line)| {
        let rest = split(line)?.1.strip_prefix(PATH.as_bytes())?.strip_prefix(b" ")?;
        let quote = rest.first().filter(|byte| matches!(byte, b'"' | b'\''));
        let mut words = match quote {
            Some(quote) => rest[1..].split(|byte| byte == quote).collect::<Vec<_>>(),
            None => rest.split(u8::is_ascii_whitespace).collect(),
        };
        (!words.is_empty()).then(|| OsStr::from_bytes(words.swap_remove(0)).to_owned())
    });
    let first = programs.next()??;
    programs.all(|program| program.is_some()).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: [&str; 2]) -> Vec<OsString> {
        list.iter().map(OsString::from).collect()
    }

    #[test]
    fn programs_of_tasks_are_told_from_words() {
        let config = "# a comment\n\n0 ./master\n 1-3,5 ./worker --rank %t\n* hostname\n";
        assert!(are(&words(["/no/such/file", config])));
        for other in ["0 a", "echo\n0 a\n", "", "0\n", "0 a\nb c\n"] {
            assert!(!are(&words(["/no/such/file", other])), "{other:?}");
        }
        assert!(!are(&["echo".into()]));
        let file = std::env::temp_dir().join(format!("sampan-multi-{}", std::process::id()));
        std::fs::write(&file, "0 a").unwrap();
        let file = file.to_str().unwrap();
        assert!(are(&words([file, "0 a"])));
        assert!(!are(&words([file, "0 b\n"])));
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn each_program_has_the_script_before_it() {
        let config = "# a comment\n\n0 './my solver' -x\n 1-3,5\t./worker \\\n 7 --rank %t\n* a";
        let wrapped = wrap(OsStr::new(config));
        let text = std::str::from_utf8(&wrapped).unwrap();
        assert_eq!(
            text,
            "# a comment\n\n0 /proc/self/fd/250 './my solver' -x\n \
             1-3,5\t/proc/self/fd/250 ./worker \\\n 7 --rank %t\n* /proc/self/fd/250 a"
        );
        let argv = words(["/no/such/file", text]);
        assert!(are(&argv));
        assert_eq!(first(&argv).unwrap(), "./my solver");
        assert_eq!(first(&words(["/no/such/file", config])), None);
        assert!(PATH.ends_with(&PLACE.to_string()));
    }
}
