//! A schema as it is once its tables and columns have their new names.

use std::collections::BTreeMap;

use super::script::Script;
use super::{Error, Rename};
use crate::migrate::catalog::names::{quote, substitute};
use crate::migrate::catalog::{Constraint, ConstraintKind, Index, Noticed, Schema, Table, Use};

/// All renames, old names to new ones.
#[derive(Debug, Default)]
pub(super) struct Renames {
    tables: BTreeMap<String, String>,
    /// By table and column, both as they were.
    columns: BTreeMap<(String, String), String>,
}

impl Renames {
    pub(super) fn new(from: &Schema, to: &Schema, given: &[Rename]) -> Result<Renames, Error> {
        let mut renames = Renames::default();
        for rename in given.iter().filter(|rename| rename.column.is_none()) {
            let (rename, what) = (rename.clone(), "table");
            if !from.tables.contains_key(&rename.table) {
                return Err(Error::OldNotFound { rename, what });
            }
            if !to.tables.contains_key(&rename.new) {
                return Err(Error::NewNotFound { rename, what });
            }
            if from.tables.contains_key(&rename.new) {
                return Err(Error::NewTaken { rename, what });
            }
            if to.tables.contains_key(&rename.table) {
                return Err(Error::OldTaken { rename, what });
            }
            let is_taken = renames.tables.values().any(|new| *new == rename.new);
            if is_taken || renames.tables.contains_key(&rename.table) {
                return Err(Error::Twice { rename });
            }
            renames.tables.insert(rename.table, rename.new);
        }
        for rename in given {
            if let Some(column) = &rename.column {
                renames.add_column(from, to, rename, column)?;
            }
        }
        Ok(renames)
    }

    fn add_column(
        &mut self,
        from: &Schema,
        to: &Schema,
        rename: &Rename,
        column: &str,
    ) -> Result<(), Error> {
        let (rename, what) = (rename.clone(), "column");
        let has = |table: Option<&Table>, name| table.is_some_and(|t| t.column(name).is_some());
        let old_table = from.tables.get(&rename.table);
        if !has(old_table, column) {
            return Err(Error::OldNotFound { rename, what });
        }
        let new_table = to.tables.get(self.table(&rename.table));
        if !has(new_table, &rename.new) {
            return Err(Error::NewNotFound { rename, what });
        }
        if has(new_table, column) {
            return Err(Error::OldTaken { rename, what });
        }
        if has(old_table, &rename.new) {
            return Err(Error::NewTaken { rename, what });
        }
        let mut of_table = self
            .columns
            .iter()
            .filter(|((table, _), _)| *table == rename.table);
        let key = (rename.table.clone(), column.to_owned());
        if of_table.any(|(old, new)| *new == rename.new || *old == key) {
            return Err(Error::Twice { rename });
        }
        self.columns.insert(key, rename.new);
        Ok(())
    }

    /// The way back.
    pub(super) fn reversed(&self) -> Renames {
        let tables = self
            .tables
            .iter()
            .map(|(old, new)| (new.clone(), old.clone()));
        let columns = self
            .columns
            .iter()
            .map(|((table, old), new)| ((self.table(table).to_owned(), new.clone()), old.clone()));
        Renames {
            tables: tables.collect(),
            columns: columns.collect(),
        }
    }

    /// Whether a table, or a column of it, is called so only since.
    pub(super) fn is_new(&self, table: &str, column: Option<&str>) -> bool {
        self.tables.values().any(|new| new == table)
            || self.columns.iter().any(|((old, _), new)| {
                self.table(old) == table && column.is_some_and(|column| column == new)
            })
    }

    pub(super) fn write(&self, script: &mut Script) {
        for (old, new) in &self.tables {
            script.push(format!(
                "ALTER TABLE {} RENAME TO {}",
                quote(old),
                quote(new)
            ));
        }
        for ((table, old), new) in &self.columns {
            let (table, old, new) = (quote(self.table(table)), quote(old), quote(new));
            script.push(format!("ALTER TABLE {table} RENAME COLUMN {old} TO {new}"));
        }
    }

