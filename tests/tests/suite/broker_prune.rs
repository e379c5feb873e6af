//! Branches of bindings that broker.toml declares no more: deleted when that is asked
//! for, and nothing else ever is.

use anyhow::{Context, ensure};
use neon_api::BranchId;
use neon_api::types::{Branch, BranchCreateRequest, BranchUpdateRequest};
use proto::broker::v1::acquire_lease_request::Target;
use proto::broker::v1::{
    Access, AcquireLeaseRequest, ApplyRequest, AuditAction, ListAuditEventsRequest, PlanRequest,
    ReleaseLeaseRequest, Step, StepAction,
};
use serde_json::json;
use suite::{Broker, Config, EmulatorProcess, Faults, Folder, StateDatabase, count, eventually};

const ONE: &str = "/projects/{project_id}/branches/{branch_id}";

/// A version of users that has what its parent has.
const V3: &str = "
[services.users.versions.v3]
branch = \"api_v3_branch\"
parent = \"api_v2_branch\"
connections = 24
";

/// A broker whose broker.toml a test takes versions out of.
struct Place {
    folder: Folder,
    config: Config,
    /// The sections of v1, v2 and v3, after what comes before them.
    sections: [String; 4],
    emulator: EmulatorProcess,
    broker: Broker,
}

impl Place {
    /// With these versions, each on its branch.
    async fn start(versions: &[usize]) -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
        let config = Config::copy(&folder)?;
        let text = config.text()?;
        let [v1, v2] = ["v1", "v2"].map(|version| format!("[services.users.versions.{version}]"));
        let (before, rest) = text.split_once(&v1).context("v1")?;
        let (of_v1, of_v2) = rest.split_once(&v2).context("v2")?;
        let sections = [
            before.to_owned(),
            format!("{v1}{of_v1}"),
            format!("{v2}{of_v2}"),
            V3.to_owned(),
        ];
        declare(&config, &sections, versions)?;
        let broker = Broker::start(&folder, &emulator, &config.path()).await?;
        broker.is_ready().await?;
        Ok(Self {
            folder,
            config,
            sections,
            emulator,
            broker,
        })
    }

    /// Has broker.toml declare these versions and no others.
    fn declare(&self, versions: &[usize]) -> anyhow::Result<()> {
        declare(&self.config, &self.sections, versions)
    }

    async fn plan(&self, prune: bool) -> anyhow::Result<(Vec<Step>, Vec<String>)> {
        let mut config = self.broker.config().await?;
        let plan = config.plan(PlanRequest { prune }).await?.into_inner();
        Ok((plan.steps, plan.remarks))
    }

    async fn apply(&self, prune: bool) -> anyhow::Result<Vec<Step>> {
        let mut config = self.broker.config().await?;
        Ok(config
            .apply(ApplyRequest { prune })
            .await?
            .into_inner()
            .steps)
    }

    async fn branches(&self) -> anyhow::Result<Vec<Branch>> {
        let (client, project) = (self.emulator.client(), self.emulator.project());
        let mut all = client.list_all_branches(project, None).await?.branches;
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    async fn names(&self) -> anyhow::Result<Vec<String>> {
        let all = self.branches().await?.into_iter();
        Ok(all.map(|branch| branch.name).collect())
    }

    async fn named(&self, name: &str) -> anyhow::Result<BranchId> {
        let mut all = self.branches().await?.into_iter();
        let found = all.find(|branch| branch.name == name);
        Ok(found.with_context(|| format!("the branch {name}"))?.id)
    }

    async fn update(&self, id: &BranchId, change: BranchUpdateRequest) -> anyhow::Result<()> {
        let (client, project) = (self.emulator.client(), self.emulator.project());
        let updated = client.update_branch(project, id, &change).await?;
        self.emulator.finished(&updated.operations).await
    }

    async fn make_default(&self, id: &BranchId) -> anyhow::Result<()> {
        let (client, project) = (self.emulator.client(), self.emulator.project());
        let made = client.set_default_branch(project, id).await?;
        self.emulator.finished(&made.operations).await
    }

    /// What `broker` says with these arguments.
    async fn says(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let url = format!("http://{}", self.broker.address());
        let mut command = tokio::process::Command::new(suite::binary("broker")?);
        let output = command.args(arguments).args(["--broker", &url]).output();
        let output = output.await?;
        let err = String::from_utf8(output.stderr)?;
        ensure!(output.status.success(), "{arguments:?}: {err}");
        Ok(String::from_utf8(output.stdout)?)
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.broker.process.stop().await?;
        self.emulator.stop().await?;
        drop(self.folder);
        Ok(())
    }
}

