//! `broker audit`.

use jiff::Timestamp;
use proto::broker::v1 as pb;

use super::api::Api;
use super::client::{self, Error, refused};
use super::output::OutputArguments;
use super::table;
use super::times::wire;

/// How many events one question asks for.
const PAGE_SIZE: usize = 1_000;

#[derive(Debug, clap::Args)]
pub(super) struct AuditArguments {
    #[command(flatten)]
    broker: client::Arguments,
    #[command(flatten)]
    output: OutputArguments,
    /// Of bindings of this service: users.
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// On this branch: branches/{id}.
    #[arg(long, value_name = "BRANCH")]
    branch: Option<String>,
    /// Of this holder, exactly.
    #[arg(long, value_name = "HOLDER")]
    holder: Option<String>,
    /// From this moment on: 2026-03-01T09:00:00Z.
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Before this moment.
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// At most so many events, the newest.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
}

/// Prints events, newest first.
pub(super) async fn audit(arguments: AuditArguments) -> Result<(), Error> {
    let mut api = Api::connect(&arguments.broker).await?;
    let mut request = pb::ListAuditEventsRequest {
        service: arguments.service.unwrap_or_default(),
        branch: arguments.branch.unwrap_or_default(),
        holder: arguments.holder.unwrap_or_default(),
        start_time: arguments.since.map(wire),
        end_time: arguments.until.map(wire),
        ..Default::default()
    };
    let mut events = Vec::new();
    let mut left = arguments.limit;
    while left > 0 {
        let size = left.min(PAGE_SIZE);
        request.page_size = i32::try_from(size).unwrap_or(i32::MAX);
        let answer = api.audit.list_audit_events(request.clone()).await;
        let answer = answer.map_err(refused)?.into_inner();
        left -= answer.events.len().min(left);
        events.extend(answer.events);
        if answer.next_page_token.is_empty() {
            break;
        }
        request.page_token = answer.next_page_token;
    }
    arguments.output.output.many(&events, table_of)?;
    Ok(())
}

fn table_of(events: &[pb::AuditEvent]) -> String {
    let rows = events.iter().map(|event| {
        let time = event.time.unwrap_or_default();
        let time = Timestamp::new(time.seconds, time.nanos).unwrap_or(Timestamp::UNIX_EPOCH);
        let action = event.action().as_str_name();
        vec![
            format!("{time:.3}"),
            action.trim_start_matches("AUDIT_ACTION_").to_owned(),
            event.service.clone(),
            event.binding.clone(),
            event.branch.clone(),
            event.lease.clone(),
            event.holder.clone(),
            event.message.clone(),
        ]
    });
    let head = [
        "TIME", "ACTION", "SERVICE", "BINDING", "BRANCH", "LEASE", "HOLDER", "MESSAGE",
    ];
    table::of(&head, rows)
}
