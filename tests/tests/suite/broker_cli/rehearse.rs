//! Rehearsals: what is tried on a throw-away branch, and what is said of it.

use anyhow::{Context, ensure};
use serde_json::Value;

use super::Bench;
use super::migrate::V2;

const NEXT: &str = "2027-01-01-000000_next";
const LARGE: &str = "2026-12-01-000000_large";

impl Bench {
    /// What a rehearsal finds, as JSON.
    async fn rehearsed(&self) -> anyhow::Result<Value> {
        let ended = self
            .output(&["migrate", "rehearse", V2, "--output", "json"])
            .await?;
        serde_json::from_str(&ended.out).with_context(|| format!("{ended:?}"))
    }
}

/// The statement of a rehearsal's first revision that says this.
fn statement<'v>(report: &'v Value, part: &str) -> anyhow::Result<&'v Value> {
    let up = &report["revisions"][0]["up"]["statements"];
    let statements = up.as_array().context("statements")?;
    let says = |one: &&Value| {
        one["statement"]
            .as_str()
            .is_some_and(|sql| sql.contains(part))
    };
    let found = statements.iter().find(says);
    found.with_context(|| format!("{part}: {report:#}"))
}

fn locks(statement: &Value) -> Vec<String> {
    let locks = statement["locks"].as_array().into_iter().flatten();
    let words = |key: &str, lock: &Value| lock[key].as_str().unwrap_or_default().to_owned();
    locks
        .map(|lock| format!("{} {}", words("table", lock), words("mode", lock)))
        .collect()
}

#[tokio::test]
async fn a_good_revision_passes_and_leaves_nothing() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let nothing = bench.migrate(&["rehearse", V2]).await?;
    ensure!(
        nothing.starts_with("UNPROVEN, nothing is pending"),
        "{nothing}"
    );
    bench.revision(
        NEXT,
        &[
            ("up.sql", "ALTER TABLE users ADD nickname text;"),
            ("down.sql", "ALTER TABLE users DROP nickname;"),
        ],
    )?;
    let before = bench.says(&["branches", "list"]).await?;
    let said = bench.migrate(&["rehearse", V2]).await?;
    for part in [
        "PASS, 1 revision on branches/",
        "services/users/versions/v2: 40 of 40 queries work afterwards",
        "1: ALTER TABLE users ADD nickname text",
        "AccessExclusiveLock on users (",
        "going back restores the schema and the rows",
        "up again: ",
        "+    nickname text",
    ] {
        ensure!(said.contains(part), "{part}: {said}");
    }
    // The branch itself was not touched, and nothing is left beside it.
    let standing = bench.standings().await?;
    assert_eq!(standing.last(), Some(&format!("{NEXT} PENDING")));
    assert_eq!(bench.says(&["branches", "list"]).await?, before);
    let markdown = bench.migrate(&["rehearse", V2, "--markdown"]).await?;
    ensure!(markdown.starts_with("### Rehearsal: PASS"), "{markdown}");
    bench.stop().await
}

#[tokio::test]
async fn what_is_wrong_or_was_not_tried_does_not_pass() -> anyhow::Result<()> {
    // What v2 asks of the schema is another test's.
    let bench = Bench::start_with(|config| {
        let text = config.text()?;
        config.write(&text.replace("contract = \"migrations/contracts/users/v2.sql\"\n", ""))
    })
    .await?;
    let before = bench.says(&["branches", "list"]).await?;
    let up = ("up.sql", "ALTER TABLE users ADD nickname text;");
    for (files, verdict, reason) in [
        (
            vec![up],
            "UNPROVEN",
            "down was not tried: it has no down.sql",
        ),
        (
            vec![("up.sql", "ALTER TABLE users ADDD x int;")],
            "FAIL",
            "up.sql:1:19: in `ALTER TABLE users ADDD x int`: syntax error",
        ),
        (
            vec![up, ("down.sql", "SELECT 1;")],
            "FAIL",
            "down does not restore the schema",
        ),
        (
            vec![up, ("down.sql", "ALTER TABLE users DROP nick;")],
            "FAIL",
            "column \"nick\" of relation \"users\" does not exist",
        ),
        (
            vec![
                (
                    "up.sql",
                    "-- broker: allow: ban-drop-column\nALTER TABLE users DROP city;",
                ),
                ("down.sql", "ALTER TABLE users ADD city text;"),
            ],
            "FAIL",
            "down does not restore the rows: rows of users are not what they were",
        ),
        (
            vec![
                (
                    "up.sql",
                    "-- broker: allow: ban-drop-column\nALTER TABLE users DROP city;",
                ),
                (
                    "down.sql",
                    "-- broker: allow: down-loses-rows\nALTER TABLE users ADD city text;",
                ),
            ],
            "PASS",
            "",
        ),
    ] {
        let revision = bench.revision(NEXT, &files)?;
        let ended = bench.output(&["migrate", "rehearse", V2]).await?;
        let said = &ended.out;
        ensure!(
            said.starts_with(verdict) && said.contains(reason),
            "{verdict} {reason}: {ended:?}"
        );
        assert_eq!(ended.code, Some(i32::from(verdict != "PASS")));
        std::fs::remove_dir_all(revision)?;
    }
    assert_eq!(bench.says(&["branches", "list"]).await?, before);
    bench.stop().await
}

