//! Starts of the emulator that cannot work: one sentence, exit code 1, nothing
//! left.

use std::os::unix::fs::PermissionsExt;

use anyhow::Context;
use suite::{API_KEY, EmulatorProcess, Folder, Process};

#[tokio::test]
async fn a_start_that_cannot_work_says_why() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let taken = taken.local_addr()?.to_string();
    let key = ("NEON_API_KEY", API_KEY);
    let any = "127.0.0.1:0";
    let empty = folder.path().to_str().context("UTF-8")?.to_owned();
    for (arguments, environment, words) in [
        (vec!["--listen", any], vec![], vec!["NEON_API_KEY"]),
        (
            vec!["--listen", any],
            vec![("NEON_API_KEY", " ")],
            vec!["NEON_API_KEY"],
        ),
        (
            vec!["--listen", &taken],
            vec![key],
            vec![&*taken, "--listen"],
        ),
        (vec!["--listen", "0.0.0.0:0"], vec![key], vec!["loopback"]),
        (
            vec!["--listen", any, "--postgres-bin", &empty],
            vec![key],
            vec![&*empty, "initdb", "14 to 18"],
        ),
    ] {
        let data = folder.join("never");
        let (code, said) = run(&folder, &data, &arguments, &environment).await?;
        assert_eq!(code, Some(1), "{arguments:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments:?}: {word}: {said}");
        }
        assert!(!data.exists(), "{arguments:?} left a folder behind");
    }
    Ok(())
}

#[tokio::test]
async fn two_emulators_do_not_share_a_folder() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let emulator = EmulatorProcess::start(&data).await?;
    let arguments = ["--listen", "127.0.0.1:0"];
    let (code, said) = run(&folder, &data, &arguments, &[("NEON_API_KEY", API_KEY)]).await?;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("in use by another emulator"), "{said}");
    emulator.main_branch().await?;
    emulator.stop().await
}

#[tokio::test]
async fn a_folder_that_postgres_cannot_reach_is_refused() -> anyhow::Result<()> {
    // Only root runs Postgres as somebody else, who may be kept out.
    let root = nix::unistd::geteuid().is_root();
    let folder = Folder::new()?;
    let closed = folder.join("closed");
    std::fs::create_dir(&closed)?;
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700))?;
    let data = closed.join("data");
    if !root {
        return EmulatorProcess::start(&data).await?.stop().await;
    }
    let arguments = ["--listen", "127.0.0.1:0"];
    let (code, said) = run(&folder, &data, &arguments, &[("NEON_API_KEY", API_KEY)]).await?;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("cannot reach"), "{said}");
    assert!(said.contains("chmod o+x"), "{said}");
    assert!(!data.exists(), "nothing is left of the failed start");
    Ok(())
}

#[tokio::test]
async fn a_folder_of_another_version_is_refused() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let emulator = EmulatorProcess::start(&data).await?;
    let main = emulator.main_branch().await?;
    emulator.stop().await?;
    let version = data.join("branches").join(main.as_str()).join("PG_VERSION");
    let was = std::fs::read_to_string(&version)?;
    std::fs::write(&version, "9.6\n")?;
    // The emulator starts: this endpoint alone is out of service.
    let emulator = EmulatorProcess::start(&data).await?;
    assert!(emulator.connect(&main).await.is_err());
    let log = emulator.process().log();
    assert!(log.contains("is of Postgres 9.6"), "{log}");
    emulator.stop().await?;
    std::fs::write(&version, was)?;
    Ok(())
}

#[tokio::test]
async fn a_folder_of_somebody_else_is_left_alone() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("project");
    std::fs::create_dir_all(data.join("branches/feature-x"))?;
    std::fs::set_permissions(&data, PermissionsExt::from_mode(0o775))?;
    let arguments = ["--listen", "127.0.0.1:0"];
    let (code, said) = run(&folder, &data, &arguments, &[("NEON_API_KEY", API_KEY)]).await?;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no emulator's data folder"), "{said}");
    assert!(data.join("branches/feature-x").exists());
    assert_eq!(std::fs::read_dir(&data)?.count(), 1);
    assert_eq!(data.metadata()?.permissions().mode() & 0o777, 0o775);
    // An empty one is as good as a new one.
    let empty = folder.join("empty");
    std::fs::create_dir(&empty)?;
    std::fs::set_permissions(&empty, PermissionsExt::from_mode(0o755))?;
    EmulatorProcess::start(&empty).await?.stop().await
}

/// Runs `neon-emulator serve` to its end; says its exit code and the last line
/// that it logged.
async fn run(
    folder: &Folder,
    data: &std::path::Path,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> anyhow::Result<(Option<i32>, String)> {
    let log = folder.join("failing.log");
    if log.exists() {
        std::fs::remove_file(&log)?;
    }
    let data = data.to_str().context("UTF-8")?;
    let mut all = vec!["serve", "--data", data];
    all.extend(arguments);
    let mut process = Process::start("neon-emulator", &all, environment, &log)?;
    let status = process.wait().await?;
    let said = process.log();
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: "), "{said}");
    Ok((status.code(), last.to_owned()))
}
