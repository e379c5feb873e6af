//! Diesel's own command line on the broker's folder and history.

use anyhow::{Context, ensure};
use tokio::process::Command;

use super::Bench;
use super::migrate::{V2, columns};

const LAST: &str = "2026-02-14-090000_add_age_and_city";

#[tokio::test]
async fn diesels_command_line_goes_on_where_the_broker_was_and_back() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let owner = bench.owner_of_v2().await?;
    let by_broker = columns(&owner).await?;
    let client = bench.emulator.client();
    let found = client
        .list_all_branches(bench.emulator.project(), Some("api_v2_branch"))
        .await?;
    let branch = &found.branches.first().context("v2's branch")?.id;
    let uri = bench.emulator.uri(branch).await?;
    let uri = format!("{}&options=-c%20search_path%3Dusers", uri.expose());
    let folder = bench.config.folder().join("migrations/users");
    let diesel = async |work: &str| {
        let output = Command::new("diesel")
            .args(["migration", work, "--database-url", &uri, "--migration-dir"])
            .arg(&folder)
            .current_dir(bench.config.folder())
            .output()
            .await
            .context(
                "run diesel: cargo install diesel_cli --no-default-features --features postgres \
                 (it needs the package libpq-dev)",
            )?;
        ensure!(output.status.success(), "{work}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    assert_eq!(diesel("pending").await?.trim(), "false");
    diesel("revert").await?;
    let standing = bench.standings().await?;
    assert_eq!(standing.last(), Some(&format!("{LAST} PENDING")));
    assert_eq!(diesel("pending").await?.trim(), "true");
    diesel("run").await?;
    assert_eq!(columns(&owner).await?, by_broker);
    let status = bench.migrate(&["status", V2]).await?;
    let last = status.lines().last().context("a row")?;
    ensure!(
        last.contains(LAST) && last.contains("by Diesel"),
        "{status}"
    );
    // And on from there.
    bench.migrate(&["redo", V2]).await?;
    assert_eq!(diesel("pending").await?.trim(), "false");
    bench.stop().await
}
