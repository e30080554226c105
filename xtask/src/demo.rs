//! `cargo xtask demo`: the main job on real input.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::registry::Registry;
use crate::run::{run as execute, user_shell};
use crate::{fixtures, setup};

pub(crate) fn run() -> Result<()> {
    let mut steps = Vec::new();
    let mut timed = |name: &str, work: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        println!("\n== {name}");
        let start = Instant::now();
        work()?;
        steps.push((name.to_owned(), start.elapsed()));
        Ok(())
    };
    timed("set up the machine", &mut setup::run)?;
    let mut binary = None;
    timed("build the static release binary", &mut || setup::binary().map(|b| binary = Some(b)))?;
    let mut registry = None;
    timed("make the image and fill the registry", &mut || {
        registry = Some(Registry::start(&fixtures::make()?)?);
        Ok(())
    })?;
    let (Some(binary), Some(registry)) = (binary, registry) else { return Ok(()) };
    let image = format!("docker://{}/numpy:latest", registry.address);
    let user = |command: &str| {
        let script = format!("export SAMPAN_STORE=$HOME/demo-store; {command}");
        execute(&mut user_shell(setup::USER, &script))
    };
    let sampan = binary.display();
    timed("empty the user's store", &mut || user("rm -rf $SAMPAN_STORE"))?;
    timed("pull the image as an ordinary user", &mut || {
        user(&format!("id; {sampan} pull {image}"))
    })?;
    let program = "import numpy, platform; print('numpy', numpy.__version__, 'on', platform.freedesktop_os_release()['PRETTY_NAME'], '->', numpy.arange(10).sum())";
    timed("run numpy from it", &mut || {
        user(&format!("{sampan} run {image} python3 -c \"{program}\""))
    })?;
    timed("run true from it", &mut || user(&format!("{sampan} run {image} true")))?;
    timed("list the images", &mut || user(&format!("{sampan} images")))?;
    println!("\nwhat happened, and how long it took on this machine:");
    for (name, time) in &steps {
        println!("  {name:<42} {:>10}", show(*time));
    }
    Ok(())
}

fn show(time: Duration) -> String {
    match time.as_millis() {
        ms @ 0..10_000 => format!("{ms} ms"),
        ms => format!("{} s", ms / 1000),
    }
}
