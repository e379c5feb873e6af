//! Starts of the broker and of the user-service that cannot work: one sentence,
//! exit code 1.

use anyhow::Context;
use suite::{API_KEY, Broker, EmulatorProcess, Folder, Process};

#[tokio::test]
async fn a_broker_that_cannot_start_says_why() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let taken = taken.local_addr()?.to_string();
    let config = suite::example_config();
    let good = config.to_str().context("UTF-8")?.to_owned();
    let text = std::fs::read_to_string(&config)?;
    let root = config.parent().context("a folder")?.canonicalize()?;
    let root = root.to_str().context("UTF-8")?;
    let text = text
        .replace("\"migrations/", &format!("\"{root}/migrations/"))
        .replace("\"migrations\"", &format!("\"{root}/migrations\""));
    let write = |name: &str, text: String| -> anyhow::Result<String> {
        let path = folder.join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_str().context("UTF-8")?.to_owned())
    };
    let typo = write("typo.toml", text.replace("revision =", "revison ="))?;
    let broken = write(
        "broken.toml",
        text.replace("[services.users]", "[services.users"),
    )?;
    let cycle = write(
        "cycle.toml",
        text.replace(
            "branch = \"api_v1_branch\"",
            "branch = \"api_v1_branch\"\nparent = \"api_v2_branch\"",
        ),
    )?;
    let revision = write(
        "revision.toml",
        text.replace("090000_lists_and_request_ids", "090000_no_such"),
    )?;
    let seed = write("seed.toml", text.replace("users/v1.sql", "users/v7.sql"))?;
    let parent = write(
        "parent.toml",
        text.replace("parent = \"api_v1_branch\"", "parent = \"elsewhere\""),
    )?;

    let all = Broker::environment(&folder, &emulator).await?;
    let with = |name: &str, value: &str| -> Vec<(String, String)> {
        let mut environment = all.clone();
        environment.retain(|(known, _)| known != name);
        if !value.is_empty() {
            environment.push((name.to_owned(), value.to_owned()));
        }
        environment
    };
    let any = "127.0.0.1:0";
    for (config, listen, environment, words) in [
        (&*good, any, with("NEON_API_KEY", ""), vec!["NEON_API_KEY"]),
        (
            &good,
            any,
            with("NEON_PROJECT_ID", ""),
            vec!["NEON_PROJECT_ID"],
        ),
        (
            &good,
            any,
            with("NEON_PROJECT_ID", "Not An Id"),
            vec!["NEON_PROJECT_ID"],
        ),
        (
            &good,
            any,
            with("NEON_API_URL", "nonsense"),
            vec!["NEON_API_URL"],
        ),
        (
            &good,
            any,
            with("NEON_API_KEY", "napi_wrong"),
            vec!["NEON_API_KEY"],
        ),
        (
            &good,
            any,
            with("NEON_PROJECT_ID", "no-such-12345678"),
            vec!["no-such-12345678", "NEON_PROJECT_ID"],
        ),
        (&good, &taken, all.clone(), vec![&taken]),
        (&good, "0.0.0.0:0", all.clone(), vec!["loopback"]),
        (
            "/no/such/broker.toml",
            any,
            all.clone(),
            vec!["/no/such/broker.toml"],
        ),
        (
            &typo,
            any,
            all.clone(),
            vec!["typo.toml", "revison", "revision"],
        ),
        (&broken, any, all.clone(), vec!["broken.toml"]),
        (
            &cycle,
            any,
            all.clone(),
            vec!["cycle.toml", "api_v1_branch", "api_v2_branch"],
        ),
        (
            &revision,
            any,
            all.clone(),
            vec!["revision.toml", "090000_no_such"],
        ),
        (&seed, any, all.clone(), vec!["seed.toml", "v7.sql"]),
        (&parent, any, all.clone(), vec!["elsewhere"]),
    ] {
        let pairs: Vec<(&str, &str)> = environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let log = folder.join("failing.log");
        let _ = std::fs::remove_file(&log);
        let mut process = Process::start(
            "broker",
            &["serve", "--config", config, "--listen", listen],
            &pairs,
            &log,
        )?;
        let status = process.wait().await?;
        let said = process.log();
        assert_eq!(status.code(), Some(1), "{config}: {said}");
        let last = said
            .lines()
            .rev()
            .find(|line| line.starts_with("error: "))
            .with_context(|| format!("a line `error: …`: {said}"))?;
        for word in words {
            assert!(last.contains(word), "{word}: {said}");
        }
        assert!(!said.contains(API_KEY), "the key is in the log");
    }
    let branches = emulator
        .client()
        .list_all_branches(emulator.project(), None)
        .await?;
    assert_eq!(branches.branches.len(), 1, "nothing half made was left");
    emulator.stop().await
}

