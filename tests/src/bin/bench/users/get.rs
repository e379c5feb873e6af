//! GetUser: by as many callers as there are connections, and by one.

use std::sync::Arc;

use anyhow::{Context, ensure};
use proto::users::v2::{GetUserResponse, User};

use super::messages::get_user;
use super::serve::Kind;
use super::server::{Run, Server, against, in_turns, push_each};
use super::{Place, Sizes};
use crate::pace::one_by_one;
use crate::table::{Row, Table, percentile};
use crate::wire::Call;

/// As the issue has them.
const IN_MEMORY_RATIO_MIN: f64 = 0.65;
const P50_RATIO_MAX: f64 = 1.0;
/// Users that all servers have to answer alike.
const COMPARED: usize = 100;

pub(super) async fn measure(place: &Place, sizes: &Sizes, rows: &mut Table) -> anyhow::Result<()> {
    let service = Server::user_service(place).await?;
    let bare = Server::start(Kind::Bare, place).await?;
    let in_memory = Server::start(Kind::InMemory, place).await?;
    let calls: Arc<[Call]> = place.ids().await?.into_iter().map(get_user).collect();
    for call in calls.iter().take(COMPARED) {
        let user = user(&service, call).await?;
        for other in [&bare, &in_memory] {
            let its = self::user(other, call).await?;
            let name = other.name;
            ensure!(
                columns(&its) == columns(&user),
                "{name}: {its:?}, not {user:?}"
            );
        }
    }
    let run = |server| Run::new(server, Arc::clone(&calls));
    let mut runs = [run(&service), run(&bare), run(&in_memory)];
    in_turns(&mut runs, sizes.rounds, sizes.time()).await?;
    push_each("GetUser", &runs, rows);
    let [service_run, bare_run, in_memory_run] = &runs;
    let row = against("GetUser", service_run, in_memory_run);
    rows.push(row.at_least(IN_MEMORY_RATIO_MIN));
    rows.push(against("GetUser", bare_run, in_memory_run));
    alone(&[&service, &bare, &in_memory], &calls, sizes, rows).await?;
    bare.stop().await?;
    in_memory.stop().await
}

/// The first of the servers against the second, and the others beside them.
async fn alone(
    servers: &[&Server],
    calls: &[Call],
    sizes: &Sizes,
    rows: &mut Table,
) -> anyhow::Result<()> {
    let mut medians: Vec<Vec<f64>> = servers.iter().map(|_| Vec::new()).collect();
    for _ in 0..sizes.rounds {
        for (server, medians) in servers.iter().zip(&mut medians) {
            let calls = calls.iter().cycle();
            let latencies = one_by_one(server.wire()?, calls, sizes.time()).await?;
            medians.push(percentile(&latencies, 50) * 1_000.0);
        }
    }
    if let [service, bare, ..] = &medians[..] {
        let ratios = service.iter().zip(bare).map(|(one, other)| one / other);
        let what = "GetUser at 1 connection, p50 of user-service against bare, each round";
        let row = Row::new(what, ratios.collect()).unit("ratio");
        rows.push(row.at_most(P50_RATIO_MAX));
    }
    for (server, medians) in servers.iter().zip(medians) {
        let what = format!("beside it: GetUser at 1 connection, p50, {}", server.name);
        rows.push(Row::new(what, medians).unit("µs"));
    }
    Ok(())
}

async fn user(server: &Server, call: &Call) -> anyhow::Result<User> {
    let answer: GetUserResponse = server.wire()?.answer(call).await?;
    answer.user.context("a user")
}

/// What is in the table.
fn columns(user: &User) -> (i32, &str, &str, Option<i32>, Option<&str>) {
    let city = user.city.as_deref();
    (user.id, &user.name, &user.email, user.age, city)
}
