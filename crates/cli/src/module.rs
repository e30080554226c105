//! A module tree for the commands of an image: modulefiles for Lmod and for
//! Environment Modules, and a wrapper for each command.
//!
//! ```text
//! MODULES/NAME/VERSION.lua             Lmod
//! MODULES/NAME/VERSION                 Environment Modules (Tcl)
//! PREFIX/NAME/VERSION/bin/COMMAND      #!/bin/sh … exec sampan exec IMAGE COMMAND "$@"
//! ```
//!
//! Each file has [`MARK`] in one of its first lines, and what has it not is neither
//! replaced nor removed. A file appears under its name when it is whole.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use engine::Engine;
use types::ImageRef;

use crate::args::{Globals, ModuleTree};
use crate::error::CliError;
use crate::{output, report, run};

/// What tells our files from others.
const MARK: &str = "made by sampan site module";
/// Where the mark is looked for, in bytes.
const HEAD: u64 = 512;

/// Why there is no module.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// A name that is none.
    #[error("{what} {name:?} is not a plain name: letters, digits and . _ + - are expected")]
    Name {
        /// Of what.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Nothing to make a wrapper for.
    #[error(
        "the image has no command outside of the system's directories: name some with --command"
    )]
    NoCommands,
    /// A command that the image lacks.
    #[error("there is no command {0:?} on the image's PATH")]
    Missing(String),
    /// A path that is in the way.
    #[error("{path:?} is there already{}", if *own { "; --force replaces it" } else { ", and was not made by sampan" })]
    Exists {
        /// The path.
        path: PathBuf,
        /// Whether sampan has made it.
        own: bool,
    },
    /// A file.
    #[error("cannot {what} {path:?}")]
    File {
        /// What was being done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An image in a place that depends on where a user is.
    #[error("{0:?} is not absolute, and a module is used in any directory: write the whole path")]
    Relative(PathBuf),
    /// A path that is not UTF-8, which no modulefile can hold.
    #[error("{0:?} is not UTF-8, and a modulefile has no other paths")]
    Utf8(PathBuf),
}

type Result<T, E = ModuleError> = std::result::Result<T, E>;

/// Where the files of one module are.
struct Place {
    lua: PathBuf,
    tcl: PathBuf,
    /// The directory of this version.
    version: PathBuf,
}

impl Place {
    fn new(tree: &ModuleTree) -> Result<Self> {
        plain("--name", &tree.name)?;
        plain("--version", &tree.version)?;
        let absolute = |path: &Path| std::path::absolute(path).map_err(failed("find", path));
        let (modules, prefix) = (absolute(&tree.modules)?, absolute(&tree.prefix)?);
        let dir = modules.join(&tree.name);
        Ok(Self {
            lua: dir.join(format!("{}.lua", tree.version)),
            tcl: dir.join(&tree.version),
            version: prefix.join(&tree.name).join(&tree.version),
        })
    }

    fn bin(&self) -> PathBuf {
        self.version.join("bin")
    }

    /// All that is there, whoever has made it.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut all: Vec<PathBuf> = [&self.lua, &self.tcl].into_iter().cloned().collect();
        let bin = self.bin();
        match fs::read_dir(&bin) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            entries => {
                for entry in entries.map_err(failed("read", &bin))? {
                    all.push(entry.map_err(failed("read", &bin))?.path());
                }
            }
        }
        all.retain(|path| path.symlink_metadata().is_ok());
        all.sort();
        Ok(all)
    }
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> ModuleError {
    let path = path.to_owned();
    move |source| ModuleError::File { what, path: path.clone(), source }
}

fn plain(what: &'static str, name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    if !name.is_empty() && !name.starts_with(['.', '-']) && name.chars().all(good) {
        return Ok(());
    }
    Err(ModuleError::Name { what, name: name.to_owned() })
}

/// Whether a file was made here.
fn own(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file())
        && fs::File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head)).is_ok();
    read && String::from_utf8_lossy(&head).contains(MARK)
}

/// The name of an image for a module, which is used in any directory.
pub fn lasting(image: &str) -> Result<String, CliError> {
    Ok(match image.parse().map_err(engine::Error::from)? {
        ImageRef::Path(path) => text(&std::path::absolute(&path).map_err(failed("find", &path))?)?,
        ImageRef::OciLayout { path, .. }
        | ImageRef::OciArchive { path, .. }
        | ImageRef::DockerArchive { path, .. }
            if path.is_relative() =>
        {
            return Err(ModuleError::Relative(path).into());
        }
        _ => image.to_owned(),
    })
}

