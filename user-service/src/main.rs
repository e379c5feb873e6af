//! The user-service's command line.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use rpc::{
    client::{Credentials, Target},
    clock::Clock,
    health::{Serving, WHOLE_SERVER, probe, wait_until_serving},
    limits::Limits,
    page::PageTokens,
    probes::ProbeListener,
    security::SecurityArgs,
    server::Listener,
};
use user_service::server::{CALLS_MAX, STREAMS_MAX, Settings, UserServer};

/// A call is some dozens of small pieces of memory, on every thread: with the system's
/// allocator a quarter of the time of a list.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long one question for the health may take, in seconds.
const PROBE_SECONDS_MAX: u64 = 5;

/// users.v1 and users.v2 over gRPC, each on its own database branch.
#[derive(Debug, Parser)]
#[command(version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or Ctrl-C. Waits for the broker if it is not there.
    Serve(Box<ServeArgs>),
    /// Ask a running server whether it serves; exit code 1 when not.
    Health(HealthArgs),
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// The address to listen on. Without TLS and caller identity: loopback only.
    #[arg(long, env = "USER_SERVICE_LISTEN", default_value = "127.0.0.1:7432")]
    listen: SocketAddr,
    /// Where to serve metrics and probes over HTTP: /metrics, /livez, /readyz.
    /// Without it: nowhere. Beyond loopback as --listen.
    #[arg(long, value_name = "ADDRESS", env = "USER_SERVICE_HTTP_LISTEN")]
    http_listen: Option<SocketAddr>,
    /// The broker's address.
    #[arg(long, env = "BROKER_URL", default_value = "http://127.0.0.1:7431")]
    broker: String,
    /// PEM file of the authorities that the broker's certificate has to come
    /// from. Without it: those that browsers trust.
    #[arg(long, value_name = "FILE", env = "BROKER_CA_FILE")]
    broker_ca_file: Option<PathBuf>,
    /// PEM file of the certificate that is shown to the broker.
    #[arg(long, value_name = "FILE", env = "BROKER_CLIENT_CERT_FILE")]
    broker_client_cert_file: Option<PathBuf>,
    /// PEM file of that certificate's key.
    #[arg(long, value_name = "FILE", env = "BROKER_CLIENT_KEY_FILE")]
    broker_client_key_file: Option<PathBuf>,
    /// File of the token that is shown to the broker.
    #[arg(long, value_name = "FILE", env = "BROKER_TOKEN_FILE")]
    broker_token_file: Option<PathBuf>,
    #[command(flatten)]
    security: SecurityArgs,
    /// The most connections to each branch. Without it: as many as the lease
    /// allows, which bounds this number too.
    #[arg(long, value_name = "CONNECTIONS")]
    pool_size: Option<NonZeroUsize>,
    /// The most calls at once. What comes beyond them is refused at once, to be tried
    /// again a little later.
    #[arg(long, value_name = "CALLS", default_value_t = CALLS_MAX, value_parser = clap::value_parser!(u32).range(1..))]
    calls_max: u32,
    /// The most streams at once, each of which keeps a connection until it ends; as
    /// --calls-max.
    #[arg(long, value_name = "STREAMS", default_value_t = STREAMS_MAX, value_parser = clap::value_parser!(u32).range(1..))]
    streams_max: u32,
    /// A file of 32 secret bytes or more that sign page tokens. Servers that
    /// stand in for each other share it. Without it: random for each process.
    #[arg(long, env = "PAGE_TOKEN_KEY_FILE", value_name = "FILE")]
    page_token_key_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct HealthArgs {
    /// The server's address.
    #[arg(long, default_value = "127.0.0.1:7432")]
    address: String,
    /// PEM file of the authorities that its certificate has to come from.
    /// Without it: those that browsers trust.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// One of its services, as in users.v1.UserService. Without it: all.
    #[arg(long, default_value = WHOLE_SERVER)]
    service: String,
    /// Wait until it serves, for so long at most.
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match CommandLine::parse().command {
        Command::Serve(args) => run(*args).await,
        Command::Health(args) => health(args).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let telemetry = rpc::telemetry::init("user-service");
    let served = serve(args).await;
    telemetry.end().await;
    served
}

async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let stop = rpc::shutdown::signal();
    let tokens = match &args.page_token_key_file {
        Some(path) => PageTokens::from_key_file(path)?,
        None => PageTokens::random(),
    };
    let security = args.security.load(&Clock::system())?;
    let probes = match args.http_listen {
        Some(address) => Some(ProbeListener::bind(address, &security).await?),
        None => None,
    };
    let listener = Listener::bind(args.listen, security).await?;
    let server = UserServer::new(Settings {
        broker_url: args.broker,
        credentials: Credentials {
            ca_file: args.broker_ca_file,
            client_cert_file: args.broker_client_cert_file,
            client_key_file: args.broker_client_key_file,
            token_file: args.broker_token_file,
        },
        pool_size: args.pool_size.map(NonZeroUsize::get),
        tokens,
        limits: Limits {
            calls_max: args.calls_max,
            streams_max: args.streams_max,
        },
    })?;
    println!("listening on {}", listener.address());
    if args.page_token_key_file.is_none() {
        tracing::info!(
            "page tokens are signed with a key of this process and end with it; \
             --page-token-key-file makes them last"
        );
    }
    Ok(server.serve(listener, probes, stop).await?)
}

async fn health(args: HealthArgs) -> anyhow::Result<()> {
    let credentials = Credentials {
        ca_file: args.ca_file,
        ..Credentials::default()
    };
    let target = Target::new(&args.address, credentials);
    match args.wait {
        Some(seconds) => {
            let wait = Duration::from_secs(seconds);
            wait_until_serving(&target, &args.service, wait).await?;
        }
        None => {
            let timeout = Duration::from_secs(PROBE_SECONDS_MAX);
            let answer = probe(&target, &args.service, timeout)
                .await
                .context("cannot tell the health of the user-service")?;
            anyhow::ensure!(
                answer == Serving::Serving,
                "the user-service at {} is NOT_SERVING",
                args.address
            );
        }
    }
    println!("SERVING");
    Ok(())
}
