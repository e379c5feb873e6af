//! Revisions that are cut off in the middle: by the broker's end, by their connection's,
//! by a lock that somebody else holds. And ten brokers that come at once.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use rpc::health::wait_until_serving;
use suite::{Broker, Config, PATIENCE, Process, eventually};
use tokio::process::Child;
use tokio_postgres::Client;

use super::migrate::V2;
use super::{Bench, Ended, ended};

const MADE: &str = "2027-01-01-000000_made";
const NAMES: &str = "2027-01-02-000000_names";
const FILLED: &str = "2027-01-03-000000_filled";
const ONCE: &str = "2027-01-04-000000_once";
const ALONE: (&str, &str) = ("metadata.toml", "run_in_transaction = false\n");

/// Each way makes its change, and goes on when the test lets it.
const MADE_UP: &str = "CREATE TABLE made (id int);\nSET LOCAL lock_timeout = 0;\n\
                       SELECT pg_advisory_xact_lock(4711);\n";
const MADE_DOWN: &str = "DROP TABLE made;\nSET LOCAL lock_timeout = 0;\n\
                         SELECT pg_advisory_xact_lock(4711);\n";
const HOLD: &str = "SELECT pg_advisory_lock(4711)";
const LET_GO: &str = "SELECT pg_advisory_unlock(4711)";

/// Rows whose `n` says how often they were changed; one of them is changed when the test
/// lets it.
const FILLED_UP: &str = "
    CREATE TABLE counted (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0);
    INSERT INTO counted (id) SELECT * FROM generate_series(1, 40);
    CREATE FUNCTION wait_there() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$
    BEGIN
        IF new.id = 18 THEN PERFORM pg_advisory_xact_lock(4711); END IF;
        RETURN new;
    END $$;
    CREATE TRIGGER wait_there BEFORE UPDATE ON counted
        FOR EACH ROW EXECUTE FUNCTION wait_there();";
const ONCE_UP: &str = "-- batch: 5 by id\nUPDATE counted SET n = n + 1;\n";

/// What waits for the test, and for a transaction or a table of the test's.
const ADVISORY: &str = "locktype = 'advisory' AND objid = 4711";
const TRANSACTION: &str = "locktype = 'virtualxid'";

impl Bench {
    /// Begins `broker migrate` with these arguments.
    fn begin_migrating(&self, arguments: &[&str]) -> anyhow::Result<Child> {
        let mut command = self.command(&[&["migrate"], arguments].concat())?;
        Ok(command.spawn()?)
    }

    /// Waits until a revision of v2 stands so.
    async fn stands(&self, revision: &str, state: &str) -> anyhow::Result<()> {
        let wanted = format!("{revision} {state}");
        eventually(&wanted, async || {
            let standings = self.standings().await?;
            ensure!(standings.contains(&wanted), "{standings:?}");
            Ok(())
        })
        .await
    }
}

/// From its next start on, the broker runs nothing on v2 by itself.
fn by_hand(config: &Config) -> anyhow::Result<()> {
    let v2 = "[services.users.versions.v2]\n";
    let text = config.text()?;
    config.write(&text.replace(v2, &format!("{v2}auto_migrate = false\n")))
}

/// How a command ends.
async fn end_of(child: Child) -> anyhow::Result<Ended> {
    ended(child.wait_with_output()).await
}

/// Its broker was killed, or its revision was cut off.
async fn fails(child: Child) -> anyhow::Result<String> {
    let ended = end_of(child).await?;
    ensure!(ended.code == Some(1), "{ended:?}");
    Ok(ended.err)
}

/// Waits until a session waits for such a lock, and says which.
async fn waits(owner: &Client, lock: &str) -> anyhow::Result<i32> {
    let ask = format!("SELECT pid FROM pg_locks WHERE NOT granted AND {lock}");
    eventually("a session waits", async || {
        let found = owner.query_opt(&ask, &[]).await?;
        let found = found.with_context(|| format!("nobody waits: {lock}"))?;
        Ok(found.get(0))
    })
    .await
}

/// Waits until that session has ended.
async fn is_gone(owner: &Client, session: i32) -> anyhow::Result<()> {
    eventually("a session has ended", async || {
        let ask = "SELECT to_jsonb(a)::text FROM pg_stat_activity a WHERE pid = $1";
        match owner.query_opt(ask, &[&session]).await? {
            None => Ok(()),
            Some(row) => anyhow::bail!("{}", row.get::<_, String>(0)),
        }
    })
    .await
}

