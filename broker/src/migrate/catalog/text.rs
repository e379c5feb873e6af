//! A schema as text: one that is the same for two that mean the same.

use std::fmt::Write as _;

use similar::TextDiff;

use super::names::{literal, quote};
use super::{Column, Constraint, Index, Schema, Sequence, SequenceOptions, Table, View};

/// How many lines of a difference's surroundings are shown.
const CONTEXT_LINES: usize = 3;

impl PartialEq for Schema {
    fn eq(&self, other: &Schema) -> bool {
        self.text() == other.text()
    }
}

impl Schema {
    /// What it holds, as text that looks like SQL, by kind and name. Columns are sorted by
    /// name: their order does not count.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, labels) in &self.enums {
            let labels: Vec<_> = labels.iter().map(|label| literal(label)).collect();
            let _ = writeln!(text, "enum {} ({})\n", quote(name), labels.join(", "));
        }
        for (name, sequence) in &self.sequences {
            let _ = writeln!(
                text,
                "sequence {}{}\n",
                quote(name),
                sequence_text(sequence)
            );
        }
        for (name, table) in &self.tables {
            let _ = writeln!(text, "table {}{}", quote(name), table_text(table));
        }
        for (name, index) in &self.indexes {
            let _ = writeln!(text, "{}\n", index_text(name, index));
        }
        for (name, view) in &self.views {
            let _ = writeln!(text, "{} AS\n{}\n", view.head(name), view.definition);
        }
        for ((kind, name), noticed) in &self.noticed {
            let _ = writeln!(
                text,
                "{kind} {name}\n    {}\n",
                indented(&noticed.definition)
            );
        }
        text
    }

    /// What is different, as a unified diff. Empty when nothing is.
    pub fn difference(from: &Schema, to: &Schema) -> String {
        let (from, to) = (from.text(), to.text());
        let lines = TextDiff::from_lines(&from, &to);
        let mut unified = lines.unified_diff();
        unified.context_radius(CONTEXT_LINES).to_string()
    }
}

impl Column {
    /// As `CREATE TABLE` and `ADD COLUMN` have it.
    pub(crate) fn definition(&self) -> String {
        let mut text = format!("{} {}", quote(&self.name), self.type_text());
        if let Some(generated) = &self.generated {
            let kept = if generated.is_stored {
                "STORED"
            } else {
                "VIRTUAL"
            };
            let _ = write!(
                text,
                " GENERATED ALWAYS AS ({}) {kept}",
                generated.expression
            );
        }
        if let Some(default) = &self.default {
            let _ = write!(text, " DEFAULT {default}");
        }
        match &self.identity {
            // It is not null by itself.
            Some(identity) => {
                let kind = identity_kind(identity.is_always);
                let _ = write!(text, " GENERATED {kind} AS IDENTITY");
                let options = identity.options.unusual(&self.data_type);
                if !options.is_empty() {
                    let _ = write!(text, " ({})", options.join(" "));
                }
            }
            None if self.is_not_null => text.push_str(" NOT NULL"),
            None => {}
        }
        text
    }

    /// Its type, with the collation if that is its own.
    pub(crate) fn type_text(&self) -> String {
        let collation = self.collation.as_ref();
        let collation = collation.map(|collation| format!(" COLLATE {collation}"));
        format!("{}{}", self.data_type, collation.unwrap_or_default())
    }
}

impl SequenceOptions {
    /// The options that are not what they would be by themselves. `implied` is the type that
    /// goes without saying.
    pub(crate) fn unusual(&self, implied: &str) -> Vec<String> {
        let (min, max) = self.usual_bounds();
        let usual_start = if self.increment > 0 {
            self.min
        } else {
            self.max
        };
        let mut options = Vec::new();
        if self.data_type != implied {
            options.push(format!("AS {}", self.data_type));
        }
        let numbers = [
            ("INCREMENT BY", self.increment, 1),
            ("MINVALUE", self.min, min),
            ("MAXVALUE", self.max, max),
            ("START WITH", self.start, usual_start),
            ("CACHE", self.cache, 1),
        ];
        let unusual = numbers.iter().filter(|(_, value, usual)| value != usual);
        options.extend(unusual.map(|(option, value, _)| format!("{option} {value}")));
        if self.is_cycle {
            options.push("CYCLE".to_owned());
        }
        options
    }

    fn usual_bounds(&self) -> (i64, i64) {
        let (lowest, highest) = match self.data_type.as_str() {
            "smallint" => (i64::from(i16::MIN), i64::from(i16::MAX)),
            "integer" => (i64::from(i32::MIN), i64::from(i32::MAX)),
            _ => (i64::MIN, i64::MAX),
        };
        if self.increment > 0 {
            (1, highest)
        } else {
            (lowest, -1)
        }
    }
}

impl View {
    /// `CREATE` and `AS` are to be put around it.
    pub(crate) fn head(&self, name: &str) -> String {
        let kind = if self.is_materialized {
            "MATERIALIZED VIEW"
        } else {
            "VIEW"
        };
        let options = match self.options.as_slice() {
            [] => String::new(),
            options => format!(" WITH ({})", options.join(", ")),
        };
        format!("{kind} {}{options}", quote(name))
    }
}

/// `CREATE` is to be put before it.
pub(crate) fn index_text(name: &str, index: &Index) -> String {
    let unique = if index.is_unique { "UNIQUE " } else { "" };
    // A method that goes without saying.
    let definition = index.definition.strip_prefix("btree ");
    let definition = match definition {
        Some(definition) => definition.to_owned(),
        None => format!("USING {}", index.definition),
    };
    format!(
        "{unique}INDEX {} ON {} {definition}",
        quote(name),
        quote(&index.table)
    )
}

pub(crate) fn constraint_text(name: &str, constraint: &Constraint) -> String {
    format!("CONSTRAINT {} {}", quote(name), constraint.definition)
}

pub(crate) fn identity_kind(is_always: bool) -> &'static str {
    if is_always { "ALWAYS" } else { "BY DEFAULT" }
}

fn sequence_text(sequence: &Sequence) -> String {
    let mut parts = sequence.options.unusual("bigint");
    if let Some((table, column)) = &sequence.owner {
        parts.push(format!("OWNED BY {}.{}", quote(table), quote(column)));
    }
    let parts = parts.iter().map(|part| format!("\n    {part}"));
    parts.collect()
}

fn table_text(table: &Table) -> String {
    let mut columns: Vec<_> = table.columns.iter().map(Column::definition).collect();
    columns.sort();
    let constraints = table.constraints.iter();
    let constraints = constraints.map(|(name, constraint)| constraint_text(name, constraint));
    let flags = [
        (table.is_unlogged, "unlogged"),
        (table.has_row_security, "row level security"),
        (table.forces_row_security, "force row level security"),
    ];
    let flags = flags.iter().filter(|(is_set, _)| *is_set);
    let flags = flags.map(|(_, flag)| (*flag).to_owned());
    let lines = columns.into_iter().chain(constraints).chain(flags);
    lines
        .map(|line| format!("\n    {line}"))
        .collect::<String>()
        + "\n"
}

fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n    ")
}
