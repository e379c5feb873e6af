//! Two ways to call: as fast as the answers come, and at a pace that the answers
//! do not slow down.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::Place;
use super::usage::processor_seconds;
use super::wire::{Call, Wire};
use crate::table::milliseconds;

/// As the issue has it.
pub(super) const CALLERS: usize = 32;
/// How long a thread may take to wake up.
const WAKE_UP: Duration = Duration::from_micros(300);

/// Some seconds of calls, as fast as the answers came.
pub(super) struct Round {
    /// Calls a second.
    pub(super) rate: f64,
    /// Processor time that a call took the broker, in microseconds.
    pub(super) broker_us: f64,
    /// And its client.
    pub(super) client_us: f64,
}

/// Callers that each wait for an answer before they call again.
pub(super) async fn as_fast_as_answered(
    place: &Place,
    call: &Call,
    time: Duration,
) -> anyhow::Result<Round> {
    let pid = place.broker.process.pid()?.to_string();
    let (broker, client) = (processor_seconds(&pid)?, processor_seconds("self")?);
    let begun = Instant::now();
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        callers.spawn(call_until(place.wire(number), call.clone(), begun + time));
    }
    let mut calls = 0.0;
    while let Some(made) = callers.join_next().await {
        calls += made??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let each_us = |seconds: f64| seconds * 1_000_000.0 / calls;
    Ok(Round {
        rate: calls / seconds,
        broker_us: each_us(processor_seconds(&pid)? - broker),
        client_us: each_us(processor_seconds("self")? - client),
    })
}

/// Calls when they are due, so many a second, evenly, whatever became of those
/// before. The latencies count from when a call was due: one that could not begin
/// in time, because the machine was busy with others, has waited too.
pub(super) async fn paced<F>(
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

async fn call_until(wire: Wire, call: Call, end: Instant) -> anyhow::Result<f64> {
    let mut calls = 0.0;
    while Instant::now() < end {
        wire.call(&call).await?;
        calls += 1.0;
    }
    Ok(calls)
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
