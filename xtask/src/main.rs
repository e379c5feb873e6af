//! The tasks of this repository: `cargo xtask up|test|codegen|check|bench`.
//!
//! It shells out and links no crate of the workspace, so that it builds in
//! seconds and works while they do not.

mod arrows;
mod bench;
mod binaries;
mod check;
mod codegen;
mod database;
mod neon;
mod npm;
mod process;
mod repository;
mod service;
mod state;
mod step;
mod supervisor;
mod test;
mod up;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The tasks of this repository.")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Start the Neon emulator (unless Neon is configured), the broker and the
    /// user-service; Ctrl-C stops them.
    Up(up::Up),
    /// Run every test.
    Test(test::Test),
    /// Write what is generated: the gRPC code and Diesel's schema files.
    Codegen(codegen::Codegen),
    /// Everything that can be said about the code without running it.
    Check(check::Check),
    /// Measure, and print a table.
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            step::complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    // Before clap, which reads the environment too. For `up` alone: nothing
    // else may come near a Neon account.
    if std::env::args_os().nth(1).is_some_and(|task| task == "up") {
        neon::load_dotenv()?;
    }
    match Cli::parse().task {
        Task::Up(up) => up.run(),
        Task::Test(test) => test.run(),
        Task::Codegen(codegen) => codegen.run(),
        Task::Check(check) => check.run(),
        Task::Bench(bench) => bench.run(),
    }
}
