//! `check`: what can be said about the code without running it.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::builder::PossibleValuesParser;

use crate::arrows;
use crate::codegen;
use crate::npm;
use crate::process;
use crate::repository;
use crate::step::{Step, complain};

const BUF: (&str, &str) = ("@bufbuild/buf", "1.75.0");
/// deny.toml is written for it: another version may read it differently.
const CARGO_DENY: &str = "0.20";

type Named = (&'static str, fn() -> Result<()>);

/// Quick ones first.
const CHECKS: [Named; 7] = [
    ("arrows", arrows::check),
    ("fmt", fmt),
    ("buf", buf_lint),
    ("clippy", clippy),
    ("codegen", codegen::check),
    ("deny", deny),
    ("advisories", advisories),
];

/// Formatting, lints, generated code, dependencies, .proto files, arrows.
#[derive(clap::Args)]
pub(crate) struct Check {
    /// Only these.
    #[arg(value_parser = PossibleValuesParser::new(CHECKS.map(|(name, _)| name)))]
    only: Vec<String>,
}

impl Check {
    /// Runs the checks, all of them, and fails at the end if one of them failed.
    pub(crate) fn run(&self) -> Result<()> {
        let mut failed = Vec::new();
        for (name, check) in CHECKS {
            if !self.only.is_empty() && !self.only.iter().any(|only| only == name) {
                continue;
            }
            if let Err(error) = check() {
                complain(&format!("{name}: {error:#}"));
                failed.push(name);
            }
        }
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }
}

fn fmt() -> Result<()> {
    process::run_step(
        "cargo fmt --check",
        process::cargo(["fmt", "--all", "--check"]),
    )
}

fn clippy() -> Result<()> {
    let arguments = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ];
    process::run_step("cargo clippy", process::cargo(arguments))
}

fn buf_lint() -> Result<()> {
    let (package, version) = BUF;
    let mut command = process::command(npm::program(package, version, "buf")?);
    command
        .arg("lint")
        .current_dir(repository::root().join("proto"));
    process::run_step("buf lint", command)
}

fn deny() -> Result<()> {
    let mut command = process::command(cargo_deny()?);
    command.args(["check", "bans", "licenses", "sources"]);
    process::run_step("cargo deny: bans, licences, sources", command)
}

fn advisories() -> Result<()> {
    let program = cargo_deny()?;
    let mut fetch = process::command(&program);
    fetch
        .args(["fetch", "db"])
        // It fetches with git: give up rather than ask or wait.
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_HTTP_LOW_SPEED_LIMIT", "1000")
        .env("GIT_HTTP_LOW_SPEED_TIME", "20");
    let step = Step::start("fetch the advisory database");
    let fetched = process::capture(fetch, &step)?;
    if !fetched.status.success() {
        step.skipped("failed: advisories were NOT checked");
        if let Some(reason) = fetched.text.trim().lines().last() {
            complain(&format!("  {reason}"));
        }
        return Ok(());
    }
    step.done();
    let mut command = process::command(&program);
    command.args(["check", "--disable-fetch", "advisories"]);
    process::run_step("cargo deny: advisories", command)
}

/// The path of cargo-deny, which is installed into a git-ignored folder when
/// there is none of the right version.
fn cargo_deny() -> Result<PathBuf> {
    let tools = repository::tools_dir()?;
    let own = tools.join("bin/cargo-deny");
    for program in [PathBuf::from("cargo-deny"), own.clone()] {
        let version = process::version(&program);
        if version.is_some_and(|version| version.starts_with(&format!("cargo-deny {CARGO_DENY}.")))
        {
            return Ok(program);
        }
    }
    let mut install = process::cargo(["install", "--locked", "cargo-deny"]);
    install
        .args(["--version", &format!("^{CARGO_DENY}")])
        .arg("--root")
        .arg(&tools);
    process::run_step(&format!("install cargo-deny {CARGO_DENY} (cargo)"), install)?;
    Ok(own)
}
