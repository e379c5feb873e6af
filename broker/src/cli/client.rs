//! Subcommands that ask a running broker.

use std::path::PathBuf;
use std::time::Duration;

use proto::broker::v1 as pb;
use proto::broker::v1::binding_service_client::BindingServiceClient;
use proto::broker::v1::config_service_client::ConfigServiceClient;
use rpc::client::{Channel, ConnectError, Credentials, Target, TargetError};
use rpc::health::{ProbeError, Serving, WHOLE_SERVER, WaitError};
use serde_json::json;

use super::output::{self, OutputArguments};
use super::progress::Waiting;

/// How long connecting may take, in milliseconds.
const CONNECT_MS_MAX: u64 = 5_000;
/// How often a connection that is silent is asked whether its other end is there, and
/// how long the answer may take, in seconds: a call that waits has no deadline.
const KEEPALIVE_SECONDS: u64 = 10;
/// How long one look at the health may take, in milliseconds.
const PROBE_MS_MAX: u64 = 5_000;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where the broker is.
    #[arg(
        long,
        global = true,
        help_heading = "Connection",
        value_name = "URL",
        default_value = "http://127.0.0.1:7431",
        env = "BROKER_URL"
    )]
    broker: String,
    /// PEM file of the authorities that the broker's certificate has to come
    /// from. Without it: those that browsers trust.
    #[arg(
        long,
        global = true,
        help_heading = "Connection",
        value_name = "FILE",
        env = "BROKER_CA_FILE"
    )]
    broker_ca_file: Option<PathBuf>,
    /// PEM file of this caller's certificate.
    #[arg(
        long,
        global = true,
        help_heading = "Connection",
        value_name = "FILE",
        env = "BROKER_CLIENT_CERT_FILE"
    )]
    broker_client_cert_file: Option<PathBuf>,
    /// PEM file of that certificate's key.
    #[arg(
        long,
        global = true,
        help_heading = "Connection",
        value_name = "FILE",
        env = "BROKER_CLIENT_KEY_FILE"
    )]
    broker_client_key_file: Option<PathBuf>,
    /// File of the token that says who calls.
    #[arg(
        long,
        global = true,
        help_heading = "Connection",
        value_name = "FILE",
        env = "BROKER_TOKEN_FILE"
    )]
    broker_token_file: Option<PathBuf>,
}

