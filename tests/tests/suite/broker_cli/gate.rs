//! Revisions behind a gate, and those that a person runs; schemas that are compared.

use anyhow::{Context, ensure};
use proto::broker::v1::acquire_lease_request::Target;
use proto::broker::v1::{AcquireLeaseRequest, Lease, RenewLeaseRequest};

use super::Bench;
use super::migrate::{V2, columns};

const NEXT: &str = "2027-01-01-000000_next";
const UP: (&str, &str) = ("up.sql", "ALTER TABLE users ADD nickname text;");
const DOWN: (&str, &str) = ("down.sql", "ALTER TABLE users DROP nickname;");

impl Bench {
    /// With these lines for v2 in broker.toml.
    async fn with_v2(lines: &str) -> anyhow::Result<Self> {
        Self::start_with(|config| {
            let v2 = "[services.users.versions.v2]\n";
            let text = config.text()?;
            config.write(&text.replace(v2, &format!("{v2}{lines}\n")))
        })
        .await
    }

    /// A lease on v2.
    async fn acquired(&self) -> anyhow::Result<Lease> {
        let mut leases = self.broker.leases().await?;
        let lease = leases.acquire_lease(acquire()).await?.into_inner().lease;
        lease.context("a lease")
    }
}

fn acquire() -> AcquireLeaseRequest {
    AcquireLeaseRequest {
        target: Some(Target::Binding(V2.to_owned())),
        ..AcquireLeaseRequest::default()
    }
}

#[tokio::test]
async fn what_was_not_rehearsed_as_it_is_does_not_pass_the_gate() -> anyhow::Result<()> {
    let bench = Bench::with_v2("gate = \"rehearsed\"").await?;
    let owner = bench.owner_of_v2().await?;
    let nickname = "nickname".to_owned();
    let revision = bench.revision(NEXT, &[UP, DOWN])?;
    let refused = bench.migrate_refused(&["up", V2]).await?;
    ensure!(
        refused.contains(NEXT) && refused.contains("after a rehearsal that passed"),
        "{refused}"
    );
    // One of what was there before is none of what is there now.
    bench.migrate(&["rehearse", V2]).await?;
    std::fs::write(revision.join("up.sql"), format!("{} -- changed", UP.1))?;
    bench.migrate_refused(&["up", V2]).await?;
    ensure!(!columns(&owner).await?.contains(&nickname));
    std::fs::write(revision.join("up.sql"), UP.1)?;
    bench.migrate(&["up", V2]).await?;
    ensure!(columns(&owner).await?.contains(&nickname));

    // An administrator may all the same, and the audit log knows.
    bench.migrate(&["down", V2]).await?;
    std::fs::write(revision.join("up.sql"), format!("{} -- again", UP.1))?;
    bench.migrate_refused(&["up", V2]).await?;
    bench.migrate(&["up", V2, "--force"]).await?;
    let audit = bench.says(&["audit"]).await?;
    ensure!(audit.contains(&format!("runs {NEXT} by force")), "{audit}");

    // An apply rehearses by itself: what fails is not run, and the binding serves on.
    let worse = "2027-01-02-000000_worse";
    bench.revision(worse, &[("up.sql", "ALTER TABLE users ADD city text;")])?;
    let ended = bench.output(&["apply"]).await?;
    ensure!(
        ended.code == Some(1) && ended.err.contains("did not pass"),
        "{ended:?}"
    );
    let bindings = bench.says(&["bindings", "get", V2]).await?;
    ensure!(bindings.contains("READY"), "{bindings}");
    ensure!(bindings.contains(NEXT), "{bindings}");
    let folder = bench.config.folder().join("migrations/users").join(worse);
    std::fs::write(folder.join("up.sql"), "ALTER TABLE users ADD town text;")?;
    std::fs::write(folder.join("down.sql"), "ALTER TABLE users DROP town;")?;
    bench.says(&["apply"]).await?;
    ensure!(columns(&owner).await?.contains(&"town".to_owned()));
    bench.stop().await
}

