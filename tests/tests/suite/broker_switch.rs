//! Bindings that are switched to another branch, with consumers that watch.

mod fence_holds;
mod fenced;
mod held;
mod killed;
mod killed_between;
mod never_reads;
mod paused;
mod paused_killed;
mod refresh;
mod refresh_fails;
mod replicas;
mod retired;
mod retired_killed;
mod two_brokers;
mod votes;
mod watching;

use anyhow::{Context, ensure};
use proto::broker::v1::{
    Access, Binding, Branch, CreateBranchRequest, GetBindingRequest, Lease, Pause, Switch,
    SwitchBindingRequest, SwitchBindingResponse, SwitchPhase, UnwatchedPolicy, WatchBindingRequest,
    WatchBindingResponse, WatchReport,
};
use suite::{Broker, PATIENCE, eventually};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::broker_leasing::{Bench, V1, on_binding, seconds};

/// Somebody who has a lease and watches its binding.
pub(crate) struct Consumer {
    pub(crate) lease: Lease,
    requests: mpsc::Sender<WatchBindingRequest>,
    states: Streaming<WatchBindingResponse>,
    /// What it was told last.
    pub(crate) state: WatchBindingResponse,
}

impl Consumer {
    /// One that has acknowledged what is current.
    async fn join(broker: &Broker, holder: &str) -> anyhow::Result<Consumer> {
        let mut consumer = Consumer::silent(broker, holder).await?;
        consumer.ack_current(broker).await?;
        Ok(consumer)
    }

    /// One that has said nothing.
    async fn silent(broker: &Broker, holder: &str) -> anyhow::Result<Consumer> {
        let mut request = on_binding(V1, Access::ReadWrite);
        request.holder = holder.to_owned();
        let given = broker.leases().await?.acquire_lease(request).await?;
        let lease = given.into_inner().lease.context("a lease")?;
        Consumer::watch(broker, lease, WatchBindingRequest::default()).await
    }

    /// Watches a lease that is there. `first` says what is known.
    async fn watch(
        broker: &Broker,
        lease: Lease,
        first: WatchBindingRequest,
    ) -> anyhow::Result<Consumer> {
        let (requests, sent) = mpsc::channel(16);
        let first = WatchBindingRequest {
            lease: lease.name.clone(),
            ..first
        };
        requests.send(first).await?;
        let mut leases = broker.leases().await?;
        let states = leases.watch_binding(ReceiverStream::new(sent)).await?;
        let mut consumer = Consumer {
            lease,
            requests,
            states: states.into_inner(),
            state: WatchBindingResponse::default(),
        };
        consumer.next().await?;
        Ok(consumer)
    }

    /// What it is told next.
    async fn next(&mut self) -> anyhow::Result<&WatchBindingResponse> {
        let told = tokio::time::timeout(PATIENCE, self.states.message()).await;
        let told = told.context("an answer")?;
        self.state = told?.context("the watch goes on")?;
        Ok(&self.state)
    }

    /// Reads until it is told such a state.
    async fn until(
        &mut self,
        what: &str,
        is_it: impl Fn(&WatchBindingResponse) -> bool,
    ) -> anyhow::Result<()> {
        while !is_it(&self.state) {
            self.next().await.with_context(|| what.to_owned())?;
        }
        Ok(())
    }

    /// Reads until it is told what is to be next, and of which generation.
    async fn pending(&mut self) -> anyhow::Result<i64> {
        self.until("something is pending", |state| state.pending.is_some())
            .await?;
        Ok(self
            .state
            .pending
            .as_ref()
            .map_or(0, |pending| pending.generation))
    }

    /// Reads until it is to hold back.
    async fn told_to_hold_back(&mut self) -> anyhow::Result<Pause> {
        self.until("it is to hold back", |state| state.pause.is_some())
            .await?;
        self.state.pause.clone().context("a pause")
    }

    /// Reads until that generation is current.
    async fn taken_over(&mut self, generation: i64) -> anyhow::Result<()> {
        let is_current = |state: &WatchBindingResponse| current(state) >= generation;
        self.until("the generation is current", is_current).await?;
        ensure!(current(&self.state) == generation, "{:?}", self.state);
        ensure!(self.state.pending.is_none(), "{:?}", self.state);
        Ok(())
    }

    /// Logs in with what is current, or pending.
    async fn session(
        &self,
        bench: &Bench,
        is_pending: bool,
    ) -> anyhow::Result<tokio_postgres::Client> {
        let target = match is_pending {
            true => self.state.pending.as_ref(),
            false => self.state.current.as_ref(),
        };
        let connection = target.and_then(|target| target.connection.as_ref());
        bench
            .session(&connection.context("a connection")?.uri)
            .await
    }

    async fn report(
        &self,
        report: WatchReport,
        generation: i64,
        message: &str,
    ) -> anyhow::Result<()> {
        let request = WatchBindingRequest {
            report: report.into(),
            generation,
            message: message.to_owned(),
            ..Default::default()
        };
        Ok(self.requests.send(request).await?)
    }

