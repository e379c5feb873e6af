//! What the user-service is compared with, as processes of their own, so that what they
//! take can be told: tonic in front of a map in memory, of tokio-postgres with a pool,
//! and of a connection for each call.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use proto::users::v2::User;
use secrecy::{ExposeSecret, SecretString};
use suite::{Process, System};
use tokio_postgres::Client;
use tokio_postgres_rustls::MakeRustlsConnect;
use tonic::Status;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::Lease;
use super::answers::{Answers, Users};
use super::bare::Bare;
use super::messages::{COLUMNS, of_row};

/// Has the URI of the branch, which is no argument: others see those.
pub(super) const URI_VARIABLE: &str = "BENCH_DATABASE_URL";

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[arg(value_enum)]
    pub(super) kind: Kind,
    /// The emulator's folder, for its authority.
    #[arg(long)]
    data: PathBuf,
    /// Connections of the pool.
    #[arg(long, default_value_t = 1)]
    connections: usize,
}

/// Where the answers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Memory, which is filled at the start.
    InMemory,
    /// Postgres, a query a call, by a pool.
    Bare,
    /// Postgres, a connection a call.
    Connecting,
}

impl Kind {
    /// As an argument.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::InMemory => "in-memory",
            Self::Bare => "bare",
            Self::Connecting => "connecting",
        }
    }
}

/// Serves until SIGTERM.
pub(crate) async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let branch = Branch::new(&args)?;
    match args.kind {
        Kind::InMemory => answer(InMemory::load(&branch).await?).await,
        Kind::Bare => answer(Bare::connect(&branch, args.connections).await?).await,
        Kind::Connecting => answer(Connecting(branch)).await,
    }
}

/// Starts one, and says where it listens.
pub(super) async fn start(
    kind: Kind,
    system: &System,
    lease: &Lease,
) -> anyhow::Result<(Process, String)> {
    let data = system.emulator.data().to_str().context("UTF-8")?;
    let connections = lease.connections.to_string();
    let mut process = Process::start(
        "bench",
        &[
            "serve",
            kind.name(),
            "--data",
            data,
            "--connections",
            &connections,
        ],
        &[(URI_VARIABLE, lease.uri.expose_secret())],
        &system.folder().join(&format!("{}.log", kind.name())),
    )?;
    let address = process.line().await?;
    Ok((process, address))
}

/// Where the users are.
pub(super) struct Branch {
    uri: SecretString,
    connector: MakeRustlsConnect,
}

impl Branch {
    fn new(args: &ServeArgs) -> anyhow::Result<Self> {
        let uri = std::env::var(URI_VARIABLE).context(URI_VARIABLE)?;
        Ok(Self {
            uri: uri.into(),
            connector: suite::connector(&args.data)?,
        })
    }

    pub(super) async fn connect(&self) -> anyhow::Result<Client> {
        suite::connect_by(self.uri.expose_secret(), self.connector.clone()).await
    }
}

/// What Postgres says is for the log, which the bench shows when something fails.
pub(super) fn failed(error: impl Into<anyhow::Error>) -> Status {
    eprintln!("{:#}", error.into());
    Status::internal("it has been logged")
}

async fn answer(users: impl Users) -> anyhow::Result<()> {
    let stop = rpc::shutdown::signal();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?.with_nodelay(Some(true));
    println!("{}", incoming.local_addr()?);
    let server = Server::builder().add_service(Answers::new(users));
    Ok(server.serve_with_incoming_shutdown(incoming, stop).await?)
}

struct InMemory(HashMap<i32, User>);

impl InMemory {
    async fn load(branch: &Branch) -> anyhow::Result<Self> {
        let query = format!("SELECT {COLUMNS} FROM users");
        let rows = branch.connect().await?.query(&query, &[]).await?;
        let users = rows.iter().map(of_row);
        let users = users.map(|user| user.map(|user| (user.id, user)));
        Ok(Self(users.collect::<Result<_, _>>()?))
    }
}

impl Users for InMemory {
    async fn get(&self, id: i32) -> Result<User, Status> {
        let user = self.0.get(&id).cloned();
        user.ok_or_else(|| Status::not_found("no such user"))
    }

    async fn list(&self, _: i32, _: usize) -> Result<Vec<User>, Status> {
        Err(Status::unimplemented("a map has no order"))
    }
}

struct Connecting(Branch);

impl Users for Connecting {
    async fn get(&self, id: i32) -> Result<User, Status> {
        let client = self.0.connect().await.map_err(failed)?;
        let query = format!("SELECT {COLUMNS} FROM users WHERE id = $1");
        let row = client.query_opt(&query, &[&id]).await.map_err(failed)?;
        let row = row.ok_or_else(|| Status::not_found("no such user"))?;
        of_row(&row).map_err(failed)
    }

    async fn list(&self, _: i32, _: usize) -> Result<Vec<User>, Status> {
        Err(Status::unimplemented("it is not measured"))
    }
}
