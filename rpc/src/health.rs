//! Health (grpc.health.v1): what a server says of its services, and asking it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{sync::Mutex, time::Instant};
use tonic::{Code, Status};
use tonic_health::{
    ServingStatus,
    pb::{
        HealthCheckRequest, health_check_response::ServingStatus as Answer,
        health_client::HealthClient,
    },
    server::HealthReporter,
};

use crate::client::{Channel, ConnectError, Target};

/// The name that stands for a whole server.
pub const WHOLE_SERVER: &str = "";

/// Pauses between two probes while waiting, in milliseconds.
const PROBE_BACKOFF_MS_MIN: u64 = 25;
/// The longest of them.
const PROBE_BACKOFF_MS_MAX: u64 = 500;
/// What one probe may take while waiting, in milliseconds.
const PROBE_MS_MAX: u64 = 2_000;

/// Whether a service takes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// It does.
    Serving,
    /// It does not, or not yet.
    NotServing,
}

/// Tells a server's callers which services take calls. Clones speak for the same
/// server. From the start of serving, services that nothing was said of are
/// NOT_SERVING; from the stop on, all are.
#[derive(Debug, Clone)]
pub struct Health {
    reporter: HealthReporter,
    said: Arc<Mutex<Said>>,
    why: Arc<OnceLock<Why>>,
}

#[derive(Debug, Default)]
struct Said {
    services: BTreeMap<String, Serving>,
    stopped: bool,
}

/// What keeps a server from serving, in words.
struct Why(Box<dyn Fn() -> Vec<String> + Send + Sync>);

impl fmt::Debug for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Why")
    }
}

impl Health {
    /// Says whether `service` (as in `users.v1.UserService`, or
    /// [`WHOLE_SERVER`]) takes calls. After the stop it is not heard.
    pub async fn set(&self, service: &str, serving: Serving) {
        let mut said = self.said.lock().await;
        if !said.stopped {
            said.services.insert(service.to_owned(), serving);
            self.report(service, serving).await;
        }
    }

    /// Asks `why` whenever somebody wants to know what is not ready yet. The first
    /// that is given counts.
    pub fn explain(&self, why: impl Fn() -> Vec<String> + Send + Sync + 'static) {
        let _ = self.why.set(Why(Box::new(why)));
    }

    /// What keeps the server as a whole from serving; `None`: it serves.
    pub(crate) async fn what_is_not_ready(&self) -> Option<Vec<String>> {
        let mut missing = {
            let said = self.said.lock().await;
            if said.stopped {
                return Some(vec!["the server is stopping".to_owned()]);
            }
            match said.services.get(WHOLE_SERVER) {
                Some(Serving::Serving) => return None,
                None => vec!["the server is starting".to_owned()],
                Some(Serving::NotServing) => {
                    let services = said.services.iter().filter(|(name, serving)| {
                        **serving == Serving::NotServing && name.as_str() != WHOLE_SERVER
                    });
                    services.map(|(name, _)| name.clone()).collect()
                }
            }
        };
        missing.extend(self.why.get().map(|why| (why.0)()).unwrap_or_default());
        Some(missing)
    }

    pub(crate) fn new(reporter: HealthReporter) -> Self {
        Self {
            reporter,
            said: Arc::default(),
            why: Arc::default(),
        }
    }

