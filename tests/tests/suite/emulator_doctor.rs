//! `neon-emulator doctor`: what it finds, and its exit code.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, ensure};
use suite::{EmulatorProcess, Folder};

#[tokio::test]
async fn doctor_says_what_a_start_would_find() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let said = doctor(&data, &[], 0)?;
    for word in [
        "Postgres: ",
        "user: ",
        "will be made",
        "storage: ",
        "is free",
        "free space",
    ] {
        ensure!(said.contains(word), "{word}: {said}");
    }
    ensure!(!data.exists(), "a look makes nothing");
    let said = doctor_in(folder.path(), Path::new("data"), &[], 0)?;
    ensure!(said.contains("storage: "), "as seen from there: {said}");

    let emulator = EmulatorProcess::start(&data).await?;
    let said = doctor(&data, &[], 1)?;
    ensure!(said.contains("in use by another emulator"), "{said}");
    let main = emulator.main_branch().await?;
    let endpoints = emulator
        .client()
        .list_branch_endpoints(emulator.project(), &main)
        .await?
        .endpoints;
    let host = endpoints[0].host.clone();
    emulator.stop().await?;

    // An address that somebody else has keeps one endpoint from its start.
    let taken = std::net::TcpListener::bind(&host)?;
    let said = doctor(&data, &[], 0)?;
    let port = taken.local_addr()?.port();
    for word in [
        format!("port {port} "),
        endpoints[0].id.to_string(),
        "1 branches".to_owned(),
    ] {
        ensure!(said.contains(&word), "{word}: {said}");
    }
    drop(taken);
    let said = doctor(&data, &[], 0)?;
    ensure!(said.contains("those of 1 endpoints are free"), "{said}");
    Ok(())
}

#[tokio::test]
async fn doctor_ends_with_1_where_a_start_would_fail() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let taken = taken.local_addr()?.to_string();
    let empty = folder.path().to_str().context("UTF-8")?;
    for (flags, word) in [
        (["--postgres-bin", empty], "14 to 18"),
        (
            ["--postgres-user", "no-such-user-here"],
            "no-such-user-here",
        ),
        (["--listen", &taken], "choose another with --listen"),
        (["--listen", "0.0.0.0:0"], "loopback"),
    ] {
        let said = doctor(&data, &flags, 1)?;
        ensure!(
            said.contains("PROBLEM") && said.contains(word),
            "{word}: {said}"
        );
    }
    let strangers = folder.join("strangers");
    std::fs::create_dir(&strangers)?;
    std::fs::write(strangers.join("letter"), "mine")?;
    let said = doctor(&strangers, &[], 1)?;
    ensure!(said.contains("no emulator's data folder"), "{said}");
    std::fs::write(strangers.join("state.json"), "{")?;
    let said = doctor(&strangers, &[], 1)?;
    ensure!(said.contains("damaged"), "{said}");
    Ok(())
}

/// What it says, if it ends with this exit code.
fn doctor(data: &Path, flags: &[&str], code: i32) -> anyhow::Result<String> {
    doctor_in(Path::new("."), data, flags, code)
}

/// The same, run in that folder.
fn doctor_in(place: &Path, data: &Path, flags: &[&str], code: i32) -> anyhow::Result<String> {
    let mut command = Command::new(suite::binary("neon-emulator")?);
    command.current_dir(place);
    command.arg("doctor").arg("--data").arg(data);
    if !flags.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    let Output {
        status,
        stdout,
        stderr,
    } = command.args(flags).output()?;
    let said = String::from_utf8(stdout)? + &String::from_utf8(stderr)?;
    ensure!(
        status.code() == Some(code),
        "{status} for {flags:?}: {said}"
    );
    Ok(said)
}
