//! Reads from a read-only endpoint: behind, gone, and caught up.

use anyhow::{Context, ensure};
use branch_pool::{Binding, BranchPool, Connection, Options};
use diesel::sql_types::{BigInt, Bool};
use diesel_async::SimpleAsyncConnection;
use neon_api::BranchId;
use neon_api::types::EndpointType;
use proto::users::v1;
use suite::{Config, Folder, System, eventually};
use tonic::transport::Channel;
use v1::user_service_client::UserServiceClient;

use crate::broker_replicas::asked;
use crate::sessions::owner;

/// A system whose users v1 has a read-only endpoint that is held up.
struct Held {
    system: System,
    pool: BranchPool,
    /// In a transaction on the replica, which cannot replay what locks its table.
    reader: Connection,
}

impl Held {
    async fn start() -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let config = Config::copy(&folder)?;
        asked(&config)?;
        let system = System::start_on(folder, &config.path()).await?;
        let url = format!("http://{}", system.broker.address());
        let binding = Binding::new("users", "v1");
        let pool = BranchPool::connect(&url, binding, Options::default()).await?;
        let mut reader = eventually("the replica is used", async || {
            let mut reader = pool.replica().await?;
            ensure!(is_replica(&mut reader).await?);
            Ok(reader)
        })
        .await?;
        reader
            .batch_execute("BEGIN; SELECT count(*) FROM users.requests")
            .await?;
        owner(&system)
            .await?
            .batch_execute("BEGIN; LOCK TABLE users.requests IN ACCESS EXCLUSIVE MODE; COMMIT")
            .await?;
        Ok(Self {
            system,
            pool,
            reader,
        })
    }

    /// The replica goes on.
    async fn let_go(&mut self) -> anyhow::Result<()> {
        Ok(self.reader.batch_execute("COMMIT").await?)
    }

    async fn finish(self) -> anyhow::Result<()> {
        drop(self.reader);
        self.pool.close().await;
        self.system.finish().await
    }
}

async fn v1_branch(system: &System) -> anyhow::Result<BranchId> {
    let (client, project) = (system.emulator.client(), system.emulator.project());
    let found = client
        .list_all_branches(project, Some("api_v1_branch"))
        .await?;
    Ok(found.branches.first().context("v1's branch")?.id.clone())
}

async fn is_replica(connection: &mut Connection) -> anyhow::Result<bool> {
    use diesel_async::RunQueryDsl;
    #[derive(diesel::QueryableByName)]
    struct Where {
        #[diesel(sql_type = Bool)]
        replica: bool,
    }
    let row: Where = diesel::sql_query("SELECT pg_is_in_recovery() AS replica")
        .get_result(connection)
        .await?;
    Ok(row.replica)
}

async fn carols(connection: &mut Connection) -> anyhow::Result<i64> {
    use diesel_async::RunQueryDsl;
    #[derive(diesel::QueryableByName)]
    struct Count {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }
    let row: Count = diesel::sql_query("SELECT count(*) FROM users WHERE name = 'Carol'")
        .get_result(connection)
        .await?;
    Ok(row.count)
}

async fn names(users: &UserServiceClient<Channel>) -> anyhow::Result<Vec<String>> {
    let mut users = users.clone();
    let answer = users.list_users(v1::ListUsersRequest::default()).await?;
    let users = answer.into_inner().users;
    Ok(users.into_iter().map(|user| user.name).collect())
}

#[tokio::test]
async fn who_wrote_reads_it_whether_or_not_the_replica_is_behind() -> anyhow::Result<()> {
    use diesel_async::RunQueryDsl;
    let mut held = Held::start().await?;
    let mut connection = held.pool.primary().await?;
    diesel::sql_query("INSERT INTO users (name, email) VALUES ('Carol', 'carol@example.com')")
        .execute(&mut connection)
        .await?;
    let written = connection.position().await?;
    drop(connection);
    let mut behind = held.pool.replica_at(&written).await?;
    assert!(!is_replica(&mut behind).await?, "the replica is behind");
    assert_eq!(carols(&mut behind).await?, 1);
    drop(behind);

    held.let_go().await?;
    eventually("the replica has caught up", async || {
        let mut connection = held.pool.replica_at(&written).await?;
        ensure!(is_replica(&mut connection).await?);
        assert_eq!(carols(&mut connection).await?, 1);
        Ok(())
    })
    .await?;
    held.finish().await
}

#[tokio::test]
async fn lists_may_be_behind_and_single_users_are_not() -> anyhow::Result<()> {
    let mut held = Held::start().await?;
    let mut users = held.system.users_v1().await?;
    let carol = v1::User {
        name: "Carol".to_owned(),
        email: "carol@example.com".to_owned(),
        ..Default::default()
    };
    let request = v1::CreateUserRequest {
        user: Some(carol),
        ..Default::default()
    };
    let created = users.create_user(request).await?.into_inner().user;
    let carol = created.context("a user")?;
    let answer = users.get_user(v1::GetUserRequest { id: carol.id }).await?;
    assert_eq!(answer.into_inner().user.as_ref(), Some(&carol));
    let request = v1::BatchGetUsersRequest {
        ids: vec![1, carol.id],
    };
    let answer = users.batch_get_users(request).await?.into_inner();
    assert_eq!(answer.users.last(), Some(&carol));
    assert_eq!(names(&users).await?, ["Alice", "Bob"]);
    // What is changed is what is there now.
    let change = v1::UpdateUserRequest {
        user: Some(v1::User {
            name: "Caroline".to_owned(),
            ..carol
        }),
        update_mask: None,
    };
    let changed = users.update_user(change).await?.into_inner().user;
    assert_eq!(changed.context("a user")?.name, "Caroline");

    held.let_go().await?;
    eventually("the replica has caught up", async || {
        let names = names(&users).await?;
        ensure!(names == ["Alice", "Bob", "Caroline"], "{names:?}");
        Ok(())
    })
    .await?;
    held.finish().await
}

#[tokio::test]
async fn a_replica_that_goes_away_is_not_missed() -> anyhow::Result<()> {
    let held = Held::start().await?;
    let users = held.system.users_v1().await?;
    assert_eq!(names(&users).await?, ["Alice", "Bob"]);
    let (client, project) = (
        held.system.emulator.client(),
        held.system.emulator.project(),
    );
    let branch = v1_branch(&held.system).await?;
    let endpoints = client
        .list_branch_endpoints(project, &branch)
        .await?
        .endpoints;
    let replicas = endpoints
        .iter()
        .filter(|one| one.endpoint_type == EndpointType::ReadOnly);
    for replica in replicas {
        let deleted = client.delete_endpoint(project, &replica.id).await?;
        let operations = deleted.context("it was there")?.operations;
        held.system.emulator.finished(&operations).await?;
    }
    for _ in 0..3 {
        assert_eq!(names(&users).await?, ["Alice", "Bob"]);
    }
    let mut connection = held.pool.replica().await?;
    assert!(!is_replica(&mut connection).await?);
    drop(connection);
    held.finish().await
}
