//! A schema in slots, so that two of them share what is in the same slot.

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;

use super::super::quote;

/// Names that need quotes among them.
pub(super) const TABLES: [&str; 3] = ["users", "Order items", "select"];
/// The name of a type among them.
pub(super) const COLUMNS: [&str; 5] = ["a", "name", "user", "Mixed \"case\"", "date"];
pub(super) const ENUMS: [&str; 2] = ["mood", "Kind of"];
pub(super) const SEQUENCES: [&str; 2] = ["counter", "Other counter"];
pub(super) const VIEWS: [&str; 4] = ["view_one", "View two", "order", "kept"];
/// How many bits a mixture takes at most.
const SLOTS: usize = 80;

#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) enums: Vec<Option<u8>>,
    pub(super) sequences: Vec<Option<Counter>>,
    pub(super) tables: Vec<Option<Table>>,
    pub(super) table_names: Vec<String>,
    /// Per table.
    pub(super) column_names: Vec<Vec<String>>,
    pub(super) views: Vec<Option<View>>,
    /// Whether later views are below earlier ones.
    pub(super) is_reversed: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Counter {
    pub(super) options: u8,
    pub(super) owner: Option<u8>,
}

#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) id: u8,
    pub(super) columns: Vec<Option<Column>>,
    pub(super) key: u8,
    pub(super) unique: Option<(u8, u8)>,
    pub(super) check: Option<(u8, u8)>,
    pub(super) computed: Option<u8>,
    pub(super) indexes: Vec<Option<(u8, u8)>>,
    pub(super) foreign: Option<(u8, u8)>,
    pub(super) is_unlogged: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) kind: u8,
    pub(super) default: u8,
    pub(super) is_not_null: bool,
    pub(super) has_collation: bool,
}

#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) source: u8,
    pub(super) kind: u8,
    pub(super) has_options: bool,
}

impl Model {
    /// Gives new names to what is in both, as the bits of `which` say, and tells them.
    pub(super) fn rename(&mut self, before: &Model, which: u8) -> Vec<String> {
        let mut renames = Vec::new();
        for (at, table) in TABLES.into_iter().enumerate() {
            let (Some(old), Some(new)) = (&before.tables[at], &self.tables[at]) else {
                continue;
            };
            if which & 1 != 0 && at < 2 {
                self.table_names[at] = format!("{table} now");
                renames.push(format!("{}={}", quote(table), quote(&self.table_names[at])));
            }
            for (slot, column) in COLUMNS.into_iter().enumerate() {
                let is_kept = old.columns[slot].is_some() && new.columns[slot].is_some();
                if is_kept && which & (2 << (slot % 2)) != 0 {
                    let new = format!("new_{slot}");
                    let (table, column) = (quote(table), quote(column));
                    renames.push(format!("{table}.{column}={}", quote(&new)));
                    self.column_names[at][slot] = new;
                }
            }
        }
        renames
    }
}

/// Two models, the second mixed from the first and another.
pub(super) fn models() -> impl Strategy<Value = (Model, Model)> {
    let share = prop_oneof![Just(0.0), Just(0.5), Just(0.8), Just(0.9), Just(0.96)];
    let bits = share.prop_flat_map(|share| vec(proptest::bool::weighted(share), SLOTS));
    (model(), model(), bits).prop_map(|(before, other, bits)| {
        let mut bits = bits.into_iter();
        let after = mixed(&before, &other, &mut bits);
        (before, after)
    })
}

fn model() -> impl Strategy<Value = Model> {
    (
        vec(weighted(0.8, 0..8_u8), ENUMS.len()),
        vec(weighted(0.6, counter()), SEQUENCES.len()),
        vec(weighted(0.75, table()), TABLES.len()),
        vec(weighted(0.6, view()), VIEWS.len()),
        any::<bool>(),
    )
        .prop_map(|(enums, sequences, tables, views, is_reversed)| Model {
            enums,
            sequences,
            tables,
            table_names: TABLES.map(str::to_owned).to_vec(),
            column_names: vec![COLUMNS.map(str::to_owned).to_vec(); TABLES.len()],
            views,
            is_reversed,
        })
}

