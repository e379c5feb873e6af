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
        let is_root = nix::unistd::geteuid().is_root();
        if !is_root {
            say("Not root: left out are the tests that mount file systems (as_root).");
        }
        if process::version("cargo-nextest").is_some() {
            let profile = if is_root { "default" } else { "not-root" };
            let nextest = ["nextest", "run", "--profile", profile, "--workspace"];
            self.run_cargo(&nextest, &[])?;
            // nextest runs no examples of doc comments.
            if self.arguments.is_empty() {
                self.run_cargo(&["test", "--quiet", "--workspace", "--doc"], &[])?;
            }
        } else {
            let left_out: &[&str] = match is_root {
                true => &[],
                false => &["--", "--skip", "::as_root::"],
            };
            self.run_cargo(&["test", "--workspace"], left_out)?;
        }
        say(&format!(
            "All tests passed in {:.0} s.",
            started.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    fn run_cargo(&self, arguments: &[&str], last: &[&str]) -> Result<()> {
        let counts = if self.full { "full" } else { "small" };
        let mut command = process::cargo(arguments);
        if self.clients {
            command.args(["--features", "suite/clients"]);
        }
        command
            .args(&self.arguments)
            .args(last)
            .env("SUITE_COUNTS", counts);
        process::run(&mut command)
    }
}
