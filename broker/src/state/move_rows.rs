//! Moves and watches, as rows.

use diesel::pg::Pg;
use diesel::pg::data_types::PgTimestamp;
use diesel::{Insertable, Queryable, Selectable};
use jiff::Timestamp;
use uuid::Uuid;

use super::moves::{Move, Phase, Stream, Watching};
use super::rows::{BadRow, bad, maybe_time, parsed, time, time_out};
use super::schema::{brokers, moves, watches};
use crate::names::{BindingName, LeaseId};

#[derive(Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = moves, check_for_backend(Pg), treat_none_as_default_value = false)]
pub(super) struct MoveRow {
    binding: String,
    version: i64,
    operation: Option<Uuid>,
    generation: i64,
    source: String,
    target: String,
    phase: String,
    fence: bool,
    voters: Vec<Uuid>,
    deadline: PgTimestamp,
    message: String,
    create_time: PgTimestamp,
    update_time: PgTimestamp,
}

#[derive(Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = watches, check_for_backend(Pg), treat_none_as_default_value = false)]
pub(super) struct WatchRow {
    lease: Uuid,
    version: i64,
    streams: Vec<Uuid>,
    stream_brokers: Vec<Uuid>,
    acked: i64,
    refused: i64,
    refusal: String,
    drained: i64,
    gone_time: Option<PgTimestamp>,
}

#[derive(Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = brokers, check_for_backend(Pg), treat_none_as_default_value = false)]
pub(super) struct BrokerRow {
    id: Uuid,
    version: i64,
    seen_time: PgTimestamp,
}

impl MoveRow {
    pub(super) fn new(binding: &BindingName, one: &Move, version: i64) -> MoveRow {
        MoveRow {
            binding: binding.to_string(),
            version,
            operation: one.operation,
            generation: one.generation,
            source: one.source.to_string(),
            target: one.target.to_string(),
            phase: one.phase.as_str().to_owned(),
            fence: one.fence,
            voters: one.voters.iter().map(|lease| lease.uuid()).collect(),
            deadline: time_out(one.deadline),
            message: one.message.clone(),
            create_time: time_out(one.create_time),
            update_time: time_out(one.update_time),
        }
    }

    pub(super) fn read(self) -> Result<(BindingName, Move), BadRow> {
        const TABLE: &str = "moves";
        let one = Move {
            operation: self.operation,
            generation: self.generation,
            source: parsed(TABLE, "source", &self.source)?,
            target: parsed(TABLE, "target", &self.target)?,
            phase: Phase::of_stored(&self.phase).ok_or_else(|| bad(TABLE, "phase", &self.phase))?,
            fence: self.fence,
            voters: self.voters.into_iter().map(LeaseId::of_stored).collect(),
            deadline: time(TABLE, "deadline", self.deadline)?,
            message: self.message,
            create_time: time(TABLE, "create_time", self.create_time)?,
            update_time: time(TABLE, "update_time", self.update_time)?,
        };
        Ok((parsed(TABLE, "binding", &self.binding)?, one))
    }
}

impl WatchRow {
    pub(super) fn new(lease: LeaseId, watching: &Watching, version: i64) -> WatchRow {
        WatchRow {
            lease: lease.uuid(),
            version,
            streams: watching.streams.iter().map(|stream| stream.id).collect(),
            stream_brokers: watching
                .streams
                .iter()
                .map(|stream| stream.broker)
                .collect(),
            acked: watching.acked,
            refused: watching.refused,
            refusal: watching.refusal.clone(),
            drained: watching.drained,
            gone_time: watching.gone_time.map(time_out),
        }
    }

    pub(super) fn read(self) -> Result<(LeaseId, Watching), BadRow> {
        let streams = self.streams.into_iter().zip(self.stream_brokers);
        let watching = Watching {
            streams: streams.map(|(id, broker)| Stream { id, broker }).collect(),
            acked: self.acked,
            refused: self.refused,
            refusal: self.refusal,
            drained: self.drained,
            gone_time: maybe_time("watches", "gone_time", self.gone_time)?,
        };
        Ok((LeaseId::of_stored(self.lease), watching))
    }
}

impl BrokerRow {
    pub(super) fn new(id: Uuid, seen: Timestamp, version: i64) -> BrokerRow {
        BrokerRow {
            id,
            version,
            seen_time: time_out(seen),
        }
    }

    pub(super) fn read(self) -> Result<(Uuid, Timestamp), BadRow> {
        Ok((self.id, time("brokers", "seen_time", self.seen_time)?))
    }
}
