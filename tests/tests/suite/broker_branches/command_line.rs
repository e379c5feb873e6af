use std::process::Output;

use anyhow::ensure;

use super::Place;

/// Runs `broker` with these arguments.
async fn run(place: &Place, arguments: &[&str]) -> anyhow::Result<Output> {
    let url = format!("http://{}", place.broker.address());
    let program = suite::binary("broker")?;
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).args(["--broker", &url]);
    Ok(command.output().await?)
}

/// What it says when all is well.
async fn says(place: &Place, arguments: &[&str]) -> anyhow::Result<String> {
    let output = run(place, arguments).await?;
    let (out, err) = (
        String::from_utf8(output.stdout)?,
        String::from_utf8(output.stderr)?,
    );
    ensure!(output.status.success(), "{arguments:?}: {err}");
    Ok(out)
}

#[tokio::test]
async fn branches_are_managed_from_the_command_line() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let made = says(
        &place,
        &["branches", "create", "dev", "--read-only-endpoint"],
    )
    .await?;
    assert!(made.starts_with("NAME") && made.contains("READY"), "{made}");
    let again = says(
        &place,
        &["branches", "create", "dev", "--read-only-endpoint"],
    )
    .await?;
    assert_eq!(again, made, "found, not doubled");
    says(&place, &["branches", "create", "child", "--parent", "dev"]).await?;
    let list = says(&place, &["branches", "list", "--filter", "managed = true"]).await?;
    let names: Vec<&str> = list
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(names, ["NAME", "child", "dev"]);
    says(
        &place,
        &[
            "branches",
            "update",
            "child",
            "--name",
            "kid",
            "--protected",
            "true",
        ],
    )
    .await?;
    let kid = says(&place, &["branches", "get", "kid"]).await?;
    assert!(kid.contains("protected,managed"), "{kid}");
    says(
        &place,
        &["branches", "update", "kid", "--protected", "false"],
    )
    .await?;
    says(&place, &["branches", "reset", "kid"]).await?;
    says(
        &place,
        &[
            "branches",
            "restore",
            "kid",
            "--source",
            "main",
            "--preserve-under",
            "old",
        ],
    )
    .await?;
    says(&place, &["branches", "set-default", "kid"]).await?;
    says(&place, &["branches", "set-default", "main"]).await?;
    let schema = says(
        &place,
        &["branches", "schema", "kid", "--database", "neondb"],
    )
    .await?;
    assert!(schema.contains("SET "), "{schema}");
    let diff = [
        "branches",
        "diff",
        "kid",
        "--base",
        "dev",
        "--database",
        "neondb",
    ];
    assert_eq!(says(&place, &diff).await?, "");
    assert_eq!(
        says(&place, &["branches", "delete", "kid"]).await?,
        "done\n"
    );
    let filter = "method = DeleteBranch AND done = true";
    let operations = says(&place, &["operations", "list", "--filter", filter]).await?;
    let mut rows = operations.lines().skip(1);
    let row = rows.next().unwrap_or_default();
    assert!(
        row.starts_with("operations/") && row.ends_with("DONE"),
        "{operations}"
    );
    let operation = row.split(' ').next().unwrap_or_default();
    assert!(
        says(&place, &["operations", "get", operation])
            .await?
            .contains("DONE")
    );
    assert_eq!(
        says(&place, &["operations", "wait", operation]).await?,
        "done\n"
    );
    says(&place, &["operations", "cancel", operation]).await?;

    // A refusal is one sentence.
    place.emulator.branch("theirs", None).await?;
    for (arguments, what) in [
        (
            &["branches", "delete", "theirs"][..],
            "did not make the branch theirs",
        ),
        (
            &["branches", "delete", "none"][..],
            "the project has no branch none",
        ),
        (
            &["branches", "create", "main"][..],
            "has a branch main already",
        ),
    ] {
        let output = run(&place, arguments).await?;
        let said = String::from_utf8(output.stderr)?;
        assert!(
            !output.status.success() && said.starts_with("error: "),
            "{said}"
        );
        assert!(said.contains(what) && said.lines().count() == 1, "{said}");
    }
    place.stop().await
}
