//! `broker run`: a command's end is its end, and its branch's.

use anyhow::Context;
use nix::sys::signal::Signal;
use suite::eventually;

use super::{Bench, V1};

const EPHEMERAL: [&str; 3] = ["--ephemeral", "--parent", V1];

#[tokio::test]
async fn a_command_has_a_branch_of_its_own_and_its_exit_code_counts() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let run = |parent: &'static str, flags: &'static [&str], script: &'static str| {
        let head = ["run", "--ephemeral", "--parent", parent];
        let arguments = [&head, flags, &["--", "sh", "-c", script]].concat();
        let bench = &bench;
        async move { bench.output(&arguments).await }
    };
    let changed = run(
        V1,
        &[],
        "psql -qAt \"$DATABASE_URL\" -c 'ALTER TABLE users ADD nickname text' \
         -c 'SELECT count(*) >= 2 FROM users WHERE nickname IS NULL'",
    )
    .await?;
    assert_eq!(
        (changed.code, &*changed.out),
        (Some(0), "t\n"),
        "{changed:?}"
    );
    assert_eq!(changed.err, "", "nobody is at a terminal");
    // Of a branch by its name, with the service's tables made there.
    let migrated = run(
        "main",
        &["--migrate"],
        "psql -qAt \"$DATABASE_URL\" -c 'SELECT count(city) FROM users'",
    )
    .await?;
    assert_eq!(
        (migrated.code, &*migrated.out),
        (Some(0), "0\n"),
        "{migrated:?}"
    );
    let failed = run(V1, &[], "exit 7").await?;
    assert_eq!(failed.code, Some(7), "{failed:?}");
    let killed = run(V1, &[], "kill -KILL $$").await?;
    assert_eq!(killed.code, Some(128 + 9), "{killed:?}");
    let arguments = [&["run"], &EPHEMERAL[..], &["--", "no-such-command"]].concat();
    let missing = bench.output(&arguments).await?;
    assert_eq!(missing.code, Some(127), "{missing:?}");
    assert!(
        missing.err.contains("no command no-such-command"),
        "{missing:?}"
    );
    bench.nothing_is_left().await?;

    // On what is there already, with no more rights than asked for.
    let write = [
        "--",
        "sh",
        "-c",
        "psql \"$DATABASE_URL\" -c 'DELETE FROM users'",
    ];
    let reading = ["run", "--binding", V1, "--access", "read_only"];
    let refused = bench.output(&[&reading, &write[..]].concat()).await?;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("permission denied"), "{refused:?}");
    let read = ["run", "--branch", "api_v1_branch", "--", "sh", "-c"];
    let script = "psql -qAt \"$DATABASE_URL\" -c 'SELECT count(*) >= 2 FROM users'";
    assert_eq!(bench.says(&[&read, &[script][..]].concat()).await?, "t\n");
    bench.nothing_is_left().await?;
    bench.stop().await
}

/// What docs/github-actions/pull-request.yml does.
#[tokio::test]
async fn a_pull_request_sees_how_it_changes_the_schema() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let create = ["branches", "create", "pr-7", "--parent", "api_v1_branch"];
    bench.says(&create).await?;
    let script = "psql -q \"$DATABASE_URL\" -c 'ALTER TABLE users ADD nickname text' &&
         \"$0\" branches diff \"$BROKER_BRANCH\" --base pr-7 --database neondb";
    let broker = suite::binary("broker")?;
    let broker = broker.to_str().context("a path")?;
    let run = [
        "run",
        "--ephemeral",
        "--parent",
        "pr-7",
        "--",
        "sh",
        "-c",
        script,
        broker,
    ];
    let diff = bench.says(&run).await?;
    assert!(diff.contains("\n+    nickname text\n"), "{diff}");
    assert!(!diff.contains("OWNER"), "that alone: {diff}");
    // It has no children any more.
    bench.nothing_is_left().await?;
    bench.says(&["branches", "delete", "pr-7"]).await?;
    bench.stop().await
}

#[tokio::test]
async fn signals_are_handed_on_and_leave_nothing() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        let command = ["--", "cat"];
        let arguments = [&["run"], &EPHEMERAL[..], &command].concat();
        let running = bench.start_running(&arguments).await?;
        running.signal(signal)?;
        let ended = running.ended().await?;
        assert_eq!(ended.code, Some(128 + signal as i32), "{ended:?}");
    }
    bench.nothing_is_left().await?;
    // One that a command heeds in its own way.
    let script = "trap 'kill $!; exit 5' TERM; read line
        sleep 60 >/dev/null 2>&1 &
        echo \"$line\"; wait";
    let arguments = [&["run"], &EPHEMERAL[..], &["--", "sh", "-c", script]].concat();
    let running = bench.start_running(&arguments).await?;
    running.signal(Signal::SIGTERM)?;
    assert_eq!(running.ended().await?.code, Some(5));
    bench.nothing_is_left().await?;
    bench.stop().await
}

#[tokio::test]
async fn a_command_outlives_its_ttl() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let flags = [&EPHEMERAL[..], &["--ttl", "5s"]].concat();
    let ask = "psql -qAt \"$DATABASE_URL\" -c 'SELECT count(*) >= 2 FROM users'";
    let running = bench.run(&flags, ask).await?;
    let first = bench.lease().await?;
    let end = first.expire_time.context("an end")?.seconds;
    eventually("it is renewed for longer than it was given", async || {
        let lease = bench.lease().await?;
        assert_eq!(lease.name, first.name);
        let now = lease.expire_time.context("an end")?.seconds;
        anyhow::ensure!(now > end + 5, "until {now}, first until {end}");
        Ok(())
    })
    .await?;
    let ended = running.finish().await?;
    assert_eq!((ended.code, &*ended.out), (Some(0), "t\n"), "{ended:?}");
    assert_eq!(ended.err, "");
    bench.nothing_is_left().await?;
    bench.stop().await
}
