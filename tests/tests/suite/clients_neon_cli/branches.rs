//! The rows of `branches`.

use anyhow::{Context, ensure};
use neon_api::Secret;
use neon_api::types::{ConnectionUriQuery, Endpoint, EndpointType, OperationListQuery};
use suite::eventually;

use super::Rows;

impl Rows<'_> {
    pub(super) async fn created(&mut self) -> anyhow::Result<()> {
        for name in ["dev", "feat1"] {
            let create = format!("branches create --name {name}");
            let said = if name == "dev" {
                // The other rows' branch, and the JSON of the same row.
                self.command(&self.of_project(&format!("{create} -o json")))
                    .await?
            } else {
                self.project_row("branches create", &create).await?
            };
            let branch = self.branch(name).await?;
            let endpoint = self.endpoint(&branch).await?;
            let uri = self.emulator.uri(&branch.id).await?;
            let words = [branch.id.as_str(), endpoint.id.as_str(), uri.expose()];
            said.prints(&words)?;
            if name == "dev" {
                let json = said.json()?;
                ensure!(json["branch"]["id"] == branch.id.as_str(), "{json}");
            }
            let session = suite::connect(uri.expose(), self.emulator.data()).await?;
            session.simple_query("SELECT 1").await?;
        }
        let dev = self.branch("dev").await?;

        let time = dev.created_at + jiff::SignedDuration::from_hours(240);
        let time = jiff::Timestamp::from_second(time.as_second())?;
        let expires = format!("branches create --name feat3 --expires-at {time}");
        let said = self
            .project_row("branches create --expires-at", &expires)
            .await?;
        let feat3 = self.branch("feat3").await?;
        said.prints(&["feat3", feat3.id.as_str(), &time.to_string()])?;
        ensure!(feat3.expires_at == Some(time), "{feat3:?}");

        let schema_only = "branches create --name feat4 --schema-only";
        let said = self
            .project_row("branches create --schema-only", schema_only)
            .await?;
        let feat4 = self.branch("feat4").await?;
        said.prints(&["feat4", feat4.id.as_str()])?;
        ensure!(feat4.parent_id.is_none(), "{feat4:?}");
        Ok(())
    }

    /// Replicas: a branch that has nothing else, and one beside a writer.
    pub(super) async fn replicas(&mut self) -> anyhow::Result<()> {
        let row = "branches create --type read_only --cu 0.5-2 --suspend-timeout 60";
        let create = format!("{row} --name feat7");
        let said = self.project_row(row, &create).await?;
        let branch = self.branch("feat7").await?;
        let endpoint = self.endpoint(&branch).await?;
        let session = self.reads(&endpoint).await?;
        let uri = self.uri(&endpoint).await?;
        said.prints(&[branch.id.as_str(), endpoint.id.as_str(), uri.expose()])?;
        ensure!(endpoint.suspend_timeout_seconds == 60, "{endpoint:?}");
        let cu = (
            endpoint.autoscaling_limit_min_cu,
            endpoint.autoscaling_limit_max_cu,
        );
        ensure!(cu == (0.5, 2.0), "{endpoint:?}");
        session.simple_query("SELECT 1").await?;

        let add = "branches add-compute feat1b --type read_only --cu 1 --name ro1";
        let said = self.project_row("branches add-compute", add).await?;
        let branch = self.branch("feat1b").await?;
        let client = self.emulator.client();
        let endpoints = client
            .list_branch_endpoints(self.emulator.project(), &branch.id)
            .await?
            .endpoints;
        ensure!(endpoints.len() == 2, "{endpoints:?}");
        let added = endpoints
            .iter()
            .find(|endpoint| endpoint.endpoint_type == EndpointType::ReadOnly)
            .context("a replica")?;
        said.prints(&[added.id.as_str(), &added.host])?;
        let session = self.reads(added).await?;
        let writer = self.emulator.connect(&branch.id).await?;
        writer
            .batch_execute("CREATE TABLE of_the_writer ()")
            .await?;
        eventually("the replica has it", async || {
            Ok(session.simple_query("TABLE of_the_writer").await?)
        })
        .await?;
        Ok(())
    }

    async fn uri(&self, endpoint: &Endpoint) -> anyhow::Result<Secret> {
        let query = ConnectionUriQuery::new("neondb", "neondb_owner").endpoint(endpoint.id.clone());
        let client = self.emulator.client();
        let uri = client.get_connection_uri(self.emulator.project(), &query);
        Ok(uri.await?.uri)
    }

    /// A session on an endpoint that takes no writes.
    async fn reads(&self, endpoint: &Endpoint) -> anyhow::Result<tokio_postgres::Client> {
        ensure!(
            endpoint.endpoint_type == EndpointType::ReadOnly,
            "{endpoint:?}"
        );
        let uri = self.uri(endpoint).await?;
        let session = suite::connect(uri.expose(), self.emulator.data()).await?;
        let refused = session.simple_query("CREATE TABLE here ()").await.err();
        let code = refused.as_ref().and_then(tokio_postgres::Error::code);
        let wanted = tokio_postgres::error::SqlState::READ_ONLY_SQL_TRANSACTION;
        ensure!(code == Some(&wanted), "{refused:?}");
        Ok(session)
    }

    pub(super) async fn restored(&mut self) -> anyhow::Result<()> {
        let dev = self.branch("dev").await?;
        let main = self.branch("main").await?;
        let words = ["dev", dev.id.as_str()];
        for (row, command) in [
            ("branches reset dev --parent", "branches reset dev --parent"),
            ("branches restore dev main", "branches restore dev main"),
            (
                "branches restore dev ^parent",
                "branches restore dev ^parent",
            ),
        ] {
            let marker = self.emulator.connect(&main.id).await?;
            let table = format!("row_{}", self.run.len());
            let create = format!("CREATE TABLE {table} (id int)");
            marker.batch_execute(&create).await?;
            self.project_row(row, command).await?.prints(&words)?;
            let reset = self.branch("dev").await?;
            ensure!(reset.last_reset_at > dev.last_reset_at, "{row}: {reset:?}");
            let found = self.emulator.connect(&dev.id).await?;
            found
                .simple_query(&format!("SELECT FROM {table}"))
                .await
                .with_context(|| format!("{row}: the parent's data are there"))?;
        }

        let without_compute = "branches create --name feat2 --parent dev --no-compute";
        let said = self
            .project_row("branches create --parent dev --no-compute", without_compute)
            .await?;
        let feat2 = self.branch("feat2").await?;
        said.prints(&["feat2", feat2.id.as_str()])?;
        ensure!(feat2.parent_id.as_ref() == Some(&dev.id), "{feat2:?}");
        ensure!(self.endpoint(&feat2).await.is_err(), "it has no endpoint");

        // Its child moves to what it was.
        let preserve = "branches reset dev --parent --preserve-under-name dev_old";
        let said = self
            .project_row(
                "branches reset dev --parent --preserve-under-name",
                preserve,
            )
            .await?;
        said.prints(&words)?;
        let old = self.branch("dev_old").await?;
        let child = self.branch("feat2").await?;
        ensure!(child.parent_id.as_ref() == Some(&old.id), "{child:?}");
        Ok(())
    }

    /// Points of the past, with the values of this run.
    pub(super) async fn past(&mut self) -> anyhow::Result<()> {
        let main = self.branch("main").await?;
        let dev = self.branch("dev").await?;
        let session = self.emulator.connect(&main.id).await?;
        let (lsn, time) = suite::eventually("main has history", async || {
            let (lsn, time) = point(&session).await?;
            let request = neon_api::types::BranchCreateRequest::named("trial")
                .parent(main.id.clone())
                .at_timestamp(time.parse()?);
            let (client, project) = (self.emulator.client(), self.emulator.project());
            let trial = client.create_branch(project, &request).await?;
            self.emulator.finished(&trial.operations).await?;
            let deleted = client.delete_branch(project, &trial.branch.id).await?;
            let deleted = deleted.context("it was there")?;
            self.emulator.finished(&deleted.operations).await?;
            Ok((lsn, time))
        })
        .await?;
        session
            .batch_execute("CREATE TABLE after_the_point (id int)")
            .await?;
        for (row, name, at) in [
            ("branches create --parent <ts>", "feat5", &time),
            ("branches create --parent <lsn>", "feat6", &lsn),
        ] {
            let command = format!("branches create --name {name} --parent {at}");
            self.project_row(row, &command).await?.prints(&[name])?;
            let branch = self.branch(name).await?;
            ensure!(branch.parent_id.as_ref() == Some(&main.id), "{branch:?}");
            let found = self.emulator.connect(&branch.id).await?;
            let after = found.simple_query("SELECT FROM after_the_point").await;
            ensure!(after.is_err(), "{row}: it is of the past");
        }
        let command = format!("branches restore dev main@{lsn}");
        self.project_row("branches restore dev main@lsn", &command)
            .await?
            .prints(&["dev"])?;
        let found = self.emulator.connect(&dev.id).await?;
        let after = found.simple_query("SELECT FROM after_the_point").await;
        ensure!(after.is_err(), "dev is main's past");

        suite::eventually("dev has history", async || {
            let path = format!(
                "{}/history/{}/bases",
                self.emulator.data().display(),
                dev.id
            );
            let mut images = std::fs::read_dir(path)?.flatten();
            ensure!(
                images.any(|image| image.file_name() != "new"),
                "no image yet"
            );
            Ok(())
        })
        .await?;
        let session = self.emulator.connect(&dev.id).await?;
        let (_, time) = point(&session).await?;
        session
            .batch_execute("CREATE TABLE after_the_point (id int)")
            .await?;
        let command = format!("branches restore dev ^self@{time} --preserve-under-name dev_old2");
        self.project_row("branches restore dev ^self@ts", &command)
            .await?
            .prints(&["dev"])?;
        let found = self.emulator.connect(&dev.id).await?;
        let after = found.simple_query("SELECT FROM after_the_point").await;
        ensure!(after.is_err(), "dev is its own past");
        Ok(())
    }

    pub(super) async fn listed(&mut self) -> anyhow::Result<()> {
        let said = self.project_row("branches list", "branches list").await?;
        let json = self.json(&self.of_project("branches list")).await?;
        for name in ["main", "dev", "feat1", "feat2", "feat3", "feat4"] {
            let branch = self.branch(name).await?;
            let (id, created_at) = (branch.id.as_str(), branch.created_at.to_string());
            said.prints(&[name, id, &created_at])?;
            let listed = json.as_array().context("a list")?;
            ensure!(listed.iter().any(|one| one["id"] == id), "{json}");
        }
        said.prints(&["[default]"])?;
        let dev = self.branch("dev").await?;
        let said = self
            .project_row("branches get dev", "branches get dev")
            .await?;
        let created_at = dev.created_at.to_string();
        said.prints(&["dev", dev.id.as_str(), "ready", &created_at])?;
        let json = self.json(&self.of_project("branches get dev")).await?;
        ensure!(json["name"] == "dev", "{json}");
        let said = self
            .project_row("operations list", "operations list")
            .await?;
        let operations = self.emulator.client();
        let operations = operations
            .list_operations(self.emulator.project(), &OperationListQuery::default())
            .await?
            .operations;
        for operation in operations {
            let (id, action) = (operation.id.to_string(), operation.action.to_string());
            said.prints(&[&id, &action, "finished"])?;
        }
        Ok(())
    }

    pub(super) async fn changed(&mut self) -> anyhow::Result<()> {
        let id = self.branch("feat1").await?.id;
        let rename = "branches rename feat1 feat1b";
        let said = self.project_row("branches rename", rename).await?;
        said.prints(&["feat1b", id.as_str()])?;
        for (row, name) in [
            ("branches set-default", "feat1b"),
            ("branches set-default main", "main"),
        ] {
            let said = self
                .project_row(row, &format!("branches set-default {name}"))
                .await?;
            let branch = self.branch(name).await?;
            said.prints(&[name, branch.id.as_str()])?;
            ensure!(branch.default, "{branch:?}");
        }
        let branch = self.branch("feat1b").await?;
        let time = branch.created_at + jiff::SignedDuration::from_hours(480);
        let time = jiff::Timestamp::from_second(time.as_second())?;
        let expire = format!("branches set-expiration feat1b --expires-at {time}");
        let said = self.project_row("branches set-expiration", &expire).await?;
        said.prints(&["feat1b", id.as_str(), &time.to_string()])?;
        let clear = "branches set-expiration feat1b";
        let said = self
            .project_row("branches set-expiration (clear)", clear)
            .await?;
        said.prints(&["feat1b", id.as_str()])?;
        let branch = self.branch("feat1b").await?;
        ensure!(branch.expires_at.is_none(), "{branch:?}");

        let context = "set-context";
        self.project_row(context, context).await?;
        let file = self.cli.context_file();
        let text = std::fs::read_to_string(&file).context("the context file")?;
        ensure!(text.contains(self.emulator.project().as_str()), "{text}");
        Ok(std::fs::remove_file(file)?)
    }

    pub(super) async fn schemas(&mut self) -> anyhow::Result<()> {
        let dev = self.branch("dev").await?;
        let session = self.emulator.connect(&dev.id).await?;
        session
            .batch_execute("CREATE TABLE on_dev (id int)")
            .await?;
        let added = "+CREATE TABLE public.on_dev";
        for (row, command) in [
            (
                "branches schema-diff main dev",
                "branches schema-diff main dev",
            ),
            (
                "branches schema-diff dev ^parent --database neondb",
                "branches schema-diff dev ^parent --database neondb",
            ),
        ] {
            let said = self.project_row(row, command).await?;
            said.prints(&["neondb", dev.id.as_str(), added])?;
        }
        Ok(())
    }

    pub(super) async fn deleted(&mut self) -> anyhow::Result<()> {
        let id = self.branch("feat1b").await?.id;
        let said = self
            .project_row("branches delete", "branches delete feat1b")
            .await?;
        said.prints(&["feat1b", id.as_str()])?;
        ensure!(self.branch("feat1b").await.is_err(), "it is gone");
        self.project_row(
            "branches delete (absent → 204)",
            "branches delete br-none-none-a1",
        )
        .await?;
        let row = "branches get (absent → 404)";
        self.run.push(row);
        let absent = self.of_project("branches get br-none-none-a1");
        let said = self.run(&absent).await?.ended_with(1)?;
        ensure!(said.stderr.contains("ERROR: branch not found"), "{said:?}");
        Ok(())
    }
}

/// Where the branch stands, and the time.
async fn point(session: &tokio_postgres::Client) -> anyhow::Result<(String, String)> {
    let row = session
        .query_one(
            "SELECT pg_current_wal_lsn()::text, to_char(clock_timestamp() AT TIME ZONE 'UTC', \
                    'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')",
            &[],
        )
        .await?;
    Ok((row.get(0), row.get(1)))
}