/// Ends that session, as a server that goes down does.
async fn end_session(owner: &Client, session: i32) -> anyhow::Result<()> {
    owner
        .query_one("SELECT pg_terminate_backend($1)", &[&session])
        .await?;
    is_gone(owner, session).await
}

async fn is_there(owner: &Client, table: &str) -> anyhow::Result<bool> {
    let ask = "SELECT to_regclass($1) IS NOT NULL";
    Ok(owner.query_one(ask, &[&table]).await?.get(0))
}

async fn count(owner: &Client, of: &str) -> anyhow::Result<i64> {
    let ask = format!("SELECT count(*) FROM users.{of}");
    Ok(owner.query_one(&ask, &[]).await?.get(0))
}

/// The session of a broker that was killed goes on until it tells its client that it is
/// done: nobody is there, and what it has not committed is undone.
#[tokio::test]
async fn a_broker_that_is_killed_leaves_whole_revisions_and_whole_batches() -> anyhow::Result<()> {
    let mut bench = Bench::start().await?;
    by_hand(&bench.config)?;
    let owner = bench.owner_of_v2().await?;
    let gate = bench.owner_of_v2().await?;

    bench.revision(MADE, &[("up.sql", MADE_UP), ("down.sql", MADE_DOWN)])?;
    for (way, before, after) in [("up", "PENDING", true), ("down", "APPLIED", false)] {
        gate.batch_execute(HOLD).await?;
        let cut_off = bench.begin_migrating(&[way, V2])?;
        let left = waits(&owner, ADVISORY).await?;
        bench.broker = bench.broker.kill_and_start().await?;
        fails(cut_off).await?;
        bench.stands(MADE, before).await?;
        gate.batch_execute(LET_GO).await?;
        is_gone(&owner, left).await?;
        bench.stands(MADE, before).await?;
        assert_ne!(is_there(&owner, "users.made").await?, after, "{way}");
        assert_eq!(bench.migrate(&[way, V2]).await?, "1 revision\n");
        assert_eq!(is_there(&owner, "users.made").await?, after, "{way}");
    }

    bench.revision(FILLED, &[("up.sql", FILLED_UP)])?;
    bench.migrate(&["to", V2, FILLED]).await?;
    bench.revision(ONCE, &[("up.sql", ONCE_UP), ALONE])?;
    gate.batch_execute(HOLD).await?;
    let cut_off = bench.begin_migrating(&["up", V2])?;
    let left = waits(&owner, ADVISORY).await?;
    bench.broker = bench.broker.kill_and_start().await?;
    let told = fails(cut_off).await?;
    ensure!(told.contains(": 15 of about 40 rows"), "{told}");
    gate.batch_execute(LET_GO).await?;
    is_gone(&owner, left).await?;
    bench.stands(ONCE, "PENDING").await?;
    assert_eq!(count(&owner, "counted WHERE n = 1").await?, 15);
    let reached = "__branch_broker_batches WHERE reached = '15' AND rows = 15";
    assert_eq!(count(&owner, reached).await?, 1);
    // It goes on there: none is changed twice.
    let ended = bench.output(&["migrate", "up", V2]).await?;
    ensure!(
        ended.code == Some(0)
            && ended.err.contains(": 20 of about 40 rows")
            && !ended.err.contains(": 15 of"),
        "{ended:?}"
    );
    assert_eq!(count(&owner, "counted WHERE n = 1").await?, 40);
    assert_eq!(count(&owner, "__branch_broker_batches").await?, 0);
    bench.stop().await
}