impl Arguments {
    fn target(&self) -> Target {
        let credentials = Credentials {
            ca_file: self.broker_ca_file.clone(),
            client_cert_file: self.broker_client_cert_file.clone(),
            client_key_file: self.broker_client_key_file.clone(),
            token_file: self.broker_token_file.clone(),
        };
        Target::new(self.broker.clone(), credentials)
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct HealthArguments {
    #[command(flatten)]
    broker: Arguments,
    #[command(flatten)]
    output: OutputArguments,
    /// Wait for that long until the world is as declared.
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ConfigArguments {
    #[command(flatten)]
    broker: Arguments,
    #[command(flatten)]
    output: OutputArguments,
    /// Delete branches that were made for bindings which broker.toml declares no more.
    #[arg(long)]
    prune: bool,
}

/// Why a broker did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0}; start one with `broker serve` or name another with --broker")]
    Unreachable(ConnectError),
    #[error(transparent)]
    Target(TargetError),
    #[error("{message}")]
    Refused { message: String },
    #[error(transparent)]
    Output(#[from] output::Error),
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

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Target(error) => Error::Target(error),
            error @ ConnectError::Unreachable { .. } => Error::Unreachable(error),
        }
    }
}

/// `broker plan`.
pub(super) async fn plan(arguments: ConfigArguments) -> Result<(), Error> {
    let mut client = ConfigServiceClient::new(connect(&arguments.broker).await?);
    let waiting = Waiting::begin("compare the world with broker.toml");
    let plan = client
        .plan(pb::PlanRequest {
            prune: arguments.prune,
        })
        .await;
    drop(waiting);
    let plan = plan.map_err(refused)?.into_inner();
    arguments.output.output.one(&plan, |plan| {
        let nothing = "nothing to do: the world is as broker.toml declares it";
        lines(&plan.steps, nothing) + &notes(&plan.remarks)
    })?;
    Ok(())
}

/// `broker apply`.
pub(super) async fn apply(arguments: ConfigArguments) -> Result<(), Error> {
    let prune = arguments.prune;
    let mut client = ConfigServiceClient::new(connect(&arguments.broker).await?);
    let waiting = Waiting::begin("make the world as broker.toml declares it");
    let applied = client.apply(pb::ApplyRequest { prune }).await;
    let applied = applied.map_err(refused)?.into_inner();
    // What stays although it is declared no more, and why.
    let left = match prune {
        false => Vec::new(),
        true => {
            let left = client.plan(pb::PlanRequest { prune }).await;
            left.map_err(refused)?.into_inner().remarks
        }
    };
    drop(waiting);
    arguments.output.output.one(&applied, |applied| {
        let nothing = "nothing was to do: the world is as broker.toml declares it";
        lines(&applied.steps, nothing) + &notes(&left)
    })?;
    Ok(())
}

/// `broker health`.
pub(super) async fn health(arguments: HealthArguments) -> Result<(), Error> {
    let target = arguments.broker.target();
    let serving = match arguments.wait {
        Some(seconds) => {
            let wait = Duration::from_secs(seconds);
            let _waiting = Waiting::begin(format!("until {target} is ready"));
            match rpc::health::wait_until_serving(&target, WHOLE_SERVER, wait).await {
                Ok(()) => Serving::Serving,
                Err(WaitError::NotServing { .. }) => Serving::NotServing,
                Err(error) => return Err(error.into()),
            }
        }
        None => {
            let limit = Duration::from_millis(PROBE_MS_MAX);
            rpc::health::probe(&target, WHOLE_SERVER, limit).await?
        }
    };
    let output = arguments.output.output;
    match serving {
        Serving::Serving => {
            output.value(&json!({"status": "SERVING"}), |_| "SERVING\n".to_owned())?;
            Ok(())
        }
        // For people, the error says it.
        Serving::NotServing => Err(Error::NotReady {
            address: target.to_string(),
            bindings: not_ready(&arguments.broker).await.unwrap_or_default(),
        }),
    }
}

/// What the broker says of bindings that are not ready.
async fn not_ready(broker: &Arguments) -> Result<Vec<String>, Error> {
    let mut client = BindingServiceClient::new(connect(broker).await?);
    let request = pb::ListBindingsRequest::default();
    let answer = client.list_bindings(request).await.map_err(refused)?;
    let bindings = answer.into_inner().bindings.into_iter();
    Ok(bindings
        .filter(|binding| binding.state() != pb::BindingState::Ready)
        .map(|binding| format!("{}: {}", binding.name, binding.state_message))
        .collect())
}

/// A connection to the broker; one that is lost is made again by the next call.
pub(super) async fn connect(broker: &Arguments) -> Result<Channel, Error> {
    let limit = Duration::from_millis(CONNECT_MS_MAX);
    let target = broker.target();
    let keepalive = Duration::from_secs(KEEPALIVE_SECONDS);
    let connecting = target.connect(|endpoint| {
        endpoint
            .connect_timeout(limit)
            .http2_keep_alive_interval(keepalive)
            .keep_alive_timeout(keepalive)
    });
    Ok(connecting.await?)
}

pub(super) fn refused(status: tonic::Status) -> Error {
    Error::Refused {
        message: match status.message() {
            "" => status.code().description().to_owned(),
            message => message.to_owned(),
        },
    }
}

fn lines(steps: &[pb::Step], nothing: &str) -> String {
    if steps.is_empty() {
        return format!("{nothing}\n");
    }
    let width = steps.iter().map(|step| step.binding.len()).max();
    let width = width.unwrap_or(0);
    let lines = steps
        .iter()
        .map(|step| format!("{:width$}  {}\n", step.binding, step.description));
    lines.collect()
}

fn notes(remarks: &[String]) -> String {
    let notes = remarks.iter().map(|remark| format!("note: {remark}\n"));
    notes.collect()
}

fn named(bindings: &[String]) -> String {
    match bindings {
        [] => String::new(),
        bindings => format!(": {}", bindings.join("; ")),
    }
}