fn counter() -> impl Strategy<Value = Counter> {
    (0..8_u8, weighted(0.4, 0..3_u8)).prop_map(|(options, owner)| Counter { options, owner })
}

fn table() -> impl Strategy<Value = Table> {
    (
        0..8_u8,
        vec(weighted(0.7, column()), COLUMNS.len()),
        0..4_u8,
        weighted(0.4, (0..6_u8, 0..4_u8)),
        weighted(0.4, (0..6_u8, 0..4_u8)),
        weighted(0.3, 0..5_u8),
        vec(weighted(0.5, (0..7_u8, 0..8_u8)), 3),
        weighted(0.5, (0..3_u8, 0..4_u8)),
        proptest::bool::weighted(0.1),
    )
        .prop_map(
            |(id, columns, key, unique, check, computed, indexes, foreign, is_unlogged)| Table {
                id,
                columns,
                key,
                unique,
                check,
                computed,
                indexes,
                foreign,
                is_unlogged,
            },
        )
}

fn column() -> impl Strategy<Value = Column> {
    (
        0..24_u8,
        0..4_u8,
        any::<bool>(),
        proptest::bool::weighted(0.2),
    )
        .prop_map(|(kind, default, is_not_null, has_collation)| Column {
            kind,
            default,
            is_not_null,
            has_collation,
        })
}

fn view() -> impl Strategy<Value = View> {
    (0..7_u8, 0..7_u8, proptest::bool::weighted(0.2)).prop_map(|(source, kind, has_options)| View {
        source,
        kind,
        has_options,
    })
}

fn mixed(before: &Model, other: &Model, bits: &mut impl Iterator<Item = bool>) -> Model {
    let mut after = before.clone();
    mix_all(&mut after.enums, &other.enums, bits);
    mix_all(&mut after.sequences, &other.sequences, bits);
    mix_all(&mut after.views, &other.views, bits);
    mix(&mut after.is_reversed, &other.is_reversed, bits);
    for (table, other) in after.tables.iter_mut().zip(&other.tables) {
        match (table.as_mut(), other) {
            (Some(table), Some(other)) => mix_table(table, other, bits),
            _ => mix(table, other, bits),
        }
    }
    after
}

fn mix_table(table: &mut Table, other: &Table, bits: &mut impl Iterator<Item = bool>) {
    mix(&mut table.id, &other.id, bits);
    for (column, other) in table.columns.iter_mut().zip(&other.columns) {
        match (column.as_mut(), other) {
            (Some(column), Some(other)) => {
                mix(&mut column.kind, &other.kind, bits);
                mix(&mut column.default, &other.default, bits);
                mix(&mut column.is_not_null, &other.is_not_null, bits);
                mix(&mut column.has_collation, &other.has_collation, bits);
            }
            _ => mix(column, other, bits),
        }
    }
    mix(&mut table.key, &other.key, bits);
    mix(&mut table.unique, &other.unique, bits);
    mix(&mut table.check, &other.check, bits);
    mix(&mut table.computed, &other.computed, bits);
    mix_all(&mut table.indexes, &other.indexes, bits);
    mix(&mut table.foreign, &other.foreign, bits);
    mix(&mut table.is_unlogged, &other.is_unlogged, bits);
}

fn mix_all<T: Clone>(slots: &mut [T], others: &[T], bits: &mut impl Iterator<Item = bool>) {
    for (slot, other) in slots.iter_mut().zip(others) {
        mix(slot, other, bits);
    }
}

/// Where there are no more bits, the first is left as it is.
fn mix<T: Clone>(slot: &mut T, other: &T, bits: &mut impl Iterator<Item = bool>) {
    if !bits.next().unwrap_or(true) {
        *slot = other.clone();
    }
}
