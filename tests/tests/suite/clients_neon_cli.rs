//! Neon's own command line through every row of its conformance matrix: what
//! each command sends, and which fields of the answer it reads. In two releases,
//! unmodified, each through every row.

mod branches;
mod resources;

use anyhow::{Context, ensure};
use neon_api::types::{Branch, Endpoint, OperationListQuery};
use suite::{EmulatorProcess, Folder, NeonCli, Said};

/// The rows of the matrix. [`Rows::finish`] fails when one was not run.
const MATRIX: [&str; 49] = [
    "projects list",
    "projects get",
    "projects create",
    "projects list --org-id",
    "me",
    "orgs list",
    "branches list",
    "branches list (no project-id)",
    "branches get dev",
    "branches create",
    "branches create --parent dev --no-compute",
    "branches create --expires-at",
    "branches create --schema-only",
    "branches create --parent <ts>",
    "branches create --parent <lsn>",
    "branches create --type read_only --cu 0.5-2 --suspend-timeout 60",
    "branches reset dev --parent",
    "branches reset dev --parent --preserve-under-name",
    "branches restore dev main",
    "branches restore dev ^self@ts",
    "branches restore dev ^parent",
    "branches restore dev main@lsn",
    "branches rename",
    "branches set-default",
    "branches set-default main",
    "branches set-expiration",
    "branches set-expiration (clear)",
    "branches add-compute",
    "branches schema-diff main dev",
    "branches schema-diff dev ^parent --database neondb",
    "branches delete",
    "connection-string",
    "connection-string dev --pooled",
    "connection-string dev --extended",
    "connection-string dev@ts",
    "databases list",
    "databases create",
    "databases delete",
    "roles list",
    "roles create",
    "roles delete",
    "operations list",
    "set-context",
    "branches delete (absent → 204)",
    "branches get (absent → 404)",
    "snapshots list",
    "snapshots create",
    "snapshots restore s1",
    "snapshots delete s1",
];

#[tokio::test]
async fn neon_6_2_3_works_on_the_emulator() -> anyhow::Result<()> {
    rows("neon", "6.2.3").await
}

#[tokio::test]
async fn neonctl_5_0_1_works_on_the_emulator() -> anyhow::Result<()> {
    rows("neonctl", "5.0.1").await
}

async fn rows(package: &str, version: &str) -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let mut rows = Rows {
        cli: NeonCli::install(package, version, &emulator).await?,
        emulator: &emulator,
        run: Vec::new(),
    };
    rows.account().await?;
    rows.created().await?;
    rows.restored().await?;
    rows.past().await?;
    rows.listed().await?;
    rows.changed().await?;
    rows.replicas().await?;
    rows.schemas().await?;
    rows.connection_strings().await?;
    rows.databases_and_roles().await?;
    rows.snapshots().await?;
    rows.deleted().await?;
    rows.projects().await?;
    rows.finish()?;
    emulator.stop().await
}

/// The rows, run in an order in which each finds what it needs.
struct Rows<'a> {
    cli: NeonCli,
    emulator: &'a EmulatorProcess,
    run: Vec<&'static str>,
}

impl Rows<'_> {
    fn finish(mut self) -> anyhow::Result<()> {
        let mut wanted = MATRIX.to_vec();
        wanted.sort_unstable();
        self.run.sort_unstable();
        ensure!(self.run == wanted, "every row once: {:?}", self.run);
        Ok(())
    }

    /// Runs a row that has to work.
    async fn row(&mut self, row: &'static str, command: &str) -> anyhow::Result<Said> {
        self.run.push(row);
        self.command(command)
            .await
            .with_context(|| format!("row {row:?}"))
    }

    /// As [`Rows::row`], in the first project.
    async fn project_row(&mut self, row: &'static str, command: &str) -> anyhow::Result<Said> {
        self.row(row, &self.of_project(command)).await
    }

    async fn command(&self, command: &str) -> anyhow::Result<Said> {
        self.run(command).await?.ended_with(0)
    }

    /// What a command prints as JSON.
    async fn json(&self, command: &str) -> anyhow::Result<serde_json::Value> {
        self.command(&format!("{command} -o json")).await?.json()
    }

    fn of_project(&self, command: &str) -> String {
        format!("{command} --project-id {}", self.emulator.project())
    }

    /// Runs a command, and waits until what it asked for is done.
    async fn run(&self, command: &str) -> anyhow::Result<Said> {
        let arguments: Vec<&str> = command.split(' ').collect();
        let said = self.cli.run(&arguments).await?;
        let (client, project) = (self.emulator.client(), self.emulator.project());
        let operations = client
            .list_operations(project, &OperationListQuery::default())
            .await?;
        self.emulator.finished(&operations.operations).await?;
        Ok(said)
    }

    async fn branch(&self, name: &str) -> anyhow::Result<Branch> {
        let client = self.emulator.client();
        let branches = client.list_all_branches(self.emulator.project(), None);
        let mut branches = branches.await?.branches.into_iter();
        branches
            .find(|branch| branch.name == name)
            .with_context(|| format!("the branch {name}"))
    }

    async fn endpoint(&self, branch: &Branch) -> anyhow::Result<Endpoint> {
        let client = self.emulator.client();
        let endpoints = client
            .list_branch_endpoints(self.emulator.project(), &branch.id)
            .await?
            .endpoints;
        endpoints.into_iter().next().context("an endpoint")
    }
}
