//! A workload whose sums tell a whole database from a torn one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, ensure};
use neon_api::BranchId;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::EmulatorProcess;

const ACCOUNTS: i64 = 100_000;
const BALANCE: i64 = 100;
const WRITERS: usize = 4;

/// Transfers between accounts, each with a row in a ledger, as in TPC-B: the sum
/// of the balances stays, and the ledger has what the balances have. A clone
/// that took some pages from before a transfer and some from after it would
/// show it.
#[derive(Debug)]
pub struct Bank {
    running: Arc<AtomicBool>,
    transfers: Arc<AtomicU64>,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Bank {
    /// Fills the branch and keeps it busy, with checkpoints all the time.
    ///
    /// # Errors
    /// When the branch cannot be reached.
    pub async fn open(emulator: &EmulatorProcess, branch: &BranchId) -> anyhow::Result<Self> {
        emulator
            .connect(branch)
            .await?
            .batch_execute(&format!(
                "CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL, filler text); \
                 CREATE TABLE ledger (account bigint NOT NULL, change bigint NOT NULL); \
                 INSERT INTO account SELECT n, {BALANCE}, repeat('x', 200) FROM generate_series(1, {ACCOUNTS}) n"
            ))
            .await?;
        let mut bank = Self {
            running: Arc::new(AtomicBool::new(true)),
            transfers: Arc::default(),
            tasks: JoinSet::new(),
        };
        for seed in 1..=WRITERS {
            let session = emulator.connect(branch).await?;
            let (running, transfers) = (Arc::clone(&bank.running), Arc::clone(&bank.transfers));
            bank.tasks
                .spawn(transfer(session, seed as i64, running, transfers));
        }
        let session = emulator.connect(branch).await?;
        bank.tasks
            .spawn(checkpoint(session, Arc::clone(&bank.running)));
        Ok(bank)
    }

    /// How many transfers there were.
    #[must_use]
    pub fn transfers(&self) -> u64 {
        self.transfers.load(Ordering::Relaxed)
    }

    /// Makes a branch while the bank is open, checks its sums, and deletes it.
    ///
    /// # Errors
    /// When the branch is not made, or is not whole.
    pub async fn branch_and_check(
        &self,
        emulator: &EmulatorProcess,
        parent: &BranchId,
        round: usize,
    ) -> anyhow::Result<()> {
        let before = self.transfers();
        let name = format!("round-{round}");
        let branch = emulator.branch(&name, Some(parent)).await?.branch.id;
        ensure!(
            self.transfers() > before,
            "the parent takes writes meanwhile"
        );
        let session = emulator.connect(&branch).await?;
        Self::check(&session)
            .await
            .with_context(|| format!("branch {name}"))?;
        let deleted = emulator
            .client()
            .delete_branch(emulator.project(), &branch)
            .await?
            .context("it was there")?;
        emulator.finished(&deleted.operations).await
    }

    /// Closes it.
    ///
    /// # Errors
    /// When a session ended with an error.
    pub async fn close(mut self) -> anyhow::Result<()> {
        self.running.store(false, Ordering::Relaxed);
        while let Some(task) = self.tasks.join_next().await {
            task??;
        }
        Ok(())
    }

    /// Checks that every sum of a branch agrees, by the table and by its index.
    ///
    /// # Errors
    /// When one does not.
    pub async fn check(session: &Client) -> anyhow::Result<()> {
        session
            .batch_execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
            .await?;
        let row = session
            .query_one(
                "SELECT (SELECT sum(balance)::bigint FROM account), \
                        (SELECT count(*) FROM account), \
                        (SELECT count(*) FROM account WHERE id > 0), \
                        (SELECT count(*) FROM account JOIN (SELECT account, sum(change)::bigint AS change \
                             FROM ledger GROUP BY account) AS sums ON sums.account = account.id \
                           WHERE balance <> $1 + change)",
                &[&BALANCE],
            )
            .await?;
        let found: Vec<i64> = (0..4).map(|column| row.get(column)).collect();
        let right = [ACCOUNTS * BALANCE, ACCOUNTS, ACCOUNTS, 0];
        ensure!(
            found == right,
            "sum, rows, rows by index, accounts that differ from their ledger: {found:?}, not {right:?}"
        );
        Ok(())
    }
}

async fn transfer(
    mut session: Client,
    seed: i64,
    running: Arc<AtomicBool>,
    transfers: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let change = session
        .prepare(
            "UPDATE account SET balance = balance + CASE id WHEN $1 THEN 1 ELSE -1 END \
             WHERE id IN ($1, $2)",
        )
        .await?;
    let note = session
        .prepare("INSERT INTO ledger VALUES ($1, 1), ($2, -1)")
        .await?;
    let mut step = seed;
    while running.load(Ordering::Relaxed) {
        step = step
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let to = step.rem_euclid(ACCOUNTS) + 1;
        let from = (step >> 21).rem_euclid(ACCOUNTS) + 1;
        if from == to {
            continue;
        }
        // Two writers may wait for each other: the loser's transfer is undone.
        let transaction = session.transaction().await?;
        if transaction.execute(&change, &[&to, &from]).await.is_ok() {
            transaction.execute(&note, &[&to, &from]).await?;
            transaction.commit().await?;
            transfers.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Keeps a server checkpointing, as fast as it can: a copy that is not made in
/// backup mode is right by luck as long as none falls into it. Who is no
/// superuser can ask for one by creating a database, which also makes and
/// removes files under the copy.
async fn checkpoint(session: Client, running: Arc<AtomicBool>) -> anyhow::Result<()> {
    let version: i32 = session
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await?
        .get(0);
    let strategy = if version < 150_000 {
        ""
    } else {
        "STRATEGY file_copy"
    };
    while running.load(Ordering::Relaxed) {
        session
            .batch_execute(&format!("CREATE DATABASE churn {strategy}"))
            .await?;
        session.batch_execute("DROP DATABASE churn").await?;
    }
    Ok(())
}
