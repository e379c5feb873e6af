//! The table of a benchmark: printed, and written as JSON under docs/bench.

use std::fmt;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use serde_json::{Value, json};

/// What the median is to be.
#[derive(Clone, Copy)]
enum Target {
    Below(f64),
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn is_met(self, median: f64) -> bool {
        match self {
            Self::Below(target) => median < target,
            Self::AtLeast(target) => median >= target,
            Self::AtMost(target) => median <= target,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Below(target) => write!(f, "< {target}"),
            Self::AtLeast(target) => write!(f, ">= {target}"),
            Self::AtMost(target) => write!(f, "<= {target}"),
        }
    }
}

/// One line: what was measured, several times.
pub(crate) struct Row {
    what: String,
    unit: &'static str,
    target: Option<Target>,
    values: Vec<f64>,
}

impl Row {
    /// Milliseconds, without a target.
    pub(crate) fn new(what: impl Into<String>, values: Vec<f64>) -> Self {
        Self {
            what: what.into(),
            unit: "ms",
            target: None,
            values,
        }
    }

    /// The median is to be below this.
    pub(crate) fn below(self, target: f64) -> Self {
        Self {
            target: Some(Target::Below(target)),
            ..self
        }
    }

    /// The median is to be this or more.
    pub(crate) fn at_least(self, target: f64) -> Self {
        Self {
            target: Some(Target::AtLeast(target)),
            ..self
        }
    }

    /// The median is to be this or less.
    pub(crate) fn at_most(self, target: f64) -> Self {
        Self {
            target: Some(Target::AtMost(target)),
            ..self
        }
    }

    /// Another unit than milliseconds.
    pub(crate) fn unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    fn median(&self) -> f64 {
        let sorted = self.sorted();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }
}

/// The lines so far: each is told when it is there, since all take minutes.
#[derive(Default)]
pub(crate) struct Table(pub(crate) Vec<Row>);

impl Table {
    pub(crate) fn push(&mut self, row: Row) {
        eprintln!("{}: {:.1} {}", row.what, row.median(), row.unit);
        self.0.push(row);
    }
}

/// Since then, in milliseconds.
pub(crate) fn milliseconds(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1_000.0
}

/// The value that so many of a hundred do not exceed.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default()
}

pub(crate) fn print(rows: &[Row]) {
    println!(
        "{:<68} {:>3} {:>9} {:>9} {:>9}  {:<10}",
        "", "n", "median", "min", "max", "target"
    );
    for row in rows {
        let sorted = row.sorted();
        let (target, verdict) = match row.target {
            None => (String::new(), ""),
            Some(target) if target.is_met(row.median()) => (target.to_string(), "met"),
            Some(target) => (target.to_string(), "MISSED"),
        };
        println!(
            "{:<68} {:>3} {:>9.2} {:>9.2} {:>9.2}  {:<10} {verdict}",
            format!("{}, {}", row.what, row.unit),
            sorted.len(),
            row.median(),
            sorted.first().copied().unwrap_or_default(),
            sorted.last().copied().unwrap_or_default(),
            target,
        );
    }
}

/// `is_everything`: otherwise what was measured before and is not among the rows stays
/// in the file.
pub(crate) fn write(
    name: &str,
    durability: &str,
    rows: &[Row],
    is_everything: bool,
) -> anyhow::Result<()> {
    let round = |value: f64| (value * 100.0).round() / 100.0;
    let mut rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "what": row.what,
                "unit": row.unit,
                "median": round(row.median()),
                "target": row.target.map(|target| target.to_string()),
                "values": row.sorted().into_iter().map(round).collect::<Vec<_>>(),
            })
        })
        .collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/bench/{name}.json"));
    std::fs::create_dir_all(path.parent().context("a folder")?)?;
    if !is_everything && path.exists() {
        rows = merged(&path, rows)?;
    }
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let report = json!({ "bench": name, "cores": cores, "durability": durability, "rows": rows });
    std::fs::write(&path, serde_json::to_string_pretty(&report)? + "\n")
        .with_context(|| format!("write {}", path.display()))
}

/// The rows of a file, with those that were measured anew in their places, or behind
/// them.
fn merged(path: &Path, new: Vec<Value>) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut report: Value =
        serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
    let rows = report.get_mut("rows").and_then(Value::as_array_mut);
    let mut rows = std::mem::take(rows.with_context(|| format!("rows in {}", path.display()))?);
    for row in new {
        match rows.iter_mut().find(|old| old["what"] == row["what"]) {
            Some(old) => *old = row,
            None => rows.push(row),
        }
    }
    Ok(rows)
}