    /// The schema with the new names, as Postgres has it after the renames. The queries of
    /// views are as before: those that are concerned are made anew.
    pub(super) fn apply(&self, schema: &Schema) -> Schema {
        let mut renamed = schema.clone();
        if self.tables.is_empty() && self.columns.is_empty() {
            return renamed;
        }
        let tables = renamed.tables.into_iter();
        renamed.tables = tables
            .map(|(name, table)| {
                (
                    self.table(&name).to_owned(),
                    self.table_renamed(&name, table),
                )
            })
            .collect();
        for index in renamed.indexes.values_mut() {
            self.rename_index(index);
        }
        for sequence in renamed.sequences.values_mut() {
            if let Some((table, column)) = &mut sequence.owner {
                *column = self.column(table, column);
                *table = self.table(table).to_owned();
            }
        }
        for used in renamed.views.values_mut().flat_map(|view| &mut view.uses) {
            self.rename_use(used);
        }
        let noticed = renamed.noticed.into_iter();
        renamed.noticed = noticed
            .map(|(key, noticed)| self.noticed(key, noticed))
            .collect();
        renamed
    }

    fn table<'n>(&'n self, old: &'n str) -> &'n str {
        self.tables.get(old).map_or(old, String::as_str)
    }

    fn column(&self, table: &str, old: &str) -> String {
        let new = self.columns.get(&(table.to_owned(), old.to_owned()));
        new.map_or(old, String::as_str).to_owned()
    }

    fn rename_columns(&self, table: &str, columns: &mut [String]) {
        for column in columns {
            *column = self.column(table, column);
        }
    }

    /// An expression over one table's columns.
    fn expression(&self, table: &str, text: &str) -> String {
        substitute(text, |name| {
            self.columns
                .get(&(table.to_owned(), name.to_owned()))
                .cloned()
        })
    }

    fn table_renamed(&self, name: &str, mut table: Table) -> Table {
        for column in &mut table.columns {
            column.name = self.column(name, &column.name);
            if let Some(generated) = &mut column.generated {
                generated.expression = self.expression(name, &generated.expression);
            }
        }
        for constraint in table.constraints.values_mut() {
            self.rename_constraint(name, constraint);
        }
        table
    }

    fn rename_constraint(&self, table: &str, constraint: &mut Constraint) {
        self.rename_columns(table, &mut constraint.columns);
        // The columns before it are this table's, those after it the other's.
        let split = constraint.definition.split_once(" REFERENCES ");
        let split = split.filter(|_| constraint.kind == ConstraintKind::ForeignKey);
        let Some((own, other)) = split else {
            constraint.definition = self.expression(table, &constraint.definition);
            return;
        };
        let own = self.expression(table, own);
        let Some(references) = &mut constraint.references else {
            constraint.definition = format!("{own} REFERENCES {other}");
            return;
        };
        let (other, rest) = other.split_at(other.find(") ").map_or(other.len(), |end| end + 1));
        let other = self.expression(&references.table, other);
        // The table's name is followed by its columns, as a function's is.
        let old = format!("{}(", quote(&references.table));
        let other = match other.strip_prefix(&old) {
            Some(columns) => format!("{}({columns}", quote(self.table(&references.table))),
            None => other,
        };
        let rest = self.expression(table, rest);
        constraint.definition = format!("{own} REFERENCES {other}{rest}");
        self.rename_columns(&references.table, &mut references.columns);
        references.table = self.table(&references.table).to_owned();
    }

    fn rename_index(&self, index: &mut Index) {
        index.definition = self.expression(&index.table, &index.definition);
        self.rename_columns(&index.table, &mut index.columns);
        index.table = self.table(&index.table).to_owned();
    }

    fn rename_use(&self, used: &mut Use) {
        match used {
            Use::Relation { name, column } => {
                if let Some(column) = column {
                    *column = self.column(name, column);
                }
                *name = self.table(name).to_owned();
            }
            Use::Constraint { table, .. } => *table = self.table(table).to_owned(),
            Use::Type(_) => {}
        }
    }

    /// What goes with a table is called `<name> on <table>`.
    fn noticed(&self, key: (String, String), noticed: Noticed) -> ((String, String), Noticed) {
        let Some(old) = &noticed.on else {
            return (key, noticed);
        };
        let new = self.table(old);
        let (kind, mut name) = key;
        if let Some(own) = name.strip_suffix(&format!(" on {}", quote(old))) {
            name = format!("{own} on {}", quote(new));
        } else if name == quote(old) {
            name = quote(new);
        }
        let definition = substitute(&noticed.definition, |name| {
            let column = self.columns.get(&(old.clone(), name.to_owned()));
            column
                .cloned()
                .or_else(|| (name == old).then(|| new.to_owned()))
        });
        let on = Some(new.to_owned());
        ((kind, name), Noticed { definition, on })
    }
}
