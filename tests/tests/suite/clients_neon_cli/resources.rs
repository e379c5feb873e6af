//! The rows of everything but branches.

use anyhow::{Context, ensure};
use suite::eventually;

use super::Rows;

impl Rows<'_> {
    pub(super) async fn account(&mut self) -> anyhow::Result<()> {
        let said = self.row("me", "me").await?;
        said.prints(&["local", "local@example.com", "1000"])?;
        let said = self.row("orgs list", "orgs list").await?;
        said.prints(&["org-calm-sea-12345678", "Local"])?;
        let project = self.emulator.client().get_project(self.emulator.project());
        let project = project.await?.project;
        let created_at = project.created_at.to_string();
        let words = [
            project.id.as_str(),
            &project.name,
            &project.region_id,
            &created_at,
        ];
        self.row("projects list", "projects list")
            .await?
            .prints(&words)?;
        let organization = "projects list --org-id org-calm-sea-12345678";
        self.row("projects list --org-id", organization)
            .await?
            .prints(&words)?;
        let get = format!("projects get {}", project.id);
        self.row("projects get", &get).await?.prints(&words)?;
        let json = self.json(&get).await?;
        ensure!(json["id"] == project.id.as_str(), "{json}");
        // The one project is found without its id.
        let said = self
            .row("branches list (no project-id)", "branches list")
            .await?;
        said.prints(&["main", self.emulator.main_branch().await?.as_str()])
    }

    pub(super) async fn connection_strings(&mut self) -> anyhow::Result<()> {
        let data = self.emulator.data().to_owned();
        let dev = self.branch("dev").await?;
        let main = self.emulator.uri(&self.branch("main").await?.id).await?;
        let uri = self.emulator.uri(&dev.id).await?;
        let said = self
            .project_row("connection-string", "connection-string")
            .await?;
        ensure!(said.stdout.trim() == main.expose(), "{said:?}");
        let pooled = "connection-string dev --pooled";
        let said = self.project_row(pooled, pooled).await?;
        // The command line puts "-pooler" after the endpoint's id in its host, and
        // here the host has no id.
        ensure!(said.stdout.trim() == uri.expose(), "{said:?}");
        suite::connect(said.stdout.trim(), &data).await?;

        let extended = "cs dev --role-name neondb_owner --database-name neondb --extended -o json";
        let said = self
            .project_row("connection-string dev --extended", extended)
            .await?;
        let json = said.json()?;
        ensure!(json["connection_string"] == uri.expose(), "{json}");
        ensure!(json["role"] == "neondb_owner", "{json}");
        ensure!(json["database"] == "neondb", "{json}");
        let host = self.endpoint(&dev).await?.host;
        ensure!(json["host"] == host.as_str(), "{json}");

        // The command line makes it by itself; nobody gets the head for the past.
        let past = "cs dev@2026-01-01T00:00:00Z";
        let said = self.project_row("connection-string dev@ts", past).await?;
        said.prints(&["options=neon_timestamp%3A2026-01-01T00%3A00%3A00Z"])?;
        let refused = suite::connect(said.stdout.trim(), &data).await;
        let refused = refused.err().context("the past is not to be had")?;
        let message = format!("{refused:#}");
        ensure!(message.contains("neon_timestamp"), "{message}");
        Ok(())
    }

    pub(super) async fn databases_and_roles(&mut self) -> anyhow::Result<()> {
        let dev = self.branch("dev").await?.id;
        for (row, words) in [
            ("databases list", ["neondb", "neondb_owner"]),
            ("databases create", ["app", "neondb_owner"]),
            ("roles list", ["neondb_owner", "neondb_owner"]),
            ("roles create", ["alice", "alice"]),
        ] {
            let name = match row.ends_with("create") {
                true => format!(" --name {}", words[0]),
                false => String::new(),
            };
            let said = self
                .project_row(row, &format!("{row}{name} --branch dev"))
                .await?;
            said.prints(&words)?;
            if row.ends_with("list") {
                let list = self.of_project(&format!("{row} --branch dev"));
                let json = self.json(&list).await?;
                ensure!(json[0]["name"] == words[0], "{json}");
            }
        }
        let session = self.emulator.connect(&dev).await?;
        let made = "SELECT FROM pg_database, pg_roles WHERE datname = 'app' AND rolname = 'alice'";
        ensure!(session.query(made, &[]).await?.len() == 1, "both are real");
        for (row, name) in [("databases delete", "app"), ("roles delete", "alice")] {
            let said = self
                .project_row(row, &format!("{row} {name} --branch dev"))
                .await?;
            said.prints(&[name])?;
        }
        let left = "SELECT FROM pg_database, pg_roles WHERE datname = 'app' OR rolname = 'alice'";
        ensure!(session.query(left, &[]).await?.is_empty(), "both are gone");
        Ok(())
    }

    pub(super) async fn snapshots(&mut self) -> anyhow::Result<()> {
        let dev = self.branch("dev").await?.id;
        let said = self
            .project_row(
                "snapshots create",
                "snapshots create --branch dev --name s1",
            )
            .await?;
        said.prints(&["s1", dev.as_str(), "snap-"])?;
        let said = self.project_row("snapshots list", "snapshots list").await?;
        said.prints(&["s1", dev.as_str()])?;
        let json = self.json(&self.of_project("snapshots list")).await?;
        ensure!(json[0]["source_branch_id"] == dev.as_str(), "{json}");
        let id = json[0]["id"].as_str().context("an id")?;
        said.prints(&[id])?;
        let restore = "snapshots restore s1 --name restored1";
        let said = self.project_row("snapshots restore s1", restore).await?;
        let restored = self.branch("restored1").await?;
        said.prints(&["restored1", restored.id.as_str()])?;
        let said = self
            .project_row("snapshots delete s1", "snapshots delete s1")
            .await?;
        said.prints(&[id])?;
        let json = self.json(&self.of_project("snapshots list")).await?;
        ensure!(json.as_array().is_some_and(Vec::is_empty), "{json}");
        Ok(())
    }

    /// Last: with two projects, none is found without its id.
    pub(super) async fn projects(&mut self) -> anyhow::Result<()> {
        let said = self
            .row("projects create", "projects create --name x")
            .await?;
        let query = neon_api::types::ProjectListQuery::default();
        let projects = self.emulator.client().list_projects(&query).await?.projects;
        let made = projects.iter().find(|project| project.name == "x");
        let made = made.context("the new project")?;
        said.prints(&["x", made.id.as_str(), &made.region_id, "postgresql://"])?;
        let uri = said
            .stdout
            .lines()
            .find(|line| line.starts_with("postgresql://"))
            .context("a connection URI")?;
        eventually("the new project can be reached", async || {
            suite::connect(uri.trim(), self.emulator.data()).await
        })
        .await?;
        Ok(())
    }
}