fn declare(config: &Config, sections: &[String; 4], versions: &[usize]) -> anyhow::Result<()> {
    let versions = versions.iter().map(|version| sections[*version].as_str());
    let text: String = std::iter::once(sections[0].as_str())
        .chain(versions)
        .collect();
    config.write(&text)
}

fn shown(steps: &[Step]) -> Vec<&str> {
    let steps = steps.iter();
    steps.map(|step| step.description.as_str()).collect()
}

#[tokio::test]
async fn prune_deletes_what_is_declared_no_more() -> anyhow::Result<()> {
    let place = Place::start(&[1, 2, 3]).await?;
    let all = ["api_v1_branch", "api_v2_branch", "api_v3_branch", "main"];
    assert_eq!(place.names().await?, all);
    place.declare(&[1])?;

    let (steps, remarks) = place.plan(false).await?;
    assert_eq!(steps, []);
    assert_eq!(
        remarks,
        [
            "services/users/versions/v3: api_v3_branch is declared no more; \
             `broker apply --prune` deletes it",
            "services/users/versions/v2: api_v2_branch is declared no more; \
             `broker apply --prune` deletes it",
        ]
    );
    assert_eq!(place.apply(false).await?, []);
    assert_eq!(place.names().await?, all, "nobody asked for it");

    let (planned, remarks) = place.plan(true).await?;
    assert_eq!(remarks, [""; 0]);
    assert!(
        planned
            .iter()
            .all(|step| step.action() == StepAction::DeleteBranch)
    );
    assert_eq!(
        shown(&planned),
        [
            "delete branch api_v3_branch, which is declared no more",
            "delete branch api_v2_branch, which is declared no more",
        ],
        "children first"
    );
    assert_eq!(place.names().await?, all, "a plan changes nothing");
    assert_eq!(place.apply(true).await?, planned);
    assert_eq!(place.names().await?, ["api_v1_branch", "main"]);
    assert_eq!(place.apply(true).await?, []);
    assert_eq!(place.plan(true).await?, (vec![], vec![]));
    let faults = Faults::of(&place.emulator);
    assert_eq!(faults.count_all("DELETE", ONE).await?, 2);

    let mut audit = place.broker.audit().await?;
    let request = ListAuditEventsRequest::default();
    let events = audit.list_audit_events(request).await?.into_inner().events;
    for step in &planned {
        let told = events.iter().filter(|event| {
            event.action() == AuditAction::Applied
                && event.binding == step.binding
                && event.message == step.description
        });
        assert_eq!(told.count(), 1, "{step:?}: {events:?}");
    }
    place.stop().await
}

/// Of a version that another is forked from, and of that other one.
#[tokio::test]
async fn the_command_line_prunes() -> anyhow::Result<()> {
    let place = Place::start(&[1, 2]).await?;
    // v3 is forked from v2's branch, which is in use then, though v2 is not declared.
    place.declare(&[1, 3])?;
    let plan = place.says(&["plan", "--prune"]).await?;
    assert!(plan.contains("create branch api_v3_branch"), "{plan}");
    assert!(!plan.contains("delete"), "{plan}");
    place.says(&["apply", "--prune"]).await?;
    let all = ["api_v1_branch", "api_v2_branch", "api_v3_branch", "main"];
    assert_eq!(place.names().await?, all);
    place.declare(&[1])?;
    let plan = place.says(&["plan"]).await?;
    assert!(
        plan.contains("note: services/users/versions/v3: api_v3_branch"),
        "{plan}"
    );
    let protected = BranchUpdateRequest::default().protected(true);
    let v3 = place.named("api_v3_branch").await?;
    place.update(&v3, protected).await?;
    let applied = place.says(&["apply", "--prune"]).await?;
    assert!(applied.contains("nothing was to do"), "{applied}");
    assert!(applied.contains("api_v3_branch is protected"), "{applied}");
    assert!(applied.contains("has children: api_v3_branch"), "{applied}");
    let open = BranchUpdateRequest::default().protected(false);
    place.update(&v3, open).await?;
    let applied = place.says(&["apply", "--prune"]).await?;
    let v2_last = applied.split_once("delete branch api_v3_branch");
    let v2_last = v2_last.context("v3 goes")?.1;
    assert!(v2_last.contains("delete branch api_v2_branch"), "{applied}");
    assert_eq!(place.names().await?, ["api_v1_branch", "main"]);
    place.stop().await
}

