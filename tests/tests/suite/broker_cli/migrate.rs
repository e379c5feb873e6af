//! `broker migrate`: revisions run, taken back, written down, and told of.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, ensure};
use diesel_async::AsyncPgConnection;
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_migrations::{FileBasedMigrations, MigrationHarness};
use suite::eventually;

use super::{Bench, V1};

pub(super) const V2: &str = "services/users/versions/v2";
const CITIES: &str = "2026-02-14-090000_add_age_and_city";
const REQUESTS: &str = "2026-01-20-090000_lists_and_request_ids";

impl Bench {
    /// The folder of a new revision of users, with these files.
    pub(super) fn revision(&self, name: &str, files: &[(&str, &str)]) -> anyhow::Result<PathBuf> {
        let revision = self.config.folder().join("migrations/users").join(name);
        std::fs::create_dir_all(&revision)?;
        for (name, text) in files {
            std::fs::write(revision.join(name), text)?;
        }
        Ok(revision)
    }

    /// `broker migrate` with these arguments, when all is well.
    pub(super) async fn migrate(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.says(&[&["migrate"], arguments].concat()).await
    }

    /// What it says when it refuses.
    pub(super) async fn migrate_refused(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let ended = self.output(&[&["migrate"], arguments].concat()).await?;
        ensure!(ended.code == Some(1), "{arguments:?}: {ended:?}");
        Ok(ended.err)
    }

    /// How each revision of v2 stands, as `name STATE`.
    pub(super) async fn standings(&self) -> anyhow::Result<Vec<String>> {
        let table = self.migrate(&["status", V2]).await?;
        let rows = table.lines().skip(1);
        Ok(rows
            .map(|row| row.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
            .collect())
    }

    pub(super) async fn owner_of_v2(&self) -> anyhow::Result<tokio_postgres::Client> {
        let client = self.emulator.client();
        let found = client
            .list_all_branches(self.emulator.project(), Some("api_v2_branch"))
            .await?;
        let branch = found.branches.first().context("v2's branch")?;
        self.emulator.connect(&branch.id).await
    }
}

/// Diesel's own engine, on a session and a folder.
pub(crate) async fn diesel<T: Send + 'static>(
    session: tokio_postgres::Client,
    folder: PathBuf,
    work: impl FnOnce(&mut Diesel, FileBasedMigrations) -> diesel::migration::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let connection = AsyncPgConnection::try_from(session).await?;
    tokio::task::spawn_blocking(move || {
        let source = FileBasedMigrations::from_path(&folder)?;
        let done = work(&mut connection.into(), source);
        done.map_err(|error| anyhow!("{error}"))
    })
    .await?
}

pub(crate) type Diesel = AsyncConnectionWrapper<AsyncPgConnection>;

