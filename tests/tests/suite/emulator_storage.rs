//! The bytes of branches: how they are cloned, what of them is left, what they
//! survive.

mod as_root;

use anyhow::{Context, ensure};
use serde_json::Value;
use suite::{API_KEY, EmulatorProcess, Folder, Http, Process};

#[tokio::test]
async fn how_branches_are_cloned_is_reported() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let dev = emulator.branch("dev", None).await?.branch.id;
    let report = Http::of(&emulator)
        .admin()
        .call("GET", "/storage", Value::Null)
        .await?;
    assert_eq!(report.status, 200);
    let method = report.text("/method").to_owned();
    assert!(["btrfs", "reflink", "copy"].contains(&&*method), "{method}");
    assert_eq!(report.text("/durability"), "process");
    let branches = report.at("/branches").as_array().context("a list")?;
    assert_eq!(branches.len(), 2);
    for branch in branches {
        assert_eq!(branch["cloned_by"], *method, "{branch}");
    }
    assert!(
        branches
            .iter()
            .any(|branch| branch["branch_id"] == dev.as_str())
    );
    let log = emulator.process().log();
    for word in [
        format!("method={method}"),
        format!("file_system=\"{}\"", report.text("/file_system")),
        "not a power cut".to_owned(),
    ] {
        assert!(log.contains(&word), "{word}: {log}");
    }

    // The cheapest was taken: what is cheaper cannot be had, and is refused.
    let refused: &[&str] = match &*method {
        "copy" => &["btrfs", "reflink"],
        "reflink" => &["btrfs"],
        _ => &[],
    };
    for wish in refused {
        let never = folder.join("never");
        let data = never.to_str().context("UTF-8")?;
        let arguments = [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--data",
            data,
            "--storage",
            wish,
        ];
        let key = [("NEON_API_KEY", API_KEY)];
        let log = folder.join(&format!("{wish}.log"));
        let mut process = Process::start("neon-emulator", &arguments, &key, &log)?;
        let status = process.wait().await?;
        let said = process.log();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(
            said.contains(&format!("--storage {wish} cannot be had")),
            "{said}"
        );
        assert!(!never.exists(), "{wish} left a folder behind");
    }
    emulator.stop().await
}

#[tokio::test]
async fn data_that_are_to_survive_the_machine_are_forced_to_the_disk() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let (data, machine) = (folder.join("data"), ["--durability", "machine"]);
    let mut emulator =
        EmulatorProcess::start_with(&data, &suite::free_address()?, &machine).await?;
    let dev = emulator.branch("dev", None).await?.branch.id;
    for round in 0..2 {
        for branch in [emulator.main_branch().await?, dev.clone()] {
            let session = emulator.connect(&branch).await?;
            for (name, value) in [
                ("fsync", "on"),
                ("full_page_writes", "on"),
                ("synchronous_commit", "on"),
            ] {
                let found = session.query_one(&format!("SHOW {name}"), &[]).await?;
                assert_eq!(found.get::<_, String>(0), value, "{name}, round {round}");
            }
        }
        let log = emulator.process().log();
        assert!(log.contains("durability machine"), "{log}");
        let listen = emulator.kill().await?;
        emulator = EmulatorProcess::start_with(&data, &listen, &machine).await?;
    }
    // It is a setting of each run.
    emulator.stop().await?;
    let emulator = EmulatorProcess::start(&data).await?;
    let session = emulator.connect(&dev).await?;
    let found = session.query_one("SHOW fsync", &[]).await?;
    assert_eq!(found.get::<_, String>(0), "off");
    emulator.stop().await
}

#[tokio::test]
async fn a_folder_that_no_branch_owns_is_removed() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let emulator = EmulatorProcess::start(&data).await?;
    let main = emulator.main_branch().await?;
    emulator.stop().await?;
    let strangers = [
        data.join("branches/br-half-made-12345678"),
        data.join(format!("branches/{main}.new")),
        data.join(format!("branches/{main}.old")),
        data.join("snapshots/snap-half-made-12345678"),
    ];
    for stranger in &strangers {
        std::fs::create_dir_all(stranger.join("base"))?;
    }
    let emulator = EmulatorProcess::start(&data).await?;
    for stranger in &strangers {
        ensure!(!stranger.exists(), "{} is left", stranger.display());
    }
    emulator.connect(&main).await?;
    emulator.stop().await
}
