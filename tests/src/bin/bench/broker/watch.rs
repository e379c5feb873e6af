//! Watches as holders keep them: each says what it has taken over.

use std::time::Instant;

use anyhow::{Context, ensure};
use proto::broker::v1 as pb;
use suite::eventually;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::Place;
use super::client::Client;

/// How many reports wait to be sent at most: a watch that goes on sends them at once.
const REPORTS_MAX: usize = 4;

/// The watch of a lease, on a binding, that has a say.
#[derive(Debug)]
pub(super) struct Watch {
    requests: mpsc::Sender<pb::WatchBindingRequest>,
    states: Streaming<pb::WatchBindingResponse>,
    /// The generation that it took over last.
    current: i64,
}

/// That a watch was told of a generation that is current.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) at: Instant,
    pub(super) generation: i64,
}

impl Watch {
    /// Opens it, and acknowledges where the lease leads.
    pub(super) async fn open(client: &mut Client, lease: &str) -> anyhow::Result<Self> {
        let (requests, sent) = mpsc::channel(REPORTS_MAX);
        let first = pb::WatchBindingRequest {
            lease: lease.to_owned(),
            ..pb::WatchBindingRequest::default()
        };
        requests.send(first).await?;
        let states = client.watch(ReceiverStream::new(sent)).await?;
        let mut watch = Self {
            requests,
            states,
            current: 0,
        };
        let state = watch.next().await?;
        watch.current = state.current.context("a ready binding")?.generation;
        watch.report(pb::WatchReport::Ack, watch.current).await?;
        Ok(watch)
    }

    /// Takes over whatever it is told, without any work, and says so, for ever: what
    /// is pending can be used, and nothing uses what was before. Of what is current it
    /// tells `seen` once, unless nobody listens there.
    pub(super) async fn follow(mut self, seen: mpsc::Sender<Seen>) -> anyhow::Result<()> {
        let mut acknowledged = self.current;
        loop {
            let state = self.next().await?;
            let at = Instant::now();
            if let Some(pending) = &state.pending
                && pending.generation > acknowledged
            {
                acknowledged = pending.generation;
                self.report(pb::WatchReport::Ack, acknowledged).await?;
            }
            let generation = state.current.map_or(0, |current| current.generation);
            if generation > self.current {
                self.current = generation;
                let _ = seen.send(Seen { at, generation }).await;
                self.report(pb::WatchReport::Drained, generation).await?;
            }
        }
    }

    async fn next(&mut self) -> anyhow::Result<pb::WatchBindingResponse> {
        self.states.message().await?.context("the watch goes on")
    }

    async fn report(&self, report: pb::WatchReport, generation: i64) -> anyhow::Result<()> {
        let request = pb::WatchBindingRequest {
            report: report.into(),
            generation,
            ..pb::WatchBindingRequest::default()
        };
        let sent = self.requests.send(request).await;
        sent.context("report: the watch has ended")
    }
}

/// Waits until it is stored that so many watches, and no others, have taken that
/// generation over, or a later one.
pub(super) async fn have_taken_over(
    place: &Place,
    count: usize,
    generation: i64,
) -> anyhow::Result<()> {
    let session = place.database.session(&place.database_emulator).await?;
    let query = "SELECT count(*) FILTER (WHERE acked >= $1 AND gone_time IS NULL), count(*)
                 FROM broker.watches";
    let count = i64::try_from(count)?;
    eventually("all watches have taken the generation over", async || {
        let row = session.query_one(query, &[&generation]).await?;
        let (there, all): (i64, i64) = (row.get(0), row.get(1));
        ensure!(there == count && all == count, "{there} of {all}");
        Ok(())
    })
    .await
}