#[tokio::test]
async fn a_branch_that_is_behind_gives_no_leases_until_somebody_has_migrated_it()
-> anyhow::Result<()> {
    let mut bench = Bench::with_v2("auto_migrate = false").await?;
    let acquire = ["leases", "acquire", V2];
    let refused_for = async |bench: &Bench, revision: &str| {
        suite::eventually("it says what it waits for", async || {
            let ended = bench.output(&acquire).await?;
            assert_eq!(ended.code, Some(1), "no lease was given: {ended:?}");
            let said = ended.err.contains(revision) && ended.err.contains("auto_migrate is off");
            ensure!(said, "{ended:?}");
            Ok(())
        })
        .await
    };
    // It was never migrated.
    refused_for(&bench, "2026-02-14-090000_add_age_and_city").await?;
    let shown = bench.says(&["bindings", "get", V2]).await?;
    ensure!(
        shown.contains("FAILED") && shown.contains("auto_migrate is off"),
        "{shown}"
    );
    bench.migrate(&["up", V2]).await?;
    let held = bench.acquired().await?;

    // It gets another revision while its broker runs, and while it does not.
    bench.revision(NEXT, &[UP, DOWN])?;
    let ended = bench.output(&["apply"]).await?;
    ensure!(
        ended.code == Some(1) && ended.err.contains(NEXT),
        "{ended:?}"
    );
    refused_for(&bench, NEXT).await?;
    bench.broker = bench.broker.kill_and_start().await?;
    refused_for(&bench, NEXT).await?;
    // Who has a lease keeps it.
    let mut leases = bench.broker.leases().await?;
    leases
        .renew_lease(RenewLeaseRequest {
            name: held.name.clone(),
            ..RenewLeaseRequest::default()
        })
        .await?;
    bench.migrate(&["up", V2]).await?;
    bench.acquired().await?;
    // What was taken back is behind again.
    bench.migrate(&["down", V2]).await?;
    refused_for(&bench, NEXT).await?;
    bench.migrate(&["up", V2]).await?;
    bench.acquired().await?;

    // One that comes before what the branch has is missing as well.
    let late = "2026-06-01-000000_late";
    let up = ("up.sql", "CREATE TABLE once (id int);");
    bench.revision(late, &[up])?;
    bench.output(&["apply"]).await?;
    refused_for(&bench, late).await?;
    bench.migrate(&["up", V2]).await?;
    bench.acquired().await?;
    // Taken back, and not run again: its way back has made what it makes.
    let last = "2027-01-02-000000_last";
    bench.revision(
        last,
        &[
            ("up.sql", "CREATE TABLE last (id int);"),
            (
                "down.sql",
                "ALTER TABLE last RENAME TO first; CREATE TABLE last (id int);",
            ),
        ],
    )?;
    bench.migrate(&["up", V2]).await?;
    bench.acquired().await?;
    let refused = bench.migrate_refused(&["redo", V2]).await?;
    ensure!(refused.contains("already exists"), "{refused}");
    refused_for(&bench, last).await?;
    bench.stop().await
}

/// Asked all the time while its broker starts, a binding that was ready before gives its
/// first lease on the newest revision.
#[tokio::test]
async fn a_start_runs_revisions_before_it_gives_leases() -> anyhow::Result<()> {
    let mut bench = Bench::start().await?;
    let owner = bench.owner_of_v2().await?;
    bench.acquired().await?;
    let slow = format!("SELECT pg_sleep(1); {}", UP.1);
    bench.revision(NEXT, &[("up.sql", &slow), DOWN])?;
    let leases = bench.broker.leases().await?;
    let starting = bench.broker.kill_and_start();
    let first = async {
        suite::eventually("a lease is given", async || {
            leases.clone().acquire_lease(acquire()).await?;
            anyhow::Ok(())
        })
        .await?;
        columns(&owner).await
    };
    let (started, columns) = tokio::join!(starting, first);
    bench.broker = started?;
    ensure!(columns?.contains(&"nickname".to_owned()));
    bench.stop().await
}

