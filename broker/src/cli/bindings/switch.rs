//! `broker bindings switch` and `broker bindings retire`.

use std::time::Duration;

use prost::Message as _;
use proto::broker::v1 as pb;
use proto::google::longrunning::operation::Result as Ended;

use crate::cli::api::{Api, request_id};
use crate::cli::client::{Error, refused};
use crate::cli::operations;
use crate::cli::output::Output;
use crate::cli::table;
use crate::cli::times::ttl;

#[derive(Debug, clap::Args)]
pub(super) struct SwitchArguments {
    binding: String,
    /// Where to: a branch's name, or branches/{id}.
    branch: String,
    /// Have the old branch take no writes any more before the new one does.
    #[arg(long)]
    fence: bool,
    #[command(flatten)]
    terms: Terms,
}

/// What consumers are given, and what becomes of those that say nothing.
#[derive(Debug, clap::Args)]
pub(super) struct Terms {
    /// What becomes of leases that no acknowledging watch stands for.
    #[arg(long, value_enum, default_value_t = Unwatched::Refuse)]
    unwatched: Unwatched,
    /// How long consumers have to acknowledge: 60s, 5m.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = ttl)]
    ack_timeout: Duration,
    /// How long they have to drain.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = ttl)]
    drain_timeout: Duration,
}

impl Terms {
    pub(super) fn unwatched(&self) -> pb::UnwatchedPolicy {
        match self.unwatched {
            Unwatched::Refuse => pb::UnwatchedPolicy::Refuse,
            Unwatched::Wait => pb::UnwatchedPolicy::Wait,
            Unwatched::Proceed => pb::UnwatchedPolicy::Proceed,
        }
    }

    pub(super) fn ack_timeout(&self) -> Option<prost_types::Duration> {
        wire(self.ack_timeout)
    }

    pub(super) fn drain_timeout(&self) -> Option<prost_types::Duration> {
        wire(self.drain_timeout)
    }
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Unwatched {
    /// There is no switch while there is one.
    Refuse,
    /// The switch waits until they have ended.
    Wait,
    /// The switch goes on without them.
    Proceed,
}

#[derive(Debug, clap::Args)]
pub(super) struct RetireArguments {
    binding: String,
    /// How long leases have to end before they are revoked. Without it the version is
    /// not retired while one lives.
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    drain_timeout: Option<Duration>,
    /// A branch that is made the default one before: its name, or branches/{id}.
    #[arg(long, value_name = "BRANCH")]
    new_default_branch: Option<String>,
}

/// Switches a binding. How it goes on is told on stderr, how it ended on stdout.
pub(super) async fn switch(
    api: &mut Api,
    wished: SwitchArguments,
    output: Output,
) -> Result<(), Error> {
    let request = pb::SwitchBindingRequest {
        name: wished.binding,
        branch: api.branch_name(&wished.branch).await?,
        fence: wished.fence,
        unwatched: wished.terms.unwatched().into(),
        ack_timeout: wished.terms.ack_timeout(),
        drain_timeout: wished.terms.drain_timeout(),
        request_id: request_id(),
    };
    let progress = api.bindings.switch_binding(request).await;
    let mut progress = progress.map_err(refused)?.into_inner();
    let (mut last, mut told) = (pb::Switch::default(), String::new());
    while let Some(now) = progress.message().await.map_err(refused)? {
        last = now.switch.unwrap_or_default();
        let line = line(&last);
        if line != told {
            eprintln!("{line}");
            told = line;
        }
    }
    output.one(&last, table_of)?;
    Ok(())
}

/// Retires a version, and says what became of its branch.
pub(super) async fn retire(
    api: &mut Api,
    wished: RetireArguments,
    output: Output,
) -> Result<(), Error> {
    let new_default_branch = match &wished.new_default_branch {
        None => String::new(),
        Some(branch) => api.branch_name(branch).await?,
    };
    let request = pb::RetireVersionRequest {
        name: wished.binding,
        drain_timeout: wished.drain_timeout.and_then(wire),
        new_default_branch,
        request_id: request_id(),
    };
    let begun = api.bindings.retire_version(request).await;
    let begun = begun.map_err(refused)?.into_inner();
    match operations::ended(api, begun).await?.result {
        Some(Ended::Error(status)) => Err(Error::Refused {
            message: status.message,
        }),
        Some(Ended::Response(any)) => {
            // The broker's own answer.
            let retired = pb::RetireVersionResponse::decode(&*any.value).unwrap_or_default();
            Ok(output.one(&retired, what_became_of_it)?)
        }
        None => Ok(()),
    }
}

fn wire(time: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(time).ok()
}

/// `ANNOUNCED generation 3: 1 of 2 acknowledged`
pub(super) fn line(switch: &pb::Switch) -> String {
    let votes = |wanted: &[pb::SwitchVote]| {
        let voters = switch.voters.iter();
        voters
            .filter(|voter| wanted.contains(&voter.vote()))
            .count()
    };
    let phase = phase(switch);
    let (generation, all) = (switch.generation, switch.voters.len());
    match switch.phase() {
        pb::SwitchPhase::Announced | pb::SwitchPhase::Fencing => {
            let acknowledged = votes(&[pb::SwitchVote::Ack, pb::SwitchVote::Drained]);
            let unwatched = match switch.unwatched.len() {
                0 => String::new(),
                leases => format!(", {leases} unwatched"),
            };
            format!(
                "{phase} generation {generation}: {acknowledged} of {all} acknowledged{unwatched}"
            )
        }
        pb::SwitchPhase::Committed => {
            let drained = votes(&[pb::SwitchVote::Drained, pb::SwitchVote::Gone]);
            format!("{phase} generation {generation}: {drained} of {all} drained")
        }
        _ => phase.to_owned(),
    }
}

fn phase(switch: &pb::Switch) -> &'static str {
    let phase = switch.phase().as_str_name();
    phase.trim_start_matches("SWITCH_PHASE_")
}

fn table_of(switch: &pb::Switch) -> String {
    let row = vec![
        switch.source.clone(),
        switch.branch.clone(),
        switch.generation.to_string(),
        phase(switch).to_owned(),
    ];
    table::of(&["FROM", "TO", "GENERATION", "PHASE"], std::iter::once(row))
}

fn what_became_of_it(retired: &pb::RetireVersionResponse) -> String {
    let branch = &retired.branch;
    match retired.deleted {
        true => format!("{branch} is deleted\n"),
        false => format!(
            "{branch} is {} by now, and goes with the last of its children: {}\n",
            retired.branch_display_name,
            retired.children.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_told_in_one_line() {
        let voter = |vote: pb::SwitchVote| pb::SwitchVoter {
            vote: vote.into(),
            ..Default::default()
        };
        let mut switch = pb::Switch {
            generation: 3,
            phase: pb::SwitchPhase::Announced.into(),
            voters: vec![voter(pb::SwitchVote::Ack), voter(pb::SwitchVote::Waiting)],
            unwatched: vec!["leases/one".to_owned()],
            ..Default::default()
        };
        assert_eq!(
            line(&switch),
            "ANNOUNCED generation 3: 1 of 2 acknowledged, 1 unwatched"
        );
        switch.phase = pb::SwitchPhase::Committed.into();
        assert_eq!(line(&switch), "COMMITTED generation 3: 0 of 2 drained");
        switch.phase = pb::SwitchPhase::Done.into();
        assert_eq!(line(&switch), "DONE");
    }
}