/// `site module --modules`: writes a module.
pub fn install(
    engine: &Engine,
    globals: &Globals,
    image: &str,
    tree: &ModuleTree,
) -> Result<(), CliError> {
    let place = Place::new(tree)?;
    let resolved = run::resolve(engine, globals, image)?;
    let known = engine.commands(&resolved)?;
    let names = |all: bool| known.iter().filter(move |c| all || !c.system).map(|c| c.name.clone());
    let commands: Vec<String> =
        if tree.all { names(false).collect() } else { tree.command.clone() };
    if commands.is_empty() {
        return Err(ModuleError::NoCommands.into());
    }
    for command in &commands {
        plain("the command", command)?;
        if !names(true).any(|name| name == *command) {
            return Err(ModuleError::Missing(command.clone()).into());
        }
    }
    let image = lasting(image)?;
    let sampan = std::env::current_exe().map_err(failed("find", Path::new("/proc/self/exe")))?;
    write(&place, tree, &image, &text(&sampan)?, &commands)?;
    if !globals.quiet {
        let count = commands.len();
        output::print(&format!("{} ({count} commands)\n", place.lua.display()))?;
    }
    Ok(())
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| ModuleError::Utf8(path.to_owned()))
}

fn write(
    place: &Place,
    tree: &ModuleTree,
    image: &str,
    sampan: &str,
    commands: &[String],
) -> Result<()> {
    let old = place.files()?;
    if let Some(path) = old.iter().find(|path| !(tree.force && own(path))) {
        return Err(ModuleError::Exists { path: path.clone(), own: own(path) });
    }
    for path in &old {
        fs::remove_file(path).map_err(failed("remove", path))?;
    }
    let bin = place.bin();
    for command in commands {
        put(&bin.join(command), &wrapper(sampan, image, command), 0o755)?;
    }
    let bin = text(&bin)?;
    let description = match tree.description.as_str() {
        "" => format!("commands of the image {image}"),
        text => text.to_owned(),
    };
    // The wrappers are there before anybody loads the module.
    put(&place.lua, &lua(tree, &description, &bin), 0o644)?;
    put(&place.tcl, &tcl(tree, &description, &bin), 0o644)
}

/// Writes a file under another name and renames it.
fn put(path: &Path, content: &str, mode: u32) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).map_err(failed("make", dir))?;
    let temporary = dir.join(format!(".sampan-{}", std::process::id()));
    let written = || {
        let mut file = fs::File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(content.as_bytes())?;
        // Whatever the umask: others are to read it.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        fs::rename(&temporary, path)
    };
    written().map_err(failed("write", path))
}

/// `site module --remove`: what was made here goes, the rest stays and is named.
pub fn remove(tree: &ModuleTree) -> Result<(), CliError> {
    let place = Place::new(tree)?;
    let files = place.files()?;
    if files.is_empty() {
        let source = io::ErrorKind::NotFound.into();
        return Err(failed("find", &place.lua)(source).into());
    }
    for path in &files {
        if own(path) {
            fs::remove_file(path).map_err(failed("remove", path))?;
        } else {
            report::warning(&format!("{}: left, as sampan has not made it", path.display()));
        }
    }
    let name = place.version.parent().map(Path::to_owned);
    let modules = place.lua.parent().map(Path::to_owned);
    for dir in [Some(place.bin()), Some(place.version), name, modules].into_iter().flatten() {
        // One that holds something else stays.
        let _ = fs::remove_dir(dir);
    }
    Ok(())
}

fn wrapper(sampan: &str, image: &str, command: &str) -> String {
    let [sampan, image, command] = [sampan, image, command].map(shell);
    format!("#!/bin/sh\n# {MARK}\nexec {sampan} exec -- {image} {command} \"$@\"\n")
}

/// A modulefile without a tree: each command is a function of the shell.
pub struct Printed<'a> {
    /// The module's name.
    pub name: &'a str,
    /// The image, as [`lasting`] has it.
    pub image: &'a str,
    /// The commands.
    pub commands: &'a [String],
}

impl Printed<'_> {
    /// For Lmod.
    pub fn lua(&self, description: &str) -> Result<String> {
        let functions = self.functions(|command, call| {
            // What follows is for sh, and for csh.
            let (sh, csh) = (format!("{call} \"$@\""), format!("{call} $*"));
            let words = [command, &sh, &csh].map(lua_text);
            format!("set_shell_function({})\n", words.join(", "))
        })?;
        Ok(format!(
            "-- Commands of an image, run by sampan.\nhelp({})\nwhatis({})\nwhatis({})\n{functions}",
            lua_text(&format!("{}: commands of the image {}", self.name, self.image)),
            lua_text(&format!("Name: {}", self.name)),
            lua_text(&format!("Description: {description}")),
        ))
    }

    /// For Environment Modules.
    pub fn tcl(&self, description: &str) -> Result<String> {
        let functions = self.functions(|command, call| {
            let words = [command, &format!("{call} \"$@\"")].map(tcl_text);
            format!("set-function {}\n", words.join(" "))
        })?;
        Ok(format!(
            "#%Module1.0\n# Commands of an image, run by sampan.\nmodule-whatis {}\n{functions}",
            tcl_text(&format!("{}: {description}", self.name)),
        ))
    }

    /// A line for each command, from its name and the words of the shell that call it.
    fn functions(&self, line: impl Fn(&str, &str) -> String) -> Result<String> {
        let one = |command: &String| {
            plain("the command", command)?;
            Ok(line(command, &format!("sampan exec -- {} {command}", shell(self.image))))
        };
        self.commands.iter().map(one).collect()
    }
}

