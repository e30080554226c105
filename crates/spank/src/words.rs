//! Flags of Slurm → the command line of sampan.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::flags::Options;

/// What a named container has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// The directory for `--overlay`.
    pub dir: PathBuf,
    /// Whether this step may write to it.
    pub writable: bool,
}

/// The words after `sampan`, up to and with the image; the command follows.
///
/// Without an entrypoint and without an EDF, which says that itself, the
/// command is the whole of it: `exec`. The tasks of a node are one container, however
/// many they are.
#[must_use]
pub fn words(
    options: &Options,
    image: Option<&str>,
    overlay: Option<&Overlay>,
    tasks: u32,
) -> Vec<OsString> {
    let mut list: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| list.extend(words.iter().map(OsString::from));
    let run = options.edf.is_some() || options.entrypoint == Some(true);
    add(&[if run { "run" } else { "exec" }]);
    if let Some(edf) = &options.edf {
        add(&["--edf", edf]);
        match options.entrypoint {
            Some(true) => add(&["--image-entrypoint"]),
            Some(false) => add(&["--entrypoint", ""]),
            None => {}
        }
    }
    if tasks > 1 {
        add(&["--sharens"]);
    }
    for mount in &options.mounts {
        add(&[mount.flag, &mount.value]);
    }
    if let Some(dir) = &options.workdir {
        add(&["--workdir", dir]);
    }
    for name in &options.env {
        add(&["--env", name]);
    }
    if options.home == Some(false) {
        add(&["--no-home"]);
    }
    if options.root == Some(true) {
        add(&["--root"]);
    }
    let written = overlay.is_some_and(|overlay| overlay.writable);
    match options.writable {
        Some(true) if !written => add(&["--writable-tmpfs"]),
        Some(false) => add(&["--read-only"]),
        _ => {}
    }
    if let Some(overlay) = overlay {
        let mut value = overlay.dir.clone().into_os_string();
        value.push(if overlay.writable { ":rw" } else { ":ro" });
        list.extend(["--overlay".into(), value]);
    }
    match (image, &options.edf) {
        (Some(image), Some(_)) => {
            list.extend(["--image".into(), image.into(), "--".into()]);
        }
        (Some(image), None) => list.extend(["--".into(), image.into()]),
        (None, _) => list.push("--".into()),
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mounts;

    fn text(options: &Options, overlay: Option<&Overlay>) -> String {
        let words = words(options, options.image.as_deref(), overlay, 1);
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_flag_has_its_words() {
        let image = || Some("img".to_owned());
        let plain = Options { image: image(), ..Options::default() };
        assert_eq!(text(&plain, None), "exec -- img");
        assert_eq!(words(&plain, None, None, 2), ["exec", "--sharens", "--"]);
        let all = Options {
            image: image(),
            mounts: mounts::parse("/a:/b:ro,tmpfs:/t").unwrap(),
            workdir: Some("/w".into()),
            env: vec!["A".into(), "B".into()],
            home: Some(false),
            root: Some(true),
            entrypoint: Some(true),
            writable: Some(true),
            ..Options::default()
        };
        assert_eq!(
            text(&all, None),
            "run --bind /a:/b:ro --tmpfs /t --workdir /w --env A --env B --no-home --root \
             --writable-tmpfs -- img"
        );
    }

    #[test]
    fn a_file_describes_what_flags_do_not() {
        let edf = Options { edf: Some("e".into()), ..Options::default() };
        assert_eq!(text(&edf, None), "run --edf e --");
        let both = Options {
            image: Some("img".into()),
            entrypoint: Some(false),
            writable: Some(false),
            ..edf
        };
        assert_eq!(text(&both, None), "run --edf e --entrypoint  --read-only --image img --");
    }

    #[test]
    fn what_is_written_goes_to_one_place() {
        let options =
            Options { image: Some("img".into()), writable: Some(true), ..Options::default() };
        let mut overlay = Overlay { dir: "/o".into(), writable: true };
        assert_eq!(text(&options, Some(&overlay)), "exec --overlay /o:rw -- img");
        overlay.writable = false;
        assert_eq!(text(&options, Some(&overlay)), "exec --writable-tmpfs --overlay /o:ro -- img");
    }
}
