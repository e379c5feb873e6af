//! Revisions that change many rows, in batches; and what is refused before it is run.

use anyhow::ensure;

use super::Bench;
use super::migrate::V2;

const FILLED: &str = "2027-01-01-000000_counted";
const CHANGED: &str = "2027-01-02-000000_once";
const ALONE: &str = "run_in_transaction = false\n";

/// Rows whose `n` says how often they were changed.
const FILL: &str = "
    CREATE TABLE counted (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0, word text);
    INSERT INTO counted (id, word) SELECT i * 3, 'w' FROM generate_series(1, 2500) AS i;
    UPDATE counted SET word = NULL WHERE id = 3 * 1700;";

#[tokio::test]
async fn batches_stay_when_one_fails_and_go_on_where_it_did() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let owner = bench.owner_of_v2().await?;
    bench.revision(
        FILLED,
        &[("up.sql", FILL), ("down.sql", "DROP TABLE counted;")],
    )?;
    let revision = bench.revision(
        CHANGED,
        &[
            (
                "up.sql",
                "-- Each row once.\n-- batch: 1000 by id\n\
                 UPDATE counted AS c SET n = n + 1 / length(word || '') WHERE c.id > 0;\n",
            ),
            (
                "down.sql",
                "-- batch: 700 by id\nUPDATE counted SET n = n - 1;",
            ),
            ("metadata.toml", ALONE),
        ],
    )?;
    // The row that has no word fails its batch, and that batch alone is undone.
    let refused = bench.migrate_refused(&["to", V2, CHANGED]).await?;
    for part in [
        "up.sql:3:1: in `UPDATE counted AS c SET n = n + 1",
        "null value in column",
        "1000 rows are changed, up to id 3000: run the revision again",
    ] {
        ensure!(refused.contains(part), "{part}: {refused}");
    }
    let changed = "SELECT count(*) FROM users.counted WHERE n = 1";
    let changed = async || anyhow::Ok(owner.query_one(changed, &[]).await?.get::<_, i64>(0));
    assert_eq!(changed().await?, 1000);
    let standing = bench.standings().await?;
    assert_eq!(standing.last(), Some(&format!("{CHANGED} PENDING")));

    // Another statement would not be the rest of this one.
    let up = std::fs::read_to_string(revision.join("up.sql"))?;
    std::fs::write(revision.join("up.sql"), up.replace("n + 1", "n + 2"))?;
    let refused = bench.migrate_refused(&["to", V2, CHANGED]).await?;
    ensure!(
        refused.contains("changed since it was interrupted, with 1000 rows done"),
        "{refused}"
    );
    // What was done stays known while another file is accepted as it is now.
    std::fs::write(revision.join("up.sql"), &up)?;
    bench.migrate(&["stamp", V2, "current"]).await?;
    owner
        .batch_execute("UPDATE users.counted SET word = 'w' WHERE word IS NULL")
        .await?;
    let ended = bench.output(&["migrate", "to", V2, CHANGED]).await?;
    ensure!(
        ended.err.contains(": 2000 of about 2500 rows") && !ended.err.contains(": 1000 of"),
        "{ended:?}"
    );
    assert_eq!(changed().await?, 2500);
    // One that was changed begins anew, when that is what somebody wants.
    bench.migrate(&["stamp", V2, FILLED]).await?;
    owner
        .batch_execute("UPDATE users.counted SET n = 0, word = NULLIF(word, 'w') WHERE id = 5100")
        .await?;
    bench.migrate_refused(&["up", V2]).await?;
    std::fs::write(revision.join("up.sql"), up.replace("n + 1", "1 + 0"))?;
    bench.migrate_refused(&["up", V2]).await?;
    bench.migrate(&["stamp", V2, "current"]).await?;
    owner
        .batch_execute("UPDATE users.counted SET word = 'w' WHERE word IS NULL")
        .await?;
    bench.migrate(&["up", V2]).await?;
    assert_eq!(changed().await?, 2500);
    std::fs::write(revision.join("up.sql"), &up)?;
    bench.migrate(&["stamp", V2, "current"]).await?;
    // Back again, and nothing is left of how far it had come.
    bench.migrate(&["down", V2]).await?;
    assert_eq!(changed().await?, 0);
    let left = "SELECT count(*) FROM users.__branch_broker_batches";
    let left: i64 = owner.query_one(left, &[]).await?.get(0);
    assert_eq!(left, 0);
    bench.stop().await
}

#[tokio::test]
async fn what_is_not_fit_to_be_run_is_refused_before_anything_is() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let owner = bench.owner_of_v2().await?;
    let table = "CREATE TABLE made (id int, other int PRIMARY KEY);";
    for (files, part) in [
        (
            vec![(
                "up.sql",
                "CREATE TABLE made (id int);\n-- broker: stop: drops x; remove this line when that is meant\nDROP TABLE x;",
            )],
            "up.sql:2: it stops there: drops x; remove this line",
        ),
        (
            vec![
                ("up.sql", "CREATE TABLE made (id int);\nSELECT 1;"),
                ("metadata.toml", ALONE),
            ],
            "has more than one statement",
        ),
        (
            vec![(
                "up.sql",
                "CREATE TABLE made (id int);\n\n-- batch: 10 by id\nUPDATE users SET name = name;",
            )],
            "up.sql:4: each batch is a transaction",
        ),
        (
            vec![
                ("up.sql", "-- batch: 10 by id\n\nDELETE FROM users;"),
                ("metadata.toml", ALONE),
            ],
            "up.sql:1: it is to stand directly before its statement",
        ),
        (
            vec![
                ("up.sql", "-- batch: 10 by city\nDELETE FROM users;"),
                ("metadata.toml", ALONE),
            ],
            "city of users may be NULL",
        ),
        (
            vec![
                ("up.sql", "-- batch: 10 by nobody\nDELETE FROM users;"),
                ("metadata.toml", ALONE),
            ],
            "there is no column nobody of users",
        ),
    ] {
        let revision = bench.revision(FILLED, &files)?;
        let refused = bench.migrate_refused(&["to", V2, FILLED]).await?;
        ensure!(refused.contains(part), "{part}: {refused}");
        std::fs::remove_dir_all(revision)?;
    }
    // A time limit is kept, and what it ends is undone.
    bench.revision(
        FILLED,
        &[("up.sql", &format!("{table} SELECT pg_sleep(60);"))],
    )?;
    let refused = bench
        .migrate_refused(&["to", V2, FILLED, "--statement-timeout", "1s"])
        .await?;
    ensure!(
        refused.contains("in `SELECT pg_sleep(60)`") && refused.contains("statement timeout"),
        "{refused}"
    );
    let made = "SELECT to_regclass('users.made') IS NOT NULL";
    ensure!(!owner.query_one(made, &[]).await?.get::<_, bool>(0));
    bench.stop().await
}
