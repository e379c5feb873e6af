//! Subcommands that ask a running broker.

use std::time::Duration;

use proto::broker::v1 as pb;
use proto::broker::v1::binding_service_client::BindingServiceClient;
use proto::broker::v1::config_service_client::ConfigServiceClient;
use rpc::health::{ProbeError, Serving, WHOLE_SERVER, WaitError};
use tonic::transport::{Channel, Endpoint};

/// How long connecting may take, in milliseconds.
const CONNECT_MS_MAX: u64 = 5_000;
/// How long one look at the health may take, in milliseconds.
const PROBE_MS_MAX: u64 = 5_000;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where the broker is.
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:7431",
        env = "BROKER_URL"
    )]
    broker: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct HealthArguments {
    #[command(flatten)]
    broker: Arguments,
    /// Wait for that long until the world is as declared.
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

/// Why a broker did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{given:?} is no address of a broker, as http://127.0.0.1:7431 is")]
    BadAddress {
        given: String,
        #[source]
        source: tonic::transport::Error,
    },
    #[error(
        "no broker answers at {address}; start one with `broker serve` or name another with --broker"
    )]
    Unreachable {
        address: String,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("{message}")]
    Refused { message: String },
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error(transparent)]
    Wait(#[from] WaitError),
    #[error("the broker at {address} answers, and is not ready{}", named(bindings))]
    NotReady {
        address: String,
        bindings: Vec<String>,
    },
}

/// `broker plan`.
pub(super) async fn plan(arguments: Arguments) -> Result<(), Error> {
    let mut client = ConfigServiceClient::new(connect(&arguments.broker).await?);
    let steps = client.plan(pb::PlanRequest {}).await.map_err(refused)?;
    print(
        &steps.into_inner().steps,
        "nothing to do: the world is as broker.toml declares it",
    );
    Ok(())
}

/// `broker apply`.
pub(super) async fn apply(arguments: Arguments) -> Result<(), Error> {
    let mut client = ConfigServiceClient::new(connect(&arguments.broker).await?);
    let steps = client.apply(pb::ApplyRequest {}).await.map_err(refused)?;
    print(
        &steps.into_inner().steps,
        "nothing was to do: the world is as broker.toml declares it",
    );
    Ok(())
}

/// `broker health`.
pub(super) async fn health(arguments: HealthArguments) -> Result<(), Error> {
    let address = &arguments.broker.broker;
    let serving = match arguments.wait {
        Some(seconds) => {
            let wait = Duration::from_secs(seconds);
            match rpc::health::wait_until_serving(address, WHOLE_SERVER, wait).await {
                Ok(()) => Serving::Serving,
                Err(WaitError::NotServing { .. }) => Serving::NotServing,
                Err(error) => return Err(error.into()),
            }
        }
        None => {
            let limit = Duration::from_millis(PROBE_MS_MAX);
            rpc::health::probe(address, WHOLE_SERVER, limit).await?
        }
    };
    match serving {
        Serving::Serving => {
            println!("SERVING");
            Ok(())
        }
        Serving::NotServing => Err(Error::NotReady {
            address: address.clone(),
            bindings: not_ready(address).await.unwrap_or_default(),
        }),
    }
}

/// What the broker says of bindings that are not ready.
async fn not_ready(address: &str) -> Result<Vec<String>, Error> {
    let mut client = BindingServiceClient::new(connect(address).await?);
    let request = pb::ListBindingsRequest::default();
    let answer = client.list_bindings(request).await.map_err(refused)?;
    let bindings = answer.into_inner().bindings.into_iter();
    Ok(bindings
        .filter(|binding| binding.state() != pb::BindingState::Ready)
        .map(|binding| format!("{}: {}", binding.name, binding.state_message))
        .collect())
}

async fn connect(address: &str) -> Result<Channel, Error> {
    let url = match address.contains("://") {
        true => address.to_owned(),
        false => format!("http://{address}"),
    };
    let endpoint = Endpoint::from_shared(url).map_err(|source| Error::BadAddress {
        given: address.to_owned(),
        source,
    })?;
    endpoint
        .connect_timeout(Duration::from_millis(CONNECT_MS_MAX))
        .connect()
        .await
        .map_err(|source| Error::Unreachable {
            address: address.to_owned(),
            source,
        })
}

fn refused(status: tonic::Status) -> Error {
    Error::Refused {
        message: match status.message() {
            "" => status.code().description().to_owned(),
            message => message.to_owned(),
        },
    }
}

fn print(steps: &[pb::Step], nothing: &str) {
    if steps.is_empty() {
        println!("{nothing}");
    }
    let width = steps
        .iter()
        .map(|step| step.binding.len())
        .max()
        .unwrap_or(0);
    for step in steps {
        println!("{:width$}  {}", step.binding, step.description);
    }
}

fn named(bindings: &[String]) -> String {
    match bindings {
        [] => String::new(),
        bindings => format!(": {}", bindings.join("; ")),
    }
}