    /// Makes every service known that nothing was said of.
    pub(crate) async fn start(&self, services: &[&'static str]) {
        let mut said = self.said.lock().await;
        for &name in services.iter().chain([&WHOLE_SERVER]) {
            if !said.services.contains_key(name) {
                said.services.insert(name.to_owned(), Serving::NotServing);
                self.report(name, Serving::NotServing).await;
            }
        }
    }

    /// From now on nothing takes calls.
    pub(crate) async fn stop(&self) {
        let mut said = self.said.lock().await;
        said.stopped = true;
        for name in said.services.keys() {
            self.report(name, Serving::NotServing).await;
        }
    }

    async fn report(&self, service: &str, serving: Serving) {
        let status = match serving {
            Serving::Serving => ServingStatus::Serving,
            Serving::NotServing => ServingStatus::NotServing,
        };
        self.reporter.set_service_status(service, status).await;
    }
}

/// Asks a server (`127.0.0.1:7431`, or any [`Target`]) whether `service` takes
/// calls ([`WHOLE_SERVER`]: whether it does as a whole).
///
/// # Errors
/// When there is no answer within `timeout`, or not one of those two.
pub async fn probe(
    target: impl Into<Target>,
    service: &str,
    timeout: Duration,
) -> Result<Serving, ProbeError> {
    let target = target.into();
    let asking = async { check(target.connect(|endpoint| endpoint).await?, service).await };
    match tokio::time::timeout(timeout, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(ProbeError::Slow {
            address: target.to_string(),
        }),
    }
}

/// Probes until `service` takes calls.
///
/// # Errors
/// When `wait` has passed: what the last probe said.
pub async fn wait_until_serving(
    target: impl Into<Target>,
    service: &str,
    wait: Duration,
) -> Result<(), WaitError> {
    let target = target.into();
    let deadline = Instant::now() + wait;
    let mut backoff_ms = PROBE_BACKOFF_MS_MIN;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = left.min(Duration::from_millis(PROBE_MS_MAX));
        let last = match probe(&target, service, timeout).await {
            Ok(Serving::Serving) => return Ok(()),
            Ok(Serving::NotServing) => None,
            Err(error @ ProbeError::Unreachable(ConnectError::Target(_))) => {
                return Err(unanswered(&target, wait, error));
            }
            Err(error) => Some(error),
        };
        let pause = Duration::from_millis(backoff_ms);
        if Instant::now() + pause >= deadline {
            return Err(match last {
                Some(last) => unanswered(&target, wait, last),
                None => WaitError::NotServing {
                    address: target.to_string(),
                    service: service.to_owned(),
                    wait,
                },
            });
        }
        tokio::time::sleep(pause).await;
        backoff_ms = (backoff_ms * 2).min(PROBE_BACKOFF_MS_MAX);
    }
}

/// Why a probe has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nobody answers there, or it is no address.
    #[error(transparent)]
    Unreachable(#[from] ConnectError),
    /// Nobody answers in time.
    #[error("no gRPC server answers at {address}: it took too long")]
    Slow {
        /// As given.
        address: String,
    },
    /// The server has no such service.
    #[error("the server at that address has no service {service}")]
    UnknownService {
        /// As given.
        service: String,
    },
    /// The server answers with something else.
    #[error("the server does not tell its health: {:?}", .0.code())]
    Refused(#[source] Box<Status>),
}

/// Why waiting ended without a service that takes calls.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// There was no answer to the last probe.
    #[error("{address} is not healthy after {} s", wait.as_secs_f32())]
    Unanswered {
        /// As given.
        address: String,
        /// How long it was waited for.
        wait: Duration,
        /// The last probe.
        #[source]
        last: ProbeError,
    },
    /// The last answer was NOT_SERVING.
    #[error("{address} answers, but is not ready after {} s: {}", wait.as_secs_f32(), named(.service))]
    NotServing {
        /// As given.
        address: String,
        /// As given.
        service: String,
        /// How long it was waited for.
        wait: Duration,
    },
}

fn unanswered(target: &Target, wait: Duration, last: ProbeError) -> WaitError {
    WaitError::Unanswered {
        address: target.to_string(),
        wait,
        last,
    }
}

fn named(service: &str) -> String {
    match service {
        WHOLE_SERVER => "the server is NOT_SERVING".to_owned(),
        name => format!("{name} is NOT_SERVING"),
    }
}

async fn check(channel: Channel, service: &str) -> Result<Serving, ProbeError> {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    match HealthClient::new(channel).check(request).await {
        Ok(answer) if answer.get_ref().status() == Answer::Serving => Ok(Serving::Serving),
        Ok(_) => Ok(Serving::NotServing),
        Err(status) if status.code() == Code::NotFound => Err(ProbeError::UnknownService {
            service: service.to_owned(),
        }),
        Err(status) => Err(ProbeError::Refused(Box::new(status))),
    }
}
