//! Watches that are open and never read: nothing piles up for them, and nobody waits.

use anyhow::{Context, ensure};
use proto::broker::v1::lease_service_client::LeaseServiceClient;
use proto::broker::v1::{Access, WatchBindingRequest, WatchBindingResponse};
use suite::{Broker, PATIENCE};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::watching::rotate;
use super::{Bench, Consumer, current};
use crate::broker_leasing::{V1, on_binding};

/// How much of a stream a server may send before it is read, in bytes: less than one
/// answer is.
const WINDOW_BYTES: u32 = 64;
/// How many watches there are that nobody reads: less on a connection than it may have.
const CONNECTIONS: usize = 4;
const WATCHES_OF_CONNECTION: usize = 100;
/// Until what is allocated once is allocated.
const CHANGES_BEFORE: usize = 40;
/// All answers to all of them would be some twenty megabytes, as they are sent.
const CHANGES: usize = 400;
/// A holder's role stays for a minute after the next one is there.
const CHANGES_AT_A_TIME: usize = 80;
const ROLES_STAY_SECONDS: i64 = 61;
const GROWTH_KB_MAX: u64 = 10 * 1024;
/// One that was on its way, perhaps one that was begun, and the newest.
const ANSWERS_MAX: usize = 3;

/// A client through which nothing comes that is not read.
async fn narrow(broker: &Broker) -> anyhow::Result<LeaseServiceClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{}", broker.address()))?
        .initial_stream_window_size(WINDOW_BYTES);
    Ok(LeaseServiceClient::new(endpoint.connect().await?))
}

async fn observe(
    leases: &mut LeaseServiceClient<Channel>,
) -> anyhow::Result<Streaming<WatchBindingResponse>> {
    let request = WatchBindingRequest {
        binding: V1.to_owned(),
        ..Default::default()
    };
    let watching = leases.watch_binding(tokio_stream::once(request)).await?;
    Ok(watching.into_inner())
}

/// A consumer with a lease, which has a say, on a narrow connection.
async fn join(bench: &Bench, leases: &mut LeaseServiceClient<Channel>) -> anyhow::Result<Consumer> {
    let given = bench.acquire(on_binding(V1, Access::ReadWrite)).await?;
    let (requests, sent) = mpsc::channel(16);
    let first = WatchBindingRequest {
        lease: given.lease.name.clone(),
        ..Default::default()
    };
    requests.send(first).await?;
    let states = leases.watch_binding(ReceiverStream::new(sent)).await?;
    let mut consumer = Consumer {
        lease: given.lease,
        requests,
        states: states.into_inner(),
        state: WatchBindingResponse::default(),
    };
    consumer.next().await?;
    consumer.ack_current(&bench.broker).await?;
    Ok(consumer)
}

/// Reads until that generation is current. How many answers that took.
async fn read_until(
    watch: &mut Streaming<WatchBindingResponse>,
    generation: i64,
) -> anyhow::Result<usize> {
    let reading = async {
        for answers in 1.. {
            let told = watch.message().await?.context("the watch goes on")?;
            if current(&told) >= generation {
                ensure!(current(&told) == generation, "{told:?}");
                return Ok(answers);
            }
        }
        anyhow::bail!("it never ends")
    };
    let read = tokio::time::timeout(PATIENCE, reading).await;
    read.with_context(|| format!("generation {generation}"))?
}

/// How much memory a broker has, in kilobytes.
fn resident_kb(broker: &Broker) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.process.pid()?))?;
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("VmRSS")?.parse()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_reads_is_told_the_newest_and_no_backlog() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut clients = Vec::new();
    let mut unread = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut leases = narrow(&bench.broker).await?;
        for _ in 0..WATCHES_OF_CONNECTION {
            unread.push(observe(&mut leases).await?);
        }
        clients.push(leases);
    }
    let mut one = join(&bench, &mut clients[0]).await?;
    let mut reading = observe(&mut bench.broker.leases().await?).await?;

    let (mut last, mut kb_before, mut seconds) = (0, 0, 0);
    for change in 0..CHANGES_BEFORE + CHANGES {
        if change % CHANGES_AT_A_TIME == 0 {
            // The roles of the rotations before are closed: a branch has so many.
            seconds += ROLES_STAY_SECONDS;
            bench.clock.set(seconds)?;
        }
        if change == CHANGES_BEFORE {
            kb_before = resident_kb(&bench.broker)?;
        }
        last = rotate(&bench).await?;
        // Who reads is told of each, in time for the next.
        read_until(&mut reading, last).await?;
    }
    let kb = resident_kb(&bench.broker)?;
    let grown = kb.saturating_sub(kb_before);
    ensure!(
        grown < GROWTH_KB_MAX,
        "{grown} kB more than {kb_before} kB, for {CHANGES} changes"
    );

    // What was on its way when nobody read, and then what is so now.
    for watch in unread.iter_mut().step_by(WATCHES_OF_CONNECTION / 2) {
        let answers = read_until(watch, last).await?;
        ensure!(answers <= ANSWERS_MAX, "{answers} answers");
    }
    let mut answers = 0;
    while current(&one.state) < last {
        one.next().await?;
        answers += 1;
    }
    ensure!(answers <= ANSWERS_MAX, "{answers} answers");
    // It has its say as before, and what it was told is good.
    one.ack_current(&bench.broker).await?;
    one.session(&bench, false).await?;
    bench.stop().await
}
