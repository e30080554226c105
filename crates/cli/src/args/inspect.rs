//! `inspect` and `run-help`.

use clap::Args;

/// `inspect`.
#[derive(Args, Debug)]
#[command(after_long_help = "Labels, scripts and texts are those of images in Apptainer's form, \
    printed as Apptainer prints them. Without a flag that chooses one of them, an overview.")]
pub struct InspectArgs {
    /// The images, by name, digest, or path
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Platform, os/architecture[/variant]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Print JSON: a list with one object for each image; with a flag that
    /// chooses texts, an object as Apptainer prints it
    #[arg(short, long)]
    pub json: bool,
    /// What to print of it.
    #[command(flatten)]
    pub chosen: Chosen,
}

/// Texts of an image in Apptainer's form.
#[derive(Args, Debug)]
#[command(next_help_heading = "Texts")]
pub struct Chosen {
    /// The labels
    #[arg(short, long)]
    pub labels: bool,
    /// The definition file that it was built from
    #[arg(short, long)]
    pub deffile: bool,
    /// What it sets in the environment
    #[arg(short, long)]
    pub environment: bool,
    /// What it says to those who ask for help
    #[arg(short = 'H', long)]
    pub helpfile: bool,
    /// What run executes
    #[arg(short, long)]
    pub runscript: bool,
    /// What an instance executes
    #[arg(short, long)]
    pub startscript: bool,
    /// What test executes
    #[arg(short, long)]
    pub test: bool,
    /// The names of its apps
    #[arg(long)]
    pub list_apps: bool,
    /// All of them, as JSON
    #[arg(long)]
    pub all: bool,
    /// Those of an app in the image; its labels where nothing else is chosen
    #[arg(long, value_name = "NAME")]
    pub app: Option<String>,
}

/// `run-help`.
#[derive(Args, Debug)]
pub struct RunHelpArgs {
    /// That of an app in the image
    #[arg(long, value_name = "NAME")]
    pub app: Option<String>,
    /// The image, by name, digest, or path
    #[arg(value_name = "IMAGE")]
    pub image: String,
}
