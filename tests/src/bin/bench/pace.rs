//! Ways to call: as fast as the answers come, by many callers or by one, and at a pace
//! that the answers do not slow down.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::table::{Row, Table, milliseconds};
use crate::usage::processor_seconds;
use crate::wire::{Call, Wire};

/// As the issues have it.
pub(crate) const CALLERS: usize = 32;
/// How long a thread may take to wake up.
const WAKE_UP: Duration = Duration::from_micros(300);

/// Some seconds of calls, as fast as the answers came.
pub(crate) struct Round {
    /// Calls a second.
    pub(crate) rate: f64,
    /// Processor time that a call took the server, in microseconds.
    pub(crate) server_us: f64,
    /// And its client.
    pub(crate) client_us: f64,
}

/// What rounds of one kind are in the table: their rate, and what a call took the server
/// and its client.
pub(crate) fn push_rates(rounds: &[Round], whats: [String; 3], rows: &mut Table) {
    let values = |of: fn(&Round) -> f64| rounds.iter().map(of).collect();
    let [rate, server, client] = whats;
    rows.push(Row::new(rate, values(|round| round.rate)).unit("a second"));
    rows.push(Row::new(server, values(|round| round.server_us)).unit("µs"));
    rows.push(Row::new(client, values(|round| round.client_us)).unit("µs"));
}

/// Callers that each wait for an answer before they call again, on the connections in
/// turn. Each makes the calls in turn, and no two begin with the same if there are so
/// many. `pid` is the server's.
pub(crate) async fn as_fast_as_answered(
    pid: &str,
    wires: &[Wire],
    calls: &Arc<[Call]>,
    time: Duration,
) -> anyhow::Result<Round> {
    let (server, client) = (processor_seconds(pid)?, processor_seconds("self")?);
    let begun = Instant::now();
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let (wire, calls) = (wires[number % wires.len()].clone(), Arc::clone(calls));
        callers.spawn(async move {
            let mut made = 0.0;
            let mut next = number;
            while begun.elapsed() < time {
                wire.call(&calls[next % calls.len()]).await?;
                made += 1.0;
                next += CALLERS;
            }
            anyhow::Ok(made)
        });
    }
    let mut made = 0.0;
    while let Some(calls) = callers.join_next().await {
        made += calls??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let each_us = |seconds: f64| seconds * 1_000_000.0 / made;
    Ok(Round {
        rate: made / seconds,
        server_us: each_us(processor_seconds(pid)? - server),
        client_us: each_us(processor_seconds("self")? - client),
    })
}

/// One caller that waits for an answer before it calls again, as long as there is
/// something to call, and time: how long each call took, in milliseconds.
pub(crate) async fn one_by_one<'c>(
    wire: &Wire,
    calls: impl Iterator<Item = &'c Call>,
    time: Duration,
) -> anyhow::Result<Vec<f64>> {
    let begun = Instant::now();
    let mut latencies = Vec::new();
    for call in calls {
        let called = Instant::now();
        if called - begun >= time {
            break;
        }
        wire.call(call).await?;
        latencies.push(milliseconds(called));
    }
    Ok(latencies)
}

/// Calls when they are due, so many a second, evenly, whatever became of those
/// before. The latencies count from when a call was due: one that could not begin
/// in time, because the machine was busy with others, has waited too.
pub(crate) async fn paced<F>(
    rate: f64,
    time: Duration,
    call: impl Fn(usize) -> F + Send + 'static,
) -> anyhow::Result<Vec<f64>>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let count = (rate * time.as_secs_f64()) as usize;
    let mut calls = JoinSet::new();
    let begun = Instant::now();
    for number in 0..count {
        let due = begun + Duration::from_secs_f64(number as f64 / rate);
        wait_until(due).await?;
        let call = call(number);
        calls.spawn(async move {
            call.await?;
            anyhow::Ok(milliseconds(due))
        });
    }
    let mut latencies = Vec::with_capacity(count);
    while let Some(latency) = calls.join_next().await {
        latencies.push(latency??);
    }
    Ok(latencies)
}

/// The runtime's timer knows whole milliseconds only. A thread of its own sleeps as
/// long as it takes; what is too short for that is spent on the calls under way.
#[allow(clippy::disallowed_methods, reason = "no thread of the runtime's")]
async fn wait_until(due: Instant) -> anyhow::Result<()> {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        match left.checked_sub(WAKE_UP) {
            Some(long) => tokio::task::spawn_blocking(move || std::thread::sleep(long)).await?,
            None => tokio::task::yield_now().await,
        }
    }
}
