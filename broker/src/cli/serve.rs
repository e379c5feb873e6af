//! `broker serve`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use neon_api::{ClientSetupError, IdError, NeonClient, ProjectId, Secret};
use rpc::clock::ClockArgs;
use rpc::health::Serving;
use rpc::page::PageTokens;
use rpc::reload::reload;
use rpc::security::{SecurityArgs, SecurityError};
use rpc::server::{BindError, Listener, ServeError, Server};
use url::Url;

use crate::bindings::Bindings;
use crate::branches::Branches;
use crate::closer::Closer;
use crate::config::{Config, ConfigError};
use crate::credentials::{Key, KeyError};
use crate::keeper::Keeper;
use crate::leases::Leases;
use crate::logins::Logins;
use crate::neon::{self, Limits, Neon};
use crate::operations::Operations;
use crate::reconcile;
use crate::server::{self, Answers, Broker};
use crate::state::{self, State};
use crate::text::one_line;

/// The file of the key that is made in the state folder.
const KEY_FILE: &str = "key";
/// Pauses between attempts to reach Neon for the first time, in milliseconds.
const REACH_MS_MIN: u64 = 200;
const REACH_MS_MAX: u64 = 10_000;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What to make true. Read again at each apply.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "broker.toml",
        env = "BROKER_CONFIG"
    )]
    config: PathBuf,
    /// Where to serve gRPC. Without TLS and caller identity: loopback only.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7431",
        env = "BROKER_LISTEN"
    )]
    listen: SocketAddr,
    /// Folder for leases and the key of their passwords. Without it both end
    /// with the process.
    #[arg(long, value_name = "FOLDER", env = "BROKER_STATE")]
    state: Option<PathBuf>,
    /// The key that passwords are derived from, in place of the one that is
    /// made in the state folder: 32 bytes or more.
    #[arg(long, value_name = "FILE", env = "BROKER_KEY_FILE")]
    key_file: Option<PathBuf>,
    /// The Neon project.
    #[arg(long, value_name = "ID", env = "NEON_PROJECT_ID")]
    neon_project_id: Option<String>,
    /// The Neon API.
    #[arg(
        long,
        value_name = "URL",
        default_value = "https://console.neon.tech/api/v2",
        env = "NEON_API_URL"
    )]
    neon_api_url: String,
    /// Requests that Neon takes from the account in a minute. Callers wait when
    /// they are used up. For brokers that share an account: a part each.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = Limits::NEON.per_minute,
        env = "NEON_REQUESTS_PER_MINUTE"
    )]
    neon_requests_per_minute: NonZeroU32,
    /// Requests that Neon takes from the account in a second on one route.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = Limits::NEON.per_second_per_route,
        env = "NEON_REQUESTS_PER_SECOND_PER_ROUTE"
    )]
    neon_requests_per_second_per_route: NonZeroU32,
    #[command(flatten)]
    security: SecurityArgs,
    #[command(flatten)]
    clock: ClockArgs,
}

