//! `broker audit`.

use jiff::Timestamp;
use proto::broker::v1 as pb;
use proto::broker::v1::audit_service_client::AuditServiceClient;

use super::client::{self, Error, connect, refused};

/// How many events one question asks for.
const PAGE_SIZE: usize = 1_000;

#[derive(Debug, clap::Args)]
pub(super) struct AuditArguments {
    #[command(flatten)]
    broker: client::Arguments,
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

/// Prints events, newest first, a line each.
pub(super) async fn audit(arguments: AuditArguments) -> Result<(), Error> {
    let mut client = AuditServiceClient::new(connect(&arguments.broker).await?);
    let mut request = pb::ListAuditEventsRequest {
        service: arguments.service.unwrap_or_default(),
        branch: arguments.branch.unwrap_or_default(),
        holder: arguments.holder.unwrap_or_default(),
        start_time: arguments.since.map(wire),
        end_time: arguments.until.map(wire),
        ..Default::default()
    };
    let mut left = arguments.limit;
    while left > 0 {
        let size = left.min(PAGE_SIZE);
        request.page_size = i32::try_from(size).unwrap_or(i32::MAX);
        let answer = client.list_audit_events(request.clone()).await;
        let answer = answer.map_err(refused)?.into_inner();
        for event in &answer.events {
            println!("{}", line(event));
        }
        left -= answer.events.len().min(left);
        if answer.next_page_token.is_empty() {
            break;
        }
        request.page_token = answer.next_page_token;
    }
    Ok(())
}

fn wire(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.as_second(),
        nanos: time.subsec_nanosecond(),
    }
}

fn line(event: &pb::AuditEvent) -> String {
    let time = event.time.unwrap_or_default();
    let time = Timestamp::new(time.seconds, time.nanos).unwrap_or(Timestamp::UNIX_EPOCH);
    let action = event.action().as_str_name();
    let action = action.trim_start_matches("AUDIT_ACTION_").to_lowercase();
    let about = [&event.binding, &event.branch, &event.lease, &event.holder];
    let about: Vec<&str> = about
        .into_iter()
        .map(String::as_str)
        .filter(|text| !text.is_empty())
        .collect();
    format!(
        "{time:.3}  {action:9}  {}  {}",
        about.join("  "),
        event.message
    )
}
