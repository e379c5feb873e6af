//! The grants of broker.toml.

use std::collections::BTreeSet;
use std::str::FromStr;

use toml::Spanned;

use super::Problem;
use super::check::Check;
use super::file::{EphemeralGrantTable, GrantTable, LeaseGrantTable};
use crate::grants::{EphemeralGrant, Grant, LeaseGrant, Scope};
use crate::names::InvalidName;
use crate::roles::Access;

impl Check<'_> {
    pub(super) fn grant(
        &self,
        name: &Spanned<String>,
        table: &GrantTable,
    ) -> Result<Grant, Problem> {
        let key = format!("grants.{}", name.get_ref());
        let caller = self.parsed(&table.caller, &format!("{key}.caller"))?;
        let lease = table.lease.iter();
        let lease: Result<Vec<LeaseGrant>, Problem> = lease
            .map(|lease| self.lease_grant(&format!("{key}.lease"), lease))
            .collect();
        let ephemeral = table.ephemeral.iter();
        let ephemeral: Result<Vec<EphemeralGrant>, Problem> = ephemeral
            .map(|one| self.ephemeral_grant(&format!("{key}.ephemeral"), one))
            .collect();
        let grant = Grant {
            name: name.get_ref().clone(),
            caller,
            lease: lease?,
            ephemeral: ephemeral?,
            read: table.read,
            admin: table.admin,
        };
        match grant.lease.is_empty() && grant.ephemeral.is_empty() && !grant.may_read() {
            true => {
                let message = "grants nothing; give it `lease`, `ephemeral`, `read` or `admin`";
                Err(self.problem_at(name, &key, message))
            }
            false => Ok(grant),
        }
    }

    fn lease_grant(&self, key: &str, table: &LeaseGrantTable) -> Result<LeaseGrant, Problem> {
        const WORDS: [Access; 2] = [Access::ReadOnly, Access::ReadWrite];
        let on = ScopeTable {
            key,
            bindings: &table.bindings,
            branches: &table.branches,
            services: &table.services,
            access: &table.access,
        };
        Ok(LeaseGrant {
            on: self.scope(&on)?,
            access: self.access(&on, &WORDS)?,
        })
    }

    fn ephemeral_grant(
        &self,
        key: &str,
        table: &EphemeralGrantTable,
    ) -> Result<EphemeralGrant, Problem> {
        const WORDS: [Access; 3] = [Access::ReadOnly, Access::ReadWrite, Access::Ddl];
        let of = ScopeTable {
            key,
            bindings: &table.bindings,
            branches: &table.branches,
            services: &table.services,
            access: &table.access,
        };
        if *table.max.get_ref() == 0 {
            let key = format!("{key}.max");
            return Err(self.problem_at(&table.max, &key, "needs to be 1 or more"));
        }
        Ok(EphemeralGrant {
            of: self.scope(&of)?,
            access: self.access(&of, &WORDS)?,
            max: *table.max.get_ref(),
        })
    }

    fn scope(&self, table: &ScopeTable<'_>) -> Result<Scope, Problem> {
        let ScopeTable { key, access, .. } = *table;
        let scope = Scope {
            bindings: self.patterns(table.bindings, &format!("{key}.bindings"))?,
            branches: self.patterns(table.branches, &format!("{key}.branches"))?,
            services: self.patterns(table.services, &format!("{key}.services"))?,
        };
        let wrong =
            |field, message| Err(self.problem_at(access, &format!("{key}.{field}"), message));
        match (
            scope.bindings.is_empty() && scope.branches.is_empty(),
            scope.branches.is_empty() == scope.services.is_empty(),
        ) {
            (true, _) => wrong("bindings", "names no binding, and `branches` no branch"),
            (_, false) => wrong(
                "services",
                "goes together with `branches`: whose tables there",
            ),
            _ => Ok(scope),
        }
    }

    fn access(
        &self,
        table: &ScopeTable<'_>,
        words: &[Access],
    ) -> Result<BTreeSet<Access>, Problem> {
        let key = format!("{}.access", table.key);
        let mut access = BTreeSet::new();
        for given in table.access.get_ref() {
            let mut known = words.iter();
            let word = known.find(|word| word.as_str() == given.get_ref());
            access.insert(*word.ok_or_else(|| {
                let words: Vec<String> = words
                    .iter()
                    .map(|word| format!("{:?}", word.as_str()))
                    .collect();
                let message = format!("is to be of {}", words.join(", "));
                self.problem_at(given, &key, message)
            })?);
        }
        match access.is_empty() {
            true => Err(self.problem_at(table.access, &key, "names no access")),
            false => Ok(access),
        }
    }

    fn patterns<T: FromStr<Err = InvalidName>>(
        &self,
        given: &[Spanned<String>],
        key: &str,
    ) -> Result<Vec<T>, Problem> {
        given.iter().map(|given| self.parsed(given, key)).collect()
    }
}

/// What a right is about, as it is written.
struct ScopeTable<'a> {
    key: &'a str,
    bindings: &'a [Spanned<String>],
    branches: &'a [Spanned<String>],
    services: &'a [Spanned<String>],
    access: &'a Spanned<Vec<Spanned<String>>>,
}
