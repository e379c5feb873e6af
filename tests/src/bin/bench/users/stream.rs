//! StreamUsers of a big table: how fast against COPY, and in how much memory.

use std::collections::HashSet;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, ensure};
use bytes::Bytes;
use prost::Message;
use proto::users::v2::User;
use secrecy::ExposeSecret;
use tokio::process::Command;

use super::messages::COLUMNS;
use super::server::Server;
use super::{KNOWN_ROWS, Lease, Place, Sizes};
use crate::table::{Row, Table};
use crate::usage::{forget_most_resident, processor_seconds, resident};
use crate::wire::Call;

const STREAM: &str = "/users.v2.UserService/StreamUsers";
/// As the issue has them.
const COPY_RATIO_MIN: f64 = 0.5;
const RESIDENT_MB_MAX: f64 = 50.0;

/// A message of the stream, without a look at each user.
#[derive(Clone, PartialEq, Message)]
struct Users {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    users: Vec<Bytes>,
}

pub(super) async fn measure(place: &Place, sizes: &Sizes, rows: &mut Table) -> anyhow::Result<()> {
    place.fill(KNOWN_ROWS + 1, sizes.rows).await?;
    let count = place.ids().await?.len();
    let service = Server::user_service(place).await?;
    let lease = place.lease("psql").await?;
    let before = resident(&service.pid)?.now_mb;
    let (mut streams, mut copies) = (Vec::new(), Vec::new());
    let (mut resident_mb, mut processor_us) = (Vec::new(), Vec::new());
    for round in 0..=sizes.rounds {
        forget_most_resident(&service.pid)?;
        let processor = processor_seconds(&service.pid)?;
        let begun = Instant::now();
        // The first time everybody is looked at, and no time taken.
        match round {
            0 => look_at_all(&service, count).await?,
            _ => stream(&service, count).await?,
        }
        let seconds = begun.elapsed().as_secs_f64();
        let processor = processor_seconds(&service.pid)? - processor;
        resident_mb.push(resident(&service.pid)?.most_mb - before);
        if round > 0 {
            streams.push(count as f64 / seconds);
            processor_us.push(processor * 1_000_000.0 / count as f64);
            copies.push(count as f64 / copy(&lease).await?);
        }
    }
    let ratios = streams.iter().zip(&copies).map(|(one, other)| one / other);
    let ratios = ratios.collect();
    let name = format!("StreamUsers of {count} rows");
    rows.push(Row::new(&*name, streams).unit("rows a second"));
    let what = format!("COPY TO STDOUT of {count} rows, psql");
    rows.push(Row::new(what, copies).unit("rows a second"));
    let row = Row::new(format!("{name} against COPY, each round"), ratios).unit("ratio");
    rows.push(row.at_least(COPY_RATIO_MIN));
    let what = format!("{name}: resident memory of the server, at most, above before");
    rows.push(
        Row::new(what, resident_mb)
            .unit("MB")
            .below(RESIDENT_MB_MAX),
    );
    let what = format!("beside it: processor time of the server for a row, {name}");
    rows.push(Row::new(what, processor_us).unit("µs"));
    Ok(())
}

async fn stream(server: &Server, count: usize) -> anyhow::Result<()> {
    let mut seen = 0;
    let call = Call::new(STREAM, &());
    let reading = server.wire()?.messages(&call, |message| {
        seen += Users::decode(message)?.users.len();
        Ok(())
    });
    reading.await?;
    ensure!(seen == count, "{seen} users, not {count}");
    Ok(())
}

/// Whether each is there once.
async fn look_at_all(server: &Server, count: usize) -> anyhow::Result<()> {
    let mut ids = HashSet::new();
    let call = Call::new(STREAM, &());
    let reading = server.wire()?.messages(&call, |message| {
        for user in Users::decode(message)?.users {
            let user = User::decode(user)?;
            ensure!(!user.name.is_empty() && ids.insert(user.id), "{user:?}");
        }
        Ok(())
    });
    reading.await?;
    ensure!(ids.len() == count, "{} users, not {count}", ids.len());
    Ok(())
}

/// How long psql takes, its start included, in seconds.
async fn copy(lease: &Lease) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let statement = format!("COPY (SELECT {COLUMNS} FROM users) TO STDOUT");
    let ended = Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--command", &statement])
        .arg(lease.uri.expose_secret())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .await
        .context("run psql: install the package postgresql-client")?;
    ensure!(ended.success(), "psql ended with {ended}");
    Ok(begun.elapsed().as_secs_f64())
}