    async fn ack(&self, generation: i64) -> anyhow::Result<()> {
        self.report(WatchReport::Ack, generation, "").await
    }

    async fn nack(&self, generation: i64, why: &str) -> anyhow::Result<()> {
        self.report(WatchReport::Nack, generation, why).await
    }

    async fn drained(&self, generation: i64) -> anyhow::Result<()> {
        self.report(WatchReport::Drained, generation, "").await
    }

    /// Acknowledges what is current, and waits until that is known.
    async fn ack_current(&mut self, broker: &Broker) -> anyhow::Result<()> {
        let generation = current(&self.state);
        self.ack(generation).await?;
        self.is_known(broker, generation).await
    }

    async fn is_known(&self, broker: &Broker, acknowledged: i64) -> anyhow::Result<()> {
        eventually("the acknowledgement is known", async || {
            let request = proto::broker::v1::GetLeaseRequest {
                name: self.lease.name.clone(),
            };
            let lease = broker
                .leases()
                .await?
                .get_lease(request)
                .await?
                .into_inner();
            let known = lease.lease.context("a lease")?.acknowledged_generation;
            ensure!(known == acknowledged, "{known}");
            Ok(())
        })
        .await
    }
}

fn current(state: &WatchBindingResponse) -> i64 {
    state
        .current
        .as_ref()
        .map_or(0, |current| current.generation)
}

/// A switch, as its caller sees it.
pub(crate) struct Switching(Streaming<SwitchBindingResponse>);

impl Switching {
    /// Reads until it is in that phase.
    async fn until(&mut self, phase: SwitchPhase) -> anyhow::Result<Switch> {
        self.until_it(|switch| switch.phase() == phase).await
    }

    /// Reads until the switch is like that.
    async fn until_it(&mut self, is_it: impl Fn(&Switch) -> bool) -> anyhow::Result<Switch> {
        let reading = async {
            loop {
                let told = self.0.message().await?.context("the switch goes on")?;
                let switch = told.switch.context("a switch")?;
                if is_it(&switch) {
                    return Ok(switch);
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading)
            .await
            .context("a switch like that")?
    }

    /// Reads until it ends.
    async fn end(&mut self) -> Result<Switch, Status> {
        let mut last = Switch::default();
        let reading = async {
            while let Some(told) = self.0.message().await? {
                last = told.switch.unwrap_or_default();
            }
            Ok(last)
        };
        let ended = tokio::time::timeout(PATIENCE, reading).await;
        ended.unwrap_or_else(|_| Err(Status::unknown("it does not end")))
    }
}

/// A branch of the broker's own, forked from the binding's.
async fn next_branch(bench: &Bench, name: &str) -> anyhow::Result<String> {
    branch_made(bench, name, CreateBranchRequest::default()).await
}

/// As [`next_branch`], with what `request` asks for besides.
pub(crate) async fn branch_made(
    bench: &Bench,
    name: &str,
    request: CreateBranchRequest,
) -> anyhow::Result<String> {
    let parent = binding(&bench.broker).await?.branch;
    let request = CreateBranchRequest {
        branch: Some(Branch {
            display_name: name.to_owned(),
            parent,
            ..Default::default()
        }),
        ..request
    };
    let mut branches = bench.broker.branches().await?;
    let operation = branches.create_branch(request).await?.into_inner();
    let request = proto::google::longrunning::WaitOperationRequest {
        name: operation.name,
        timeout: None,
    };
    let mut operations = bench.broker.operations().await?;
    let done = operations.wait_operation(request).await?.into_inner();
    ensure!(done.done, "{done:?}");
    Ok(format!("branches/{}", bench.branch_named(name).await?))
}

async fn binding(broker: &Broker) -> anyhow::Result<Binding> {
    let request = GetBindingRequest {
        name: V1.to_owned(),
    };
    let answer = broker.bindings().await?.get_binding(request).await?;
    answer.into_inner().binding.context("a binding")
}

fn to(branch: &str) -> SwitchBindingRequest {
    SwitchBindingRequest {
        name: V1.to_owned(),
        branch: branch.to_owned(),
        ack_timeout: Some(seconds(600)),
        drain_timeout: Some(seconds(600)),
        ..Default::default()
    }
}

/// As [`to`], with a fence.
fn fenced_to(branch: &str) -> SwitchBindingRequest {
    SwitchBindingRequest {
        fence: true,
        ..to(branch)
    }
}

async fn switch(broker: &Broker, request: SwitchBindingRequest) -> anyhow::Result<Switching> {
    let mut bindings = broker.bindings().await?;
    Ok(Switching(
        bindings.switch_binding(request).await?.into_inner(),
    ))
}

fn proceeding(request: SwitchBindingRequest) -> SwitchBindingRequest {
    SwitchBindingRequest {
        unwatched: UnwatchedPolicy::Proceed.into(),
        ..request
    }
}
