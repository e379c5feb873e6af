//! GetUser as the first version of this service had it: a Postgres connection for each
//! call.

use std::time::Duration;

use super::messages::get_user;
use super::serve::Kind;
use super::server::Server;
use super::{Place, Sizes};
use crate::pace::one_by_one;
use crate::table::{Row, Table};
use crate::usage::processor_seconds;
use crate::wire::Call;

/// One caller, for the record: as many connections at once as callers are more than a
/// role may have.
pub(super) async fn measure(place: &Place, sizes: &Sizes, rows: &mut Table) -> anyhow::Result<()> {
    let server = Server::start(Kind::Connecting, place).await?;
    let calls: Vec<Call> = place.ids().await?.into_iter().map(get_user).collect();
    let calls = calls.iter().cycle().take(sizes.connections);
    let before = processor_seconds(&server.pid)?;
    let latencies = one_by_one(server.wire()?, calls, Duration::MAX).await?;
    let processor = processor_seconds(&server.pid)? - before;
    let each_us = processor * 1_000_000.0 / latencies.len() as f64;
    server.stop().await?;
    let what = "GetUser with a Postgres connection for each call, 1 caller";
    rows.push(Row::new(what, latencies));
    let processor = format!("beside it: processor time of the server, {what}");
    rows.push(Row::new(processor, vec![each_us]).unit("µs"));
    Ok(())
}
