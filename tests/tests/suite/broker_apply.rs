//! broker.toml made true, however often and however interrupted.

use anyhow::{Context, ensure};
use neon_api::types::BranchCreateRequest;
use proto::broker::v1::{ApplyRequest, PlanRequest, StepAction};
use suite::{Broker, Config, EmulatorProcess, Folder, count, eventually};
use tonic::Code;

use crate::details::refused;

/// What is seen of an apply when its broker is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// Neon has the branch; the broker may not know it yet.
    Branch(&'static str),
    /// The broker has logged this many steps.
    Steps(usize),
}

/// Every place at which an apply can be cut off. The whole has eight steps: a
/// branch, its revision, its seed and its rights, twice.
const MOMENTS: [Moment; 9] = [
    Moment::Branch("api_v1_branch"),
    Moment::Steps(1),
    Moment::Steps(2),
    Moment::Steps(3),
    Moment::Branch("api_v2_branch"),
    Moment::Steps(5),
    Moment::Steps(6),
    Moment::Steps(7),
    Moment::Steps(4),
];

/// Killed at a different moment each round, the next broker finishes the work;
/// nothing is done twice.
#[tokio::test]
async fn an_interrupted_apply_is_finished() -> anyhow::Result<()> {
    for round in 0..count(MOMENTS.len(), 2 * MOMENTS.len()) {
        let moment = MOMENTS[round % MOMENTS.len()];
        let folder = Folder::new()?;
        let emulator = EmulatorProcess::start(&folder.join("data")).await?;
        let config = suite::example_config();
        let broker = Broker::start(&folder, &emulator, &config).await?;
        let steps = || {
            broker
                .process
                .log()
                .matches("broker::reconcile::apply:")
                .count()
        };
        eventually("the moment to kill it", async || match moment {
            Moment::Branch(name) => {
                let found = emulator
                    .client()
                    .list_all_branches(emulator.project(), Some(name))
                    .await?;
                ensure!(!found.branches.is_empty(), "{name} is not there");
                Ok(())
            }
            Moment::Steps(wanted) => {
                ensure!(
                    steps() >= wanted,
                    "{} steps: {}",
                    steps(),
                    broker.process.log()
                );
                Ok(())
            }
        })
        .await?;
        let broker = broker.kill_and_start().await?;
        broker.is_ready().await?;
        check_world(&emulator)
            .await
            .with_context(|| format!("{moment:?}: {}", broker.process.log()))?;
        let plan = broker.config().await?.plan(PlanRequest::default()).await?;
        assert!(plan.into_inner().steps.is_empty(), "nothing is left to do");
        broker.process.stop().await?;
        emulator.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn applying_again_changes_nothing() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let broker = Broker::start(&folder, &emulator, &suite::example_config()).await?;
    broker.is_ready().await?;
    let (client, project) = (emulator.client(), emulator.project());
    let branches = async || {
        let mut list = client.list_all_branches(project, None).await?;
        for branch in &mut list.branches {
            // Measured at a time of its own.
            branch.logical_size = None;
        }
        anyhow::Ok(list)
    };
    let before = branches().await?;
    let operations = client.list_operations(project, &Default::default()).await?;
    for _ in 0..2 {
        let applied = broker
            .config()
            .await?
            .apply(ApplyRequest::default())
            .await?;
        assert!(applied.into_inner().steps.is_empty());
    }
    let broker = broker.kill_and_start().await?;
    broker.is_ready().await?;
    assert_eq!(branches().await?, before);
    let after = client.list_operations(project, &Default::default()).await?;
    assert_eq!(
        after, operations,
        "not one more call that changes something"
    );
    check_world(&emulator).await?;
    broker.process.stop().await?;
    emulator.stop().await
}

#[tokio::test]
async fn a_plan_shows_what_apply_does() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let config = Config::copy(&folder)?;
    // v1 alone at first.
    let whole = config.text()?;
    let v1_alone = whole
        .split("[services.users.versions.v2]")
        .next()
        .context("two versions")?
        .to_owned();
    config.write(&v1_alone)?;
    let broker = Broker::start(&folder, &emulator, &config.path()).await?;
    broker.is_ready().await?;
    let mut client = broker.config().await?;
    assert!(
        client
            .plan(PlanRequest::default())
            .await?
            .into_inner()
            .steps
            .is_empty()
    );

    config.write(&whole)?;
    let planned = client
        .plan(PlanRequest::default())
        .await?
        .into_inner()
        .steps;
    let actions: Vec<_> = planned.iter().map(|step| step.action()).collect();
    assert_eq!(
        actions,
        [
            StepAction::CreateBranch,
            StepAction::Migrate,
            StepAction::Seed,
            StepAction::Grant
        ],
        "{planned:?}"
    );
    let existing = emulator
        .client()
        .list_all_branches(emulator.project(), None)
        .await?;
    assert_eq!(existing.branches.len(), 2, "a plan changes nothing");
    let applied = client
        .apply(ApplyRequest::default())
        .await?
        .into_inner()
        .steps;
    assert_eq!(applied, planned);
    check_world(&emulator).await?;

    // A file that is not valid is refused whole, with the place.
    config.write(&whole.replace("branch = \"api_v2_branch\"", "brunch = \"api_v2_branch\""))?;
    let status = refused(
        client.apply(ApplyRequest::default()).await,
        Code::FailedPrecondition,
        None,
    );
    assert!(status.message().contains("brunch"), "{status:?}");
    assert!(client.plan(PlanRequest::default()).await.is_err());
    broker.process.stop().await?;
    emulator.stop().await
}

