//! Brokers that are killed, that share a database, and that have none.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use proto::broker::v1::acquire_lease_request::Target;
use proto::broker::v1::{
    AcquireLeaseRequest, ApplyRequest, GetBindingRequest, ListAuditEventsRequest,
    ReleaseLeaseRequest, RenewLeaseRequest, WatchBindingRequest, WatchBindingResponse,
};
use suite::{
    Broker, Config, EmulatorProcess, Folder, PATIENCE, Process, StateDatabase, count, eventually,
};
use tokio::task::JoinSet;
use tonic::{Code, Streaming};
use tonic_types::StatusExt as _;

use crate::details::refused;

const V1: &str = "services/users/versions/v1";
const V2: &str = "services/users/versions/v2";

fn acquire(binding: &str) -> AcquireLeaseRequest {
    AcquireLeaseRequest {
        target: Some(Target::Binding(binding.to_owned())),
        holder: "suite".to_owned(),
        ..Default::default()
    }
}

fn renew(name: &str) -> RenewLeaseRequest {
    RenewLeaseRequest {
        name: name.to_owned(),
        ..Default::default()
    }
}

fn release(name: &str) -> ReleaseLeaseRequest {
    ReleaseLeaseRequest {
        name: name.to_owned(),
        ..Default::default()
    }
}

/// What a caller was told of its leases: whether each lives. One whose release was
/// not answered is not in it.
type Told = BTreeMap<String, bool>;

/// Acquires, renews and releases until the broker is gone.
async fn busy(broker: String, told: tokio::sync::mpsc::UnboundedSender<(String, Option<bool>)>) {
    let work = async {
        let channel = suite::channel(&broker).await?;
        let mut leases = proto::broker::v1::lease_service_client::LeaseServiceClient::new(channel);
        for round in 0_u32.. {
            let given = leases.acquire_lease(acquire(V1)).await?.into_inner();
            let name = given.lease.context("a lease")?.name;
            told.send((name.clone(), Some(true)))?;
            leases.renew_lease(renew(&name)).await?;
            if round % 2 == 0 {
                told.send((name.clone(), None))?;
                leases.release_lease(release(&name)).await?;
                told.send((name, Some(false)))?;
            }
        }
        Ok::<(), anyhow::Error>(())
    };
    // It ends when the broker does.
    let _ = work.await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_loses_no_lease_that_it_gave() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let mut broker = Broker::start(&folder, &emulator, &suite::example_config()).await?;
    broker.is_ready().await?;
    let mut all = Told::new();
    for round in 0..count(3, 20) {
        let (told, mut hear) = tokio::sync::mpsc::unbounded_channel();
        let mut callers = JoinSet::new();
        for _ in 0..4 {
            callers.spawn(busy(broker.address().to_owned(), told.clone()));
        }
        drop(told);
        let mut heard = 0;
        while heard < 20 + 7 * round {
            let (name, lives) = hear.recv().await.context("the callers go on")?;
            heard += 1;
            match lives {
                Some(lives) => all.insert(name, lives),
                None => all.remove(&name),
            };
        }
        broker = broker.kill_and_start().await?;
        while let Some((name, lives)) = hear.recv().await {
            match lives {
                Some(lives) => all.insert(name, lives),
                None => all.remove(&name),
            };
        }
        callers.join_all().await;
        broker.is_ready().await?;
        let leases = broker.leases().await?;
        for (name, lives) in &all {
            let renewed = leases.clone().renew_lease(renew(name)).await;
            match lives {
                true => drop(renewed.with_context(|| format!("{name} was given"))?),
                false => drop(refused(renewed, Code::NotFound, None)),
            }
        }
    }
    ensure!(all.values().any(|lives| *lives) && all.values().any(|lives| !lives));
    broker.process.stop().await?;
    emulator.stop().await
}

async fn watch(broker: &Broker, binding: &str) -> anyhow::Result<Streaming<WatchBindingResponse>> {
    let request = WatchBindingRequest {
        binding: binding.to_owned(),
        ..Default::default()
    };
    let mut leases = broker.leases().await?;
    let watching = leases.watch_binding(tokio_stream::once(request)).await?;
    Ok(watching.into_inner())
}

