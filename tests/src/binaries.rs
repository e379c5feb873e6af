//! Where the binaries under test are.

use std::path::PathBuf;

use anyhow::{Context, bail};

/// The path of a binary of this workspace, or of an example (`examples/billing`), built
/// with the same profile as the test that asks.
///
/// # Errors
/// When it was not built: `cargo xtask test` builds it first.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("find this program")?;
    // target/<profile>/deps/suite-… or target/<profile>/bench
    let path = here
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    match path {
        Some(path) => Ok(path),
        None => bail!(
            "{name} is not built: run `cargo build --workspace --bins` first, for an example \
             with `--examples` in place of `--bins`"
        ),
    }
}
