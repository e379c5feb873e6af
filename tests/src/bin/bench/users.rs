//! The user-service, as the whole system runs it, against servers of the same answers
//! that do no more than they must; its stream against COPY; and what it takes.

mod answers;
mod bare;
mod connect;
mod get;
mod list;
mod messages;
mod serve;
mod server;
mod stream;

use std::time::Duration;

use anyhow::Context;
use clap::builder::{RangedI64ValueParser, RangedU64ValueParser};
use clap::{Args, ValueEnum};
use proto::broker::v1 as pb;
use proto::broker::v1::acquire_lease_request::Target;
use secrecy::SecretString;
use suite::{Folder, System, example_config};
use tokio_postgres::Client;

use crate::table::{Row, Table};

pub(crate) use serve::{ServeArgs, serve};

/// The version that is measured, and its branch.
const BINDING: &str = "services/users/versions/v2";
const BRANCH: &str = "api_v2_branch";
/// Longer than all of it takes: nobody renews the bench's own leases.
const LEASE_SECONDS: u64 = 3_600;
/// Rows that are looked up: more than a lookup touches, less than memory.
const KNOWN_ROWS: i32 = 10_000;

#[derive(Debug, Args)]
pub(crate) struct Sizes {
    /// What to measure; without any, everything.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// How often each thing is measured, in turns.
    #[arg(long, default_value_t = 5, value_parser = at_least_one())]
    rounds: usize,
    /// How long each time takes.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Calls that each have a Postgres connection of their own.
    #[arg(long, default_value_t = 300, value_parser = at_least_one())]
    connections: usize,
    /// Rows that are streamed.
    #[arg(long, default_value_t = 1_000_000, value_parser = more_than_known())]
    rows: i32,
}

/// What can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// GetUser.
    Get,
    /// ListUsers.
    List,
    /// A Postgres connection for each call.
    Connect,
    /// StreamUsers.
    Stream,
}

impl Sizes {
    /// Whether everything is measured.
    pub(crate) fn is_everything(&self) -> bool {
        self.parts.is_empty()
    }

    fn has(&self, part: Part) -> bool {
        self.is_everything() || self.parts.contains(&part)
    }

    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// The system, with rows.
struct Place {
    system: System,
    owner: Client,
}

/// A way to the branch as the user-service has one: by a lease.
struct Lease {
    uri: SecretString,
    /// How many it allows, and the user-service's as well.
    connections: usize,
}

pub(crate) async fn run(sizes: &Sizes) -> anyhow::Result<Vec<Row>> {
    let mut rows = Table::default();
    let place = Place::start().await?;
    if sizes.has(Part::Get) {
        get::measure(&place, sizes, &mut rows).await?;
    }
    if sizes.has(Part::List) {
        list::measure(&place, sizes, &mut rows).await?;
    }
    if sizes.has(Part::Connect) {
        connect::measure(&place, sizes, &mut rows).await?;
    }
    // Last: the others are measured with fewer rows.
    if sizes.has(Part::Stream) {
        stream::measure(&place, sizes, &mut rows).await?;
    }
    place.system.finish().await?;
    Ok(rows.0)
}

fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

fn more_than_known() -> RangedI64ValueParser<i32> {
    RangedI64ValueParser::new().range(i64::from(KNOWN_ROWS) + 1..)
}

impl Place {
    async fn start() -> anyhow::Result<Self> {
        let system = System::start_on(Folder::on_disk()?, &example_config()).await?;
        let branches = system
            .emulator
            .client()
            .list_all_branches(system.emulator.project(), None)
            .await?
            .branches;
        let branch = branches.iter().find(|branch| branch.name == BRANCH);
        let owner = system.emulator.connect(&branch.context(BRANCH)?.id).await?;
        let place = Self { system, owner };
        place.fill(1, KNOWN_ROWS).await?;
        Ok(place)
    }

    /// Inserts users with numbers from `first` to `last`, beside those that there are.
    async fn fill(&self, first: i32, last: i32) -> anyhow::Result<()> {
        let insert = "INSERT INTO users.users (name, email, age, city)
                      SELECT format('User number %s', n), format('user-%s@example.com', n),
                             n % 150, format('City number %s', n % 1000)
                      FROM generate_series($1::int4, $2::int4) n";
        self.owner.execute(insert, &[&first, &last]).await?;
        // As after a while, and not while autovacuum is at it.
        self.owner
            .batch_execute("VACUUM ANALYZE users.users")
            .await?;
        Ok(())
    }

    /// All ids, in no order.
    async fn ids(&self) -> anyhow::Result<Vec<i32>> {
        let query = "SELECT id FROM users.users ORDER BY md5(id::text)";
        let rows = self.owner.query(query, &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// A lease of this holder's own: with connections that nobody else opens.
    async fn lease(&self, holder: &str) -> anyhow::Result<Lease> {
        let request = pb::AcquireLeaseRequest {
            target: Some(Target::Binding(BINDING.to_owned())),
            holder: format!("bench-{holder}"),
            ttl: Some(Duration::from_secs(LEASE_SECONDS).try_into()?),
            ..pb::AcquireLeaseRequest::default()
        };
        let mut leases = self.system.broker.leases().await?;
        let answer = leases.acquire_lease(request).await?.into_inner();
        let connection = answer.connection.context("a connection")?;
        Ok(Lease {
            uri: connection.uri.into(),
            connections: usize::try_from(connection.connection_limit)?,
        })
    }
}
