//! Health (grpc.health.v1): what a server says of its services, and asking it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_health::{
    ServingStatus,
    pb::{
        HealthCheckRequest, health_check_response::ServingStatus as Answer,
        health_client::HealthClient,
    },
    server::HealthReporter,
};

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
}

#[derive(Debug, Default)]
struct Said {
    names: BTreeSet<String>,
    stopped: bool,
}

impl Health {
    /// Says whether `service` (as in `users.v1.UserService`, or
    /// [`WHOLE_SERVER`]) takes calls. After the stop it is not heard.
    pub async fn set(&self, service: &str, serving: Serving) {
        let mut said = self.said.lock().await;
        if !said.stopped {
            said.names.insert(service.to_owned());
            self.report(service, serving).await;
        }
    }

    pub(crate) fn new(reporter: HealthReporter) -> Self {
        Self {
            reporter,
            said: Arc::default(),
        }
    }

    /// Makes every service known that nothing was said of.
    pub(crate) async fn start(&self, services: &[&'static str]) {
        let mut said = self.said.lock().await;
        for &name in services.iter().chain([&WHOLE_SERVER]) {
            if said.names.insert(name.to_owned()) {
                self.report(name, Serving::NotServing).await;
            }
        }
    }

    /// From now on nothing takes calls.
    pub(crate) async fn stop(&self) {
        let mut said = self.said.lock().await;
        said.stopped = true;
        for name in &said.names {
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

/// Asks the server at `address` (`127.0.0.1:7431` or `http://127.0.0.1:7431`)
/// whether `service` takes calls ([`WHOLE_SERVER`]: whether it does as a whole).
///
/// # Errors
/// When there is no answer within `timeout`, or not one of those two.
pub async fn probe(address: &str, service: &str, timeout: Duration) -> Result<Serving, ProbeError> {
    let endpoint = endpoint(address)?;
    let unreachable = |reason| ProbeError::Unreachable {
        address: address.to_owned(),
        reason,
    };
    let asking = async {
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| unreachable(root_cause(&error)))?;
        check(channel, service).await
    };
    match tokio::time::timeout(timeout, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(unreachable("it took too long".to_owned())),
    }
}

/// Probes until `service` takes calls.
///
/// # Errors
/// When `wait` has passed: what the last probe said.
pub async fn wait_until_serving(
    address: &str,
    service: &str,
    wait: Duration,
) -> Result<(), WaitError> {
    let deadline = Instant::now() + wait;
    let mut backoff_ms = PROBE_BACKOFF_MS_MIN;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = left.min(Duration::from_millis(PROBE_MS_MAX));
        let last = match probe(address, service, timeout).await {
            Ok(Serving::Serving) => return Ok(()),
            Ok(Serving::NotServing) => None,
            Err(error @ ProbeError::BadAddress { .. }) => {
                return Err(unanswered(address, wait, error));
            }
            Err(error) => Some(error),
        };
        let pause = Duration::from_millis(backoff_ms);
        if Instant::now() + pause >= deadline {
            return Err(match last {
                Some(last) => unanswered(address, wait, last),
                None => WaitError::NotServing {
                    address: address.to_owned(),
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
    /// Not an address.
    #[error("{address} is not the address of a server, as in 127.0.0.1:7431")]
    BadAddress {
        /// As given.
        address: String,
    },
    /// Nobody answers there.
    #[error("no gRPC server answers at {address}: {reason}")]
    Unreachable {
        /// As given.
        address: String,
        /// What the system says: the root of the transport's error, whose layers
        /// repeat each other.
        reason: String,
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

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}

fn unanswered(address: &str, wait: Duration, last: ProbeError) -> WaitError {
    WaitError::Unanswered {
        address: address.to_owned(),
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

fn endpoint(address: &str) -> Result<Endpoint, ProbeError> {
    let url = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    Endpoint::from_shared(url)
        .ok()
        .filter(|endpoint| endpoint.uri().host().is_some_and(|host| !host.is_empty()))
        .ok_or_else(|| ProbeError::BadAddress {
            address: address.to_owned(),
        })
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