/// A branch of that name which somebody else made is used, not remade.
#[tokio::test]
async fn a_branch_that_is_there_is_used() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let request = BranchCreateRequest::named("api_v1_branch");
    let found = emulator
        .client()
        .create_branch(emulator.project(), &request)
        .await?;
    emulator.finished(&found.operations).await?;
    let broker = Broker::start(&folder, &emulator, &suite::example_config()).await?;
    broker.is_ready().await?;
    check_world(&emulator).await?;
    let branches = broker
        .branches()
        .await?
        .list_branches(proto::broker::v1::ListBranchesRequest::default())
        .await?
        .into_inner()
        .branches;
    let used = branches
        .iter()
        .find(|branch| branch.display_name == "api_v1_branch")
        .context("the branch")?;
    assert_eq!(used.name, format!("branches/{}", found.branch.id));
    assert!(!used.managed, "it is not the broker's to delete");
    broker.process.stop().await?;
    emulator.stop().await
}

#[tokio::test]
async fn a_broken_revision_fails_its_binding_alone() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let config = Config::copy(&folder)?;
    let broken = config
        .folder()
        .join("migrations/users/2026-03-01-000000_broken");
    std::fs::create_dir(&broken)?;
    std::fs::write(
        broken.join("up.sql"),
        "ALTER TABLE users ADD COLUMN nick text;\nALTER TABLE nowhere ADD x int;\n",
    )?;
    std::fs::write(
        broken.join("down.sql"),
        "ALTER TABLE users DROP COLUMN nick;\n",
    )?;
    let broker = Broker::start(&folder, &emulator, &config.path()).await?;
    let failed = eventually("v2 has failed", async || {
        let request = proto::broker::v1::GetBindingRequest {
            name: "services/users/versions/v2".to_owned(),
        };
        let binding = broker
            .bindings()
            .await?
            .get_binding(request)
            .await?
            .into_inner()
            .binding
            .context("a binding")?;
        ensure!(
            binding.state() == proto::broker::v1::BindingState::Failed,
            "{binding:?}"
        );
        Ok(binding)
    })
    .await?;
    assert!(
        failed.state_message.contains("2026-03-01-000000_broken"),
        "{failed:?}"
    );
    assert!(failed.state_message.contains("nowhere"), "{failed:?}");
    // The revision before it stayed; of this one nothing did.
    let branches = emulator
        .client()
        .list_all_branches(emulator.project(), Some("api_v2_branch"))
        .await?;
    let session = emulator.connect(&branches.branches[0].id).await?;
    let row = session
        .query_one(
            "SELECT (SELECT max(version) FROM users.__diesel_schema_migrations), \
                    (SELECT count(*) FROM pg_attribute \
                     WHERE attrelid = 'users.users'::regclass AND attname IN ('age', 'nick'))",
            &[],
        )
        .await?;
    assert_eq!(row.get::<_, String>(0), "20260214090000");
    assert_eq!(row.get::<_, i64>(1), 1, "half of it was undone");
    let acquire = |version: &str| proto::broker::v1::AcquireLeaseRequest {
        target: Some(proto::broker::v1::acquire_lease_request::Target::Binding(
            format!("services/users/versions/{version}"),
        )),
        ..Default::default()
    };
    let mut leases = broker.leases().await?;
    leases.acquire_lease(acquire("v1")).await?;
    let status = refused(
        leases.acquire_lease(acquire("v2")).await,
        Code::FailedPrecondition,
        None,
    );
    assert!(
        status.message().contains("2026-03-01-000000_broken"),
        "{status:?}"
    );

    // Mended, apply finishes.
    std::fs::write(
        broken.join("up.sql"),
        "ALTER TABLE users ADD COLUMN nick text;\n",
    )?;
    broker
        .config()
        .await?
        .apply(ApplyRequest::default())
        .await?;
    leases.acquire_lease(acquire("v2")).await?;
    broker.is_ready().await?;
    broker.process.stop().await?;
    emulator.stop().await
}

