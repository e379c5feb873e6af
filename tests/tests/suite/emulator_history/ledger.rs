//! A ledger of what was written to a branch, and when; and what its points have to
//! show.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use jiff::Timestamp;
use neon_api::BranchId;
use neon_api::types::{BranchCreateRequest, BranchRestoreRequest};
use suite::{EmulatorProcess, eventually};
use tokio_postgres::Client;

/// What was true after an entry was committed, and before the next.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) number: i64,
    /// How many entries there were.
    pub(super) entries: i64,
    pub(super) lsn: String,
    pub(super) time: Timestamp,
}

/// Waits for the first image: from then on there is a past.
pub(crate) async fn has_history(data: &Path, branch: &BranchId) -> anyhow::Result<()> {
    let name = format!("history/{branch}/bases");
    let folders = [data.join(&name), data.join("storage").join(&name)];
    eventually("the branch has history", async || {
        let images = folders
            .iter()
            .filter_map(|folder| std::fs::read_dir(folder).ok())
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name() != "new");
        ensure!(images.count() > 0, "no image yet");
        Ok(())
    })
    .await
}

/// Commits entries, some of them large, and notes where each ended.
pub(super) async fn write(
    session: &Client,
    numbers: std::ops::RangeInclusive<i64>,
    before: i64,
) -> anyhow::Result<Vec<Entry>> {
    let mut ledger = Vec::new();
    for (index, number) in numbers.enumerate() {
        session
            .execute(
                "INSERT INTO entry SELECT $1::bigint, string_agg(md5(random()::text), '') \
                 FROM generate_series(1, CASE WHEN $1::bigint % 7 = 0 THEN 20000 ELSE 1 END)",
                &[&number],
            )
            .await?;
        let row = session
            .query_one(
                "SELECT pg_current_wal_lsn()::text, \
                        (extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
                &[],
            )
            .await?;
        ledger.push(Entry {
            number,
            entries: before + index as i64 + 1,
            lsn: row.get(0),
            time: Timestamp::from_microsecond(row.get(1))?,
        });
    }
    Ok(ledger)
}

/// Any of them, another in each round.
pub(super) fn pick(ledger: &[Entry], round: usize) -> Entry {
    let step = (round as u64 + 1)
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    ledger[(step >> 33) as usize % ledger.len()].clone()
}

/// A branch at that point, by LSN in even rounds, by time in odd ones, has what
/// was there then.
pub(super) async fn check_branch(
    emulator: &EmulatorProcess,
    parent: &BranchId,
    entry: &Entry,
    round: usize,
) -> anyhow::Result<()> {
    let request = BranchCreateRequest::named(format!("point-{round}"))
        .parent(parent.clone())
        .read_write_endpoint();
    let request = match round % 2 {
        0 => request.at_lsn(entry.lsn.clone()),
        _ => request.at_timestamp(entry.time),
    };
    let (client, project) = (emulator.client(), emulator.project());
    let created = client.create_branch(project, &request).await?;
    emulator
        .finished(&created.operations)
        .await
        .with_context(|| format!("round {round}, {entry:?}"))?;
    let branch = client.get_branch(project, &created.branch.id).await?.branch;
    match round % 2 {
        0 => assert_eq!(
            branch.parent_lsn.as_deref(),
            Some(&*entry.lsn),
            "round {round}"
        ),
        // Answers have whole seconds.
        _ => assert_eq!(
            branch.parent_timestamp.map(|time| time.as_second()),
            Some(entry.time.as_second()),
            "round {round}"
        ),
    }
    ensure!(
        branch.parent_lsn.is_some() && branch.parent_timestamp.is_some(),
        "{branch:?}"
    );
    let session = emulator.connect(&branch.id).await?;
    let found = state(&session).await?;
    if found != (entry.number, entry.entries) {
        bail!("round {round}, {entry:?}: {found:?}");
    }
    session
        .batch_execute("INSERT INTO entry VALUES (-1)")
        .await?;
    let deleted = client
        .delete_branch(project, &branch.id)
        .await?
        .context("it was there")?;
    emulator.finished(&deleted.operations).await
}

/// The same of a branch that is restored to the point.
pub(super) async fn check_restore(
    emulator: &EmulatorProcess,
    branch: &BranchId,
    source: &BranchId,
    entry: &Entry,
    round: usize,
) -> anyhow::Result<()> {
    let request = BranchRestoreRequest::from_branch(source.clone());
    let request = match round % 2 {
        0 => request.at_lsn(entry.lsn.clone()),
        _ => request.at_timestamp(entry.time),
    };
    let (client, project) = (emulator.client(), emulator.project());
    let restored = client.restore_branch(project, branch, &request).await?;
    emulator.finished(&restored.operations).await?;
    let found = state(&emulator.connect(branch).await?).await?;
    if found != (entry.number, entry.entries) {
        bail!("restore {round}, {entry:?}: {found:?}");
    }
    Ok(())
}

/// The last entry and how many there are.
pub(super) async fn state(session: &Client) -> anyhow::Result<(i64, i64)> {
    let row = session
        .query_one("SELECT max(number), count(*) FROM entry", &[])
        .await?;
    Ok((row.get(0), row.get(1)))
}
