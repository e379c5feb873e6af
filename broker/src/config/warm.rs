//! The warm pools of broker.toml.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use super::check::Check;
use super::file::WarmTable;
use super::{BindingSpec, LeaseSettings, PoolSpec, Problem};
use crate::migrate;
use crate::names::BindingName;
use crate::roles::Access;
use crate::text::one_line;

/// How many branches a pool keeps ready at most: each is made one after another, and
/// anew when it is old.
const SIZE_MAX: usize = 100;
const MAX_AGE: Duration = Duration::from_secs(60 * 60);
/// A branch may wait for that long and be leased then: Neon takes an end of 30 days
/// ahead at most.
const MAX_AGE_MAX: Duration = Duration::from_secs(14 * 24 * 60 * 60);

impl Check<'_> {
    pub(super) fn warm(
        &self,
        tables: &BTreeMap<Spanned<String>, WarmTable>,
        bindings: &[BindingSpec],
        leases: &LeaseSettings,
    ) -> Result<Vec<PoolSpec>, Problem> {
        let pools = tables.iter();
        let pools: Result<Vec<PoolSpec>, Problem> = pools
            .map(|(name, table)| self.pool(name, table, bindings))
            .collect();
        let pools = pools?;
        let wanted: usize = pools.iter().map(|pool| pool.size).sum();
        match leases.ephemeral_branches_max {
            // Otherwise nobody would ever get one that is in no pool.
            Some(max) if wanted >= max && wanted > 0 => Err(self.problem(
                "leases.ephemeral_branches_max",
                format!(
                    "is {max}, and the warm pools keep {wanted} by themselves; make it more than that"
                ),
            )),
            _ => Ok(pools),
        }
    }

    fn pool(
        &self,
        name: &Spanned<String>,
        table: &WarmTable,
        bindings: &[BindingSpec],
    ) -> Result<PoolSpec, Problem> {
        let key = format!("warm.{}", name.get_ref());
        let parent: BindingName = self.parsed(&table.parent, &format!("{key}.parent"))?;
        let spec = bindings.iter().find(|spec| spec.name == parent);
        let spec = spec.ok_or_else(|| {
            let message = format!("no version {parent} is declared");
            self.problem_at(&table.parent, &format!("{key}.parent"), message)
        })?;
        if !(1..=SIZE_MAX).contains(table.size.get_ref()) {
            let message = format!("is to be 1 to {SIZE_MAX}");
            return Err(self.problem_at(&table.size, &format!("{key}.size"), message));
        }
        let max_age = self.duration(&format!("{key}.max_age"), &table.max_age, MAX_AGE)?;
        if let Some(given) = table.max_age.as_ref().filter(|_| max_age > MAX_AGE_MAX) {
            let message = "is to be 14 days at most: Neon takes no later end of a branch";
            return Err(self.problem_at(given, &format!("{key}.max_age"), message));
        }
        let revisions = match table.migrate {
            false => None,
            true => Some(
                migrate::revisions_in(&spec.service.migrations)
                    .map_err(|error| self.problem(&format!("{key}.migrate"), one_line(&error)))?,
            ),
        };
        Ok(PoolSpec {
            name: self.parsed(name, &key)?,
            parent,
            service: Arc::clone(&spec.service),
            size: *table.size.get_ref(),
            max_age,
            migrate: revisions,
            access: self.pool_access(&key, &table.access)?,
        })
    }

    fn pool_access(&self, key: &str, given: &Option<Spanned<String>>) -> Result<Access, Problem> {
        let Some(given) = given else {
            return Ok(Access::ReadWrite);
        };
        Access::of_stored(given.get_ref()).ok_or_else(|| {
            let message = r#"is to be "read_only", "read_write" or "ddl""#;
            self.problem_at(given, &format!("{key}.access"), message)
        })
    }
}
