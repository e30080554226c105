//! `--edf`: a file in place of flags.

use std::ffi::OsString;

use engine::Engine;
use engine::edf::Edf;

use crate::args::ContainerArgs;
use crate::lower::{self, LowerError};

/// What flags, words and a file describe together.
pub struct Described {
    /// The flags, with what the file adds.
    pub args: ContainerArgs,
    /// The image's name.
    pub image: String,
    /// The words of the command.
    pub words: Vec<OsString>,
    /// Variables that the container must not have.
    pub unset: Vec<String>,
    /// What the file says of the image's entrypoint; None without a file.
    pub entrypoint: Option<bool>,
}

/// Reads the file of `--edf`, if there is one.
pub fn describe(
    engine: &Engine,
    args: &ContainerArgs,
    words: &[OsString],
) -> Result<Described, LowerError> {
    let Some(name) = &args.edf else {
        let (image, words) = lower::split_words(words)?;
        let (args, image) = (args.clone(), image.to_owned());
        return Ok(Described { args, image, words, unset: Vec::new(), entrypoint: None });
    };
    let dirs = &engine.config().edf_dirs.value;
    let edf = Edf::load(name, dirs, &|name| std::env::var_os(name)).map_err(engine::Error::from)?;
    add(args, words, edf)
}

/// Flags win over the file.
fn add(args: &ContainerArgs, words: &[OsString], edf: Edf) -> Result<Described, LowerError> {
    let image = args.image.clone().or(edf.image);
    let image = image.ok_or(LowerError::EdfImage { path: edf.path })?;
    let given = |name: &str| {
        args.env.iter().any(|pair| pair.to_string_lossy().split('=').next() == Some(name))
    };
    let empty = edf.env.iter().filter(|(name, value)| value.is_none() && !given(name));
    let unset = empty.map(|(name, _)| name.clone()).collect();
    let set = edf.env.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    let env: Vec<OsString> = set.map(|(name, value)| format!("{name}={value}").into()).collect();
    let pair = |(name, value): (&String, &String)| format!("{name}={value}");
    let annotations: Vec<String> = edf.annotations.iter().map(pair).collect();
    // Both ways to take writes are flags of their own, and so is an overlay.
    let chosen = args.read_only
        || args.writable
        || args.writable_tmpfs
        || args.compat
        || args.overlay.iter().any(|overlay| !overlay.ends_with(":ro"));
    let args = ContainerArgs {
        bind: [edf.mounts, args.bind.clone()].concat(),
        device: [edf.devices, args.device.clone()].concat(),
        // The later one wins.
        annotation: [annotations, args.annotation.clone()].concat(),
        workdir: args.workdir.clone().or(edf.workdir),
        env: [env, args.env.clone()].concat(),
        writable_tmpfs: args.writable_tmpfs || (!chosen && edf.writable.unwrap_or(true)),
        ..args.clone()
    };
    let entrypoint = Some(edf.entrypoint.unwrap_or(false));
    Ok(Described { args, image, words: words.to_vec(), unset, entrypoint })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn edf() -> Edf {
        Edf {
            path: "/e.toml".into(),
            image: Some("img".into()),
            mounts: vec!["/a:/b".into()],
            workdir: Some("/w".into()),
            env: [("A".to_owned(), Some("1".to_owned())), ("B".to_owned(), None)].into(),
            ..Edf::default()
        }
    }

    #[test]
    fn the_file_is_what_flags_do_not_say() {
        let words = ["cmd".into(), "-x".into()];
        let found = add(&ContainerArgs::default(), &words, edf()).unwrap();
        assert_eq!((found.image.as_str(), &found.words[..]), ("img", &words[..]));
        assert_eq!(found.args.bind, ["/a:/b"]);
        assert_eq!(found.args.workdir.as_deref(), Some(Path::new("/w")));
        assert_eq!(
            (&found.args.env[..], &found.unset[..]),
            (&["A=1".into()][..], &["B".into()][..])
        );
        assert!(found.args.writable_tmpfs && found.entrypoint == Some(false));
    }

    #[test]
    fn flags_win() {
        let args = ContainerArgs {
            image: Some("other".into()),
            bind: vec!["/c".into()],
            workdir: Some("/x".into()),
            env: vec!["A=2".into(), "B".into()],
            overlay: vec!["/o".into()],
            ..ContainerArgs::default()
        };
        let found = add(&args, &[], edf()).unwrap();
        assert_eq!(found.image, "other");
        assert_eq!(found.args.bind, ["/a:/b", "/c"]);
        assert_eq!(found.args.workdir.as_deref(), Some(Path::new("/x")));
        assert_eq!(found.args.env, ["A=1", "A=2", "B"]);
        assert!(found.unset.is_empty() && !found.args.writable_tmpfs);
        let args = ContainerArgs { read_only: true, ..ContainerArgs::default() };
        assert!(!add(&args, &[], edf()).unwrap().args.writable_tmpfs);
        let file = Edf { writable: Some(false), ..edf() };
        assert!(!add(&ContainerArgs::default(), &[], file).unwrap().args.writable_tmpfs);
    }

    #[test]
    fn devices_add_up_and_an_image_there_must_be() {
        let file = Edf { devices: vec!["v/c=1".into()], ..edf() };
        let args = ContainerArgs { device: vec!["v/c=2".into()], ..ContainerArgs::default() };
        assert_eq!(add(&args, &[], file).unwrap().args.device, ["v/c=1", "v/c=2"]);
        let file = Edf { image: None, ..edf() };
        assert!(add(&ContainerArgs::default(), &[], file).is_err());
    }
}