#[tokio::test]
async fn drift_is_shown_and_a_revision_is_written_from_a_wanted_schema() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let owner = bench.owner_of_v2().await?;
    let said = bench.migrate(&["verify", V2]).await?;
    assert_eq!(said, "the schema is what its revisions make\n");
    owner
        .batch_execute("ALTER TABLE users.users ADD by_hand int; INSERT INTO users.users (id, email, name) VALUES (4711, 'a@b.example', 'Ada L')")
        .await?;
    let ended = bench.output(&["migrate", "verify", V2]).await?;
    ensure!(
        ended.code == Some(1) && ended.out.contains("+    by_hand integer"),
        "{ended:?}"
    );
    owner
        .batch_execute("ALTER TABLE users.users DROP by_hand")
        .await?;
    // Two rows have the same there, so it comes to nothing, and is there.
    let unique = "CREATE UNIQUE INDEX CONCURRENTLY half ON users.users ((1))";
    ensure!(owner.batch_execute(unique).await.is_err());
    let ended = bench.output(&["migrate", "verify", V2]).await?;
    ensure!(
        ended.code == Some(1) && ended.out.contains("+invalid index half"),
        "{ended:?}"
    );
    owner.batch_execute("DROP INDEX users.half").await?;

    // The wanted schema: what the revisions say, a rename and a column more.
    let script = bench.migrate(&["to", V2, "base:head", "--sql"]).await?;
    ensure!(script.contains("CREATE TABLE users"), "{script}");
    let folder = bench.config.folder().join("migrations/users");
    let mut wanted = String::new();
    let mut names: Vec<_> = std::fs::read_dir(&folder)?.collect::<Result<_, _>>()?;
    names.sort_by_key(std::fs::DirEntry::file_name);
    for entry in names {
        wanted.push_str(&std::fs::read_to_string(entry.path().join("up.sql"))?);
    }
    wanted.push_str(
        "ALTER TABLE users RENAME name TO full_name; ALTER TABLE users ADD country text;",
    );
    let file = bench.folder.join("schema.sql");
    std::fs::write(&file, &wanted)?;
    let file = file.to_str().unwrap_or_default();
    let folder = folder.to_str().unwrap_or_default();
    let asked = ["autogenerate", V2, folder, "add_country", "--schema", file];
    let renamed = [&asked[..], &["--rename", "users.name=full_name"]].concat();
    let written = bench.migrate(&renamed).await?;
    let up = written.lines().next().unwrap_or_default();
    let text = std::fs::read_to_string(up)?;
    ensure!(
        text.contains("RENAME COLUMN name TO full_name") && !text.contains("-- broker: stop"),
        "{text}"
    );
    let before = bench.says(&["branches", "list"]).await?;
    bench.migrate(&["up", V2]).await?;
    let name = "SELECT full_name FROM users.users WHERE id = 4711";
    let name: String = owner.query_one(name, &[]).await?.get(0);
    assert_eq!(name, "Ada L");
    let again = bench.migrate(&asked).await?;
    assert_eq!(again, "nothing to write: the schema is as wanted\n");
    bench.migrate(&["down", V2]).await?;

    // Not told of the rename, it drops and adds, and stops before that.
    let told = std::path::Path::new(up).parent().context("a folder")?;
    std::fs::remove_dir_all(told)?;
    let written = bench.migrate(&asked).await?;
    let up = written.lines().next().unwrap_or_default();
    ensure!(std::fs::read_to_string(up)?.contains("-- broker: stop"));
    let refused = bench.migrate_refused(&["up", V2]).await?;
    ensure!(refused.contains("it stops there"), "{refused}");
    // What is pending would be written again.
    let refused = bench.migrate_refused(&asked).await?;
    ensure!(refused.contains("run them first"), "{refused}");
    let told = std::path::Path::new(up).parent().context("a folder")?;
    std::fs::remove_dir_all(told)?;
    std::fs::write(bench.folder.join("bad.sql"), "CREATE TABLE a (;\n")?;
    let bad = bench.folder.join("bad.sql");
    let bad = bad.to_str().unwrap_or_default();
    let refused = bench
        .migrate_refused(&["autogenerate", V2, folder, "x", "--schema", bad])
        .await?;
    ensure!(
        refused.contains("make the wanted schema: schema.sql:1:17"),
        "{refused}"
    );
    let refused = bench
        .migrate_refused(&[&asked[..], &["--rename", "users.nobody=x"]].concat())
        .await?;
    ensure!(refused.contains("renames"), "{refused}");
    assert_eq!(bench.says(&["branches", "list"]).await?, before);
    bench.stop().await
}
