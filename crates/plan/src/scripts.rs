//! Images that Apptainer and Singularity have made: environment and processes
//! are shell scripts in the image, under `/.singularity.d`.
//!
//! | file | what |
//! |---|---|
//! | `env/*.sh` | sourced in front of every command |
//! | `runscript`, `startscript`, `test` | what `run`, an instance and `test` execute |
//! | `runscript.help`, `labels.json`, `Singularity` | texts |
//!
//! An app NAME has the same under `/scif/apps/NAME/scif`. The scripts run in
//! the image's own `/bin/sh`, which then becomes the command: there is no
//! other process.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::{Command, EntryKind, PlanError, RootTree, RunRequest, TreeError, resolve};

/// Where the scripts are.
pub const SCRIPTS: &str = "/.singularity.d";

/// Sources what there is, then sets what the user has given, word by word and
/// unseen by the shell's evaluation, then becomes the command. The words are
/// quoted into a variable first: a script that is sourced may replace them by
/// those of its own `set`.
const SOURCE: &str = r#"sampan_words=
for sampan_word; do
sampan_words="$sampan_words '"
while :; do
case $sampan_word in
*\'*) ;;
*) break ;;
esac
sampan_head=${sampan_word%%\'*}
sampan_word=${sampan_word#*\'}
sampan_words="$sampan_words$sampan_head'\\''"
done
sampan_words="$sampan_words$sampan_word'"
done
for file in /.singularity.d/env/*.sh; do
if [ -f "$file" ]; then . "$file"; fi; done
eval "set -- $sampan_words"
while [ "$1" != -- ]; do export "$1"; shift; done
shift; exec "$@""#;

/// The scripts of an image, as far as a plan has to know them.
pub(crate) struct Scripts {
    dir: PathBuf,
    app: Option<String>,
    runscript: bool,
    startscript: bool,
    test: bool,
}

fn is_file(tree: &dyn RootTree, path: &Path) -> Result<bool, TreeError> {
    Ok(resolve(tree, path)?.1.is_some_and(|entry| entry.kind == EntryKind::File))
}

impl Scripts {
    /// None where the image has none, or they are not to be honoured.
    pub(crate) fn find(
        request: &RunRequest,
        tree: &dyn RootTree,
    ) -> Result<Option<Self>, PlanError> {
        let (_, entry) = resolve(tree, &Path::new(SCRIPTS).join("env"))?;
        let there = entry.is_some_and(|entry| entry.kind == EntryKind::Directory);
        if !request.scripts || !there || !is_file(tree, Path::new("/bin/sh"))? {
            return match &request.app {
                Some(app) => Err(PlanError::NoApp(app.clone())),
                None => Ok(None),
            };
        }
        let dir = match &request.app {
            Some(app) => {
                let dir = Path::new("/scif/apps").join(app).join("scif");
                if app.contains('/') || resolve(tree, &dir)?.1.is_none() {
                    return Err(PlanError::NoApp(app.clone()));
                }
                dir
            }
            None => PathBuf::from(SCRIPTS),
        };
        let runscript = is_file(tree, &dir.join("runscript"))?;
        let startscript = is_file(tree, &dir.join("startscript"))?;
        let test = is_file(tree, &dir.join("test"))?;
        Ok(Some(Self { dir, app: request.app.clone(), runscript, startscript, test }))
    }

    /// The script that is the command; None for another command.
    fn script(&self, command: &Command) -> Result<Option<Vec<OsString>>, PlanError> {
        let words = |name: &str, args: &[OsString]| {
            let script = self.dir.join(name).into_os_string();
            std::iter::once(script).chain(args.iter().cloned()).collect()
        };
        match command {
            Command::Run { entrypoint: None, args } if self.runscript => {
                Ok(Some(words("runscript", args)))
            }
            Command::Start { args } if self.startscript => Ok(Some(words("startscript", args))),
            Command::Test { args } if self.test => Ok(Some(words("test", args))),
            Command::Test { .. } => Err(PlanError::NoTest),
            _ => Ok(None),
        }
    }

    /// The words of the process, none where there is none. `plain` are those of an
    /// image without scripts.
    pub(crate) fn argv(
        &self,
        request: &RunRequest,
        plain: impl FnOnce() -> Result<Vec<OsString>, PlanError>,
    ) -> Result<Vec<OsString>, PlanError> {
        let command = match self.script(&request.command)? {
            Some(words) => words,
            None => plain()?,
        };
        if command.is_empty() {
            return Ok(command);
        }
        let mut argv: Vec<OsString> = ["/bin/sh", "-c", SOURCE, "sampan"].map(Into::into).to_vec();
        for (name, value) in &request.env {
            if is_identifier(name) {
                let mut word = name.clone();
                word.push("=");
                word.push(value);
                argv.push(word);
            }
        }
        argv.push("--".into());
        argv.extend(command);
        Ok(argv)
    }

    /// What the scripts expect to be told, as pairs of name and value.
    pub(crate) fn variables(&self, request: &RunRequest) -> Vec<(&'static str, String)> {
        let name = Path::new(&request.image_name).file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let container = request.image_name.clone();
        let mut all = vec![
            ("APPTAINER_CONTAINER", container.clone()),
            ("SINGULARITY_CONTAINER", container),
            ("APPTAINER_NAME", name.clone()),
            ("SINGULARITY_NAME", name),
        ];
        if let Some(app) = &self.app {
            all.extend([("APPTAINER_APPNAME", app.clone()), ("SINGULARITY_APPNAME", app.clone())]);
        }
        all
    }
}

/// A name that a shell can export.
fn is_identifier(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    let letter = |b: &u8| b.is_ascii_alphabetic() || *b == b'_';
    bytes.first().is_some_and(letter) && bytes.iter().all(|b| letter(b) || b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RootSource;
    use crate::tree::fake::FakeTree;

    const IMAGE: [&str; 9] = [
        "/bin/",
        "/bin/sh=",
        "/.singularity.d/",
        "/.singularity.d/env/",
        "/.singularity.d/runscript=",
        "/scif/",
        "/scif/apps/",
        "/scif/apps/solve/",
        "/scif/apps/solve/scif/",
    ];

    fn request(command: Command) -> RunRequest {
        let root = RootSource::Directory { path: "/image".into() };
        let mut request = RunRequest::new("/data/my.sif", root, Default::default(), command);
        request.scripts = true;
        request.env = vec![("A".into(), "$(x) y".into()), ("not.one".into(), "1".into())];
        request
    }

    fn argv(request: &RunRequest) -> Result<Vec<String>, PlanError> {
        let scripts = Scripts::find(request, &FakeTree::new(&IMAGE))?.unwrap();
        let argv = scripts.argv(request, || Ok(vec!["plain".into()]))?;
        Ok(argv.into_iter().map(|word| word.into_string().unwrap()).collect())
    }

    #[test]
    fn the_runscript_is_run_and_values_are_words() {
        let words = argv(&request(Command::Run { entrypoint: None, args: vec!["x".into()] }));
        let words = words.unwrap();
        assert_eq!(words[..2], ["/bin/sh", "-c"]);
        let rest = ["sampan", "A=$(x) y", "--", "/.singularity.d/runscript", "x"];
        assert_eq!(words[3..], rest);
        let words = argv(&request(Command::Exec { args: vec![] })).unwrap();
        assert_eq!(words.last().map(String::as_str), Some("plain"));
    }

    /// Sources one script with a shell, behind a word with a value and a command.
    fn sourced(shell: &[&str], script: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("1.sh"), script).unwrap();
        let source = SOURCE.replace("/.singularity.d/env", dir.path().to_str().unwrap());
        let words = ["A=it's $(id)", "--", "printf", "[%s]", "a b", "", "it's", "\\'$x\n\""];
        let mut command = std::process::Command::new(shell[0]);
        command.args(&shell[1..]).args(["-c", &source, "sampan"]).args(words);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    }

    #[test]
    fn a_script_that_sets_words_of_its_own_loses_none() {
        for shell in [&["/bin/sh"][..], &["bash", "--posix"]] {
            for script in ["set --", "set -- x y; IFS=,", "shift $#", "A=other"] {
                let out = sourced(shell, script);
                assert_eq!(out, "[a b][][it's][\\'$x\n\"]", "{shell:?}: {script}");
            }
        }
    }

    #[test]
    fn an_instance_starts_its_script_or_nothing() {
        let start = request(Command::Start { args: vec!["x".into()] });
        assert!(argv(&start).unwrap().ends_with(&["plain".into()]));
        let with: Vec<&str> =
            IMAGE.iter().copied().chain(["/.singularity.d/startscript="]).collect();
        let scripts = Scripts::find(&start, &FakeTree::new(&with)).unwrap().unwrap();
        let words = scripts.argv(&start, || panic!("the script is there")).unwrap();
        assert!(words.ends_with(&["/.singularity.d/startscript".into(), "x".into()]));
        let scripts = Scripts::find(&start, &FakeTree::new(&IMAGE)).unwrap().unwrap();
        assert!(scripts.argv(&start, || Ok(Vec::new())).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_there_is_named() {
        let test = request(Command::Test { args: vec![] });
        assert!(matches!(argv(&test), Err(PlanError::NoTest)));
        let mut app = request(Command::Exec { args: vec![] });
        for name in ["nosuch", "../apps/solve", ""] {
            app.app = Some(name.to_owned());
            let found = argv(&app);
            assert!(name.is_empty() || matches!(found, Err(PlanError::NoApp(_))), "{name}");
        }
        app.app = Some("solve".to_owned());
        assert!(argv(&app).is_ok());
        let plain = FakeTree::new(&["/bin/", "/bin/sh="]);
        app.app = None;
        assert!(Scripts::find(&app, &plain).unwrap().is_none());
    }
}
