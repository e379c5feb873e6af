//! A broker that grants, announces, forgets, refuses and loses as it is told.
//!
//! As with the real one, renewing moves a lease's end and nothing else: where
//! the lease leads changes in its watch alone.

mod world;

use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use futures_util::{Stream, stream};
use proto::broker::v1::lease_service_server::{LeaseService, LeaseServiceServer};
use proto::broker::v1::{
    AcquireLeaseRequest, AcquireLeaseResponse, GetLeaseRequest, GetLeaseResponse,
    ListLeasesRequest, ListLeasesResponse, Pause, ReleaseLeaseRequest, ReleaseLeaseResponse,
    RenewLeaseRequest, RenewLeaseResponse, RevokeLeasesRequest, RevokeLeasesResponse,
    WatchBindingRequest, WatchBindingResponse, WatchReport,
};
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{PATIENCE, until};
use world::{World, now};

/// What the broker was asked, in order.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Acquire {
        request: AcquireLeaseRequest,
    },
    Renew {
        name: String,
        in_time: bool,
    },
    Release {
        name: String,
    },
    /// What the reader of a watch was told: a generation, or that the binding is
    /// not ready.
    Told {
        generation: Option<i64>,
    },
    /// What a consumer reports.
    Report {
        report: WatchReport,
        generation: i64,
        message: String,
    },
}

/// How a call goes wrong, once.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It is done, and the answer never arrives.
    Lose,
    /// It is done, and the answer arrives when this is told.
    Delay(oneshot::Receiver<()>),
    /// It is not done.
    Refuse(Status),
}

pub(crate) struct FakeBroker {
    service: Service,
    address: SocketAddr,
    /// `None`: it is down. Its own runtime, so that going down cuts everything.
    runtime: Option<Runtime>,
}

impl FakeBroker {
    /// A broker that grants leases of an hour on `uri`, as generation 1.
    pub(crate) fn start(uri: impl Into<String>) -> anyhow::Result<Self> {
        let mut broker = Self::down(uri)?;
        broker.serve()?;
        Ok(broker)
    }

    /// The same, not started yet.
    pub(crate) fn down(uri: impl Into<String>) -> anyhow::Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let world = World::new(uri.into());
        let service = Service {
            world: Arc::new(Mutex::new(world)),
            calls: watch::Sender::new(Vec::new()),
            changed: watch::Sender::default(),
        };
        Ok(Self {
            service,
            address,
            runtime: None,
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.service.world()
    }

    /// Changes the world and tells those who watch.
    pub(crate) fn announce(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.world());
        self.service.changed.send_modify(|times| *times += 1);
    }

    /// Moves the binding: the next generation, behind this URI.
    pub(crate) fn move_to(&self, uri: impl Into<String>) {
        self.announce(|world| {
            world.uri = uri.into();
            world.generation += 1;
        });
    }

    /// Has consumers get this ready, as the generation after the present one.
    pub(crate) fn propose(&self, uri: impl Into<String>) {
        self.announce(|world| world.pending = Some((world.generation + 1, uri.into())));
    }

    /// Makes it the current one.
    pub(crate) fn commit(&self) {
        self.announce(|world| {
            if let Some((generation, uri)) = world.pending.take() {
                (world.generation, world.uri) = (generation, uri);
            }
        });
    }

    /// Has consumers hold back, under the generation after the present one.
    pub(crate) fn pause(&self, lasts: Duration, writes_only: bool) {
        self.announce(|world| {
            world.pause = Some(Pause {
                generation: world.generation + 1,
                deadline: Some((now() + lasts).into()),
                writes_only,
                reason: String::new(),
            });
        });
    }

    /// Forgets every lease, as one without a state folder does at a restart.
    pub(crate) fn forget(&self) {
        self.announce(World::forget_leases);
    }

