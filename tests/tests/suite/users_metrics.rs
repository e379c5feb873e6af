//! What user-service tells Prometheus of its pools, against what the broker, Postgres
//! and its callers know of them.

use std::time::Instant;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::broker::v1::GetBindingRequest;
use proto::users::v1;
use proto::users::v1::user_service_client::UserServiceClient;
use suite::{Config, Folder, Probes, System, UserService, eventually};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use crate::sessions::{owner, waiting_backend};
use crate::users_moving::{fork, switch};

const VERSIONS: [&str; 2] = ["v1", "v2"];
/// What a gauge says.
type Gauge = (&'static str, f64);
/// What those of a version say to which nothing happens.
const WELL: [Gauge; 3] = [
    ("pool_ready", 1.0),
    ("pool_paused", 0.0),
    ("pool_failing", 0.0),
];
const LOCK: &str = "BEGIN; LOCK TABLE users.users IN ACCESS EXCLUSIVE MODE";

/// Another user-service of the system, with these flags, that tells of itself.
pub(crate) async fn telling(
    system: &System,
    flags: &[&str],
) -> anyhow::Result<(UserService, Probes)> {
    let http = suite::free_address()?;
    let mut all = vec!["--http-listen", http.as_str()];
    all.extend(flags);
    let log = system.folder().join("user-service-telling.log");
    let service = UserService::start_with(&system.broker, &all, &log).await?;
    service.is_ready().await?;
    Ok((service, Probes::at(&http)))
}

fn of(version: &str, gauge: &str) -> String {
    format!("{gauge}{{version=\"{version}\"}}")
}

/// Fails unless the gauges of a version say this now.
async fn say(probes: &Probes, version: &str, gauges: &[Gauge]) -> anyhow::Result<()> {
    for (gauge, value) in gauges {
        probes.says(&of(version, gauge), *value).await?;
    }
    Ok(())
}

/// The same, in the end.
async fn come_to_say(
    what: &str,
    probes: &Probes,
    version: &str,
    gauges: &[Gauge],
) -> anyhow::Result<()> {
    eventually(what, async || say(probes, version, gauges).await).await
}

/// That nothing happens, and this as well.
fn well_and(own: &[Gauge]) -> Vec<Gauge> {
    [&WELL[..], own].concat()
}

/// The generation of a version's binding, as the broker has it.
async fn generation(system: &System, version: &str) -> anyhow::Result<f64> {
    let request = GetBindingRequest {
        name: format!("services/users/versions/{version}"),
    };
    let answer = system.broker.bindings().await?.get_binding(request).await?;
    let binding = answer.into_inner().binding.context("a binding")?;
    Ok(binding.generation as f64)
}

/// A change of a user, in the background.
fn rename(users: &UserServiceClient<Channel>, id: i32) -> JoinHandle<anyhow::Result<()>> {
    let mut users = users.clone();
    let request = v1::UpdateUserRequest {
        user: Some(v1::User {
            id,
            name: "Renamed".to_owned(),
            ..Default::default()
        }),
        update_mask: None,
    };
    tokio::spawn(async move {
        users.update_user(request).await?;
        anyhow::Ok(())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_shows_in_its_own_version_alone() -> anyhow::Result<()> {
    let system = System::start().await?;
    let next = fork(&system, "next").await?;
    let (service, probes) = telling(&system, &[]).await?;
    let mut before = Vec::new();
    for version in VERSIONS {
        let generation = generation(&system, version).await?;
        let own = [("pool_generation", generation), ("pool_turnovers", 0.0)];
        say(&probes, version, &well_and(&own)).await?;
        before.push(generation);
    }

    let asked = Instant::now();
    switch(&system, &next, false).await?;
    let after = generation(&system, "v1").await?;
    ensure!(after > before[0], "{after} after {before:?}");
    let turned_over = [("pool_turnovers", 1.0)];
    come_to_say("v1 has turned over", &probes, "v1", &turned_over).await?;
    let own = [("pool_generation", after)];
    say(&probes, "v1", &well_and(&own)).await?;
    let own = [("pool_generation", before[1]), ("pool_turnovers", 0.0)];
    say(&probes, "v2", &well_and(&own)).await?;
    // It counts from when the generation came, and goes on.
    let series = of("v1", "pool_generation_age_seconds");
    let age = async || -> anyhow::Result<f64> { probes.metric(&series).await?.context("an age") };
    let (younger, older) = (age().await?, age().await?);
    let oldest = asked.elapsed().as_secs_f64();
    ensure!(
        younger < older && older < oldest,
        "{younger}, {older}, {oldest}"
    );
    service.process.stop().await?;
    system.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_and_those_who_wait_for_one_are_counted() -> anyhow::Result<()> {
    let system = System::start().await?;
    let locker = owner(&system).await?;
    let (service, probes) = telling(&system, &["--pool-size", "2"]).await?;
    let users = UserServiceClient::new(suite::channel(service.address()).await?);
    let counts = |open, idle, waiting| {
        [
            ("pool_connections", open),
            ("pool_connections_idle", idle),
            ("pool_waiting", waiting),
        ]
    };
    let none = counts(0.0, 0.0, 0.0);
    say(&probes, "v1", &none).await?;

    locker.batch_execute(LOCK).await?;
    let calls = [1, 2, 1].map(|id| rename(&users, id));
    let busy = counts(2.0, 0.0, 1.0);
    come_to_say("one waits for the two others", &probes, "v1", &busy).await?;
    say(&probes, "v2", &none).await?;
    locker.batch_execute("ROLLBACK").await?;
    for call in calls {
        call.await??;
    }
    let idle = counts(2.0, 2.0, 0.0);
    come_to_say("both are idle", &probes, "v1", &idle).await?;
    service.process.stop().await?;
    system.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_checkouts_are_held_back_shows_until_they_go_on() -> anyhow::Result<()> {
    let system = System::start().await?;
    let next = fork(&system, "next").await?;
    // Two: a transaction sees pg_stat_activity as it was when it first looked.
    let (locker, owner) = (owner(&system).await?, owner(&system).await?);
    let (service, probes) = telling(&system, &[]).await?;
    let users = UserServiceClient::new(suite::channel(service.address()).await?);
    locker.batch_execute(LOCK).await?;
    let writing = rename(&users, 1);
    waiting_backend(&owner).await?;
    // A fence waits for who writes.
    tokio::try_join!(switch(&system, &next, true), async {
        let held_back = [("pool_paused", 1.0), ("pool_turnovers", 0.0)];
        come_to_say("v1 holds back", &probes, "v1", &held_back).await?;
        say(&probes, "v2", &[("pool_paused", 0.0)]).await?;
        locker.batch_execute("ROLLBACK").await?;
        writing.await?
    })?;
    let goes_on = [("pool_paused", 0.0), ("pool_turnovers", 1.0)];
    come_to_say("v1 goes on", &probes, "v1", &goes_on).await?;
    service.process.stop().await?;
    system.finish().await
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_shows_and_so_does_its_end() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let config = Config::copy(&folder)?;
    let text = config.text()?;
    let short = text.replacen("default_ttl = \"10m\"", "default_ttl = \"5s\"", 1);
    ensure!(short != text, "broker.toml has a default_ttl");
    config.write(&short)?;
    let mut system = System::start_on(folder, &config.path()).await?;
    let (service, probes) = telling(&system, &[]).await?;
    for version in VERSIONS {
        come_to_say("it has a lease", &probes, version, &WELL).await?;
    }

    kill(Pid::from_raw(system.broker.process.pid()?), Signal::SIGKILL)?;
    for version in VERSIONS {
        let failing = [("pool_failing", 1.0)];
        come_to_say("the broker is away", &probes, version, &failing).await?;
    }
    for version in VERSIONS {
        let ended = [("pool_ready", 0.0), ("pool_failing", 1.0)];
        come_to_say("its lease has ended", &probes, version, &ended).await?;
    }

    system.broker = system.broker.kill_and_start().await?;
    system.broker.is_ready().await?;
    for version in VERSIONS {
        let generation = generation(&system, version).await?;
        let own = [("pool_generation", generation)];
        come_to_say("the broker is back", &probes, version, &well_and(&own)).await?;
    }
    service.process.stop().await?;
    system.finish().await
}
