//! SwitchBinding, and what is told of a switch.

use std::time::Duration;

use prost::Message as _;
use prost_types::Any;
use proto::broker::v1 as pb;
use rpc::status::{FieldViolation, FieldViolations};
use tonic::Status;

use super::branches::time;
use super::operations::any;
use super::request;
use super::rights::Rights;
use super::telling::Told;
use super::{Broker, Error};
use crate::names::{BindingName, BranchResource, LeaseId, OperationName};
use crate::operations::Work;
use crate::state::{Data, Move, Phase};
use crate::switches::{Switch, Unwatched, is_of_before};
use crate::watches::{self, Standing};

/// The type of what a switch ends with.
const SWITCH: &str = "broker.v1.Switch";
/// What is given for what is not said, in seconds, and how much may be asked for.
const TIMEOUT_SECONDS: u64 = 60;
const TIMEOUT_SECONDS_MAX: u64 = 3_600;
const ACK_SECONDS_MIN: u64 = 1;
/// A switch as it goes on.
pub(super) type Progress = Told<pb::SwitchBindingResponse>;

impl Broker {
    /// Begins a switch, or finds it, and tells how it goes on.
    pub(super) async fn switch(
        &self,
        rights: &Rights,
        request: pb::SwitchBindingRequest,
    ) -> Result<Progress, Status> {
        let switch = decode(&request, rights.caller().to_string())?;
        let branch = BranchResource(switch.branch.clone()).to_string();
        let asked = Broker::asked(rights, &request, branch)?;
        let check = self.switches.check(&switch);
        let record = Box::pin(self.begin(asked, check)).await?;
        let operation = record.name;
        let wire = move |switch| pb::SwitchBindingResponse {
            operation: operation.to_string(),
            switch: Some(switch),
        };
        let now = move |broker: &Broker| wire(broker.switch_now(&switch, operation));
        let done = move |_: &Broker, any: Any| {
            // Written by us.
            wire(pb::Switch::decode(&*any.value).unwrap_or_default())
        };
        Ok(self.tell(operation, now, done))
    }

    /// The work of SwitchBinding.
    pub(super) async fn perform_switch(
        &self,
        by: String,
        request: &pb::SwitchBindingRequest,
        work: &Work,
    ) -> Result<Any, Error> {
        let switch = decode(request, by)?;
        Box::pin(self.switches.run(&switch, work)).await?;
        let done = self.last_switch(&switch.binding);
        Ok(any(SWITCH, &done.unwrap_or_default()))
    }

    /// The newest switch of a binding.
    pub(super) fn last_switch(&self, binding: &BindingName) -> Option<pb::Switch> {
        self.state.read(|data| {
            let one = data.moves.get(binding)?;
            let goes_on = data.move_of(binding, self.leases.now()).is_some();
            one.operation
                .map(|_| self.switch_wire(data, binding, one, goes_on))
        })
    }

    /// The switch of an operation as it is; before it is announced, as it will be.
    fn switch_now(&self, switch: &Switch, operation: OperationName) -> pb::Switch {
        let announced = self.switch_of(&switch.binding, operation);
        announced.unwrap_or_else(|| pb::Switch {
            branch: BranchResource(switch.branch.clone()).to_string(),
            phase: pb::SwitchPhase::Preparing.into(),
            ..pb::Switch::default()
        })
    }

    /// The switch of an operation, once it is announced.
    pub(super) fn switch_of(
        &self,
        binding: &BindingName,
        operation: OperationName,
    ) -> Option<pb::Switch> {
        let is_its = |data: &Data| {
            let last = data.moves.get(binding);
            last.is_some_and(|last| last.operation == Some(operation.uuid()))
        };
        let is_its = self.state.read(is_its);
        is_its.then(|| self.last_switch(binding)).flatten()
    }

