//! `test`: every test there is.

use std::time::Instant;

use anyhow::Result;

use crate::process;
use crate::step::say;

/// Runs every test: unit tests, the whole-system suite, the examples in the docs.
#[derive(clap::Args)]
pub(crate) struct Test {
    /// Repeat as often as it takes to find rare faults: minutes more.
    #[arg(long)]
    full: bool,
    /// The tests with other people's clients as well, on packages from npm and
    /// PyPI: Neon's command line, schemathesis, a second Postgres.
    #[arg(long)]
    clients: bool,
    /// Handed on: the names of the tests to run, for example.
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Test {
    pub(crate) fn run(&self) -> Result<()> {
        let started = Instant::now();
        // The suite starts them; a test build does not make them.
        let build = process::cargo(["build", "--workspace", "--bins"]);
        process::run_step("build", build)?;
        if process::version("cargo-nextest").is_some() {
            self.run_cargo(&["nextest", "run", "--workspace"])?;
            // nextest runs no examples of doc comments.
            if self.arguments.is_empty() {
                self.run_cargo(&["test", "--quiet", "--workspace", "--doc"])?;
            }
        } else {
            self.run_cargo(&["test", "--workspace"])?;
        }
        say(&format!(
            "All tests passed in {:.0} s.",
            started.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    fn run_cargo(&self, arguments: &[&str]) -> Result<()> {
        let counts = if self.full { "full" } else { "small" };
        let mut command = process::cargo(arguments);
        if self.clients {
            command.args(["--features", "suite/clients"]);
        }
        command.args(&self.arguments).env("SUITE_COUNTS", counts);
        process::run(&mut command)
    }
}