    pub(crate) fn serve(&mut self) -> anyhow::Result<()> {
        // Its sockets from the last time close in the background.
        let deadline = std::time::Instant::now() + PATIENCE;
        let listener = loop {
            match TcpListener::bind(self.address) {
                Ok(listener) => break listener,
                Err(error) if std::time::Instant::now() > deadline => {
                    return Err(error).context("bind the broker's port again");
                }
                Err(_) => std::thread::yield_now(),
            }
        };
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let service = LeaseServiceServer::new(self.service.clone());
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .context("serve")
        });
        self.runtime = Some(runtime);
        Ok(())
    }

    /// Cuts every connection and stops listening.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.service.calls.borrow().clone()
    }

    /// Every acquisition's request so far.
    pub(crate) fn acquisitions(&self) -> Vec<AcquireLeaseRequest> {
        let acquire = |call| match call {
            Call::Acquire { request } => Some(request),
            _ => None,
        };
        self.calls().into_iter().filter_map(acquire).collect()
    }

    /// Waits until the calls so far are as they have to be.
    pub(crate) async fn until_calls(
        &self,
        what: &str,
        condition: impl Fn(&[Call]) -> bool,
    ) -> anyhow::Result<Vec<Call>> {
        let mut calls = self.service.calls.subscribe();
        until(&mut calls, what, |calls| condition(calls)).await
    }

    /// Waits until a watch was told this.
    pub(crate) async fn until_told(&self, wanted: Option<i64>) -> anyhow::Result<()> {
        let told = |call: &Call| matches!(call, Call::Told { generation } if *generation == wanted);
        self.until_calls("a watch", |calls| calls.iter().any(told))
            .await
            .map(|_| ())
    }

    /// Waits until this was reported, and returns with what message.
    pub(crate) async fn until_report(
        &self,
        wanted: WatchReport,
        of: i64,
    ) -> anyhow::Result<String> {
        let calls = self
            .until_calls(&format!("{wanted:?} of {of}"), |calls| {
                reported(calls, wanted, of).is_some()
            })
            .await?;
        reported(&calls, wanted, of).context("it was there")
    }

    /// Whether this was reported.
    pub(crate) fn has_report(&self, wanted: WatchReport, of: i64) -> bool {
        reported(&self.calls(), wanted, of).is_some()
    }

    pub(crate) async fn until_acquisitions(&self, count: usize) -> anyhow::Result<()> {
        let is_acquire = |call: &&Call| matches!(call, Call::Acquire { .. });
        self.until_calls("acquisitions", |calls| {
            calls.iter().filter(is_acquire).count() >= count
        })
        .await
        .map(|_| ())
    }
}

impl Drop for FakeBroker {
    fn drop(&mut self) {
        self.kill();
    }
}

#[derive(Clone)]
struct Service {
    world: Arc<Mutex<World>>,
    calls: watch::Sender<Vec<Call>>,
    /// Counts the announcements.
    changed: watch::Sender<u32>,
}

impl Service {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, call: Call) {
        self.calls.send_modify(|calls| calls.push(call));
    }
}

#[tonic::async_trait]
impl LeaseService for Service {
    async fn get_lease(
        &self,
        _: Request<GetLeaseRequest>,
    ) -> Result<Response<GetLeaseResponse>, Status> {
        Err(Status::unimplemented("no pool asks for it"))
    }

    async fn list_leases(
        &self,
        _: Request<ListLeasesRequest>,
    ) -> Result<Response<ListLeasesResponse>, Status> {
        Err(Status::unimplemented("no pool asks for it"))
    }

    async fn revoke_leases(
        &self,
        _: Request<RevokeLeasesRequest>,
    ) -> Result<Response<RevokeLeasesResponse>, Status> {
        Err(Status::unimplemented("no pool asks for it"))
    }

    async fn acquire_lease(
        &self,
        request: Request<AcquireLeaseRequest>,
    ) -> Result<Response<AcquireLeaseResponse>, Status> {
        let request = request.into_inner();
        let (fault, answer) = {
            let mut world = self.world();
            let fault = world.acquire_faults.pop_front();
            match fault {
                Some(Fault::Refuse(status)) => (None, Err(status)),
                fault => (fault, Ok(world.grant(&request))),
            }
        };
        self.note(Call::Acquire { request });
        suffer(fault).await?;
        let (lease, connection) = answer?;
        Ok(Response::new(AcquireLeaseResponse {
            lease: Some(lease),
            connection: Some(connection),
        }))
    }

