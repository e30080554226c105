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
    /// Print an environment module through which commands of an image look like the host's
    #[command(after_long_help = "Example:
  sampan site module --command solve --command mesh /apps/solver.sqsh >solver/2.1.lua

A template of the site's own has the words {image}, {name}, {description} and, once
for each command, a line with {command}.")]
    Module {
        /// The image, as users will name it
        image: String,
        /// A command of the image; may be given again
        #[arg(long, value_name = "NAME", required = true)]
        command: Vec<String>,
        /// The language of the module
        #[arg(long, value_enum, default_value = "lua")]
        format: ModuleFormat,
        /// What the module is, for `module whatis`
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
        /// A template in place of the built-in one
        #[arg(long, value_name = "FILE")]
        template: Option<PathBuf>,
    },
}

/// The language of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModuleFormat {
    /// Lmod's
    Lua,
    /// Environment Modules'
    Tcl,
}
