//! The repository's own broker.toml: two services on one branch and in one database.
//! What they share, and that neither has a way to what is the other's.

mod migrations;

use anyhow::{Context, ensure};
use neon_api::BranchId;
use proto::broker::v1::{
    Access, Binding, BindingState, Branch, CreateBranchRequest, ListBindingsRequest, PlanRequest,
    SwitchBindingRequest, SwitchPhase,
};
use proto::google::longrunning::WaitOperationRequest;
use suite::{Broker, Config, EmulatorProcess, Folder, Process, eventually};
use tokio_postgres::error::SqlState;
use tonic::Code;

use crate::broker_leasing::{Bench, V1, V2, code, ephemeral, on_binding, on_branch};
use crate::details::refused;

const BILLING: &str = "services/billing/versions/v1";
/// Versions that a service has applied, as Diesel keeps them.
const HISTORY: &str = "__diesel_schema_migrations";

/// One of the two.
struct Service {
    name: &'static str,
    binding: &'static str,
    /// A table of its schema, which is named as it is, with a key `id` that is drawn.
    table: &'static str,
}

const SERVICES: [Service; 2] = [
    Service {
        name: "users",
        binding: V1,
        table: "users",
    },
    Service {
        name: "billing",
        binding: BILLING,
        table: "accounts",
    },
];

