//! `broker serve`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use neon_api::{ClientSetupError, IdError, NeonClient, ProjectId, Secret};
use rpc::clock::{Clock, ClockArgs};
use rpc::health::{Health, Serving, WHOLE_SERVER};
use rpc::metrics::Metrics;
use rpc::page::PageTokens;
use rpc::probes::ProbeListener;
use rpc::reload::reload;
use rpc::security::{SecurityArgs, SecurityError};
use rpc::server::{BindError, Listener, ServeError, Server};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use crate::bindings::Bindings;
use crate::branches::Branches;
use crate::closer::Closer;
use crate::config::{Config, ConfigError};
use crate::credentials::{Key, KeyError};
use crate::keeper::Keeper;
use crate::leases::Leases;
use crate::leasing::Leasing;
use crate::ledger::Ledger;
use crate::logins::Logins;
use crate::neon::{self, Limits, Neon};
use crate::operations::Operations;
use crate::postgres::OwnerUri;
use crate::reaper::Reaper;
use crate::reconcile;
use crate::refresh::Refreshes;
use crate::retire::Retirement;
use crate::server::{self, Broker};
use crate::state::{Database, DatabaseError, State};
use crate::switches::Switches;
use crate::text::one_line;
use crate::trials::Trials;
use crate::warm::Pools;
use crate::watches::Watches;

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
    /// Where to serve metrics and probes over HTTP: /metrics, /livez, /readyz.
    /// Without it: nowhere. Beyond loopback as --listen.
    #[arg(long, value_name = "ADDRESS", env = "BROKER_HTTP_LISTEN")]
    http_listen: Option<SocketAddr>,
    /// The key that passwords are derived from: 32 bytes or more. Brokers that
    /// share a database have the same. Without a database it may be left out; it
    /// then ends with the process.
    #[arg(long, value_name = "FILE", env = "BROKER_KEY_FILE")]
    key_file: Option<PathBuf>,
    /// How far this machine's clock may be from the state database's, in
    /// milliseconds. Beyond that nobody is served.
    #[arg(
        long,
        value_name = "MILLISECONDS",
        default_value_t = 5_000,
        env = "BROKER_CLOCK_SKEW_MS_MAX"
    )]
    clock_skew_ms_max: u64,
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
    #[error("open the state database of BROKER_DATABASE_URL")]
    State(#[source] Box<DatabaseError>),
    #[error(
        "without BROKER_DATABASE_URL leases live in memory and nobody else can see them: such a \
         broker listens on loopback only, not on {0}"
    )]
    NotLoopback(SocketAddr),
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
    let telemetry = rpc::telemetry::init("broker");
    let served = Box::pin(run(arguments)).await;
    telemetry.end().await;
    served
}