/// The columns of the users of v2.
pub(super) async fn columns(session: &tokio_postgres::Client) -> anyhow::Result<Vec<String>> {
    let rows = session
        .query(
            "SELECT column_name::text FROM information_schema.columns
             WHERE table_schema = 'users' AND table_name = 'users' ORDER BY ordinal_position",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[tokio::test]
async fn a_branch_goes_up_and_down_and_says_where_it_is() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let owner = bench.owner_of_v2().await?;
    let city = "city".to_owned();
    assert!(columns(&owner).await?.contains(&city));
    assert_eq!(
        bench.migrate(&["current", V2]).await?,
        format!("{CITIES}\n")
    );
    assert_eq!(bench.migrate(&["up", V2]).await?, "nothing to do\n");

    bench.migrate(&["down", V2]).await?;
    assert!(!columns(&owner).await?.contains(&city));
    assert_eq!(
        bench.migrate(&["current", V2]).await?,
        format!("{REQUESTS}\n")
    );
    let last = bench.standings().await?.pop();
    assert_eq!(last, Some(format!("{CITIES} PENDING")));
    bench.migrate(&["to", V2, CITIES]).await?;
    assert!(columns(&owner).await?.contains(&city));
    assert_eq!(bench.migrate(&["redo", V2]).await?, "1 revision\n");
    assert!(columns(&owner).await?.contains(&city));

    // Written down alone, nothing is run.
    bench.migrate(&["stamp", V2, REQUESTS]).await?;
    assert!(columns(&owner).await?.contains(&city));
    let refused = bench.migrate_refused(&["up", V2]).await?;
    assert!(refused.contains("already exists"), "{refused}");
    bench.migrate(&["stamp", V2, "head"]).await?;
    assert_eq!(bench.migrate(&["up", V2]).await?, "nothing to do\n");
    let history = bench.migrate(&["history", V2]).await?;
    let newest = history.lines().nth(1).context("a row")?;
    assert!(newest.starts_with(CITIES), "{history}");

    // What v1 stops before is beyond it, not pending.
    let v1 = bench.migrate(&["status", V1]).await?;
    let beyond = v1.lines().last().context("a row")?;
    assert!(beyond.contains(CITIES) && beyond.contains("BEYOND"), "{v1}");
    bench.stop().await
}

#[tokio::test]
async fn what_cannot_be_is_said_and_leaves_the_branch_as_it_was() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let owner = bench.owner_of_v2().await?;
    let before = columns(&owner).await?;
    let name = "2027-01-01-000000_next";

    let revision = bench.revision(
        name,
        &[(
            "up.sql",
            "ALTER TABLE users ADD nick text;\nALTER TABLE users\n  ADDD x int;\n",
        )],
    )?;
    let refused = bench.migrate_refused(&["to", V2, name]).await?;
    for part in [
        name,
        "up.sql:3:3: in `ALTER TABLE users ADDD x int`",
        "syntax error",
    ] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    std::fs::write(
        revision.join("up.sql"),
        "ALTER TABLE users ADD nick text; COMMIT; SELECT 1;",
    )?;
    let refused = bench.migrate_refused(&["to", V2, name]).await?;
    assert!(
        refused.contains("ends its transaction by itself"),
        "{refused}"
    );
    owner
        .batch_execute("ALTER TABLE users.users DROP nick")
        .await?;
    assert_eq!(columns(&owner).await?, before);

    // Outside a transaction, what is left behind is named.
    std::fs::write(revision.join("metadata.toml"), "run_in_transaction = false")?;
    let index = "CREATE UNIQUE INDEX CONCURRENTLY one_name ON users ((1));";
    std::fs::write(revision.join("up.sql"), index)?;
    let refused = bench.migrate_refused(&["to", V2, name]).await?;
    assert!(
        refused.contains("there is the invalid index users.one_name"),
        "{refused}"
    );
    owner.batch_execute("DROP INDEX users.one_name").await?;
    std::fs::write(
        revision.join("up.sql"),
        "CREATE INDEX CONCURRENTLY names ON users (name);",
    )?;
    bench.migrate(&["to", V2, name]).await?;
    let refused = bench.migrate_refused(&["down", V2]).await?;
    assert!(refused.contains("has no down.sql"), "{refused}");

    std::fs::write(revision.join("down.sql"), "DROP INDEX CONCURRENTLY names;")?;
    let refused = bench.migrate_refused(&["down", V2]).await?;
    assert!(
        refused.contains("were changed since it was applied"),
        "{refused}"
    );
    let standing = bench.standings().await?;
    assert_eq!(standing.last(), Some(&format!("{name} CHANGED")));
    bench.migrate(&["stamp", V2, "current"]).await?;
    bench.migrate(&["redo", V2]).await?;

    std::fs::remove_dir_all(&revision)?;
    let refused = bench.migrate_refused(&["redo", V2]).await?;
    assert!(refused.contains("which the folder does not"), "{refused}");
    let standing = bench.standings().await?;
    assert_eq!(standing.last(), Some(&format!("{name} MISSING")));
    for (arguments, part) in [
        (vec!["to", V2, "2031"], "no revision is called 2031"),
        (vec!["to", V2, "2026"], "give more of its name"),
        (vec!["status", "services/users/versions/v9"], "v9"),
        (vec!["up", "users"], "binding"),
    ] {
        let refused = bench.migrate_refused(&arguments).await?;
        assert!(refused.contains(part), "{arguments:?}: {refused}");
    }
    bench.stop().await
}