/// Why the broker does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{variable} is not set: {what}")]
    NotSet {
        variable: &'static str,
        what: &'static str,
    },
    #[error("NEON_PROJECT_ID is no project id")]
    BadProject(#[source] IdError),
    #[error("NEON_API_URL {given:?} is no URL, as https://console.neon.tech/api/v2 is")]
    BadUrl {
        given: String,
        #[source]
        source: url::ParseError,
    },
    #[error(transparent)]
    Client(#[from] ClientSetupError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("read the clock's file")]
    Clock(#[source] std::io::Error),
    #[error(transparent)]
    Security(#[from] SecurityError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    State(#[from] state::Error),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Neon(#[from] neon::Error),
    #[error(transparent)]
    Reconcile(#[from] reconcile::Error),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Runs until SIGTERM or Ctrl-C.
pub(super) async fn serve(arguments: Arguments) -> Result<(), Error> {
    rpc::telemetry::init();
    let stop = rpc::shutdown::signal();
    let clock = arguments.clock.clock().map_err(Error::Clock)?;
    // What can be wrong is found in this order, so that a start that cannot
    // work has made nothing.
    let config = Config::load(&arguments.config)?;
    let neon = neon_of(&arguments)?;
    let security = arguments.security.load(&clock)?;
    if security.identifies() && config.grants.0.is_empty() {
        tracing::warn!("broker.toml has no [grants]: no caller may do anything");
    }
    let listener = Listener::bind(arguments.listen, security).await?;
    let reached = is_reached(neon.check().await)?;
    if reached {
        match reconcile::check_parents(&neon, &config).await {
            Err(error) if !error.is_transient() => return Err(error.into()),
            // A passing fault: the first apply meets it, or does not.
            _ => {}
        }
    }
    let key = arguments.key_file.as_deref().map(Key::read).transpose()?;
    let state = state_of(&arguments)?;
    let key = match key {
        Some(key) => key,
        None => key_made(arguments.state.as_deref())?,
    };
    tracing::info!(key = %key.id(), "deriving passwords of lease roles");

    let server = Server::new(proto::DESCRIPTORS);
    let health = server.health();
    for service in server::READY_AT_ONCE {
        health.set(service, Serving::Serving).await;
    }
    let leases = Arc::new(Leases::new(
        Arc::clone(&state),
        clock.clone(),
        config.leases,
    ));
    let bindings = Arc::new(Bindings::new(state, clock.clone()));
    let page_tokens = PageTokens::new(&key.page_token_key());
    let logins = Arc::new(Logins::new(key, clock.clone()));
    let keeper = Arc::new(Keeper::new(
        neon,
        arguments.config.clone(),
        config,
        Arc::clone(&bindings),
        Arc::clone(&leases),
        Arc::clone(&logins),
        health,
    ));
    let closer = Closer::new(
        Arc::clone(&bindings),
        Arc::clone(&leases),
        Arc::clone(&logins),
    );
    let broker = Broker {
        keeper: Arc::clone(&keeper),
        branches: Branches::new(Arc::clone(&keeper), Arc::clone(&bindings)),
        operations: Arc::new(Operations::new(clock.clone())),
        answers: Answers::new(clock.clone()),
        bindings,
        leases: Arc::clone(&leases),
        logins,
        page_tokens,
        clock,
    };
    let _reloading = reload("grants in broker.toml", vec![arguments.config], {
        let keeper = Arc::clone(&keeper);
        move || keeper.reload_grants().map_err(|error| one_line(&error))
    });
    tokio::spawn(async move { leases.sweep().await });
    tokio::spawn(closer.run());
    announce(&listener);
    let serving = server::add_services(server, &broker).serve(listener, stop);
    tokio::select! {
        served = serving => Ok(served?),
        error = keep(keeper, reached) => Err(error.into()),
    }
}

/// Makes the world match, for as long as that takes; ends only when Neon will
/// not have us.
async fn keep(keeper: Arc<Keeper>, mut reached: bool) -> neon::Error {
    let mut pause = Duration::from_millis(REACH_MS_MIN);
    while !reached {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(REACH_MS_MAX));
        match is_reached(keeper.neon().check().await) {
            Ok(now) => reached = now,
            Err(error) => return error,
        }
    }
    keeper.settle().await
}

/// Whether Neon has answered. That it will not have us, or that something else
/// answers in its place, is an error.
fn is_reached(checked: Result<(), neon::Error>) -> Result<bool, neon::Error> {
    match checked {
        Ok(()) => Ok(true),
        Err(error) if !error.is_transient() => Err(error),
        Err(error) => {
            tracing::warn!(error = %one_line(&error), "Neon cannot be reached yet");
            Ok(false)
        }
    }
}

fn neon_of(arguments: &Arguments) -> Result<Neon, Error> {
    let key = std::env::var("NEON_API_KEY").unwrap_or_default();
    if key.is_empty() {
        return Err(Error::NotSet {
            variable: "NEON_API_KEY",
            what: "create an API key in the Neon console, or take the emulator's",
        });
    }
    let project = arguments.neon_project_id.as_deref().unwrap_or_default();
    if project.is_empty() {
        return Err(Error::NotSet {
            variable: "NEON_PROJECT_ID",
            what: "it is in the project's settings in the Neon console, and the emulator prints it",
        });
    }
    let project: ProjectId = project.parse().map_err(Error::BadProject)?;
    let url = &arguments.neon_api_url;
    let url = Url::parse(url).map_err(|source| Error::BadUrl {
        given: url.clone(),
        source,
    })?;
    let client = NeonClient::new(url, Secret::from(key))?;
    let limits = Limits {
        per_minute: arguments.neon_requests_per_minute,
        per_second_per_route: arguments.neon_requests_per_second_per_route,
    };
    Ok(Neon::new(client, project, limits))
}

fn state_of(arguments: &Arguments) -> Result<Arc<State>, Error> {
    match &arguments.state {
        Some(folder) => {
            let state = State::open(folder)?;
            let leases = state.read(|data| data.leases.len());
            tracing::info!(folder = %folder.display(), leases, "keeping leases");
            Ok(Arc::new(state))
        }
        None => {
            tracing::warn!("without --state, leases live in memory and end with this process");
            Ok(Arc::new(State::in_memory()))
        }
    }
}

/// The key of a broker that was given none.
fn key_made(state: Option<&Path>) -> Result<Key, Error> {
    match state {
        Some(folder) => Ok(Key::read_or_make(&folder.join(KEY_FILE))?),
        None => {
            tracing::warn!(
                "without --key-file or --state, the key of lease passwords ends with this process: \
                 the next one changes every password"
            );
            Ok(Key::random())
        }
    }
}

/// The one line on stdout: where it listens.
fn announce(listener: &Listener) {
    let mut stdout = std::io::stdout().lock();
    // Whoever closed our stdout does not want to know.
    let _ = writeln!(stdout, "listening on {}", listener.address());
    let _ = stdout.flush();
}