async fn start() -> anyhow::Result<Bench> {
    Bench::start_on(&suite::repository_config(), |_| Ok(())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_services_share_a_branch_and_move_alone() -> anyhow::Result<()> {
    let bench = start().await?;
    let [billing, v1, v2] = bindings(&bench.broker).await?;
    assert_eq!((&*billing.name, &*v1.name, &*v2.name), (BILLING, V1, V2));
    assert_eq!(
        (&billing.branch, &billing.database),
        (&v1.branch, &v1.database)
    );
    assert_ne!(v2.branch, v1.branch);
    assert_eq!((&*billing.schema, &*v1.schema), ("billing", "users"));
    let mut config = bench.broker.config().await?;
    let plan = config.plan(PlanRequest::default()).await?.into_inner();
    assert!(plan.steps.is_empty(), "nothing is left to do: {plan:?}");

    // Each has its own revisions in its own history, and nothing else.
    let owner = bench.emulator.connect(&id_of(&v1)?).await?;
    let mut histories = Vec::new();
    for Service { name, .. } in SERVICES {
        let query = format!("SELECT version FROM {name}.{HISTORY} ORDER BY version");
        let rows = owner.query(&query, &[]).await?;
        let applied: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let folder = bench.config.folder().join("migrations").join(name);
        let there = broker::migrate::revisions_in(&folder)?.into_iter();
        let there: Vec<String> = there.map(|revision| revision.version).collect();
        ensure!(
            !applied.is_empty() && there.starts_with(&applied),
            "{name}: {applied:?}"
        );
        histories.push(applied);
    }
    assert!(
        histories[0]
            .iter()
            .all(|version| !histories[1].contains(version))
    );

    // A lease of the one is none of the other's: nobody has a say here.
    let lease = bench
        .acquire(on_binding(BILLING, Access::ReadWrite))
        .await?;
    let session = bench.session(&lease.uri).await?;
    let next = fork(&bench, "next", &v1.branch).await?;
    let request = SwitchBindingRequest {
        name: V1.to_owned(),
        branch: next.clone(),
        fence: true,
        ..Default::default()
    };
    let mut bindings_client = bench.broker.bindings().await?;
    let mut switching = bindings_client.switch_binding(request).await?.into_inner();
    let mut last = None;
    while let Some(told) = switching.message().await? {
        last = told.switch;
    }
    let last = last.context("a switch")?;
    assert_eq!(last.phase(), SwitchPhase::Done, "{last:?}");
    assert!(
        last.unwatched.is_empty() && last.voters.is_empty(),
        "{last:?}"
    );
    let [billing_after, v1_after, _] = bindings(&bench.broker).await?;
    assert_eq!(v1_after.branch, next);
    assert_eq!(billing_after, billing, "it is where it was");
    // The fence took the writes of users alone.
    let write = "INSERT INTO invoices (account_id, currency) VALUES (2, 'USD')";
    session.batch_execute(write).await?;
    let rights = "SELECT has_table_privilege('users_rw', 'users.users', 'INSERT'),
                         has_table_privilege('billing_rw', 'billing.invoices', 'INSERT')";
    let rights = owner.query_one(rights, &[]).await?;
    assert_eq!((rights.get(0), rights.get(1)), (false, true));
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_role_of_one_service_has_a_way_to_the_other() -> anyhow::Result<()> {
    let bench = start().await?;
    let [users, billing] = &SERVICES;
    for (own, other) in [(users, billing), (billing, users)] {
        let (binding, table) = (own.binding, own.table);
        for request in [
            on_binding(binding, Access::ReadOnly),
            on_binding(binding, Access::ReadWrite),
            // On a fork of the branch that both are on, where it is who owns the schema.
            ephemeral(binding, Access::Ddl),
        ] {
            let access = request.access();
            let lease = bench.acquire(request).await?;
            let session = bench.session(&lease.uri).await?;
            // What is tried below fails because it is the other's.
            let mut own_ways = vec![
                format!("SELECT * FROM {table}"),
                format!("SELECT * FROM {}.{table}", own.name),
            ];
            if access != Access::ReadOnly {
                own_ways.push(format!("UPDATE {table} SET id = id"));
                own_ways.push(format!("SELECT nextval('{table}_id_seq')"));
            }
            if access == Access::Ddl {
                own_ways.push(format!("ALTER TABLE {table} ADD COLUMN mine int"));
                own_ways.push(format!("SELECT version FROM {HISTORY}"));
            }
            for statement in own_ways {
                let done = session.batch_execute(&statement).await;
                done.with_context(|| format!("{access:?}: {statement}"))?;
            }
            for statement in ways_to(other) {
                let said = code(&session, &statement).await;
                let denied = Some(SqlState::INSUFFICIENT_PRIVILEGE);
                assert_eq!(said, denied, "{} {access:?}: {statement}", own.name);
            }
        }
    }
    bench.stop().await
}

/// What somebody may try who wants to see or change what a service keeps.
fn ways_to(service: &Service) -> Vec<String> {
    let Service { name, table, .. } = service;
    let mut ways = vec![
        format!("SELECT * FROM {name}.{table}"),
        format!("SELECT id FROM {name}.{table} FOR UPDATE"),
        format!("COPY {name}.{table} TO STDOUT"),
        format!("INSERT INTO {name}.{table} DEFAULT VALUES"),
        format!("UPDATE {name}.{table} SET id = id"),
        format!("DELETE FROM {name}.{table}"),
        format!("TRUNCATE {name}.{table} CASCADE"),
        format!("DO $$ BEGIN LOCK TABLE {name}.{table}; END $$"),
        format!("SELECT nextval('{name}.{table}_id_seq')"),
        format!("SELECT last_value FROM {name}.{table}_id_seq"),
        // The version table.
        format!("SELECT version FROM {name}.{HISTORY}"),
        format!("INSERT INTO {name}.{HISTORY} (version) VALUES ('20990101000000')"),
        format!("DELETE FROM {name}.{HISTORY}"),
        format!("DROP TABLE {name}.{HISTORY}"),
        // DDL.
        format!("CREATE TABLE {name}.mine (id int)"),
        format!("CREATE FUNCTION {name}.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
        format!("CREATE INDEX mine ON {name}.{table} (id)"),
        format!("ALTER TABLE {name}.{table} ADD COLUMN mine int"),
        format!("ALTER TABLE {name}.{table} OWNER TO CURRENT_USER"),
        format!("DROP TABLE {name}.{table} CASCADE"),
        format!("ALTER SCHEMA {name} RENAME TO mine"),
        format!("ALTER SCHEMA {name} OWNER TO CURRENT_USER"),
        format!("DROP SCHEMA {name} CASCADE"),
        // Rights.
        format!("GRANT USAGE ON SCHEMA {name} TO CURRENT_USER"),
        format!("GRANT SELECT ON ALL TABLES IN SCHEMA {name} TO CURRENT_USER"),
        "TABLE branch_broker.seeds".to_owned(),
    ];
    for group in ["ro", "rw", "ddl"] {
        ways.push(format!("SET ROLE {name}_{group}"));
        ways.push(format!("GRANT {name}_{group} TO CURRENT_USER"));
    }
    ways
}

/// Both change what is the database's, in which Postgres lets one transaction at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_services_are_given_their_rights_at_once() -> anyhow::Result<()> {
    let bench = start().await?;
    // Nothing of either is there.
    let main = format!("branches/{}", bench.emulator.main_branch().await?);
    fork(&bench, "empty", &main).await?;
    let branch = bench.branch_named("empty").await?;
    let owner = bench.emulator.connect(&branch).await?;
    let hold = "BEGIN; GRANT CONNECT ON DATABASE neondb TO CURRENT_USER";
    owner.batch_execute(hold).await?;
    let acquire = |service: &str| {
        let mut request = on_branch(&branch, Access::ReadWrite);
        request.service = format!("services/{service}");
        bench.acquire(request)
    };
    let both_wait = async {
        eventually("both wait", async || {
            let waiting = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted";
            let waiting: i64 = owner.query_one(waiting, &[]).await?.get(0);
            ensure!(waiting >= 2, "{waiting} do");
            Ok(())
        })
        .await?;
        Ok(owner.batch_execute("ROLLBACK").await?)
    };
    let (users, billing, ()) = tokio::try_join!(acquire("users"), acquire("billing"), both_wait)?;
    for lease in [users, billing] {
        bench.session(&lease.uri).await?;
    }
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_revision_of_one_service_keeps_no_other_back() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let config = Config::copy_of(&suite::repository_config(), &folder)?;
    let broken = config
        .folder()
        .join("migrations/billing/2099-01-01-000000_broken");
    std::fs::create_dir(&broken)?;
    std::fs::write(broken.join("up.sql"), "ALTER TABLE nowhere ADD x int;\n")?;
    std::fs::write(broken.join("down.sql"), "SELECT 1;\n")?;
    let broker = Broker::start(&folder, &emulator, &config.path()).await?;
    let states = |bindings: &[Binding; 3]| bindings.each_ref().map(Binding::state);
    let before = eventually("the users are ready", async || {
        let found = bindings(&broker).await?;
        let wanted = [
            BindingState::Failed,
            BindingState::Ready,
            BindingState::Ready,
        ];
        ensure!(states(&found) == wanted, "{found:?}");
        Ok(found)
    })
    .await?;
    assert!(before[0].state_message.contains("nowhere"), "{before:?}");
    let mut leases = broker.leases().await?;
    // On v2 too, whose branch is a fork of the one that failed for the other.
    for binding in [V1, V2] {
        leases
            .acquire_lease(on_binding(binding, Access::ReadWrite))
            .await?;
    }
    let refusal = leases
        .acquire_lease(on_binding(BILLING, Access::ReadWrite))
        .await;
    refused(refusal, Code::FailedPrecondition, None);

    // Mended, an apply finishes, and is nothing to the others.
    std::fs::write(broken.join("up.sql"), "SELECT 1;\n")?;
    broker
        .config()
        .await?
        .apply(proto::broker::v1::ApplyRequest::default())
        .await?;
    let after = bindings(&broker).await?;
    assert_eq!(states(&after), [BindingState::Ready; 3], "{after:?}");
    assert_eq!(after[1..], before[1..]);
    leases
        .acquire_lease(on_binding(BILLING, Access::ReadWrite))
        .await?;
    broker.process.stop().await?;
    emulator.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_of_the_pool_writes_an_invoice() -> anyhow::Result<()> {
    let bench = start().await?;
    let url = format!("http://{}", bench.broker.address());
    let log = bench.folder.join("billing.log");
    let by_argument: (&[&str], &[(&str, &str)]) = (&[&url], &[]);
    let by_variable: (&[&str], &[(&str, &str)]) = (&[], &[("BROKER_URL", &url)]);
    let mut printed = Vec::new();
    for (arguments, variables) in [by_argument, by_variable] {
        let mut example = Process::start("examples/billing", arguments, variables, &log)?;
        // It prints what it wrote, and three that are open and one more each time.
        for _ in 0..4 + printed.len() / 4 {
            printed.push(example.line().await?);
        }
        let status = example.wait().await?;
        assert!(status.success(), "{status}: {}", example.log());
    }
    assert_eq!(
        printed,
        [
            "wrote invoice 4",
            "invoice 2: Acme owes 76.00 EUR",
            "invoice 3: Globex owes 1200.00 USD",
            "invoice 4: Acme owes 94.00 EUR",
            "wrote invoice 5",
            "invoice 2: Acme owes 76.00 EUR",
            "invoice 3: Globex owes 1200.00 USD",
            "invoice 4: Acme owes 94.00 EUR",
            "invoice 5: Acme owes 94.00 EUR",
        ]
    );
    // Closing the pool has given the lease back.
    assert_eq!(bench.list("service = billing").await?, []);
    let [billing, ..] = bindings(&bench.broker).await?;
    let owner = bench.emulator.connect(&id_of(&billing)?).await?;
    let lines = "SELECT count(*), count(DISTINCT invoice_id) FROM billing.invoice_lines
                 WHERE invoice_id > 3";
    let lines = owner.query_one(lines, &[]).await?;
    assert_eq!((lines.get::<_, i64>(0), lines.get::<_, i64>(1)), (4, 2));
    bench.stop().await
}

/// All three, by their names.
async fn bindings(broker: &Broker) -> anyhow::Result<[Binding; 3]> {
    let mut client = broker.bindings().await?;
    let listed = client.list_bindings(ListBindingsRequest::default()).await?;
    let bindings = listed.into_inner().bindings;
    let all = bindings.try_into();
    all.map_err(|found| anyhow::anyhow!("three bindings, not {found:?}"))
}

fn id_of(binding: &Binding) -> anyhow::Result<BranchId> {
    let id = binding.branch.strip_prefix("branches/");
    Ok(id.context("a branch")?.parse()?)
}

/// A branch of the broker's own.
async fn fork(bench: &Bench, name: &str, parent: &str) -> anyhow::Result<String> {
    let request = CreateBranchRequest {
        branch: Some(Branch {
            display_name: name.to_owned(),
            parent: parent.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut branches = bench.broker.branches().await?;
    let begun = branches.create_branch(request).await?.into_inner();
    let request = WaitOperationRequest {
        name: begun.name,
        timeout: None,
    };
    let mut operations = bench.broker.operations().await?;
    let done = operations.wait_operation(request).await?.into_inner();
    ensure!(done.done, "{done:?}");
    Ok(format!("branches/{}", bench.branch_named(name).await?))
}
