//! The pool against a broker and a Postgres that are played: both speak their
//! real protocols over loopback sockets, and do what a test tells them.

mod connections;
mod failures;
mod fake_broker;
mod fake_postgres;
mod following;
mod given_up;
mod idle;
mod replicas;
mod state;
mod switching;
mod upkeep;
mod working;

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, anyhow};
use branch_pool::{Binding, BranchPool, Effect, Error, Options, PoolState, WorkError};
use diesel::QueryResult;
use diesel_async::SimpleAsyncConnection;
use tokio::sync::watch;

/// How long anything that has to happen may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// In every connection URI, and in nothing that is printed.
const PASSWORD: &str = "hunter2";

fn binding() -> Binding {
    Binding::new("users", "v1")
}

/// Options for a loopback broker.
fn options() -> Options {
    Options::default()
        .holder("test")
        .call_timeout(Duration::from_secs(2))
}

/// Waits until what is watched is as it has to be.
async fn until<T: Clone + Debug>(
    watched: &mut watch::Receiver<T>,
    what: &str,
    mut condition: impl FnMut(&T) -> bool,
) -> anyhow::Result<T> {
    let found = tokio::time::timeout(PATIENCE, watched.wait_for(|value| condition(value)))
        .await
        .map(|found| found.map(|value| value.clone()));
    match found {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_)) => Err(anyhow!("{what}: nobody is left to bring it about")),
        Err(_) => Err(anyhow!("{what}: still {:?}", watched.borrow())),
    }
}

/// Waits until the pool's state is as it has to be.
async fn until_state(
    pool: &BranchPool,
    what: &str,
    condition: impl FnMut(&PoolState) -> bool,
) -> anyhow::Result<PoolState> {
    until(&mut pool.state(), what, condition).await
}

/// Asks for something with that effect.
async fn ask(pool: &BranchPool, effect: Effect) -> Result<(), WorkError> {
    pool.run(effect, |connection| {
        Box::pin(async move { connection.batch_execute("SELECT 1").await as QueryResult<()> })
    })
    .await
}

/// The error of a checkout that has to fail.
async fn refusal(pool: &BranchPool) -> anyhow::Result<Error> {
    pool.get().await.err().context("the checkout worked")
}