#[tokio::test]
async fn ten_at_once_run_each_revision_once() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let name = "2027-01-01-000000_counted";
    // It fails where it is run twice, and is slow enough to be met.
    bench.revision(
        name,
        &[
            (
                "up.sql",
                "CREATE TABLE counted (id int); SELECT pg_sleep(0.3);",
            ),
            ("down.sql", "DROP TABLE counted;"),
        ],
    )?;
    let up = ["migrate", "to", V2, name];
    let all = (0..10).map(|_| bench.output(&up));
    let mut ran = 0;
    for ended in futures_util::future::join_all(all).await {
        let ended = ended?;
        ensure!(ended.code == Some(0), "{ended:?}");
        ran += usize::from(ended.out == "1 revision\n");
    }
    assert_eq!(ran, 1);
    let owner = bench.owner_of_v2().await?;
    eventually("the table is there", async || {
        owner.query("SELECT FROM users.counted", &[]).await?;
        Ok(())
    })
    .await?;
    // Who holds the rights of leases has none on what is written down.
    for table in ["__diesel_schema_migrations", "__branch_broker_revisions"] {
        let ask = format!("SELECT has_table_privilege('users_rw', 'users.{table}', 'SELECT')");
        let may: bool = owner.query_one(&ask, &[]).await?.get(0);
        assert!(!may, "{table}");
    }
    bench.stop().await
}

#[tokio::test]
async fn diesel_and_the_broker_understand_each_other() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let folder = bench.config.folder().join("migrations/users");
    let owner = bench.owner_of_v2().await?;
    let by_broker = columns(&owner).await?;
    let session = async || {
        let session = bench.owner_of_v2().await?;
        session.batch_execute("SET search_path = users").await?;
        anyhow::Ok(session)
    };

    // What the broker ran is not run again; Diesel takes it back.
    let taken_back = diesel(session().await?, folder.clone(), |harness, source| {
        let pending = harness.pending_migrations(source.clone())?;
        let reverted = harness.revert_last_migration(source)?;
        Ok((pending.len(), reverted.to_string()))
    });
    assert_eq!(taken_back.await?, (0, "20260214090000".to_owned()));
    let standing = bench.standings().await?;
    assert_eq!(standing.last(), Some(&format!("{CITIES} PENDING")));

    // What Diesel ran is adopted, and comes to the same.
    diesel(session().await?, folder, |harness, source| {
        Ok(harness.run_pending_migrations(source)?.len())
    })
    .await?;
    assert_eq!(columns(&owner).await?, by_broker);
    let status = bench.migrate(&["status", V2]).await?;
    let last = status.lines().last().context("a row")?;
    assert!(
        last.contains("APPLIED") && last.contains("by Diesel"),
        "{status}"
    );
    assert_eq!(bench.migrate(&["up", V2]).await?, "nothing to do\n");
    let status = bench.migrate(&["status", V2]).await?;
    assert!(!status.contains("by Diesel"), "{status}");

    // What Diesel runs again is Diesel's again.
    let folder = bench.config.folder().join("migrations/users");
    diesel(session().await?, folder, |harness, source| {
        harness.revert_last_migration(source.clone())?;
        Ok(harness.run_pending_migrations(source)?.len())
    })
    .await?;
    let status = bench.migrate(&["status", V2]).await?;
    assert!(status.contains("by Diesel"), "{status}");
    bench.stop().await
}

