//! `cargo xtask compat`: the same words through sampan and the real Apptainer.
//!
//! It is no part of `test`, because Debian sid, where Apptainer is, changes from day
//! to day.

use crate::apptainer::{self, Namespace};
use crate::error::Result;
use crate::registry::Registry;
use crate::run::{cargo, run as execute};
use crate::{fixtures, setup};

pub(crate) fn run() -> Result<()> {
    setup::run()?;
    let registry = Registry::start(&fixtures::make()?)?;
    let binary = setup::binary()?;
    apptainer::prepare()?;
    let namespace = Namespace::enter()?;
    execute(
        cargo()
            .args(["test", "--package", "sampan-tests", "--test", "compat", "--", "--ignored"])
            .env("SAMPAN_BIN", &binary)
            .env("SAMPAN_TEST_USER", setup::USER)
            .env("SAMPAN_TEST_REGISTRY", &registry.address)
            .env("SAMPAN_TEST_APPTAINER", namespace.mount()),
    )
}