/// Waits until a watch tells of that generation, and says of which branch.
async fn generation(
    watch: &mut Streaming<WatchBindingResponse>,
    wanted: i64,
) -> anyhow::Result<String> {
    let waiting = async {
        loop {
            let told = watch.message().await?.context("the watch goes on")?;
            if let Some(current) = told.current.filter(|now| now.generation >= wanted) {
                ensure!(current.generation == wanted, "{current:?}");
                return Ok(current.branch);
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .with_context(|| format!("generation {wanted}"))?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_brokers_one_takes_over_from_the_other() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let config = Config::copy(&folder)?;
    let one = Broker::start(&folder, &emulator, &config.path()).await?;
    one.is_ready().await?;
    let log = folder.join("other.log");
    let other = Broker::start_logging(&folder, &emulator, &config.path(), &log).await?;
    other.is_ready().await?;
    let in_background = |broker: &Broker| {
        let log = broker.process.log();
        log.contains("works in the background from now on")
    };
    assert!(in_background(&one) && !in_background(&other));

    // A lease of the one is the other's too, and watchers on both see every
    // generation.
    let given = one.leases().await?.acquire_lease(acquire(V2)).await?;
    let given = given.into_inner().lease.context("a lease")?;
    let mut here = watch(&one, V2).await?;
    let mut there = watch(&other, V2).await?;
    let first = generation(&mut here, 1).await?;
    assert_eq!(generation(&mut there, 1).await?, first);
    eventually("the lease is known", async || {
        let mut leases = other.leases().await?;
        Ok(leases.renew_lease(renew(&given.name)).await?)
    })
    .await?;
    let whole = config.text()?;
    config.write(&whole.replace("api_v2_branch", "api_v2_again"))?;
    one.config().await?.apply(ApplyRequest::default()).await?;
    let second = generation(&mut here, 2).await?;
    assert_eq!(generation(&mut there, 2).await?, second);
    assert_ne!(second, first);

    // The one is killed: the other works in the background, closes the roles of
    // leases that the one gave, and goes on with the numbers.
    one.process.kill().await?;
    eventually("the other takes over", async || {
        ensure!(in_background(&other), "{}", other.process.log());
        Ok(())
    })
    .await?;
    let mut leases = other.leases().await?;
    let v1 = leases.acquire_lease(acquire(V1)).await?.into_inner();
    let v1 = v1.lease.context("a lease")?;
    leases.release_lease(release(&given.name)).await?;
    leases.release_lease(release(&v1.name)).await?;
    eventually("the role is closed", async || {
        let log = other.process.log();
        ensure!(log.contains("closed a lease role"), "{log}");
        Ok(())
    })
    .await?;
    config.write(&whole)?;
    // It may still be looking at the world itself.
    eventually("the other applies", async || {
        Ok(other.config().await?.apply(ApplyRequest::default()).await?)
    })
    .await?;
    assert_eq!(generation(&mut there, 3).await?, first);

    let mut audit = other.audit().await?;
    let page = ListAuditEventsRequest {
        service: "users".to_owned(),
        page_size: 2,
        ..Default::default()
    };
    let newest = audit.list_audit_events(page.clone()).await?.into_inner();
    assert_eq!(newest.events.len(), 2);
    let next = ListAuditEventsRequest {
        page_token: newest.next_page_token.clone(),
        ..page
    };
    let older = audit.list_audit_events(next.clone()).await?.into_inner();
    ensure!(older.events[0].id < newest.events[1].id, "newest first");
    let foreign = ListAuditEventsRequest {
        holder: "suite".to_owned(),
        ..next
    };
    let mixed = audit.list_audit_events(foreign).await;
    refused(mixed, Code::InvalidArgument, Some("page_token"));
    let mut printing = Process::start(
        "broker",
        &[
            "audit",
            "--holder",
            "suite",
            "--broker",
            &format!("http://{}", other.address()),
        ],
        &[],
        &folder.join("audit.log"),
    )?;
    let head = printing.line().await?;
    ensure!(head.starts_with("TIME"), "{head}");
    let printed = printing.line().await?;
    ensure!(
        printed.contains("RELEASED") && printed.contains(&v1.name),
        "{printed}"
    );
    other.process.stop().await?;
    emulator.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_away_what_is_known_is_answered() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let broker = Broker::start(&folder, &emulator, &suite::example_config()).await?;
    broker.is_ready().await?;
    let mut leases = broker.leases().await?;
    let given = leases.acquire_lease(acquire(V1)).await?.into_inner();
    let name = given.lease.context("a lease")?.name;

    let database = StateDatabase::of(&emulator).await?;
    database.disable(&emulator, true).await?;
    let status = refused(
        leases.renew_lease(renew(&name)).await,
        Code::Unavailable,
        None,
    );
    let info = status.get_details_error_info().context("ErrorInfo")?;
    assert_eq!(info.reason, "STATE_UNAVAILABLE");
    ensure!(status.get_details_retry_info().is_some(), "{status:?}");
    let released = leases.release_lease(release(&name)).await;
    refused(released, Code::Unavailable, None);
    let request = GetBindingRequest {
        name: V1.to_owned(),
    };
    let mut bindings = broker.bindings().await?;
    bindings.get_binding(request).await?;
    generation(&mut watch(&broker, V1).await?, 1).await?;

    database.disable(&emulator, false).await?;
    eventually("it recovers by itself", async || {
        Ok(leases.clone().renew_lease(renew(&name)).await?)
    })
    .await?;
    leases.release_lease(release(&name)).await?;
    broker.process.stop().await?;
    emulator.stop().await
}

/// Without a database: leases work and end with the process, its branches are found
/// again, and nobody from elsewhere is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_a_database_says_what_it_cannot_promise() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let mut environment = Broker::environment(&folder, &emulator).await?;
    environment.retain(|(name, _)| name != "BROKER_KEY_FILE");
    let start = |environment: &[(String, String)], listen: &str| {
        let pairs: Vec<(&str, &str)> = environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let config = suite::example_config();
        let config = config.to_str().context("UTF-8")?;
        let log = folder.join("broker.log");
        let _ = std::fs::remove_file(&log);
        let arguments = ["serve", "--config", config, "--listen", listen];
        Process::start("broker", &arguments, &pairs, &log)
    };
    let mut keyless = start(&environment, "127.0.0.1:0")?;
    ensure!(!keyless.wait().await?.success());
    let said = keyless.log();
    ensure!(
        said.contains("BROKER_KEY_FILE") && said.contains("openssl rand"),
        "{said}"
    );
    environment.retain(|(name, _)| name != "BROKER_DATABASE_URL");
    let mut open = start(&environment, "0.0.0.0:0")?;
    ensure!(!open.wait().await?.success());
    ensure!(open.log().contains("loopback"), "{}", open.log());

    let mut names: Vec<String> = Vec::new();
    for _ in 0..2 {
        let mut broker = start(&environment, "127.0.0.1:0")?;
        let line = broker.line().await?;
        let address = line.strip_prefix("listening on ").context("an address")?;
        let log = broker.log();
        ensure!(log.contains("without BROKER_DATABASE_URL"), "{log}");
        let channel = suite::channel(address).await?;
        let leases = proto::broker::v1::lease_service_client::LeaseServiceClient::new(channel);
        let given = eventually("a lease is given", async || {
            Ok(leases.clone().acquire_lease(acquire(V1)).await?)
        })
        .await?
        .into_inner();
        let connection = given.connection.context("a connection")?;
        suite::connect(&connection.uri, emulator.data()).await?;
        for name in &names {
            let renewed = leases.clone().renew_lease(renew(name)).await;
            refused(renewed, Code::NotFound, None);
        }
        names.push(given.lease.context("a lease")?.name);
        broker.stop().await?;
    }
    let branches = emulator
        .client()
        .list_all_branches(emulator.project(), None)
        .await?;
    assert_eq!(branches.branches.len(), 3, "found again, not made again");
    emulator.stop().await
}
