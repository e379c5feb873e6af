//! What keeps a parent busy while it is branched.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use neon_api::BranchId;
use suite::EmulatorProcess;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::table::milliseconds;

/// Sessions that write until they are told to end, and how long each write took.
pub(crate) struct Load {
    running: Arc<AtomicBool>,
    latencies: Arc<Mutex<Vec<f64>>>,
    sessions: JoinSet<anyhow::Result<()>>,
}

impl Load {
    /// TPC-B's transaction, as fast as this many clients can.
    pub(crate) async fn tpc_b(
        emulator: &EmulatorProcess,
        branch: &BranchId,
        clients: usize,
    ) -> anyhow::Result<Self> {
        emulator
            .connect(branch)
            .await?
            .batch_execute(
                "CREATE TABLE branches (bid int PRIMARY KEY, balance int, filler text); \
                 CREATE TABLE tellers (tid int PRIMARY KEY, bid int, balance int, filler text); \
                 CREATE TABLE accounts (aid int PRIMARY KEY, bid int, balance int, filler text); \
                 CREATE TABLE history (tid int, bid int, aid int, delta int, at timestamptz); \
                 INSERT INTO branches VALUES (1, 0, repeat('x', 80)); \
                 INSERT INTO tellers SELECT n, 1, 0, repeat('x', 80) FROM generate_series(1, 10) n; \
                 INSERT INTO accounts SELECT n, 1, 0, repeat('x', 80) FROM generate_series(1, 100000) n",
            )
            .await?;
        let mut load = Self::idle();
        for client in 0..clients {
            let session = emulator.connect(branch).await?;
            let (running, latencies) = (Arc::clone(&load.running), Arc::clone(&load.latencies));
            load.sessions.spawn(async move {
                let mut step = client as i32 + 1;
                while running.load(Ordering::Relaxed) {
                    step = step.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                    let account = step.rem_euclid(100_000) + 1;
                    let teller = (step >> 8).rem_euclid(10) + 1;
                    let begun = Instant::now();
                    session
                        .batch_execute(&format!(
                            "BEGIN; \
                             UPDATE accounts SET balance = balance + 1 WHERE aid = {account}; \
                             UPDATE tellers SET balance = balance + 1 WHERE tid = {teller}; \
                             UPDATE branches SET balance = balance + 1 WHERE bid = 1; \
                             INSERT INTO history VALUES ({teller}, 1, {account}, 1, now()); \
                             COMMIT"
                        ))
                        .await?;
                    note(&latencies, begun);
                }
                Ok(())
            });
        }
        Ok(load)
    }

    /// One row of the big table changed, this many times a second.
    pub(crate) async fn paced(
        session: Client,
        rows: i64,
        writes_a_second: u32,
    ) -> anyhow::Result<Self> {
        let mut load = Self::idle();
        let (running, latencies) = (Arc::clone(&load.running), Arc::clone(&load.latencies));
        load.sessions.spawn(async move {
            let update = session
                .prepare("UPDATE big SET changes = changes + 1 WHERE id = $1")
                .await?;
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / writes_a_second);
            let mut step: i64 = 1;
            while running.load(Ordering::Relaxed) {
                ticks.tick().await;
                step = step
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let begun = Instant::now();
                session
                    .execute(&update, &[&((step >> 8).rem_euclid(rows) + 1)])
                    .await?;
                note(&latencies, begun);
            }
            Ok(())
        });
        Ok(load)
    }

    /// The latencies since the last call.
    pub(crate) fn take_latencies(&self) -> Vec<f64> {
        std::mem::take(
            &mut *self
                .latencies
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        self.running.store(false, Ordering::Relaxed);
        while let Some(session) = self.sessions.join_next().await {
            session??;
        }
        Ok(())
    }

    fn idle() -> Self {
        Self {
            running: Arc::new(AtomicBool::new(true)),
            latencies: Arc::default(),
            sessions: JoinSet::new(),
        }
    }
}

fn note(latencies: &Mutex<Vec<f64>>, begun: Instant) {
    let mut latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner);
    latencies.push(milliseconds(begun));
}
