//! `filter` and `order_by` of lists: `field operator value`, joined by AND. A part
//! of AIP-160, and of AIP-132.

use std::cmp::Reverse;

use jiff::Timestamp;
use rpc::status::FieldViolation;
use serde::{Deserialize, Serialize};

/// The longest filter, in characters.
const FILTER_CHARS_MAX: usize = 2_000;

/// A field of a list's items, and what it holds.
pub(super) type Field = (&'static str, Kind);

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Flag,
    Time,
}

/// What a field of one item holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Value {
    Text(String),
    Flag(bool),
    Time(Timestamp),
}

/// What items have to be like.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Filter(Vec<Term>);

#[derive(Debug, Clone, PartialEq)]
struct Term {
    field: &'static str,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    /// It is there.
    Present,
    /// The text holds this one.
    Holds(String),
    /// The text is like this one, with a * at either end, or is not.
    Like(String, bool),
    Compared(Comparison, Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What a list is sorted by: fields, and whether downwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order(Vec<(&'static str, bool)>);

/// Where an item is in that order.
pub(super) type Key = Vec<(bool, Direction)>;

/// A value, sorted upwards or downwards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Direction {
    Up(Option<Value>),
    Down(Reverse<Option<Value>>),
}

impl Filter {
    pub(super) fn parse(text: &str, fields: &[Field]) -> Result<Filter, FieldViolation> {
        let wrong = |message: String| FieldViolation::new("filter", message);
        if text.chars().count() > FILTER_CHARS_MAX {
            return Err(wrong(format!(
                "must be at most {FILTER_CHARS_MAX} characters"
            )));
        }
        let mut words = words(text).map_err(wrong)?.into_iter().peekable();
        let mut terms = Vec::new();
        while words.peek().is_some() {
            let term = term(&mut words, fields).map_err(wrong)?;
            terms.push(term);
            match words.next() {
                None => {}
                Some(Word::Bare(and)) if and == "AND" && words.peek().is_some() => {}
                Some(word) => {
                    return Err(wrong(format!(
                        "must go on with AND and another term, not {word}"
                    )));
                }
            }
        }
        Ok(Filter(terms))
    }

    /// Whether an item is so. `value`: what it has in a field.
    pub(super) fn fits(&self, value: impl Fn(&str) -> Option<Value>) -> bool {
        self.0.iter().all(|term| term.test.holds(value(term.field)))
    }
}

impl Test {
    fn holds(&self, value: Option<Value>) -> bool {
        match (self, value) {
            (Test::Present, value) => {
                value.is_some_and(|value| value != Value::Text(String::new()))
            }
            (Test::Holds(part), Some(Value::Text(text))) => text.contains(part),
            (Test::Like(pattern, wanted), Some(Value::Text(text))) => {
                is_like(&text, pattern) == *wanted
            }
            // What has no value equals none.
            (Test::Compared(Comparison::Unequal, _), None) => true,
            (Test::Compared(comparison, with), Some(value)) => match comparison {
                Comparison::Equal => value == *with,
                Comparison::Unequal => value != *with,
                Comparison::Less => value < *with,
                Comparison::LessOrEqual => value <= *with,
                Comparison::Greater => value > *with,
                Comparison::GreaterOrEqual => value >= *with,
            },
            _ => false,
        }
    }
}

impl Order {
    /// `default`: the field that an empty order stands for.
    pub(super) fn parse(
        text: &str,
        fields: &[&'static str],
        default: &'static str,
    ) -> Result<Order, FieldViolation> {
        let mut order = Vec::new();
        for part in text.split(',').filter(|_| !text.trim().is_empty()) {
            let words: Vec<&str> = part.split_whitespace().collect();
            let (name, down) = match words.as_slice() {
                [name] | [name, "asc"] => (*name, false),
                [name, "desc"] => (*name, true),
                _ => ("", false),
            };
            let known = fields.iter().find(|field| **field == name);
            let field = known.ok_or_else(|| {
                let fields = fields.join(", ");
                FieldViolation::new(
                    "order_by",
                    format!("must be some of {fields}, each with ` desc` for downwards"),
                )
            })?;
            if order.iter().any(|(other, _)| other == field) {
                return Err(FieldViolation::new(
                    "order_by",
                    format!("names {field} twice"),
                ));
            }
            order.push((*field, down));
        }
        if order.is_empty() {
            order.push((default, false));
        }
        Ok(Order(order))
    }

    /// What has no value comes last, whichever way.
    pub(super) fn key(&self, value: impl Fn(&str) -> Option<Value>) -> Key {
        let parts = self.0.iter().map(|(field, down)| {
            let value = value(field);
            let is_missing = value.is_none();
            let value = match down {
                false => Direction::Up(value),
                true => Direction::Down(Reverse(value)),
            };
            (is_missing, value)
        });
        parts.collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    Bare(String),
    Quoted(String),
    Operator(&'static str),
}

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Word::Bare(text) => write!(f, "`{text}`"),
            Word::Quoted(text) => write!(f, "{text:?}"),
            Word::Operator(text) => write!(f, "`{text}`"),
        }
    }
}

/// The longer ones first.
const OPERATORS: [&str; 7] = ["!=", "<=", ">=", "=", "<", ">", ":"];

fn words(text: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if let Some(operator) = OPERATORS
            .iter()
            .find(|operator| rest.starts_with(**operator))
        {
            words.push(Word::Operator(operator));
            rest = &rest[operator.len()..];
        } else if first == '"' {
            let (quoted, after) = quoted(&rest[1..]).ok_or("has a quote that does not end")?;
            words.push(Word::Quoted(quoted));
            rest = after;
        } else {
            let is_end = |c: char| c.is_whitespace() || "!=<>:\"()".contains(c);
            let end = rest.find(is_end).unwrap_or(rest.len());
            if end == 0 {
                return Err(format!("has {first:?}, which this list does not know"));
            }
            words.push(Word::Bare(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    Ok(words)
}

/// What is before the closing quote, and what is after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

fn term(words: &mut impl Iterator<Item = Word>, fields: &[Field]) -> Result<Term, String> {
    let names = || {
        let names: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
        names.join(", ")
    };
    let name = words.next().ok_or("is empty")?;
    let known = match &name {
        Word::Bare(name) => fields.iter().find(|(field, _)| field == name),
        _ => None,
    };
    let (field, kind) =
        *known.ok_or_else(|| format!("names {name}; the fields are {}", names()))?;
    let Some(Word::Operator(operator)) = words.next() else {
        return Err(format!("must have =, !=, <, <=, >, >= or : after {field}"));
    };
    let value = match words.next() {
        Some(Word::Bare(value) | Word::Quoted(value)) => value,
        _ => return Err(format!("must have a value after {field} {operator}")),
    };
    let test = test(field, kind, operator, value)?;
    Ok(Term { field, test })
}

fn test(field: &str, kind: Kind, operator: &str, value: String) -> Result<Test, String> {
    if operator == ":" && value == "*" {
        return Ok(Test::Present);
    }
    let comparison = match operator {
        "=" => Comparison::Equal,
        "!=" => Comparison::Unequal,
        "<" => Comparison::Less,
        "<=" => Comparison::LessOrEqual,
        ">" => Comparison::Greater,
        ">=" => Comparison::GreaterOrEqual,
        _ if kind == Kind::Text => return Ok(Test::Holds(value)),
        _ => return Err(format!("may ask {field}:* and nothing else with `:`")),
    };
    let is_equality = matches!(comparison, Comparison::Equal | Comparison::Unequal);
    if !is_equality && kind != Kind::Time {
        return Err(format!(
            "cannot have {operator} for {field}, which is no time"
        ));
    }
    let value = match kind {
        Kind::Text if value.starts_with('*') || value.ends_with('*') => {
            return Ok(Test::Like(value, comparison == Comparison::Equal));
        }
        Kind::Text => Value::Text(value),
        Kind::Flag => match value.as_str() {
            "true" => Value::Flag(true),
            "false" => Value::Flag(false),
            _ => return Err(format!("must compare {field} with true or false")),
        },
        Kind::Time => Value::Time(value.parse().map_err(|_| {
            format!("must compare {field} with a time, as in \"2026-01-31T12:00:00Z\"")
        })?),
    };
    Ok(Test::Compared(comparison, value))
}

fn is_like(text: &str, pattern: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(_), Some(_)) => text.contains(pattern.trim_matches('*')),
        (Some(end), None) => text.ends_with(end),
        (None, Some(begin)) => text.starts_with(begin),
        (None, None) => text == pattern,
    }
}

#[cfg(test)]
mod tests;
