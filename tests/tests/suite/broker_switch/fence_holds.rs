//! What a fence has taken stays away until its switch is done, whatever is asked for
//! meanwhile, and of whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, bail, ensure};
use neon_api::BranchId;
use proto::broker::v1::config_service_client::ConfigServiceClient;
use proto::broker::v1::lease_service_client::LeaseServiceClient;
use proto::broker::v1::{Access, ApplyRequest, SwitchPhase};
use suite::{PATIENCE, eventually};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tonic::Code;

use super::two_brokers::second;
use super::{Bench, Consumer, binding, fenced_to, next_branch, switch};
use crate::broker_leasing::{code, on_branch};

/// One that can be done any number of times.
const WRITE: &str = "UPDATE users SET name = name";
/// How often each broker is asked once the binding has moved.
const ASKED_AFTER: usize = 3;

/// Somebody who asks a broker, again and again, for what would give the rights back.
struct Asking {
    asked: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Asking {
    fn begin(broker: &suite::Broker, branch: &BranchId) -> Asking {
        let (asked, is_over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let asking = asks(
            broker.address().to_owned(),
            branch.clone(),
            Arc::clone(&asked),
            Arc::clone(&is_over),
        );
        let task = tokio::spawn(asking);
        Asking {
            asked,
            is_over,
            task,
        }
    }

    fn count(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Fails if it was given what it asked for.
    async fn end(self) -> anyhow::Result<()> {
        self.is_over.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

async fn asks(
    address: String,
    branch: BranchId,
    asked: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let channel = suite::channel(&address).await?;
    let mut config = ConfigServiceClient::new(channel.clone());
    let mut leases = LeaseServiceClient::new(channel);
    while !is_over.load(Ordering::Relaxed) {
        // Which may find another one that runs, or the switch.
        drop(config.apply(ApplyRequest::default()).await);
        let request = on_branch(&branch, Access::ReadWrite);
        match leases.acquire_lease(request).await {
            Err(status)
                if matches!(status.code(), Code::Unavailable | Code::FailedPrecondition) => {}
            Err(status) => bail!("{status:?}"),
            Ok(given) => bail!("a lease on the old branch is given: {given:?}"),
        }
        asked.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gives_back_what_a_fence_has_taken_before_the_switch_is_done() -> anyhow::Result<()>
{
    let bench = Bench::start().await?;
    let second = second(&bench).await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let old = one.session(&bench, false).await?;
    let source = binding(&bench.broker).await?.branch;
    let source: BranchId = source
        .strip_prefix("branches/")
        .context("a branch")?
        .parse()?;
    let next = next_branch(&bench, "next").await?;
    let mut switching = switch(&bench.broker, fenced_to(&next)).await?;
    let generation = one.pending().await?;
    one.ack(generation).await?;
    let pause = one.told_to_hold_back().await?;
    let asking = [&bench.broker, &second].map(|broker| Asking::begin(broker, &source));
    one.ack(pause.generation).await?;

    // From the first refusal on there is no write that is not refused.
    let (mut is_fenced, mut at_commit) = (false, None);
    let refusing = async {
        loop {
            let is_refused = code(&old, WRITE).await == Some(SqlState::INSUFFICIENT_PRIVILEGE);
            ensure!(is_refused || !is_fenced, "the rights are back");
            is_fenced = is_refused;
            let is_there = asking.iter().all(|one| !one.task.is_finished());
            ensure!(is_there, "what was asked for was given");
            let counts = [asking[0].count(), asking[1].count()];
            let Some(then) = at_commit else {
                let last = binding(&second).await?.last_switch.unwrap_or_default();
                at_commit = (last.phase() == SwitchPhase::Committed).then_some(counts);
                continue;
            };
            let enough = |(now, then): (usize, usize)| now >= then + ASKED_AFTER;
            if counts.into_iter().zip(then).all(enough) {
                return Ok(());
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refusing).await;
    for one in asking {
        one.end().await?;
    }
    refused.context("they have asked often enough")??;
    ensure!(is_fenced, "it takes no writes");
    one.taken_over(generation).await?;
    one.drained(generation).await?;
    assert_eq!(switching.end().await?.phase(), SwitchPhase::Done);

    // It was the switch that was in the way: who asks for the branch by its name now
    // has it prepared.
    let given = eventually("a lease is given", async || {
        bench.acquire(on_branch(&source, Access::ReadWrite)).await
    })
    .await?;
    let session = bench.session(&given.uri).await?;
    session.batch_execute(WRITE).await?;
    second.process.stop().await?;
    bench.stop().await
}