#[tokio::test]
async fn true_locks_of_a_large_table_are_shown_with_whom_they_keep_waiting() -> anyhow::Result<()> {
    let bench = Bench::start_with(|config| {
        let contract = "SELECT id, word FROM large WHERE id = 1;\n\
                        -- example: 7, 'seven'\n\
                        INSERT INTO large (id, n, word) VALUES (-$1::bigint, 0, $2);\n\
                        SELECT count(*) FROM users;\n";
        std::fs::write(config.folder().join("contract.sql"), contract)?;
        let text = config.text()?;
        config.write(&text.replace("migrations/contracts/users/v2.sql", "contract.sql"))
    })
    .await?;
    let rows = suite::count(100_000, 1_000_000);
    bench.revision(
        LARGE,
        &[
            (
                "up.sql",
                &format!(
                    "CREATE TABLE large (id bigint PRIMARY KEY, n int NOT NULL, word text);
                     INSERT INTO large SELECT i, i, 'w' FROM generate_series(1, {rows}) AS i;
                     ANALYZE large;"
                ),
            ),
            ("down.sql", "DROP TABLE large;"),
        ],
    )?;
    bench.migrate(&["up", V2]).await?;

    // A rewrite: everybody waits.
    let revision = bench.revision(
        NEXT,
        &[
            (
                "up.sql",
                "ALTER TABLE large ALTER n TYPE bigint;\nCREATE TABLE small (id int);\n\
                 CREATE INDEX ON small (id);",
            ),
            (
                "down.sql",
                "DROP TABLE small; ALTER TABLE large ALTER n TYPE int;",
            ),
        ],
    )?;
    let report = bench.rehearsed().await?;
    let altered = statement(&report, "ALTER TABLE large")?;
    let exclusive = "large AccessExclusiveLock".to_owned();
    ensure!(locks(altered).contains(&exclusive), "{altered}");
    assert_eq!(
        altered["rewrites"][0]["rows"],
        rows.to_string(),
        "{altered}"
    );
    let lock = &altered["locks"][0];
    assert_eq!(lock["rows"], rows.to_string(), "{lock}");
    let blocked = altered["blocked"].to_string();
    ensure!(
        blocked.contains("SELECT id, word FROM large") && blocked.contains("INSERT INTO large"),
        "{blocked}"
    );
    ensure!(!blocked.contains("count(*)"), "{blocked}");
    // Of what the revision makes itself nobody waits.
    assert_eq!(locks(statement(&report, "CREATE INDEX")?), [""; 0]);
    let findings = report["revisions"][0]["findings"].to_string();
    ensure!(
        findings.contains("changing-column-type") && report["verdict"] == "REHEARSAL_VERDICT_FAIL",
        "{report:#}"
    );

    // An index that keeps writers out, and one that keeps nobody.
    std::fs::write(
        revision.join("up.sql"),
        "CREATE INDEX large_n ON large (n);",
    )?;
    std::fs::write(revision.join("down.sql"), "DROP INDEX large_n;")?;
    let report = bench.rehearsed().await?;
    let made = statement(&report, "CREATE INDEX")?;
    assert_eq!(locks(made), ["large ShareLock"]);
    let blocked = made["blocked"].to_string();
    ensure!(
        blocked.contains("INSERT INTO large") && !blocked.contains("SELECT id"),
        "{blocked}"
    );
    std::fs::write(
        revision.join("up.sql"),
        "CREATE INDEX CONCURRENTLY large_n ON large (n);",
    )?;
    std::fs::write(
        revision.join("down.sql"),
        "DROP INDEX CONCURRENTLY large_n;",
    )?;
    std::fs::write(revision.join("metadata.toml"), "run_in_transaction = false")?;
    let report = bench.rehearsed().await?;
    let made = statement(&report, "CREATE INDEX")?;
    assert_eq!(locks(made), ["large ShareUpdateExclusiveLock"]);
    assert_eq!(made["blocked"], serde_json::json!([]));
    assert_eq!(report["verdict"], "REHEARSAL_VERDICT_PASS", "{report:#}");

    // A query that does not work any more.
    std::fs::remove_file(revision.join("metadata.toml"))?;
    std::fs::write(
        revision.join("up.sql"),
        "ALTER TABLE large RENAME word TO words;",
    )?;
    std::fs::write(
        revision.join("down.sql"),
        "ALTER TABLE large RENAME words TO word;",
    )?;
    let report = bench.rehearsed().await?;
    let reasons = report["reasons"].to_string();
    ensure!(
        reasons.contains("a query of services/users/versions/v2 (line 1")
            && reasons.contains("column \\\"word\\\" does not exist")
            && reasons.contains("renames-used"),
        "{reasons}"
    );
    bench.stop().await
}

/// Outside a transaction a second session looks again and again, and tries the queries of
/// live versions each time.
#[tokio::test]
async fn what_a_statement_alone_keeps_waiting_is_shown() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let locked = "DO $$ BEGIN LOCK TABLE users IN ACCESS EXCLUSIVE MODE; \
                  PERFORM pg_sleep(0.5); END $$;";
    let alone = ("metadata.toml", "run_in_transaction = false\n");
    bench.revision(NEXT, &[("up.sql", locked), ("down.sql", locked), alone])?;
    let report = bench.rehearsed().await?;
    assert_eq!(report["verdict"], "REHEARSAL_VERDICT_PASS", "{report:#}");
    let statement = statement(&report, "DO ")?;
    ensure!(
        locks(statement).contains(&"users AccessExclusiveLock".to_owned()),
        "{statement:#}"
    );
    let blocked = statement["blocked"].as_array().context("blocked")?;
    ensure!(blocked.len() > 10, "{statement:#}");
    bench.stop().await
}
