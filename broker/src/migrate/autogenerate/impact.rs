//! What has to go and come back, as it is in the way of something else.

use std::collections::{BTreeMap, BTreeSet};

use super::renamed::Renames;
use super::{Direction, enums, types, views};
use crate::migrate::catalog::names::{literal, names_in, quote};
use crate::migrate::catalog::{Column, Constraint, ConstraintKind, Index, Schema, Table};

/// A table and a name in it.
pub(super) type Of = (String, String);

/// From what to what, and what is to be done to what is in both.
pub(super) struct Plan<'s> {
    /// With the new names.
    pub(super) from: &'s Schema,
    pub(super) to: &'s Schema,
    pub(super) direction: Direction,
    /// Enums that are made anew, as a value cannot be taken from one.
    pub(super) rebuilt_enums: BTreeSet<String>,
    /// Columns that stay, of another type.
    pub(super) retyped: BTreeSet<Of>,
    /// Columns that are dropped and added, as Postgres cannot alter them so.
    pub(super) recreated: BTreeSet<Of>,
    pub(super) dropped_defaults: BTreeSet<Of>,
    pub(super) dropped_constraints: BTreeSet<Of>,
    pub(super) renamed_constraints: BTreeMap<Of, String>,
    pub(super) dropped_indexes: BTreeSet<String>,
    pub(super) renamed_indexes: BTreeMap<String, String>,
    pub(super) dropped_views: BTreeSet<String>,
    pub(super) replaced_views: BTreeSet<String>,
}