/// What keeps v2's branch, which is declared no more.
#[derive(Debug, Clone, Copy)]
enum Guard {
    Default,
    Protected,
    Child,
    Lease,
}

#[tokio::test]
async fn what_may_not_be_deleted_stays() -> anyhow::Result<()> {
    let place = Place::start(&[1, 2]).await?;
    let v2 = place.named("api_v2_branch").await?;
    let main = place.named("main").await?;
    let request = AcquireLeaseRequest {
        target: Some(Target::Branch(format!("branches/{v2}"))),
        service: "services/users".to_owned(),
        access: Access::ReadOnly.into(),
        holder: "suite".to_owned(),
        ..Default::default()
    };
    place.declare(&[1])?;
    let mut leases = place.broker.leases().await?;
    let mut lease = String::new();
    let mut child = None;
    for (guard, reason) in [
        (Guard::Default, "is the default branch"),
        (Guard::Protected, "is protected"),
        (Guard::Child, "has children: somebodys"),
        (Guard::Lease, "leads to the branch api_v2_branch"),
    ] {
        match guard {
            Guard::Default => place.make_default(&v2).await?,
            Guard::Protected => {
                let change = BranchUpdateRequest::default().protected(true);
                place.update(&v2, change).await?;
            }
            Guard::Child => {
                let made = place.emulator.branch("somebodys", Some(&v2)).await?;
                child = Some(made.branch.id);
            }
            Guard::Lease => {
                let given = leases.acquire_lease(request.clone()).await?.into_inner();
                lease = given.lease.context("a lease")?.name;
            }
        }
        let before = place.names().await?;
        for prune in [false, true] {
            let (steps, remarks) = place.plan(prune).await?;
            ensure!(steps.is_empty(), "{guard:?}: {steps:?}");
            let of_v2 =
                "services/users/versions/v2: api_v2_branch is declared no more, and stays: ";
            let remark = remarks.iter().find(|remark| remark.starts_with(of_v2));
            let remark = remark.with_context(|| format!("{guard:?}: {remarks:?}"))?;
            ensure!(remark.contains(reason), "{guard:?}: {remark}");
        }
        ensure!(place.apply(true).await?.is_empty(), "{guard:?}");
        ensure!(place.names().await? == before, "{guard:?}");
        match guard {
            Guard::Default => place.make_default(&main).await?,
            Guard::Protected => {
                let change = BranchUpdateRequest::default().protected(false);
                place.update(&v2, change).await?;
            }
            Guard::Child => {
                let (client, project) = (place.emulator.client(), place.emulator.project());
                let child = child.take().context("a child")?;
                let deleted = client.delete_branch(project, &child).await?;
                let operations = deleted.map(|deleted| deleted.operations);
                place
                    .emulator
                    .finished(&operations.unwrap_or_default())
                    .await?;
            }
            Guard::Lease => {
                let release = ReleaseLeaseRequest {
                    name: lease.clone(),
                    ..Default::default()
                };
                leases.release_lease(release).await?;
            }
        }
    }
    // Nothing keeps it any more, and nothing kept it for good.
    assert_eq!(place.apply(true).await?.len(), 1);
    assert_eq!(place.names().await?, ["api_v1_branch", "main"]);
    place.stop().await
}

