//! Flags of `site`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// `site`.
#[derive(Args, Debug)]
pub struct SiteArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: SiteCommand,
}

/// What an administrator may want.
#[derive(Debug, Subcommand)]
pub enum SiteCommand {
    /// Write a configuration from what this host has, every line explained
    ///
    /// What is certain is set; what has to be chosen stands there as a comment.
    #[command(after_long_help = "Example:
  sampan site init | sudo tee /etc/sampan/config.toml; sampan config check")]
    Init {
        /// Write to this file instead of standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Replace the file
        #[arg(long, requires = "output")]
        force: bool,
    },
    /// Make an environment module through which commands of an image look like the host's
    ///
    /// With --modules a module tree is written: modulefiles for Lmod and for Environment
    /// Modules, and a wrapper for each command. Else one modulefile is printed.
    #[command(after_long_help = "Examples:
  sampan site module /apps/solver.sqsh --name solver --version 1.2 --command solve,mesh \\
    --modules /apps/modules --prefix /apps/wrappers
  sampan site module --remove --name solver --version 1.2 \\
    --modules /apps/modules --prefix /apps/wrappers
  sampan site module --command solve --command mesh /apps/solver.sqsh >solver/2.1.lua

A template of the site's own has the words {image}, {name}, {description} and, once
for each command, a line with {command}.")]
    Module(ModuleArgs),
}

/// `site module`.
#[derive(Args, Debug)]
pub struct ModuleArgs {
    /// The image, as users will name it
    #[arg(required_unless_present = "remove")]
    pub image: Option<String>,
    /// A command of the image; may be given again, or several with commas between them
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    #[arg(required_unless_present_any = ["all", "remove"])]
    pub command: Vec<String>,
    /// Every command on the image's PATH outside of the system's directories
    #[arg(long, conflicts_with = "command", requires = "modules")]
    pub all: bool,
    /// The module's name
    #[arg(long, requires = "modules")]
    pub name: Option<String>,
    /// The module's version
    #[arg(long, requires = "modules")]
    pub version: Option<String>,
    /// Write modulefiles into this directory
    #[arg(long, value_name = "DIR", requires_all = ["name", "version", "prefix"])]
    #[arg(conflicts_with_all = ["format", "template"])]
    pub modules: Option<PathBuf>,
    /// Write wrappers of the commands below this directory
    #[arg(long, value_name = "DIR", requires = "modules")]
    pub prefix: Option<PathBuf>,
    /// Remove a module that was written so
    #[arg(long, requires = "modules", conflicts_with_all = ["image", "command", "all", "force"])]
    pub remove: bool,
    /// Replace a module that was written so
    #[arg(long, requires = "modules")]
    pub force: bool,
    /// The language of the module that is printed, lua where the configuration has no
    /// module_template
    #[arg(long, value_enum, conflicts_with = "template")]
    pub format: Option<ModuleFormat>,
    /// What the module is, for `module whatis`
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub description: String,
    /// A template in place of the built-in form
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,
}

/// A module of a tree.
#[derive(Debug)]
pub struct ModuleTree {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The commands.
    pub command: Vec<String>,
    /// Whether all are meant.
    pub all: bool,
    /// Directory of modulefiles.
    pub modules: PathBuf,
    /// Directory of wrappers.
    pub prefix: PathBuf,
    /// What it is.
    pub description: String,
    /// Whether one that is there is replaced.
    pub force: bool,
}

impl ModuleArgs {
    /// The module of a tree, where one is meant.
    pub fn tree(&self) -> Option<ModuleTree> {
        Some(ModuleTree {
            name: self.name.clone()?,
            version: self.version.clone()?,
            command: self.command.clone(),
            all: self.all,
            modules: self.modules.clone()?,
            prefix: self.prefix.clone()?,
            description: self.description.clone(),
            force: self.force,
        })
    }
}

/// The language of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModuleFormat {
    /// Lmod's
    Lua,
    /// Environment Modules'
    Tcl,
}
