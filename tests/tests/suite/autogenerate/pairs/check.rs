//! There and back.

use anyhow::{Context, ensure};
use broker::migrate::autogenerate::{self, Rename, Written};
use broker::migrate::catalog::{self, Schema};

use super::super::{Bench, make, run};

/// Makes a schema of that name in both databases, writes the revision that leads from one
/// to the other, runs it, and takes it back.
pub(in crate::autogenerate) async fn round_trip(
    bench: &Bench,
    schema: &str,
    before: &str,
    after: &str,
    renames: &[impl AsRef<str>],
) -> anyhow::Result<()> {
    make(&bench.a, schema, before).await?;
    make(&bench.b, schema, after).await?;
    let a = catalog::read(&bench.a, schema).await?;
    let b = catalog::read(&bench.b, schema).await?;
    let said = || format!("-- before\n{before}\n-- after\n{after}\n");
    let renames = renames.iter().map(|one| one.as_ref().parse::<Rename>());
    let renames = renames.collect::<Result<Vec<_>, _>>().with_context(said)?;
    let written = autogenerate::write(&a, &b, &renames).with_context(said)?;
    let whole = |written: &Written| {
        let (up, down) = (&written.up, &written.down);
        format!("{}-- up\n{up}\n-- down\n{down}\n", said())
    };
    if renames.is_empty() {
        ensure!(
            (a == b) == written.up.is_empty(),
            "what is equal is written, or what is not is not\n{}",
            whole(&written)
        );
    }
    let up = leads(bench, schema, &written.up, &b).await;
    up.with_context(|| format!("go up\n{}", whole(&written)))?;
    let down = leads(bench, schema, &written.down, &a).await;
    down.with_context(|| format!("go down\n{}", whole(&written)))
}

async fn leads(bench: &Bench, schema: &str, script: &str, goal: &Schema) -> anyhow::Result<()> {
    run(&bench.a, schema, script).await?;
    let reached = catalog::read(&bench.a, schema).await?;
    let difference = Schema::difference(goal, &reached);
    ensure!(difference.is_empty(), "it leads elsewhere\n{difference}");
    Ok(())
}