#[tokio::test]
async fn an_index_that_is_cut_off_is_named_until_somebody_drops_it() -> anyhow::Result<()> {
    let mut bench = Bench::start().await?;
    by_hand(&bench.config)?;
    let owner = bench.owner_of_v2().await?;
    let writer = bench.owner_of_v2().await?;
    let write = "BEGIN; LOCK TABLE users.users IN ROW EXCLUSIVE MODE";
    let is_valid = async || -> anyhow::Result<bool> {
        let ask = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'users.names'::regclass";
        Ok(owner.query_one(ask, &[]).await?.get(0))
    };
    let invalid = "there is the invalid index users.names: drop it, then run the revision again";

    let up = "CREATE INDEX CONCURRENTLY names ON users (name);";
    bench.revision(NAMES, &[("up.sql", up), ALONE])?;
    writer.batch_execute(write).await?;
    let cut_off = bench.begin_migrating(&["up", V2])?;
    let left = waits(&owner, TRANSACTION).await?;
    bench.broker = bench.broker.kill_and_start().await?;
    fails(cut_off).await?;
    writer.batch_execute("ROLLBACK").await?;
    is_gone(&owner, left).await?;
    // Whether the session went on to the end of it is the server's affair.
    bench.stands(NAMES, "PENDING").await?;
    let refused = bench.migrate_refused(&["up", V2]).await?;
    ensure!(
        refused.contains("up.sql:1:1: in `CREATE INDEX") && refused.contains("already exists"),
        "{refused}"
    );
    assert_ne!(refused.contains(invalid), is_valid().await?, "{refused}");
    owner.batch_execute("DROP INDEX users.names").await?;

    // Its connection is lost: nobody can look, until somebody comes again.
    writer.batch_execute(write).await?;
    let cut_off = bench.begin_migrating(&["up", V2])?;
    end_session(&owner, waits(&owner, TRANSACTION).await?).await?;
    let refused = fails(cut_off).await?;
    for part in [
        NAMES,
        "up.sql:1:1: in `CREATE INDEX",
        "terminating connection",
        "it ran outside a transaction, and nobody could look what it left behind",
    ] {
        ensure!(refused.contains(part), "{part}: {refused}");
    }
    writer.batch_execute("ROLLBACK").await?;
    ensure!(!is_valid().await?, "it was cut off");
    bench.stands(NAMES, "PENDING").await?;
    let refused = bench.migrate_refused(&["up", V2]).await?;
    ensure!(refused.contains(invalid), "{refused}");
    owner.batch_execute("DROP INDEX users.names").await?;
    assert_eq!(bench.migrate(&["up", V2]).await?, "1 revision\n");
    ensure!(is_valid().await?);
    bench.stop().await
}

#[tokio::test]
async fn a_lost_connection_and_a_lock_that_others_hold_leave_nothing() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let owner = bench.owner_of_v2().await?;
    let other = bench.owner_of_v2().await?;

    bench.revision(MADE, &[("up.sql", MADE_UP)])?;
    other.batch_execute(HOLD).await?;
    let cut_off = bench.begin_migrating(&["up", V2])?;
    end_session(&owner, waits(&owner, ADVISORY).await?).await?;
    let refused = fails(cut_off).await?;
    for part in [
        MADE,
        "up.sql:3:1: in `SELECT pg_advisory_xact_lock(4711)`",
        "terminating connection",
    ] {
        ensure!(refused.contains(part), "{part}: {refused}");
    }
    ensure!(!is_there(&owner, "users.made").await?);
    bench.stands(MADE, "PENDING").await?;
    other.batch_execute(LET_GO).await?;
    assert_eq!(bench.migrate(&["up", V2]).await?, "1 revision\n");
    ensure!(is_there(&owner, "users.made").await?);

    // What came before the table that is not to be had is undone, and the table left to
    // others for a moment; then it is begun again.
    let up = "CREATE TABLE first (id int);\nALTER TABLE made ADD n int;\n";
    bench.revision(NAMES, &[("up.sql", up), ("down.sql", "DROP TABLE first;")])?;
    let lock = "BEGIN; LOCK TABLE users.made IN ACCESS EXCLUSIVE MODE";
    other.batch_execute(lock).await?;
    let waiting = bench.begin_migrating(&["up", V2])?;
    eventually("it tries again", async || {
        let log = bench.broker.process.log();
        ensure!(log.contains("a lock is not to be had; trying again"));
        Ok(())
    })
    .await?;
    other.batch_execute("ROLLBACK").await?;
    let ended = end_of(waiting).await?;
    ensure!(
        ended.code == Some(0) && ended.out == "1 revision\n",
        "{ended:?}"
    );
    ensure!(is_there(&owner, "users.first").await?);

    // One that never comes: five times five seconds.
    if suite::count(0, 1) == 1 {
        let up = "CREATE TABLE second (id int);\nALTER TABLE made ADD m int;\n";
        bench.revision(FILLED, &[("up.sql", up)])?;
        other.batch_execute(lock).await?;
        let refused = bench.migrate_refused(&["up", V2]).await?;
        for part in [
            FILLED,
            "up.sql:2:1: in `ALTER TABLE made ADD m int`",
            "canceling statement due to lock timeout",
        ] {
            ensure!(refused.contains(part), "{part}: {refused}");
        }
        other.batch_execute("ROLLBACK").await?;
        ensure!(!is_there(&owner, "users.second").await?);
        bench.stands(FILLED, "PENDING").await?;
        assert_eq!(bench.migrate(&["up", V2]).await?, "1 revision\n");
    }
    bench.stop().await
}

