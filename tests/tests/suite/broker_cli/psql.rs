//! `broker psql`.

use super::{Bench, V1, ended};

#[tokio::test]
async fn psql_reads_unless_more_is_asked_for() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let count = ["--", "--no-psqlrc", "-qAtc", "SELECT count(*) FROM users"];
    let said = bench.says(&[&["psql", V1], &count[..]].concat()).await?;
    assert_eq!(said, "2\n");
    let add = [
        "--",
        "--no-psqlrc",
        "-qc",
        "INSERT INTO users (name, email) VALUES ('Carol', 'carol@example.com')",
    ];
    let refused = bench.output(&[&["psql", V1], &add[..]].concat()).await?;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("permission denied"), "{refused:?}");
    let write = ["psql", "api_v1_branch", "--access", "read_write"];
    bench.says(&[&write, &add[..]].concat()).await?;
    let said = bench.says(&[&["psql", V1], &count[..]].concat()).await?;
    assert_eq!(said, "3\n");
    bench.nothing_is_left().await?;
    bench.stop().await
}

#[tokio::test]
async fn without_psql_it_says_what_to_install() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut command = bench.command(&["psql", V1])?;
    let ended = ended(command.env("PATH", bench.folder.path()).output()).await?;
    assert_eq!(ended.code, Some(127), "{ended:?}");
    assert!(ended.err.contains("postgresql-client"), "{ended:?}");
    let none = bench
        .output(&["psql", "services/users/versions/v9"])
        .await?;
    assert_eq!(none.code, Some(1), "{none:?}");
    assert!(none.err.contains("does not declare"), "{none:?}");
    bench.nothing_is_left().await?;
    bench.stop().await
}