    async fn renew_lease(
        &self,
        request: Request<RenewLeaseRequest>,
    ) -> Result<Response<RenewLeaseResponse>, Status> {
        let name = request.into_inner().name;
        let now = now();
        let (fault, answer) = {
            let mut world = self.world();
            let ttl = world.ttl;
            let fault = world.renew_faults.pop_front();
            let renewed = world.leases.get_mut(&name).map(|(lease, _)| {
                let ends = lease
                    .expire_time
                    .and_then(|end| SystemTime::try_from(end).ok());
                let in_time = ends.is_some_and(|end| end > now);
                lease.expire_time = Some((now + ttl).into());
                (lease.clone(), in_time)
            });
            (fault, renewed)
        };
        let in_time = answer.as_ref().is_some_and(|(_, in_time)| *in_time);
        self.note(Call::Renew { name, in_time });
        suffer(fault).await?;
        match answer {
            Some((lease, _)) => Ok(Response::new(RenewLeaseResponse { lease: Some(lease) })),
            None => Err(Status::not_found("no such lease")),
        }
    }

    async fn release_lease(
        &self,
        request: Request<ReleaseLeaseRequest>,
    ) -> Result<Response<ReleaseLeaseResponse>, Status> {
        let name = request.into_inner().name;
        self.world().leases.remove(&name);
        self.note(Call::Release { name });
        Ok(Response::new(ReleaseLeaseResponse {}))
    }

    type WatchBindingStream =
        Pin<Box<dyn Stream<Item = Result<WatchBindingResponse, Status>> + Send>>;

    async fn watch_binding(
        &self,
        request: Request<Streaming<WatchBindingRequest>>,
    ) -> Result<Response<Self::WatchBindingStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.unwrap_or_default();
        if !first.binding.is_empty() || first.lease.is_empty() {
            return Err(Status::invalid_argument("the pool watches by lease"));
        }
        if let Some(status) = self.world().watch_faults.pop_front() {
            return Err(status);
        }
        let mut changed = self.changed.subscribe();
        changed.mark_changed();
        let watching = (self.clone(), first.lease, changed, requests);
        Ok(Response::new(Box::pin(stream::try_unfold(
            watching,
            |(service, lease, mut changed, mut requests)| async move {
                loop {
                    tokio::select! {
                        request = requests.message() => {
                            // Who watches stays on the line.
                            let hung_up = || Status::invalid_argument("it hung up");
                            let request = request?.ok_or_else(hung_up)?;
                            service.note(Call::Report {
                                report: request.report(),
                                generation: request.generation,
                                message: request.message,
                            });
                        }
                        changed = changed.changed() => {
                            changed.map_err(|_| Status::unavailable("stopping"))?;
                            break;
                        }
                    }
                }
                let answer = service.world().tell(&lease)?;
                service.note(Call::Told {
                    generation: answer.current.as_ref().map(|current| current.generation),
                });
                Ok(Some((answer, (service, lease, changed, requests))))
            },
        ))))
    }
}

/// What a fault does to an answer that is there.
async fn suffer(fault: Option<Fault>) -> Result<(), Status> {
    match fault {
        None => Ok(()),
        Some(Fault::Lose) => std::future::pending().await,
        Some(Fault::Delay(told)) => {
            // An error: who would tell is gone.
            let _ = told.await.is_ok();
            Ok(())
        }
        Some(Fault::Refuse(status)) => Err(status),
    }
}

/// The newest of these reports.
fn reported(calls: &[Call], wanted: WatchReport, of: i64) -> Option<String> {
    calls.iter().rev().find_map(|call| match call {
        Call::Report {
            report,
            generation,
            message,
        } if (*report, *generation) == (wanted, of) => Some(message.clone()),
        _ => None,
    })
}
