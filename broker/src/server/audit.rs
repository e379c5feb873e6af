//! AuditService.

use jiff::Timestamp;
use prost::Message as _;
use proto::broker::v1 as pb;
use proto::broker::v1::audit_service_server::AuditService;
use rpc::page;
use rpc::status::{FieldViolation, FieldViolations};
use tonic::{Request, Response, Status};

use super::branches::time;
use super::{Broker, Error, request};
use crate::audit::{Action, Event, Query};
use crate::names::{BranchResource, ServiceName};

const LIST: &str = "broker.v1.AuditService/ListAuditEvents";

#[tonic::async_trait]
impl AuditService for Broker {
    async fn list_audit_events(
        &self,
        request: Request<pb::ListAuditEventsRequest>,
    ) -> Result<Response<pb::ListAuditEventsResponse>, Status> {
        self.rights(&request)?.may_administer()?;
        let request = request.into_inner();
        let filter = filter(&request);
        let mut violations = FieldViolations::new();
        let size = violations.take(page::page_size(request.page_size));
        let tokens = &self.page_tokens;
        let cursor = violations.take(tokens.decode(LIST, &filter, &request.page_token));
        let query = query(request, &mut violations);
        let (Some(size), Some(cursor), Some(mut query)) = (size, cursor, query) else {
            return Err(Error::from(violations).into());
        };
        // Signed by us, so it is a number again.
        query.before = cursor.and_then(|cursor| String::from_utf8(cursor).ok()?.parse().ok());
        // One more, to know whether there is a next page.
        query.limit = size + 1;
        let mut events = self.state.audit(query).await.map_err(Error::State)?;
        let is_whole = events.len() <= size;
        events.truncate(size);
        let next_page_token = match events.last() {
            Some(last) if !is_whole => tokens.encode(LIST, &filter, last.id.to_string()),
            _ => String::new(),
        };
        Ok(Response::new(pb::ListAuditEventsResponse {
            events: events.into_iter().map(wire).collect(),
            next_page_token,
        }))
    }
}

/// What a page token is bound to: the request without its page.
fn filter(request: &pb::ListAuditEventsRequest) -> String {
    let filter = pb::ListAuditEventsRequest {
        page_size: 0,
        page_token: String::new(),
        ..request.clone()
    };
    let bytes = filter.encode_to_vec();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn query(request: pb::ListAuditEventsRequest, violations: &mut FieldViolations) -> Option<Query> {
    let named = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let service =
        named(&request.service).map(|text| request::name::<ServiceName>("service", &text));
    let branch =
        named(&request.branch).map(|text| request::name::<BranchResource>("branch", &text));
    let start = request.start_time.map(|at| moment("start_time", at));
    let end = request.end_time.map(|at| moment("end_time", at));
    let service = violations.take(service.transpose());
    let branch = violations.take(branch.transpose());
    let start = violations.take(start.transpose());
    let end = violations.take(end.transpose());
    Some(Query {
        service: service?,
        branch: branch?.map(|branch| branch.0),
        holder: named(&request.holder),
        start: start?,
        end: end?,
        before: None,
        limit: 0,
    })
}

fn moment(field: &'static str, time: prost_types::Timestamp) -> Result<Timestamp, FieldViolation> {
    Timestamp::new(time.seconds, time.nanos)
        .map_err(|_| FieldViolation::new(field, "must be a time between the years 1 and 9999"))
}

fn wire(event: Event) -> pb::AuditEvent {
    let action = match event.action {
        Action::Acquired => pb::AuditAction::Acquired,
        Action::Renewed => pb::AuditAction::Renewed,
        Action::Moved => pb::AuditAction::Moved,
        Action::Released => pb::AuditAction::Released,
        Action::Expired => pb::AuditAction::Expired,
        Action::Revoked => pb::AuditAction::Revoked,
        Action::Stuck => pb::AuditAction::Stuck,
        Action::Closed => pb::AuditAction::Closed,
        Action::Rotated => pb::AuditAction::Rotated,
        Action::Announced => pb::AuditAction::Announced,
        Action::Applied => pb::AuditAction::Applied,
        Action::Switched => pb::AuditAction::Switched,
        Action::Retired => pb::AuditAction::Retired,
    };
    let text = |named: Option<String>| named.unwrap_or_default();
    pb::AuditEvent {
        id: event.id,
        time: Some(time(event.time)),
        action: action.into(),
        binding: text(event.binding.map(|binding| binding.to_string())),
        branch: text(
            event
                .branch
                .map(|branch| BranchResource(branch).to_string()),
        ),
        lease: text(event.lease.map(|lease| lease.to_string())),
        holder: event.holder,
        message: event.message,
        service: text(event.service.map(|service| format!("services/{service}"))),
    }
}