/// A text of Lua.
fn lua_text(text: &str) -> String {
    let escape = |c: char| match c {
        '\\' | '"' => format!("\\{c}"),
        '\n' => "\\n".to_owned(),
        '\r' => "\\r".to_owned(),
        other => other.to_string(),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}

/// A word of Tcl.
fn tcl_text(text: &str) -> String {
    let escape = |c: char| match c {
        '\n' => "\\n".to_owned(),
        '\\' | '"' | '$' | '[' | ']' | '{' | '}' => format!("\\{c}"),
        other => other.to_string(),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}

fn lua(tree: &ModuleTree, description: &str, bin: &str) -> String {
    let (name, version) = (&tree.name, &tree.version);
    let text = lua_text;
    format!(
        "-- {MARK}\nhelp({})\nwhatis({})\nwhatis({})\nwhatis({})\nprepend_path(\"PATH\", {})\n",
        text(description),
        text(&format!("Name: {name}")),
        text(&format!("Version: {version}")),
        text(&format!("Description: {description}")),
        text(bin)
    )
}

fn tcl(tree: &ModuleTree, description: &str, bin: &str) -> String {
    let (name, version) = (&tree.name, &tree.version);
    let text = tcl_text;
    format!(
        "#%Module1.0\n# {MARK}\nproc ModulesHelp {{ }} {{ puts stderr {} }}\nmodule-whatis {}\n\
         conflict {name}\nprepend-path PATH {}\n",
        text(description),
        text(&format!("{name} {version}: {description}")),
        text(bin)
    )
}

/// One word of the shell.
fn shell(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(dir: &Path) -> ModuleTree {
        ModuleTree {
            name: "solver".into(),
            version: "1.2".into(),
            command: Vec::new(),
            all: false,
            modules: dir.join("modules"),
            prefix: dir.join("a [b] $c \"d\" {e"),
            description: String::new(),
            force: false,
        }
    }

    #[test]
    fn a_module_is_written_replaced_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path());
        let place = Place::new(&tree).unwrap();
        let write = |tree: &ModuleTree, commands: &[&str]| {
            let commands: Vec<String> = commands.iter().map(ToString::to_string).collect();
            super::write(&place, tree, "/apps/it's.sqsh", "/bin/sampan", &commands)
        };
        write(&tree, &["solve", "mesh"]).unwrap();
        assert!(matches!(write(&tree, &["x"]), Err(ModuleError::Exists { own: true, .. })));
        tree.force = true;
        write(&tree, &["solve"]).unwrap();
        assert!(!place.bin().join("mesh").exists());
        let text = fs::read_to_string(place.bin().join("solve")).unwrap();
        assert!(
            text.ends_with("exec '/bin/sampan' exec -- '/apps/it'\\''s.sqsh' 'solve' \"$@\"\n")
        );
        let other = place.bin().join("other");
        fs::write(&other, "#!/bin/sh\n").unwrap();
        assert!(matches!(write(&tree, &["x"]), Err(ModuleError::Exists { own: false, .. })));
        remove(&tree).unwrap();
        assert!(other.exists() && !place.lua.exists() && !place.bin().join("solve").exists());
        fs::remove_file(other).unwrap();
        fs::write(place.version.join("bin/x"), MARK).unwrap();
        remove(&tree).unwrap();
        assert!(
            !tree.prefix.join("solver").exists() && !dir.path().join("modules/solver").exists()
        );
        assert!(remove(&tree).is_err());
    }

    #[test]
    fn what_is_printed_is_quoted_for_both_languages() {
        let image = "/a/it's \"x\" [exec rm] $y \\z.sqsh";
        let commands = ["solve".to_owned(), "mesh".to_owned()];
        let page = Printed { name: "x", image, commands: &commands };
        let lua = page.lua("a]] \"b\"\nos.exit()").unwrap();
        let called = r#""sampan exec -- '/a/it'\\''s \"x\" [exec rm] $y \\z.sqsh' mesh \"$@\"""#;
        assert!(lua.contains(&format!("set_shell_function(\"mesh\", {called}, ")), "{lua}");
        assert!(lua.contains(r#"whatis("Description: a]] \"b\"\nos.exit()")"#), "{lua}");
        let tcl = page.tcl("a} [exit] $b\nexit").unwrap();
        let called =
            r#""sampan exec -- '/a/it'\\''s \"x\" \[exec rm\] \$y \\z.sqsh' mesh \"\$@\"""#;
        assert!(tcl.contains(&format!("set-function \"mesh\" {called}\n")), "{tcl}");
        assert!(tcl.contains(r#"module-whatis "x: a\} \[exit\] \$b\nexit""#), "{tcl}");
        let bad = Printed { commands: &["a;b".to_owned()], ..page };
        assert!(bad.lua("").is_err() && bad.tcl("").is_err());
    }

    #[test]
    fn names_are_plain() {
        for bad in ["", "../x", "a/b", ".x", "-x", "a b", "a\nb", "$x"] {
            assert!(plain("--name", bad).is_err(), "{bad:?}");
        }
        assert!(plain("--name", "solver-2.1_x+y").is_ok());
    }
}
