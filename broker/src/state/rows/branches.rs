//! The ledger's rows.

use diesel::pg::Pg;
use diesel::pg::data_types::PgTimestamp;
use diesel::{Insertable, Queryable, Selectable};
use uuid::Uuid;

use super::super::ledgers::{ForLease, Intent, OwnBranch, Warm};
use super::super::schema::branches;
use super::{BadRow, bad, maybe_time, optional, parsed, time, time_out};
use crate::names::{BranchName, LeaseId};

const TABLE: &str = "branches";

#[derive(Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = branches, check_for_backend(Pg), treat_none_as_default_value = false)]
pub(in crate::state) struct BranchRow {
    name: String,
    version: i64,
    branch: Option<String>,
    intent: String,
    update_time: PgTimestamp,
    lease: Option<Uuid>,
    holder: Option<String>,
    making_until: Option<PgTimestamp>,
    pool: Option<String>,
    warm: Option<Uuid>,
    made_as: Option<String>,
    fork_time: Option<PgTimestamp>,
    branch_expire_time: Option<PgTimestamp>,
    role: Option<String>,
}

impl BranchRow {
    pub(in crate::state) fn new(name: &BranchName, branch: &OwnBranch, version: i64) -> BranchRow {
        let lease = branch.lease.as_ref();
        let warm = branch.warm.as_ref();
        // What was handed out is made no more.
        let making_until = lease
            .map(|lease| lease.making_until)
            .or_else(|| warm?.making_until);
        BranchRow {
            name: name.to_string(),
            version,
            branch: branch.branch.as_ref().map(ToString::to_string),
            intent: branch.intent.as_str().to_owned(),
            update_time: time_out(branch.update_time),
            lease: lease.map(|lease| lease.id.uuid()),
            holder: lease.map(|lease| lease.holder.clone()),
            making_until: making_until.map(time_out),
            pool: warm.map(|warm| warm.pool.to_string()),
            warm: warm.map(|warm| warm.lease.uuid()),
            made_as: warm.map(|warm| warm.made_as.clone()),
            fork_time: warm.map(|warm| time_out(warm.fork_time)),
            branch_expire_time: warm.and_then(|warm| warm.expire_time).map(time_out),
            role: warm.and_then(|warm| warm.role.clone()),
        }
    }

    pub(in crate::state) fn read(self) -> Result<(BranchName, OwnBranch), BadRow> {
        let lease = match (self.lease, self.making_until) {
            (Some(id), Some(until)) => Some(ForLease {
                id: LeaseId::of_stored(id),
                holder: self.holder.unwrap_or_default(),
                making_until: time(TABLE, "making_until", until)?,
            }),
            _ => None,
        };
        let warm = match (self.pool, self.warm, self.fork_time) {
            (Some(pool), Some(id), Some(fork_time)) => Some(Warm {
                pool: parsed(TABLE, "pool", &pool)?,
                lease: LeaseId::of_stored(id),
                made_as: self.made_as.unwrap_or_default(),
                fork_time: time(TABLE, "fork_time", fork_time)?,
                expire_time: maybe_time(TABLE, "branch_expire_time", self.branch_expire_time)?,
                role: self.role,
                making_until: match &lease {
                    Some(_) => None,
                    None => maybe_time(TABLE, "making_until", self.making_until)?,
                },
            }),
            _ => None,
        };
        let branch = OwnBranch {
            branch: optional(TABLE, "branch", self.branch.as_deref())?,
            intent: Intent::of_stored(&self.intent)
                .ok_or_else(|| bad(TABLE, "intent", &self.intent))?,
            update_time: time(TABLE, "update_time", self.update_time)?,
            lease,
            warm,
        };
        Ok((parsed(TABLE, "name", &self.name)?, branch))
    }
}