impl<'s> Plan<'s> {
    pub(super) fn new(
        from: &'s Schema,
        to: &'s Schema,
        renames: &Renames,
        direction: Direction,
    ) -> Plan<'s> {
        let mut plan = Plan {
            from,
            to,
            direction,
            rebuilt_enums: enums::rebuilt(from, to),
            retyped: BTreeSet::new(),
            recreated: BTreeSet::new(),
            dropped_defaults: BTreeSet::new(),
            dropped_constraints: BTreeSet::new(),
            renamed_constraints: BTreeMap::new(),
            dropped_indexes: BTreeSet::new(),
            renamed_indexes: BTreeMap::new(),
            dropped_views: BTreeSet::new(),
            replaced_views: BTreeSet::new(),
        };
        plan.find_columns();
        plan.find_defaults();
        plan.find_constraints(false);
        plan.find_indexes();
        // A foreign key goes with the index that it leads to.
        plan.find_constraints(true);
        views::find(&mut plan, renames);
        plan
    }

    pub(super) fn is_down(&self) -> bool {
        self.direction == Direction::Down
    }

    /// Tables that are in both: name, before, after.
    pub(super) fn kept_tables(
        &self,
    ) -> impl Iterator<Item = (&'s String, &'s Table, &'s Table)> + use<'s> {
        let (from, to) = (self.from, self.to);
        let tables = from.tables.iter();
        tables.filter_map(|(name, table)| Some((name, table, to.tables.get(name)?)))
    }

    /// Columns that are in both, and stay: table, before, after.
    pub(super) fn kept_columns(&self) -> Vec<(&'s String, &'s Column, &'s Column)> {
        let mut kept = Vec::new();
        for (name, before, after) in self.kept_tables() {
            for column in &before.columns {
                let is_recreated = self.recreated.contains(&of(name, &column.name));
                if let Some(after) = after.column(&column.name).filter(|_| !is_recreated) {
                    kept.push((name, column, after));
                }
            }
        }
        kept
    }

    fn find_columns(&mut self) {
        for (table, before, after) in self.kept_columns() {
            let is_rebuilt = mentions_any(&before.data_type, &self.rebuilt_enums);
            if before.type_text() != after.type_text() || is_rebuilt {
                self.retyped.insert(of(table, &before.name));
            }
        }
        for (table, before, after) in self.kept_columns() {
            if self.must_be_recreated(table, before, after) {
                self.recreated.insert(of(table, &before.name));
            }
        }
        let recreated = &self.recreated;
        self.retyped.retain(|column| !recreated.contains(column));
    }

    fn must_be_recreated(&self, table: &str, before: &Column, after: &Column) -> bool {
        match (&before.generated, &after.generated) {
            (None, None) => false,
            // It is computed already, and can be left so.
            (Some(generated), None) => {
                !generated.is_stored || self.retyped.contains(&of(table, &before.name))
            }
            (None, Some(_)) => true,
            // Neither its type nor that of what it is computed from can be altered.
            (Some(generated), Some(other)) => {
                let names = names_in(&generated.expression);
                generated != other
                    || self.retyped.contains(&of(table, &before.name))
                    || names.iter().any(|name| {
                        self.retyped.contains(&of(table, name)) || self.rebuilt_enums.contains(name)
                    })
            }
        }
    }

    fn find_defaults(&mut self) {
        let gone = self.from.sequences.keys();
        let gone = gone.filter(|name| !self.to.sequences.contains_key(*name));
        let gone: Vec<_> = gone.map(|name| sequence_literal(name)).collect();
        for (table, before, after) in self.kept_columns() {
            let Some(default) = &before.default else {
                continue;
            };
            let key = of(table, &before.name);
            let is_retyped = self.retyped.contains(&key)
                && !(after.default.as_ref() == Some(default)
                    && types::is_integer(&before.data_type)
                    && types::is_integer(&after.data_type));
            if is_retyped
                || gone.iter().any(|sequence| default.contains(sequence))
                || mentions_any(default, &self.rebuilt_enums)
            {
                self.dropped_defaults.insert(key);
            }
        }
    }

    fn find_constraints(&mut self, are_foreign_keys: bool) {
        for (table, before, after) in self.kept_tables() {
            let constraints = before.constraints.iter();
            let is_foreign_key = |one: &Constraint| one.kind == ConstraintKind::ForeignKey;
            for (name, constraint) in
                constraints.filter(|(_, one)| is_foreign_key(one) == are_foreign_keys)
            {
                let is_blocked = self.is_in_the_way(table, constraint);
                let same = after.constraints.get(name).filter(|_| !is_blocked);
                if same.is_some_and(|same| is_same(constraint, same) || validates(constraint, same))
                {
                    continue;
                }
                let mut others = after.constraints.iter().filter(|(other, same)| {
                    let is_taken = self.renamed_constraints.iter();
                    !is_blocked
                        && is_same(constraint, same)
                        && !after.constraints.contains_key(name)
                        && !before.constraints.contains_key(*other)
                        && !is_taken
                            .into_iter()
                            .any(|(key, new)| key.0 == *table && new == *other)
                });
                match others.next() {
                    Some((new, _)) => {
                        self.renamed_constraints
                            .insert(of(table, name), new.clone());
                    }
                    None => {
                        self.dropped_constraints.insert(of(table, name));
                    }
                }
            }
        }
    }

    fn is_in_the_way(&self, table: &str, constraint: &Constraint) -> bool {
        let named = names_in(&constraint.definition);
        let is_any = |columns: &BTreeSet<Of>| {
            let named = named.iter().chain(&constraint.columns);
            named
                .into_iter()
                .any(|name| columns.contains(&of(table, name)))
        };
        if is_any(&self.recreated) {
            return true;
        }
        match (constraint.kind, &constraint.references) {
            // Postgres makes their index anew by itself.
            (ConstraintKind::PrimaryKey | ConstraintKind::Unique, _) => false,
            (ConstraintKind::ForeignKey, references) => {
                let columns = constraint.columns.iter();
                let mut columns = columns.map(|column| of(table, column));
                columns.any(|column| self.retyped.contains(&column))
                    || self.changes_logging(table)
                    || references.as_ref().is_some_and(|references| {
                        let columns = references.columns.iter();
                        let mut columns = columns.map(|column| of(&references.table, column));
                        let index = of(&references.table, &references.index);
                        columns
                            .any(|key| self.retyped.contains(&key) || self.recreated.contains(&key))
                            || self.dropped_constraints.contains(&index)
                            || self.dropped_indexes.contains(&references.index)
                            || self.changes_logging(&references.table)
                    })
            }
            (ConstraintKind::Check | ConstraintKind::Exclusion, _) => {
                is_any(&self.retyped) || !named.is_disjoint(&self.rebuilt_enums)
            }
        }
    }

    /// A logged table cannot lead to an unlogged one, nor for a moment.
    fn changes_logging(&self, table: &str) -> bool {
        let (before, after) = (self.from.tables.get(table), self.to.tables.get(table));
        let both = before.zip(after);
        both.is_some_and(|(before, after)| before.is_unlogged != after.is_unlogged)
    }

    fn find_indexes(&mut self) {
        for (name, index) in &self.from.indexes {
            // One of a table that goes, goes with it.
            let is_table_kept = self.to.tables.contains_key(&index.table)
                && self.from.tables.contains_key(&index.table);
            if !is_table_kept && !self.from.views.contains_key(&index.table) {
                continue;
            }
            let is_blocked = self.is_index_in_the_way(index);
            let same = self.to.indexes.get(name).filter(|_| !is_blocked);
            if same == Some(index) {
                continue;
            }
            let mut others = self.to.indexes.iter().filter(|(other, same)| {
                !is_blocked
                    && *same == index
                    && !self.to.indexes.contains_key(name)
                    && !self.from.indexes.contains_key(*other)
                    && !self.renamed_indexes.values().any(|new| new == *other)
            });
            match others.next() {
                Some((new, _)) => {
                    self.renamed_indexes.insert(name.clone(), new.clone());
                }
                None => {
                    self.dropped_indexes.insert(name.clone());
                }
            }
        }
    }

    fn is_index_in_the_way(&self, index: &Index) -> bool {
        let named = names_in(&index.definition);
        let is_any = |columns: &BTreeSet<Of>| {
            let named = named.iter().chain(&index.columns);
            named
                .into_iter()
                .any(|name| columns.contains(&of(&index.table, name)))
        };
        let needs_expressions = is_any(&self.retyped) || !named.is_disjoint(&self.rebuilt_enums);
        is_any(&self.recreated) || (index.has_expressions && needs_expressions)
    }
}

pub(super) fn of(table: &str, name: &str) -> Of {
    (table.to_owned(), name.to_owned())
}

/// Whether what was not validated is to be, and nothing else.
pub(super) fn validates(before: &Constraint, after: &Constraint) -> bool {
    let valid = before.definition.strip_suffix(" NOT VALID");
    before.kind == after.kind && valid == Some(&after.definition)
}

/// A sequence as the defaults that draw from it name it.
pub(super) fn sequence_literal(name: &str) -> String {
    format!("{}::regclass", literal(&quote(name)))
}

fn is_same(before: &Constraint, after: &Constraint) -> bool {
    before.kind == after.kind && before.definition == after.definition
}

fn mentions_any(expression: &str, names: &BTreeSet<String>) -> bool {
    !names.is_empty() && !names_in(expression).is_disjoint(names)
}