    fn switch_wire(
        &self,
        data: &Data,
        binding: &BindingName,
        one: &Move,
        goes_on: bool,
    ) -> pb::Switch {
        let (now, grace) = (self.leases.now(), self.leases.ack_grace());
        let is_over = matches!(one.phase, Phase::Done | Phase::Reverted);
        let (phase, message) = match one.phase {
            Phase::Announced if goes_on => (pb::SwitchPhase::Announced, ""),
            Phase::Fencing if goes_on => (pb::SwitchPhase::Fencing, ""),
            Phase::Committed => (pb::SwitchPhase::Committed, ""),
            Phase::Done => (pb::SwitchPhase::Done, ""),
            Phase::Reverted => (pb::SwitchPhase::Reverted, one.message.as_str()),
            _ => (pb::SwitchPhase::Reverted, "it was cancelled"),
        };
        let voters = one.voters.iter().map(|id| {
            let (lease, watching) = (data.leases.get(id), data.watches.get(id));
            let standing = watches::standing(lease, watching, one.generation, now, grace);
            voter(
                *id,
                lease.map(|lease| lease.request.holder.clone()),
                standing,
            )
        });
        let leases = watches::leases_of(data.leases.values(), binding, now);
        let unwatched = leases.filter(|lease| !is_over && is_of_before(lease, one));
        pb::Switch {
            source: BranchResource(one.source.clone()).to_string(),
            branch: BranchResource(one.target.clone()).to_string(),
            generation: one.generation,
            phase: phase.into(),
            voters: voters.collect(),
            unwatched: unwatched.map(|lease| lease.id.to_string()).collect(),
            message: message.to_owned(),
            create_time: Some(time(one.create_time)),
            update_time: Some(time(one.update_time)),
        }
    }
}

fn voter(lease: LeaseId, holder: Option<String>, standing: Standing) -> pb::SwitchVoter {
    let (vote, message) = match standing {
        Standing::Waiting => (pb::SwitchVote::Waiting, String::new()),
        Standing::Acked => (pb::SwitchVote::Ack, String::new()),
        Standing::Refused(message) => (pb::SwitchVote::Nack, message),
        Standing::Drained => (pb::SwitchVote::Drained, String::new()),
        Standing::Gone => (pb::SwitchVote::Gone, String::new()),
    };
    pb::SwitchVoter {
        lease: lease.to_string(),
        holder: holder.unwrap_or_default(),
        vote: vote.into(),
        message,
    }
}

fn decode(request: &pb::SwitchBindingRequest, by: String) -> Result<Switch, Error> {
    let mut violations = FieldViolations::new();
    let binding = violations.take(request::name::<BindingName>("name", &request.name));
    let branch = violations.take(request::name::<BranchResource>("branch", &request.branch));
    let unwatched = violations.take(policy(request.unwatched));
    let ack_timeout = violations.take(ack_timeout(request.ack_timeout));
    let drain_timeout = violations.take(timeout("drain_timeout", request.drain_timeout, 0));
    let (Some(binding), Some(branch), Some(unwatched), Some(ack_timeout), Some(drain_timeout)) =
        (binding, branch, unwatched, ack_timeout, drain_timeout)
    else {
        return Err(violations.into());
    };
    Ok(Switch {
        binding,
        branch: branch.0,
        fence: request.fence,
        unwatched,
        ack_timeout,
        drain_timeout,
        by,
    })
}

/// What becomes of leases that have no say.
pub(super) fn policy(given: i32) -> Result<Unwatched, FieldViolation> {
    match pb::UnwatchedPolicy::try_from(given) {
        Ok(pb::UnwatchedPolicy::Unspecified | pb::UnwatchedPolicy::Refuse) => Ok(Unwatched::Refuse),
        Ok(pb::UnwatchedPolicy::Wait) => Ok(Unwatched::Wait),
        Ok(pb::UnwatchedPolicy::Proceed) => Ok(Unwatched::Proceed),
        Err(_) => Err(FieldViolation::new(
            "unwatched",
            "must be REFUSE, WAIT or PROCEED",
        )),
    }
}

/// How long consumers have to acknowledge.
pub(super) fn ack_timeout(
    given: Option<prost_types::Duration>,
) -> Result<Duration, FieldViolation> {
    timeout("ack_timeout", given, ACK_SECONDS_MIN)
}

/// A timeout in seconds, with what is given for none.
pub(super) fn timeout(
    field: &'static str,
    given: Option<prost_types::Duration>,
    least_seconds: u64,
) -> Result<Duration, FieldViolation> {
    let range = Duration::from_secs(least_seconds)..=Duration::from_secs(TIMEOUT_SECONDS_MAX);
    match given.map(Duration::try_from) {
        None => Ok(Duration::from_secs(TIMEOUT_SECONDS)),
        Some(Ok(given)) if range.contains(&given) => Ok(given),
        Some(_) => Err(FieldViolation::new(
            field,
            format!("must be {least_seconds} s to {TIMEOUT_SECONDS_MAX} s"),
        )),
    }
}