async fn run(arguments: Arguments) -> Result<(), Error> {
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
    let database = database_of(&arguments, &clock)?;
    let key = key_of(&arguments, database.is_some())?;
    let probes = match arguments.http_listen {
        Some(address) => Some(ProbeListener::bind(address, &security).await?),
        None => None,
    };
    let listener = Listener::bind(arguments.listen, security).await?;
    let metrics = Metrics::default();
    let server = Server::new(proto::DESCRIPTORS).metrics(&metrics);
    let health = server.health();
    let _probing = probes.map(|probes| {
        tracing::info!(address = %probes.address(), "serving metrics and probes");
        let answering = probes.serve(metrics.clone(), health.clone());
        AbortOnDropHandle::new(tokio::spawn(answering))
    });
    let reached = is_reached(neon.check().await)?;
    if reached {
        match reconcile::check_parents(&neon, &config).await {
            Err(error) if !error.is_transient() => return Err(error.into()),
            // A passing fault: the first apply meets it, or does not.
            _ => {}
        }
    }
    let state = Arc::new(state_of(database).await?);
    tracing::info!(key = %key.id(), "deriving passwords of lease roles");

    let leases = Arc::new(Leases::new(
        Arc::clone(&state),
        clock.clone(),
        config.leases,
    ));
    let bindings = Arc::new(Bindings::new(Arc::clone(&state), clock.clone()));
    let page_tokens = PageTokens::new(&key.page_token_key());
    let logins = Arc::new(Logins::new(Arc::clone(&state), key, clock.clone()));
    let ledger = Ledger::new(Arc::clone(&state), clock.clone());
    let keeper = Arc::new(Keeper::new(
        neon,
        arguments.config.clone(),
        config,
        ledger.clone(),
        Arc::clone(&bindings),
        Arc::clone(&leases),
        Arc::clone(&logins),
    ));
    let leasing = Arc::new(Leasing::new(
        Arc::clone(&keeper),
        Arc::clone(&bindings),
        Arc::clone(&leases),
        Arc::clone(&logins),
    ));
    let watches = Arc::new(Watches::new(Arc::clone(&state), clock.clone()));
    let switches = Switches::new(
        Arc::clone(&state),
        Arc::clone(&keeper),
        Arc::clone(&bindings),
        Arc::clone(&leases),
        Arc::clone(&logins),
        Arc::clone(&watches),
    );
    let background = keeper.neon().background();
    let closer = Closer::new(
        Arc::clone(&state),
        Arc::clone(&leases),
        Arc::clone(&leasing),
        // Which branches are awake is one question a second at most. Behind all that is
        // asked for branches that do not answer it would be asked too late.
        keeper.neon().clone(),
    );
    let pools = Pools::new(
        Arc::clone(&keeper),
        Arc::clone(&leases),
        Arc::clone(&leasing),
        logins,
        background.clone(),
    );
    let reaper = Reaper::new(Arc::clone(&leases), Arc::clone(&leasing), background);
    let trials = Trials::new(keeper.neon().clone(), ledger.clone());
    let branches = Branches::new(Arc::clone(&keeper), ledger);
    let retirement = Retirement {
        state: Arc::clone(&state),
        keeper: Arc::clone(&keeper),
        branches: branches.clone(),
        bindings: Arc::clone(&bindings),
        leases: Arc::clone(&leases),
        leasing: Arc::clone(&leasing),
    };
    let switches = Arc::new(switches);
    let refreshes = Refreshes {
        state: Arc::clone(&state),
        keeper: Arc::clone(&keeper),
        branches: branches.clone(),
        leases: Arc::clone(&leases),
        switches: Arc::clone(&switches),
    };
    let operations = Operations::new(Arc::clone(&state), clock.clone(), server::ends());
    let broker = Broker {
        state: Arc::clone(&state),
        keeper: Arc::clone(&keeper),
        branches,
        operations: Arc::new(operations),
        bindings,
        leases: Arc::clone(&leases),
        leasing: Arc::clone(&leasing),
        switches,
        refreshes: Arc::new(refreshes),
        retirement: Arc::new(retirement),
        trials,
        watches: Arc::clone(&watches),
        page_tokens,
        clock,
        metrics: crate::metrics::Metrics::new(&metrics),
    };
    broker.keeper.neon().tell(&metrics);
    crate::metrics::tell(&broker, &metrics);
    health.explain({
        let broker = broker.clone();
        move || crate::metrics::not_ready(&broker)
    });
    let _reloading = reload("grants in broker.toml", vec![arguments.config], {
        let keeper = Arc::clone(&keeper);
        move || keeper.reload_grants().map_err(|error| one_line(&error))
    });
    tokio::spawn(async move { leases.sweep().await });
    tokio::spawn(async move { leasing.keep_places().await });
    tokio::spawn(tell_health(health, Arc::clone(&state), keeper.was_ready()));
    tokio::spawn({
        let keeper = Arc::clone(&keeper);
        async move { keeper.follow().await }
    });
    tokio::spawn(async move { watches.beat().await });
    tokio::spawn(server::tell_rights(broker.clone()));
    announce(&listener);
    let serving = server::add_services(server, &broker).serve(listener, stop);
    tokio::select! {
        served = serving => Ok(served?),
        error = keep(broker.clone(), closer, reaper, pools, reached) => Err(error.into()),
    }
}

