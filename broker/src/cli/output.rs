//! What a subcommand prints: a table for people, or JSON for programs.
//!
//! JSON is a message of the API as proto3 JSON has it, with every field, or an array
//! of such messages where there are many.

use std::io::Write as _;
use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorError, DescriptorPool, DynamicMessage, SerializeOptions};
use proto::broker::v1 as pb;
use proto::google::longrunning as lro;
use serde::{Serialize, Serializer};

#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct OutputArguments {
    /// Tables for people, or the API's messages as JSON for programs.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(super) output: Output,
}

/// For whom.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    #[default]
    Table,
    Json,
}

/// Why an answer is not printed as JSON.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("read the descriptors of the API: {0}")]
    Descriptors(&'static DescriptorError),
    #[error("the descriptors of the API have no message {0}")]
    NoMessage(&'static str),
    #[error("read a {name} by its descriptor")]
    Unreadable {
        name: &'static str,
        #[source]
        source: prost::DecodeError,
    },
    #[error("write JSON")]
    Json(#[source] serde_json::Error),
}

impl Output {
    /// Prints one message.
    pub(super) fn one<M: Printed>(
        self,
        message: &M,
        table: impl FnOnce(&M) -> String,
    ) -> Result<(), Error> {
        match self {
            Output::Table => put(&table(message)),
            Output::Json => put_json(&Shown::of(message)?)?,
        }
        Ok(())
    }

    /// Prints many.
    pub(super) fn many<M: Printed>(
        self,
        messages: &[M],
        table: impl FnOnce(&[M]) -> String,
    ) -> Result<(), Error> {
        match self {
            Output::Table => put(&table(messages)),
            Output::Json => {
                let shown: Result<Vec<Shown>, Error> = messages.iter().map(Shown::of).collect();
                put_json(&shown?)?;
            }
        }
        Ok(())
    }

    /// Prints what is no message of the API.
    pub(super) fn value<T: Serialize>(
        self,
        value: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<(), Error> {
        match self {
            Output::Table => put(&table(value)),
            Output::Json => put_json(value)?,
        }
        Ok(())
    }
}

/// Writes to stdout. Whoever has closed it does not want to know.
pub(super) fn put(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes());
    let _ = stdout.flush();
}

fn put_json<T: Serialize>(value: &T) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).map_err(Error::Json)?;
    put(&format!("{text}\n"));
    Ok(())
}

/// A message that is printed, and its name in the API.
pub(super) trait Printed: Message {
    const NAME: &'static str;
}

macro_rules! printed {
    ($($message:ty, $name:literal;)+) => {
        $(
            impl Printed for $message {
                const NAME: &'static str = $name;
            }
        )+

        #[cfg(test)]
        const NAMES: &[&str] = &[$($name),+];
    };
}

printed! {
    pb::Switch, "broker.v1.Switch";
    pb::RefreshBindingResponse, "broker.v1.RefreshBindingResponse";
    pb::RetireVersionResponse, "broker.v1.RetireVersionResponse";
    pb::AcquireLeaseResponse, "broker.v1.AcquireLeaseResponse";
    pb::ApplyResponse, "broker.v1.ApplyResponse";
    pb::AuditEvent, "broker.v1.AuditEvent";
    pb::Binding, "broker.v1.Binding";
    pb::Branch, "broker.v1.Branch";
    pb::CompareSchemasResponse, "broker.v1.CompareSchemasResponse";
    pb::GetSchemaResponse, "broker.v1.GetSchemaResponse";
    pb::GetMigrationStatusResponse, "broker.v1.GetMigrationStatusResponse";
    pb::Lease, "broker.v1.Lease";
    pb::LintFinding, "broker.v1.LintFinding";
    pb::MigrateResponse, "broker.v1.MigrateResponse";
    pb::PlanResponse, "broker.v1.PlanResponse";
    pb::RehearseResponse, "broker.v1.RehearseResponse";
    pb::Revision, "broker.v1.Revision";
    pb::VerifySchemaResponse, "broker.v1.VerifySchemaResponse";
    lro::Operation, "google.longrunning.Operation";
    // google.protobuf.Empty, as prost has it.
    (), "google.protobuf.Empty";
}

/// A message as JSON.
#[derive(Debug)]
pub(super) struct Shown(DynamicMessage);

impl Shown {
    pub(super) fn of<M: Printed>(message: &M) -> Result<Shown, Error> {
        static POOL: LazyLock<Result<DescriptorPool, DescriptorError>> =
            LazyLock::new(|| DescriptorPool::decode(proto::DESCRIPTORS));
        let pool = POOL.as_ref().map_err(Error::Descriptors)?;
        let name = M::NAME;
        let descriptor = pool.get_message_by_name(name);
        let descriptor = descriptor.ok_or(Error::NoMessage(name))?;
        let bytes = message.encode_to_vec();
        let read = DynamicMessage::decode(descriptor, bytes.as_slice());
        read.map(Shown)
            .map_err(|source| Error::Unreadable { name, source })
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // What is empty is written too: a program need not know what may be left out.
        const OPTIONS: SerializeOptions = SerializeOptions::new().skip_default_fields(false);
        self.0.serialize_with_options(serializer, &OPTIONS)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_message_that_is_printed_is_described() {
        let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
        for name in NAMES {
            assert!(pool.get_message_by_name(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_message_is_proto3_json_with_every_field() {
        let binding = pb::Binding {
            name: "services/users/versions/v1".to_owned(),
            generation: 7,
            state: pb::BindingState::Ready.into(),
            ..Default::default()
        };
        let json = serde_json::to_value(Shown::of(&binding).unwrap()).unwrap();
        let expected = serde_json::json!({
            "name": "services/users/versions/v1",
            "branch": "",
            "branchDisplayName": "",
            "database": "",
            "schema": "",
            "revision": "",
            // 64 bits do not fit into every reader's numbers.
            "generation": "7",
            "state": "BINDING_STATE_READY",
            "stateMessage": "",
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn an_operation_shows_what_it_is_about() {
        let branch = pb::Branch {
            name: "branches/br-a".to_owned(),
            ..Default::default()
        };
        let operation = lro::Operation {
            done: true,
            result: Some(lro::operation::Result::Response(prost_types::Any {
                type_url: "type.googleapis.com/broker.v1.Branch".to_owned(),
                value: branch.encode_to_vec(),
            })),
            ..Default::default()
        };
        let json = serde_json::to_value(Shown::of(&operation).unwrap()).unwrap();
        assert_eq!(json["response"]["name"], "branches/br-a");
    }
}