/// Each start runs what is pending. Those on one state leave it to one of them; those
/// that have none know nothing of one another, and meet on the branch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_brokers_that_start_at_once_run_a_revision_once() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut alone = Broker::environment(&bench.folder, &bench.emulator).await?;
    alone.retain(|(name, _)| name != "BROKER_DATABASE_URL");
    let Bench {
        config,
        emulator,
        broker,
        folder,
    } = bench;
    broker.process.stop().await?;
    let path = config.path();
    let revisions = config.folder().join("migrations/users");
    // It fails where it is run twice, and is slow enough to be met.
    let write = |name: &str, table: &str| {
        let up = format!(
            "CREATE TABLE {table} (id int); INSERT INTO {table} VALUES (1); SELECT pg_sleep(0.5);"
        );
        std::fs::create_dir(revisions.join(name))?;
        std::fs::write(revisions.join(name).join("up.sql"), up)
    };
    let logs = |of: &str| -> Vec<_> {
        let log = |n| folder.join(&format!("{of}-{n}.log"));
        (0..10).map(log).collect()
    };

    write(MADE, "made")?;
    let logs_alone = logs("alone");
    let mut processes = Vec::new();
    for log in &logs_alone {
        let config = path.to_str().context("UTF-8")?;
        let arguments = ["serve", "--config", config, "--listen", "127.0.0.1:0"];
        let environment = alone.iter();
        let environment = environment.map(|(name, value)| (name.as_str(), value.as_str()));
        let environment: Vec<_> = environment.collect();
        processes.push(Process::start("broker", &arguments, &environment, log)?);
    }
    for process in &mut processes {
        let line = process.line().await?;
        let address = line.strip_prefix("listening on ").context("an address")?;
        let serving = wait_until_serving(address, "", PATIENCE).await;
        serving.with_context(|| process.log())?;
    }
    assert_eq!(who_ran(MADE, &logs_alone)?, 1);
    for process in processes {
        process.stop().await?;
    }

    write(NAMES, "names")?;
    let logs_of_one = logs("of-one");
    let starting = logs_of_one.iter();
    let starting = starting.map(|log| Broker::start_logging(&folder, &emulator, &path, log));
    let mut brokers = try_join_all(starting).await?;
    try_join_all(brokers.iter().map(Broker::is_ready)).await?;
    let bench = Bench {
        config,
        emulator,
        broker: brokers.pop().context("ten brokers")?,
        folder,
    };
    bench.stands(MADE, "APPLIED").await?;
    bench.stands(NAMES, "APPLIED").await?;
    for broker in brokers {
        broker.process.stop().await?;
    }
    assert_eq!(who_ran(NAMES, &logs_of_one)?, 1);
    let owner = bench.owner_of_v2().await?;
    for (table, version) in [("made", "20270101000000"), ("names", "20270102000000")] {
        assert_eq!(count(&owner, table).await?, 1);
        let history = format!(
            "__branch_broker_revisions JOIN users.__diesel_schema_migrations \
             USING (version, run_on) WHERE version = '{version}'"
        );
        assert_eq!(count(&owner, &history).await?, 1);
    }
    bench.stop().await
}

/// How many of those who wrote these logs ran a revision at their start.
fn who_ran(revision: &str, logs: &[PathBuf]) -> anyhow::Result<usize> {
    let ran = format!("migrate api_v2_branch to {revision}");
    let mut count = 0;
    for log in logs {
        count += std::fs::read_to_string(log)?.matches(&ran).count();
    }
    Ok(count)
}