/// Makes the world match, closes roles and deletes branches whose leases have ended,
/// fills warm pools, takes up operations and settles the ledger, while this broker is the one that
/// works in the background; ends only when Neon will not have us.
async fn keep(
    broker: Broker,
    closer: Closer,
    reaper: Reaper,
    pools: Pools,
    mut reached: bool,
) -> neon::Error {
    let Broker {
        state,
        keeper,
        branches,
        switches,
        ..
    } = broker.clone();
    state.is_open().await;
    let mut pause = Duration::from_millis(REACH_MS_MIN);
    while !reached {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(REACH_MS_MAX));
        match is_reached(keeper.neon().check().await) {
            Ok(now) => reached = now,
            Err(error) => return error,
        }
    }
    let mut leader = state.leader();
    loop {
        // The state lives as long as we do.
        let _ = leader.wait_for(Option::is_some).await;
        tokio::select! {
            error = keeper.settle() => return error,
            () = closer.run() => {}
            () = reaper.run() => {}
            () = pools.run() => {}
            () = broker.take_up_operations() => {}
            () = branches.settle() => {}
            () = switches.let_in_left() => {}
            _ = leader.wait_for(Option::is_none) => {}
        }
    }
}

/// Says which services take calls, for ever: all once the world is as declared,
/// and none while nobody may be answered.
async fn tell_health(health: Health, state: Arc<State>, mut was_ready: watch::Receiver<bool>) {
    loop {
        state.is_open().await;
        for service in server::READY_AT_ONCE {
            health.set(service, Serving::Serving).await;
        }
        let ready = async {
            // The keeper lives as long as we do.
            let _ = was_ready.wait_for(|ready| *ready).await;
        };
        tokio::select! {
            () = ready => {
                for service in [WHOLE_SERVER, server::LEASE_SERVICE] {
                    health.set(service, Serving::Serving).await;
                }
                state.is_shut().await;
            }
            () = state.is_shut() => {}
        }
        let all = server::READY_AT_ONCE.into_iter();
        for service in all.chain([WHOLE_SERVER, server::LEASE_SERVICE]) {
            health.set(service, Serving::NotServing).await;
        }
    }
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
    let client = NeonClient::new(url, Secret::from(key))?.with_headers(rpc::traces::inject);
    let limits = Limits {
        per_minute: arguments.neon_requests_per_minute,
        per_second_per_route: arguments.neon_requests_per_second_per_route,
    };
    Ok(Neon::new(client, project, limits))
}

/// Where the state is to be. None: in memory.
fn database_of(arguments: &Arguments, clock: &Clock) -> Result<Option<Database>, Error> {
    // Not a flag: it is a credential, and a command line is for everybody to see.
    let url = std::env::var("BROKER_DATABASE_URL").unwrap_or_default();
    if !url.is_empty() {
        return Ok(Some(Database {
            uri: OwnerUri::new(url),
            clock: clock.clone(),
            clock_skew_max: Duration::from_millis(arguments.clock_skew_ms_max),
        }));
    }
    match arguments.listen.ip().is_loopback() {
        true => Ok(None),
        false => Err(Error::NotLoopback(arguments.listen)),
    }
}

fn key_of(arguments: &Arguments, is_stored: bool) -> Result<Key, Error> {
    match &arguments.key_file {
        Some(path) => Ok(Key::read(path)?),
        // Another start, or another broker, would change every password.
        None if is_stored => Err(Error::NotSet {
            variable: "BROKER_KEY_FILE",
            what: "leases that are stored need a key that stays; `openssl rand -hex 32 > key` \
                   makes one",
        }),
        None => Ok(Key::random()),
    }
}

async fn state_of(database: Option<Database>) -> Result<State, Error> {
    let Some(database) = database else {
        tracing::warn!(
            "without BROKER_DATABASE_URL nothing outlives this process: its leases end with it, \
             and so does the key of their passwords unless there is a --key-file; its branches \
             are found again, their lease roles end by themselves"
        );
        return Ok(State::in_memory());
    };
    let opened = State::open(database).await;
    let state = opened.map_err(|error| Error::State(Box::new(error)))?;
    let leases = state.read(|data| data.leases.len());
    tracing::info!(leases, "keeping leases in the state database");
    Ok(state)
}

/// The one line on stdout: where it listens.
fn announce(listener: &Listener) {
    let mut stdout = std::io::stdout().lock();
    // Whoever closed our stdout does not want to know.
    let _ = writeln!(stdout, "listening on {}", listener.address());
    let _ = stdout.flush();
}