#[tokio::test]
async fn another_branch_is_migrated_alone_and_a_new_revision_is_tried_there() -> anyhow::Result<()>
{
    let bench = Bench::start().await?;
    let folder = bench.config.folder().join("migrations/users");
    let folder = folder.to_str().context("a path")?;
    let files = bench.migrate(&["new", folder, "add a nickname"]).await?;
    let again = bench.migrate(&["new", folder, "another"]).await?;
    assert_ne!(files.split('_').next(), again.split('_').next());
    let paths: Vec<&Path> = files.lines().map(Path::new).collect();
    let [up, down] = paths[..] else {
        anyhow::bail!("{files}");
    };
    bench
        .says(&["branches", "create", "trial", "--parent", "api_v2_branch"])
        .await?;
    let at = ["--branch", "trial"];
    let refused = bench
        .migrate_refused(&[&["up", V2][..], &at].concat())
        .await?;
    assert!(refused.contains("has no statement yet"), "{refused}");
    std::fs::write(up, "ALTER TABLE users ADD nickname text;")?;
    std::fs::write(down, "ALTER TABLE users DROP nickname;")?;
    let name = up.parent().and_then(Path::file_name).context("a name")?;
    let name = name.to_str().context("a name")?;
    bench
        .migrate(&[&["to", V2, name][..], &at].concat())
        .await?;
    let standing = bench.standings().await?;
    assert!(
        standing.contains(&format!("{name} PENDING")),
        "{standing:?}"
    );
    // v1 stops before it: on its own branch it is not run.
    let refused = bench.migrate_refused(&["to", V1, name]).await?;
    assert!(
        refused.contains("comes after what the binding declares"),
        "{refused}"
    );
    bench.stop().await
}

#[tokio::test]
async fn a_pattern_is_each_binding_and_one_that_fails_stops_no_other() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let all = "services/-/versions/-";
    let said = bench.migrate(&["status", all]).await?;
    for binding in [V1, V2] {
        ensure!(said.lines().any(|line| line == binding), "{said}");
    }
    let revision = "2027-01-01-000000_once";
    bench.revision(revision, &[("up.sql", "CREATE TABLE once (id int);")])?;
    // v1 is declared to stop before it.
    let said = bench.migrate(&["up", "services/users/versions/-"]).await?;
    assert_eq!(said, format!("{V1}\nnothing to do\n\n{V2}\n1 revision\n"));
    let json = bench.migrate(&["current", all, "--output", "json"]).await?;
    let json: serde_json::Value = serde_json::from_str(&json)?;
    assert_eq!(json[V1]["name"], REQUESTS);
    assert_eq!(json[V2]["name"], revision);
    let json = bench.migrate(&["history", all, "--output", "json"]).await?;
    let json: serde_json::Value = serde_json::from_str(&json)?;
    assert_eq!(json[V2][0]["name"], revision);

    // What is wrong with v1 is said with its name, and the others have their turn.
    let owner = bench.owner_of_v2().await?;
    owner
        .batch_execute("ALTER TABLE users.once ADD by_hand int")
        .await?;
    let ended = bench.output(&["migrate", "verify", all]).await?;
    ensure!(
        ended.code == Some(1)
            && ended
                .out
                .contains(&format!("{V1}\nthe schema is what its revisions make\n"))
            && ended.out.contains("+    by_hand integer"),
        "{ended:?}"
    );
    let wrong = bench.revision("2027-01-02-000000_wrong", &[("up.sql", "SELECT 1/0;")])?;
    let ended = bench.output(&["migrate", "up", all]).await?;
    ensure!(
        ended.code == Some(1)
            && ended.out.contains(&format!("{V1}\nnothing to do\n"))
            && ended.err.contains(&format!("error: {V2}: "))
            && ended.err.contains("2027-01-02-000000_wrong"),
        "{ended:?}"
    );
    std::fs::remove_dir_all(wrong)?;

    for (arguments, why) in [
        (&["down", all][..], "one at a time"),
        (&["up", all, "--sql"], "name one"),
        (&["status", all, "--branch", "main"], "name one binding"),
        (&["status", "services/nobody/versions/-"], "no binding is"),
    ] {
        let refused = bench.migrate_refused(arguments).await?;
        ensure!(refused.contains(why), "{refused}");
    }
    bench.stop().await
}