/// Somebody else's branch, which a binding used, and one that a request made, are
/// nobody's to prune.
#[tokio::test]
async fn what_was_not_made_for_a_binding_stays() -> anyhow::Result<()> {
    let place = Place::start(&[1]).await?;
    let theirs = BranchCreateRequest::named("api_v2_branch");
    let (client, project) = (place.emulator.client(), place.emulator.project());
    let theirs = client.create_branch(project, &theirs).await?;
    place.emulator.finished(&theirs.operations).await?;
    place
        .says(&[
            "branches",
            "create",
            "asked-for",
            "--parent",
            "api_v1_branch",
        ])
        .await?;
    place.declare(&[1, 2])?;
    place.apply(true).await?;
    place.declare(&[1])?;
    assert_eq!(place.plan(true).await?, (vec![], vec![]));
    assert_eq!(place.apply(true).await?, []);
    let all = ["api_v1_branch", "api_v2_branch", "asked-for", "main"];
    assert_eq!(place.names().await?, all);
    place.stop().await
}

#[tokio::test]
async fn a_deletion_whose_answer_is_lost_is_looked_for() -> anyhow::Result<()> {
    let place = Place::start(&[1]).await?;
    let faults = Faults::of(&place.emulator);
    let lost = [
        json!({"fault": "lost_answer"}),
        json!({"fault": "gateway_timeout", "after": true}),
        json!({"fault": "gateway_timeout", "after": false}),
    ];
    let others = suite::request_faults();
    let all = lost.iter().chain(&others);
    for effect in all.take(count(lost.len(), lost.len() + others.len())) {
        place.declare(&[1, 2])?;
        place.apply(false).await?;
        place.declare(&[1])?;
        let fault = faults.on_route("DELETE", ONE, effect.clone()).await?;
        let steps = place.apply(true).await;
        let steps = steps.with_context(|| effect.to_string())?;
        ensure!(steps.len() == 1, "{effect}: {steps:?}");
        faults.happened(fault).await?;
        ensure!(
            place.names().await? == ["api_v1_branch", "main"],
            "{effect}"
        );
    }
    place.stop().await
}

/// Between what is written down and what Neon does.
#[tokio::test]
async fn a_prune_that_is_cut_off_is_finished() -> anyhow::Result<()> {
    let moments = [false, true];
    for after in moments.into_iter().take(count(1, moments.len())) {
        cut_off(after).await.with_context(|| format!("{after}"))?;
    }
    Ok(())
}

/// `after`: Neon has done it when the broker dies.
async fn cut_off(after: bool) -> anyhow::Result<()> {
    let mut place = Place::start(&[1, 2, 3]).await?;
    let database = StateDatabase::of(&place.emulator).await?;
    let session = database.session(&place.emulator).await?;
    let intents = async |wanted: &str| {
        let ask = "SELECT name FROM broker.branches WHERE intent = $1";
        let rows = session.query(ask, &[&wanted]).await?;
        anyhow::Ok(rows.len())
    };
    place.declare(&[1])?;
    let faults = Faults::of(&place.emulator);
    let delay = json!({"fault": "delay", "milliseconds": 3_000, "after": after});
    faults.on_route("DELETE", ONE, delay).await?;
    let mut config = place.broker.config().await?;
    let applying = tokio::spawn(async move { config.apply(ApplyRequest { prune: true }).await });
    eventually("a deletion is under way", async || {
        ensure!(intents("delete").await? == 1);
        Ok(())
    })
    .await?;
    place.broker = place.broker.kill_and_start().await?;
    assert!(applying.await?.is_err());
    place.broker.is_ready().await?;
    // Who works in the background applies too, without prune.
    let apply = async || eventually("no other apply runs", async || place.apply(true).await).await;
    apply().await?;
    assert_eq!(place.names().await?, ["api_v1_branch", "main"]);
    assert_eq!(apply().await?, []);
    eventually("the ledger says so", async || {
        ensure!(intents("delete").await? == 0);
        Ok(())
    })
    .await?;
    assert_eq!(intents("own").await?, 1);
    place.stop().await
}
