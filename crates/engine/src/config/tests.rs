//! Precedence, origins and errors.

use std::collections::HashMap;
use std::path::Path;

use super::*;

/// A place with a user's and a site's file.
struct Place {
    dir: tempfile::TempDir,
    vars: HashMap<String, OsString>,
}

impl Place {
    fn new(site: &str, user: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut vars = HashMap::new();
        std::fs::create_dir_all(dir.path().join(".config/sampan")).unwrap();
        std::fs::write(dir.path().join(".config/sampan/config.toml"), user).unwrap();
        std::fs::write(dir.path().join("site.toml"), site).unwrap();
        vars.insert("HOME".to_owned(), dir.path().into());
        vars.insert("SAMPAN_SITE_CONFIG".to_owned(), dir.path().join("site.toml").into());
        Self { dir, vars }
    }

    fn var(mut self, name: &str, value: &str) -> Self {
        self.vars.insert(name.to_owned(), value.into());
        self
    }

    fn load(&self, overrides: &[Override]) -> Result<Config, ConfigError> {
        Config::load_from(&|name| self.vars.get(name).cloned(), overrides)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

#[test]
fn without_files_there_are_defaults() {
    let config = Config::load_from(&|_| None, &[]).unwrap();
    assert_eq!(config.store.value, None);
    assert_eq!(config.pull, Setting::default(PullPolicy::Missing));
    let place = Place::new("", "");
    let config = place.load(&[]).unwrap();
    assert_eq!(config.store.value, Some(place.path(".local/share/sampan")));
}

#[test]
fn flags_win_over_variables_over_user_over_site() {
    let text = |n: u32| format!("\nparallel_layers = {n}\n");
    let place = Place::new(&text(1), "");
    let config = place.load(&[]).unwrap();
    let line = |path: PathBuf| Origin::File { path, line: 2 };
    assert_eq!(
        (config.parallel_layers.value, &config.parallel_layers.origin),
        (1, &line(place.path("site.toml")))
    );

    let place = Place::new(&text(1), &text(2));
    let config = place.load(&[]).unwrap();
    let user = line(place.path(".config/sampan/config.toml"));
    assert_eq!((config.parallel_layers.value, &config.parallel_layers.origin), (2, &user));

    let place = place.var("SAMPAN_PARALLEL_LAYERS", "3");
    let config = place.load(&[]).unwrap();
    let variable = Origin::Environment { variable: "SAMPAN_PARALLEL_LAYERS" };
    assert_eq!((config.parallel_layers.value, &config.parallel_layers.origin), (3, &variable));

    let flag = Override { key: "parallel_layers", flag: "--parallel", value: "4".to_owned() };
    let config = place.load(&[flag]).unwrap();
    let flag = Origin::Flag { flag: "--parallel" };
    assert_eq!((config.parallel_layers.value, &config.parallel_layers.origin), (4, &flag));
}

#[test]
fn paths_expand_variables_and_home() {
    let place = Place::new("store = \"/scratch/${USER}/s\"\nsite_stores = [\"~/a\"]\n", "")
        .var("USER", "ann");
    let config = place.load(&[]).unwrap();
    assert_eq!(config.store.value.as_deref(), Some(Path::new("/scratch/ann/s")));
    assert_eq!(config.site_stores.value, [place.path("a")]);
    let unset = Place::new("store = \"/scratch/$NOBODY\"\n", "");
    assert!(unset.load(&[]).unwrap_err().to_string().contains("$NOBODY is not set"));
}

#[test]
fn every_value_reads_and_shows() {
    let place = Place::new(
        "pull = \"never\"\nplatform = \"linux/arm64\"\ncompression = \"gzip:9\"\n\
         size_limit = \"2G\"\nstall_timeout = 7\nlinger = 3\nbinds = [\"/sw:/opt/sw:ro\"]\n\
         no_mount = [\"tmp\", \"cwd\"]\ncdi_dirs = [\"/a\", \"/b\"]\nhooks_dirs = \"/h\"\n\
         mpi_hosts = [\"n1\", \"n2\"]\nmpi_shell = \"rsh -n\"\n\
         edf_dirs = [\"~/.edf\", \"/e\"]\nmodule_template = \"/m\"\n",
        "",
    );
    let config = place.load(&[]).unwrap();
    let shown = |key: &str| config.show().into_iter().find(|s| s.key == key).unwrap().value;
    for (key, value) in [
        ("pull", "never"),
        ("platform", "linux/arm64"),
        ("compression", "gzip:9"),
        ("size_limit", "2.0 GiB"),
        ("linger", "3"),
        ("stall_timeout", "7"),
        ("binds", "/sw:/opt/sw:ro"),
        ("no_mount", "tmp,cwd"),
        ("cdi_dirs", "/a:/b"),
        ("hooks_dirs", "/h"),
        ("mpi_hosts", "n1,n2"),
        ("mpi_shell", "rsh -n"),
        ("edf_dirs", &format!("{}:/e", place.path(".edf").display())),
        ("module_template", "/m"),
    ] {
        assert_eq!(shown(key), value, "{key}");
    }
    assert_eq!(config.stall_timeout.value, Duration::from_secs(7));
    assert!(config.no_mount.value.tmp && !config.no_mount.value.dev);
}

#[test]
fn errors_name_file_line_and_what_is_expected() {
    for (text, line, word) in [
        ("\n\nparallel_layers = \"many\"\n", 3, "parallel_layers"),
        ("no_such_key = 1\n", 1, "no_such_key"),
        ("pull = \n", 1, "config.toml"),
        ("pull = \"sometimes\"", 1, "sometimes"),
        ("\nstore = [\"/a\"]", 2, "array"),
        ("compression = \"zstd:99\"", 1, "99"),
        ("binds = [\"/a:b\"]", 1, "/a:b"),
        ("no_mount = \"everything\"", 1, "everything"),
    ] {
        let place = Place::new("", text);
        let message = place.load(&[]).unwrap_err().to_string();
        assert!(message.contains(&format!("config.toml:{line}")), "{text}: {message}");
        assert!(message.contains(word), "{text}: {message}");
    }
    let place = Place::new("", "").var("SAMPAN_PULL", "no");
    let error = place.load(&[]).unwrap_err();
    assert!(error.to_string().starts_with("SAMPAN_PULL: pull:"), "{error}");
    assert_eq!(error.hint().as_deref(), Some("expected missing, always or never"));
}