#[tokio::test]
async fn a_broker_waits_for_neon_and_serves_when_it_comes() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let emulator = EmulatorProcess::start(&data).await?;
    let address = emulator
        .url()
        .trim_start_matches("http://")
        .trim_end_matches("/api/v2")
        .to_owned();
    let environment = Broker::environment(&folder, &emulator).await?;
    emulator.stop().await?;
    let pairs: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let config = suite::example_config();
    let mut broker = Process::start(
        "broker",
        &[
            "serve",
            "--config",
            config.to_str().context("UTF-8")?,
            "--listen",
            "127.0.0.1:0",
        ],
        &pairs,
        &folder.join("broker.log"),
    )?;
    let line = broker.line().await?;
    let at = line
        .strip_prefix("listening on ")
        .context("an address")?
        .to_owned();
    let mut leases = proto::broker::v1::lease_service_client::LeaseServiceClient::new(
        suite::channel(&at).await?,
    );
    let acquire = proto::broker::v1::AcquireLeaseRequest {
        target: Some(proto::broker::v1::acquire_lease_request::Target::Binding(
            "services/users/versions/v1".to_owned(),
        )),
        ..Default::default()
    };
    let status = crate::details::refused(
        leases.acquire_lease(acquire.clone()).await,
        tonic::Code::Unavailable,
        None,
    );
    assert!(
        tonic_types::StatusExt::get_details_retry_info(&status).is_some(),
        "{status:?}"
    );
    let emulator = EmulatorProcess::start_at(&data, &address).await?;
    suite::eventually("a lease is given", async || {
        Ok(leases.clone().acquire_lease(acquire.clone()).await?)
    })
    .await?;
    broker.stop().await?;
    emulator.stop().await
}

#[tokio::test]
async fn a_user_service_that_cannot_start_says_why() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let taken = taken.local_addr()?.to_string();
    for (arguments, word) in [
        (
            ["--listen", &*taken, "--broker", "http://127.0.0.1:1"],
            &*taken,
        ),
        (
            ["--listen", "0.0.0.0:0", "--broker", "http://127.0.0.1:1"],
            "loopback",
        ),
        (
            ["--listen", "127.0.0.1:0", "--broker", "not a url"],
            "not a url",
        ),
    ] {
        let log = folder.join("failing.log");
        let _ = std::fs::remove_file(&log);
        let mut all = vec!["serve"];
        all.extend(arguments);
        let mut process = Process::start("user-service", &all, &[], &log)?;
        let status = process.wait().await?;
        let said = process.log();
        assert_eq!(status.code(), Some(1), "{said}");
        let last = said.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("error: ") && last.contains(word),
            "{word}: {said}"
        );
    }
    Ok(())
}

/// Without a broker it is there, says that it is not ready, and gets ready when
/// the broker comes.
#[tokio::test]
async fn a_user_service_waits_for_the_broker() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let broker = Broker::start(&folder, &emulator, &suite::example_config()).await?;
    broker.is_ready().await?;
    let users = suite::UserService::start(&folder, &broker).await?;
    users.is_ready().await?;
    users.process.stop().await?;

    let address = broker.address().to_owned();
    broker.process.stop().await?;
    let url = format!("http://{address}");
    let mut waiting = Process::start(
        "user-service",
        &["serve", "--listen", "127.0.0.1:0", "--broker", &url],
        &[],
        &folder.join("waiting.log"),
    )?;
    let line = waiting.line().await?;
    let at = line
        .strip_prefix("listening on ")
        .context("an address")?
        .to_owned();
    let mut client =
        proto::users::v1::user_service_client::UserServiceClient::new(suite::channel(&at).await?);
    let request = proto::users::v1::ListUsersRequest::default();
    let status = crate::details::refused(
        client.list_users(request.clone()).await,
        tonic::Code::Unavailable,
        None,
    );
    assert!(
        tonic_types::StatusExt::get_details_retry_info(&status).is_some(),
        "{status:?}"
    );
    let broker = Broker::start_at(&address, &folder, &emulator, &suite::example_config()).await?;
    suite::eventually("users are listed", async || {
        Ok(client.clone().list_users(request.clone()).await?)
    })
    .await?;
    waiting.stop().await?;
    broker.process.stop().await?;
    emulator.stop().await
}