#[tokio::test]
async fn pools_that_do_not_fit_are_refused() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let config = Config::copy(&folder)?;
    config.write(
        &config
            .text()?
            .replacen("connections = 24", "connections = 4000", 1),
    )?;
    let broker = Broker::start(&folder, &emulator, &config.path()).await?;
    let message = eventually("v1 has failed", async || {
        let request = proto::broker::v1::GetBindingRequest {
            name: "services/users/versions/v1".to_owned(),
        };
        let answer = broker.bindings().await?.get_binding(request).await?;
        let binding = answer.into_inner().binding.context("a binding")?;
        ensure!(
            binding.state() == proto::broker::v1::BindingState::Failed,
            "{binding:?}"
        );
        Ok(binding.state_message)
    })
    .await?;
    assert!(message.contains("8000"), "{message}");
    assert!(message.contains("max_connections"), "{message}");
    broker.process.kill().await?;
    emulator.stop().await
}

/// Two branches of ours, forked one from the other, each with its rows.
async fn check_world(emulator: &EmulatorProcess) -> anyhow::Result<()> {
    let (client, project) = (emulator.client(), emulator.project());
    let branches = client.list_all_branches(project, None).await?.branches;
    let find = |name: &str| {
        branches
            .iter()
            .find(|branch| branch.name == name)
            .with_context(|| format!("{name}: {branches:?}"))
    };
    let (v1, v2) = (find("api_v1_branch")?, find("api_v2_branch")?);
    ensure!(branches.len() == 3, "no branch too many: {branches:?}");
    ensure!(v2.parent_id.as_ref() == Some(&v1.id), "v2 forks from v1");
    let rows = |client: tokio_postgres::Client, columns: &'static str| async move {
        let rows = client
            .query(
                &format!("SELECT concat_ws('|', {columns}) FROM users.users ORDER BY id"),
                &[],
            )
            .await?;
        anyhow::Ok(rows.iter().map(|row| row.get(0)).collect::<Vec<String>>())
    };
    let found = rows(emulator.connect(&v1.id).await?, "id, name, email").await?;
    ensure!(
        found == ["1|Alice|alice@example.com", "2|Bob|bob@example.com"],
        "{found:?}"
    );
    let found = rows(emulator.connect(&v2.id).await?, "id, name, age, city").await?;
    ensure!(
        found == ["1|Alice|25|New York", "2|Bob|30|San Francisco"],
        "{found:?}"
    );
    // Each seed has run once; v2 inherits v1's mark beside its own.
    for (branch, marks) in [(&v1.id, 1_i64), (&v2.id, 2)] {
        let row = emulator
            .connect(branch)
            .await?
            .query_one("SELECT count(*) FROM branch_broker.seeds", &[])
            .await?;
        ensure!(row.get::<_, i64>(0) == marks, "marks of seeds");
    }
    Ok(())
}
