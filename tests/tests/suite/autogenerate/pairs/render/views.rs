//! Views upon tables and upon each other.

use super::super::model::{ENUMS, Model, VIEWS, View};
use super::{label, named, quote};

pub(super) fn sql(model: &Model) -> String {
    let mut order: Vec<usize> = (0..VIEWS.len()).collect();
    if model.is_reversed {
        order.reverse();
    }
    let mut sql = String::new();
    let mut made: Vec<(String, Vec<String>)> = Vec::new();
    for at in order {
        let Some(view) = &model.views[at] else {
            continue;
        };
        let source = usize::from(view.source);
        let tables = model.tables.len();
        let relation = match source.checked_sub(tables) {
            None if model.tables[source].is_some() => {
                Some((quote(&model.table_names[source]), columns(model, source)))
            }
            None => None,
            Some(other) => made.get(other % made.len().max(1)).cloned(),
        };
        if let Some((relation, columns)) = relation {
            let (text, columns) = view_sql(model, at, view, &relation, &columns);
            sql += &text;
            made.push((quote(VIEWS[at]), columns));
        }
    }
    sql
}

fn view_sql(
    model: &Model,
    at: usize,
    view: &View,
    relation: &str,
    columns: &[String],
) -> (String, Vec<String>) {
    let (first, last) = (&columns[0], &columns[columns.len() - 1]);
    let own = quote(&format!("Own {at}"));
    let key = usize::from(view.source);
    let has_key = model.tables.get(key).and_then(Option::as_ref);
    let has_key = has_key.is_some_and(|table| matches!(table.key, 1 | 2));
    let all = columns.to_vec();
    let (query, columns) = match view.kind {
        0 => (format!("SELECT * FROM {relation}"), all),
        1 => (
            format!("SELECT {first}, 1 AS {own} FROM {relation}"),
            vec![first.clone(), own],
        ),
        2 => (
            format!("SELECT {last} FROM {relation} WHERE {first} IS NOT NULL"),
            vec![last.clone()],
        ),
        3 => (
            format!("SELECT count(*) AS {own} FROM {relation}"),
            vec![own],
        ),
        4 if has_key => {
            let query = format!("SELECT {last}, count(*) AS {own} FROM {relation} GROUP BY id");
            (query, vec![last.clone(), own])
        }
        5 => {
            let query = format!(
                "SELECT one.{first}, other.{last} AS {own} FROM {relation} one \
                 JOIN {relation} other ON one.{first} IS NOT DISTINCT FROM other.{first}"
            );
            (query, vec![first.clone(), own])
        }
        6 if model.enums[0].is_some() => {
            let (name, label) = (quote(ENUMS[0]), label(model, 0, 0));
            let query = format!("SELECT {first}, {label}::{name} AS {own} FROM {relation}");
            (query, vec![first.clone(), own])
        }
        _ => (
            format!("SELECT {first} FROM {relation}"),
            vec![first.clone()],
        ),
    };
    let name = quote(VIEWS[at]);
    if at == 3 {
        let index = format!("CREATE INDEX ON {name} ({});\n", columns[0]);
        return (
            format!("CREATE MATERIALIZED VIEW {name} AS {query};\n{index}"),
            columns,
        );
    }
    let options = if view.has_options {
        " WITH (security_barrier)"
    } else {
        ""
    };
    (
        format!("CREATE VIEW {name}{options} AS {query};\n"),
        columns,
    )
}

fn columns(model: &Model, at: usize) -> Vec<String> {
    let slots = (0..5).filter_map(|slot| named(model, at, slot));
    let names = slots.map(|(name, _)| name);
    let computed = model.tables[at].as_ref().and_then(|table| table.computed);
    let computed = computed.map(|_| "computed".to_owned());
    std::iter::once("id".to_owned())
        .chain(names)
        .chain(computed)
        .collect()
}
