//! Recipes to images, as an ordinary user with one id.
//!
//! ```text
//! Dockerfile, definition file ── parse ─→ stages ── step by step ─→ layers ─→ image
//!      │  COPY, ADD, WORKDIR, %files: written as they are
//!      └─ RUN, %post: a container whose root is emulated; what it changed is its
//!         overlay's upper directory
//! ```
//!
//! A layer is one squashfs file in the form of overlayfs, with true owners. The
//! next step's container stacks the image and all layers so far, each served
//! where it is; nothing is unpacked and nothing is merged until the end. Layers
//! are kept by what they were made from (see `cache`).
#![forbid(unsafe_code)]

mod archive;
mod base;
mod bootstrap;
mod builder;
mod cache;
mod chmod;
mod configure;
mod copy;
mod define;
mod definition;
pub mod dockerfile;
mod error;
mod extract;
mod files;
mod finish;
#[doc(hidden)]
pub mod fuzz;
mod git;
mod host;
mod ignore;
mod layer;
mod mount;
mod parallel;
mod remote;
mod run;
mod setup;
mod state;

pub use bootstrap::{BootstrapError, PackageError};
pub use builder::{EPOCH, Options, Watch};
pub use definition::is_definition;
pub use error::BuildError;
pub use remote::CachePlace;

use std::path::Path;

use engine::{Built, Engine, SharedProgress};

use builder::Builder;
use dockerfile::Dockerfile;

/// What came of a build.
#[derive(Debug)]
pub struct Outcome {
    /// The image, or why there is none.
    pub image: Result<Built, BuildError>,
    /// The last that the failing command said.
    pub last_output: Vec<u8>,
}

/// Makes an image of another one and what was written over it into an overlay
/// directory. `changes` are instructions of a Dockerfile that change the
/// configuration alone.
///
/// # Errors
/// When the image or the directory cannot be read, or a change is none.
pub fn commit(
    engine: &Engine,
    image: &str,
    overlay: &Path,
    changes: &[String],
    progress: SharedProgress,
    watch: &mut dyn Watch,
) -> Result<Built, BuildError> {
    let options = Options { no_cache: true, ..Options::default() };
    let none = Dockerfile { escape: '\\', args: Vec::new(), stages: Vec::new() };
    let mut builder = Builder::new(engine, &options, &none, progress, watch)?;
    let state = builder.commit(image, overlay, changes)?;
    builder.finish(&state)
}

/// Builds an image from the text of a Dockerfile or a definition file. Must be
/// called while the process has one thread.
pub fn build(
    engine: &Engine,
    text: &str,
    options: &Options,
    progress: SharedProgress,
    watch: &mut dyn Watch,
) -> Outcome {
    let mut last_output = Vec::new();
    let run = || {
        let syntax = |source| BuildError::Syntax { path: options.file.clone(), source };
        if is_definition(text) {
            let text = definition::filled(text, &options.args).map_err(syntax)?;
            let stages = definition::parse(&text).map_err(syntax)?;
            let none = Dockerfile { escape: '\\', args: Vec::new(), stages: Vec::new() };
            let mut builder = Builder::new(engine, options, &none, progress, watch)?;
            builder.open_remotes();
            let built = builder.define(&stages, &text, !options.no_test);
            last_output.clone_from(&builder.last_output);
            let image = builder.finish(&built?)?;
            return builder.give().map(|()| image);
        }
        let file = dockerfile::parse(text).map_err(syntax)?;
        let mut builder = Builder::new(engine, options, &file, progress, watch)?;
        builder.open_remotes();
        let built = builder.build();
        last_output.clone_from(&builder.last_output);
        let image = builder.finish(&built?)?;
        builder.give().map(|()| image)
    };
    let image = run();
    Outcome { image, last_output }
}
