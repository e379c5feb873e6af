//! `test`: every test there is.

use std::time::Instant;

use anyhow::Result;

use crate::binaries::Binaries;
use crate::process;
use crate::step::say;

/// The release of Postgres on which `--full` runs the suite once more: from 16
/// on, who makes a role has fewer rights on it.
const OTHER_POSTGRES: u32 = 18;
/// What of it: roles, clones, replicas, leases. All of it would take minutes more.
const ON_NEWER_POSTGRES: [&str; 9] = [
    "autogenerate::",
    "broker_cli::rehearse::",
    "broker_cli::migrate::",
    "emulator_api::",
    "emulator_engine::",
    "emulator_recovery::",
    "emulator_replicas::",
    "broker_leases::",
    "broker_roles::",
];
/// What another release cannot do, as npm has it: it has no pg_dump. The clients
/// bring their own, and the tests of file systems are about those.
const NOT_ON_OTHER_POSTGRES: [&str; 6] = [
    "clients_",
    "::as_root::",
    "pg_dump",
    "emulator_schema::",
    "errands_on_a_suspended",
    "a_recovery_that_a_kill_cuts_off",
];

/// As .config/nextest.toml has it.
const TESTS_AT_ONCE: u32 = 5;
/// What the plain run leaves to `--full`: an older release of a client that runs.
const ONLY_FULL: &str = "neonctl_5_0_1";
/// What needs Diesel's command line, whose build needs libpq.
const DIESELS_CLI: &str = "broker_cli::diesels_cli";

/// Runs every test: unit tests, the whole-system suite, other people's clients,
/// the examples in the docs.
#[derive(clap::Args)]
pub(crate) struct Test {
    /// Repeat as often as it takes to find rare faults, and run the suite on a
    /// newer Postgres as well: minutes more. What fails is tried once more, and named
    /// FLAKY if that passes.
    #[arg(long)]
    full: bool,
    /// The suite alone, on this release of Postgres, from npm: 14, 16, 17 or 18.
    #[arg(long, value_name = "MAJOR")]
    postgres: Option<u32>,
    /// Handed on: the names of the tests to run, for example.
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Test {
    pub(crate) fn run(&self) -> Result<()> {
        let started = Instant::now();
        // The suite starts them; a test build does not make them.
        Binaries::build(false)?;
        // Nor are they part of a build of the suite alone. By themselves, since examples
        // bring the features that only tests have.
        let examples = process::cargo(["build", "--workspace", "--examples"]);
        process::run_step("build the examples", examples)?;
        if let Some(major) = self.postgres {
            self.run_on(major, &[])?;
        } else {
            self.run_all()?;
            if self.full && self.arguments.is_empty() {
                say(&format!(
                    "Some of the suite again, on Postgres {OTHER_POSTGRES}."
                ));
                self.run_on(OTHER_POSTGRES, &ON_NEWER_POSTGRES)?;
            }
        }
        say(&format!(
            "All tests passed in {:.0} s.",
            started.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    fn run_all(&self) -> Result<()> {
        let is_root = nix::unistd::geteuid().is_root();
        let mut left_out = vec!["--"];
        if !is_root {
            say("Not root: left out are the tests that mount file systems (as_root).");
            left_out.extend(["--skip", "::as_root::"]);
        }
        if !self.full && self.arguments.is_empty() {
            say(&format!("Not --full: left out is {ONLY_FULL}."));
            left_out.extend(["--skip", ONLY_FULL]);
        }
        if self.arguments.is_empty() && process::version("diesel").is_none() {
            say(&format!(
                "diesel is not installed: left out is {DIESELS_CLI}, and Diesel's engine on the \
                 same folder is tested all the same (cargo install diesel_cli \
                 --no-default-features --features postgres)."
            ));
            left_out.extend(["--skip", DIESELS_CLI]);
        }
        if !has_nextest() {
            let threads = TESTS_AT_ONCE.to_string();
            left_out.extend(["--test-threads", &threads]);
            return self.run_cargo(&["test", "--workspace"], &left_out);
        }
        let run = ["nextest", "run", "--workspace", "--profile", self.profile()];
        self.run_cargo(&run, &left_out)?;
        // nextest runs no examples of doc comments.
        if self.arguments.is_empty() {
            // What is indented in the comment of a .proto file is no Rust.
            let examples = [
                "test",
                "--quiet",
                "--workspace",
                "--exclude",
                "proto",
                "--doc",
            ];
            self.run_cargo(&examples, &[])?;
        }
        Ok(())
    }

    /// The suite's tests of these names, or all, on a Postgres from npm, with small
    /// counts.
    fn run_on(&self, major: u32, names: &[&str]) -> Result<()> {
        let run: &[&str] = match has_nextest() {
            true => &["nextest", "run", "--profile", self.profile()],
            false => &["test"],
        };
        let skipped = NOT_ON_OTHER_POSTGRES
            .iter()
            .flat_map(|name| ["--skip", name]);
        let mut command = process::cargo(run);
        command
            .args(["--package", "suite"])
            .args(&self.arguments)
            .arg("--")
            .args(names)
            .args(skipped)
            .env("SUITE_POSTGRES", major.to_string());
        process::run(&mut command)
    }

    /// As .config/nextest.toml has it.
    fn profile(&self) -> &'static str {
        match self.full {
            true => "full",
            false => "default",
        }
    }

    fn run_cargo(&self, arguments: &[&str], last: &[&str]) -> Result<()> {
        let counts = if self.full { "full" } else { "small" };
        let mut command = process::cargo(arguments);
        command
            .args(&self.arguments)
            .args(last)
            .env("SUITE_COUNTS", counts);
        process::run(&mut command)
    }
}

fn has_nextest() -> bool {
    process::version("cargo-nextest").is_some()
}
