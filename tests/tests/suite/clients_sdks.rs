//! Neon's own libraries, unmodified, each with a script that calls what it has.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use suite::{API_KEY, EmulatorProcess, Folder, tools};
use tokio::process::Command;

#[tokio::test]
async fn neons_javascript_client_gets_the_answers_of_its_description() -> anyhow::Result<()> {
    let package = tools::npm("@neondatabase/api-client", "2.7.3").await?;
    node(&package, include_str!("../clients/api_client.mjs")).await
}

#[tokio::test]
async fn neons_sdk_runs_its_workflows() -> anyhow::Result<()> {
    let package = tools::npm("@neon/sdk", "6.1.2").await?;
    node(&package, include_str!("../clients/sdk.mjs")).await
}

#[tokio::test]
async fn neons_python_client_reads_every_answer() -> anyhow::Result<()> {
    let environment = tools::python("neon-api", "0.3.0").await?;
    let mut python = Command::new(environment.join("bin/python"));
    python.args(["-c", include_str!("../clients/neon_api.py")]);
    run(python).await
}

/// Runs a script where it finds the package.
async fn node(package: &Path, script: &str) -> anyhow::Result<()> {
    let mut node = Command::new("node");
    node.args(["--input-type=module", "--eval", script]);
    node.current_dir(package);
    run(node).await
}

/// Runs a client against an emulator of its own.
async fn run(mut command: Command) -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let output = command
        .env("NEON_API_HOST", emulator.url())
        .env("NEON_API_KEY", API_KEY)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("run a client; node comes with npm (apt-get install npm)")?;
    ensure!(
        output.status.success(),
        "{}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    emulator.stop().await
}
