//! branch-pool against the real broker: a test's own branch, and a broker that is away for
//! longer than a lease.

use anyhow::{Context, ensure};
use branch_pool::testing::TestBranch;
use branch_pool::{Access, Binding, Options};
use diesel::sql_types::{Integer, Nullable, Text};
use diesel_async::RunQueryDsl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::users::v1;
use suite::{Config, Folder, System, eventually};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use crate::details::refused;

#[derive(diesel::QueryableByName)]
struct Row {
    #[diesel(sql_type = Integer)]
    id: i32,
    #[diesel(sql_type = Nullable<Text>)]
    city: Option<String>,
}

#[tokio::test]
async fn a_test_has_a_migrated_branch_and_leaves_none() -> anyhow::Result<()> {
    let system = System::start().await?;
    let (client, project) = (system.emulator.client(), system.emulator.project());
    let names = async || -> anyhow::Result<Vec<String>> {
        let all = client.list_all_branches(project, None).await?.branches;
        Ok(all.into_iter().map(|branch| branch.name).collect())
    };
    let before = names().await?;
    let url = format!("http://{}", system.broker.address());
    let options = Options::default().access(Access::Ddl);
    // Forked from where v1 leads, and migrated: cities are of v2's revision.
    let branch = TestBranch::fork_with(url, Binding::new("users", "v1"), options).await?;
    ensure!(names().await?.len() == before.len() + 1);
    let mut connection = branch.get().await?;
    let rows: Vec<Row> = diesel::sql_query("SELECT id, city FROM users ORDER BY id")
        .load(&mut connection)
        .await?;
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [1, 2]);
    assert!(rows.iter().all(|row| row.city.is_none()));
    // Its own, and nobody else's.
    diesel::sql_query("DELETE FROM users")
        .execute(&mut connection)
        .await?;
    let mut users = system.users_v1().await?;
    users.get_user(v1::GetUserRequest { id: 1 }).await?;
    drop(connection);
    drop(branch);
    eventually("it is gone", async || {
        let now = names().await?;
        ensure!(now == before, "{now:?}");
        Ok(())
    })
    .await?;
    system.finish().await
}

#[tokio::test]
async fn a_service_outlives_a_broker_that_is_dead_for_longer_than_its_lease() -> anyhow::Result<()>
{
    let folder = Folder::new()?;
    let config = Config::copy(&folder)?;
    let text = config.text()?;
    let short = text.replacen("default_ttl = \"10m\"", "default_ttl = \"5s\"", 1);
    ensure!(short != text, "broker.toml has a default_ttl");
    config.write(&short)?;
    let mut system = System::start_on(folder, &config.path()).await?;
    let mut users = system.users_v1().await?;
    let health = HealthClient::new(suite::channel(system.users.address()).await?);
    let until_health = async |wanted: ServingStatus| {
        eventually("health", async || {
            let request = HealthCheckRequest {
                service: "users.v1.UserService".to_owned(),
            };
            let answer = health.clone().check(request).await?;
            let status = answer.into_inner().status();
            ensure!(status == wanted, "{status:?}");
            Ok(())
        })
        .await
    };
    let get = v1::GetUserRequest { id: 1 };
    users.get_user(get).await?;

    kill(Pid::from_raw(system.broker.process.pid()?), Signal::SIGKILL)?;
    // The lease is good still.
    users.get_user(get).await?;
    until_health(ServingStatus::NotServing).await?;
    let status = refused(users.get_user(get).await, Code::Unavailable, None);
    assert!(status.get_details_retry_info().is_some(), "{status:?}");

    system.broker = system.broker.kill_and_start().await?;
    until_health(ServingStatus::Serving).await?;
    let user = users.get_user(get).await?.into_inner().user;
    assert_eq!(user.context("a user")?.name, "Alice");
    system.finish().await
}
