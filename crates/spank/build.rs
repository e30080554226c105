//! The version of Slurm that the plugin is for: Slurm loads no other.

use std::path::Path;

/// Where Debian's libslurm-dev and Slurm's own `make install` put it.
const HEADERS: [&str; 2] =
    ["/usr/include/slurm/slurm_version.h", "/usr/local/include/slurm/slurm_version.h"];

fn main() {
    println!("cargo::rerun-if-env-changed=SLURM_VERSION_NUMBER");
    println!("cargo::rerun-if-env-changed=SLURM_VERSION_HEADER");
    let number = std::env::var("SLURM_VERSION_NUMBER").ok().or_else(from_header);
    match number.as_deref().and_then(parse) {
        Some(number) => println!("cargo::rustc-env=SLURM_VERSION_NUMBER={number}"),
        None => println!(
            "cargo::error=no version of Slurm: install libslurm-dev, or set SLURM_VERSION_HEADER \
             to slurm_version.h, or SLURM_VERSION_NUMBER to the number in it (such as 0x160508)"
        ),
    }
}

fn from_header() -> Option<String> {
    let own = std::env::var("SLURM_VERSION_HEADER").ok();
    let path = match &own {
        Some(path) => path.as_str(),
        None => HEADERS.into_iter().find(|path| Path::new(path).exists())?,
    };
    println!("cargo::rerun-if-changed={path}");
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("#define SLURM_VERSION_NUMBER "))?;
    Some(line.trim().to_owned())
}

fn parse(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
