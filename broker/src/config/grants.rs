//! The grants of broker.toml.

use std::collections::BTreeSet;

use toml::Spanned;

use super::Problem;
use super::check::Check;
use super::file::{GrantTable, LeaseGrantTable};
use crate::grants::{Grant, LeaseGrant};
use crate::roles::Access;

impl Check<'_> {
    pub(super) fn grant(
        &self,
        name: &Spanned<String>,
        table: &GrantTable,
    ) -> Result<Grant, Problem> {
        let key = format!("grants.{}", name.get_ref());
        let caller = self.parsed(&table.caller, &format!("{key}.caller"))?;
        let lease: Result<Vec<LeaseGrant>, Problem> = table
            .lease
            .iter()
            .map(|lease| self.lease_grant(&format!("{key}.lease"), lease))
            .collect();
        let grant = Grant {
            name: name.get_ref().clone(),
            caller,
            lease: lease?,
            read: table.read,
            admin: table.admin,
        };
        match grant.lease.is_empty() && !grant.may_read() {
            true => {
                let message = "grants nothing; give it `lease`, `read` or `admin`";
                Err(self.problem_at(name, &key, message))
            }
            false => Ok(grant),
        }
    }

    fn lease_grant(&self, key: &str, table: &LeaseGrantTable) -> Result<LeaseGrant, Problem> {
        let patterns = table.bindings.get_ref().iter();
        let bindings: Result<Vec<_>, Problem> = patterns
            .map(|pattern| self.parsed(pattern, &format!("{key}.bindings")))
            .collect();
        let bindings = bindings?;
        if bindings.is_empty() {
            let key = format!("{key}.bindings");
            return Err(self.problem_at(&table.bindings, &key, "names no binding"));
        }
        let key = format!("{key}.access");
        let mut access = BTreeSet::new();
        for given in table.access.get_ref() {
            access.insert(match given.get_ref().as_str() {
                "read_only" => Access::ReadOnly,
                "read_write" => Access::ReadWrite,
                _ => {
                    let message = "is to be of \"read_only\", \"read_write\"";
                    return Err(self.problem_at(given, &key, message));
                }
            });
        }
        match access.is_empty() {
            true => Err(self.problem_at(&table.access, &key, "names no access")),
            false => Ok(LeaseGrant { bindings, access }),
        }
    }
}
