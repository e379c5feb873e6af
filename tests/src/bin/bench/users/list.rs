//! ListUsers: pages of users by id.

use std::sync::Arc;

use anyhow::ensure;
use proto::users::v2::ListUsersResponse;

use super::messages::{PAGE_ROWS, list_users};
use super::serve::Kind;
use super::server::{Run, Server, against, in_turns, push_each};
use super::{Place, Sizes};
use crate::table::Table;
use crate::wire::Call;

/// As the issue has it.
const BARE_RATIO_MIN: f64 = 0.9;
/// Pages that are asked for, in turn.
const PAGES: usize = 64;

pub(super) async fn measure(place: &Place, sizes: &Sizes, rows: &mut Table) -> anyhow::Result<()> {
    let service = Server::user_service(place).await?;
    let bare = Server::start(Kind::Bare, place).await?;
    let (calls, ids) = pages(&service).await?;
    let (bare_calls, bare_ids) = pages(&bare).await?;
    ensure!(ids == bare_ids, "both have the same pages");
    let mut runs = [Run::new(&service, calls), Run::new(&bare, bare_calls)];
    in_turns(&mut runs, sizes.rounds, sizes.time()).await?;
    let name = format!("ListUsers of {PAGE_ROWS} rows");
    push_each(&name, &runs, rows);
    let [service_run, bare_run] = &runs;
    rows.push(against(&name, service_run, bare_run).at_least(BARE_RATIO_MIN));
    bare.stop().await
}

/// The calls for the first pages, with the server's own tokens, and whom they list.
async fn pages(server: &Server) -> anyhow::Result<(Arc<[Call]>, Vec<i32>)> {
    let (mut calls, mut ids) = (Vec::new(), Vec::new());
    let mut token = String::new();
    for _ in 0..PAGES {
        let call = list_users(&token);
        let page: ListUsersResponse = server.wire()?.answer(&call).await?;
        calls.push(call);
        ids.extend(page.users.iter().map(|user| user.id));
        token = page.next_page_token;
    }
    let rows = PAGES * usize::try_from(PAGE_ROWS)?;
    ensure!(ids.len() == rows, "{} rows, not {rows}", ids.len());
    Ok((calls.into(), ids))
}
