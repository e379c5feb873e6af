//! `filter` and `order_by` of lists: `field operator value`, joined by AND. A part
//! of AIP-160, and of AIP-132.
//!
//! A list that is in memory asks [`Filter::fits`] and [`Order::key`]; one that is in a
//! database makes a query of [`Filter::terms`] and [`Order::fields`].

use std::{cmp::Reverse, fmt};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::status::FieldViolation;

/// The longest filter, in characters.
const FILTER_CHARS_MAX: usize = 2_000;

/// A field of a list's items, and what it holds.
pub type Field = (&'static str, Kind);

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// `true` or `false`.
    Flag,
    /// A moment, as in RFC 3339.
    Time,
}

/// What a field of one item holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Value {
    /// Of a field that is [`Kind::Text`].
    Text(String),
    /// Of a field that is [`Kind::Flag`].
    Flag(bool),
    /// Of a field that is [`Kind::Time`].
    Time(Timestamp),
}

/// What items have to be like.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter(Vec<Term>);

/// What one field has to be like.
#[derive(Debug, Clone, PartialEq)]
pub struct Term {
    /// The field, one of those that the list has.
    pub field: &'static str,
    /// What it is asked.
    pub test: Test,
}

/// A question to what a field holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// It is there.
    Present,
    /// The text holds this one.
    Holds(String),
    /// The text is like this one, or is not.
    Like(Pattern, bool),
    /// It compares so with this.
    Compared(Comparison, Value),
}

/// A text with a * at its beginning, at its end, or at both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// What is between the stars.
    pub text: String,
    /// Anything may come before it.
    pub open_start: bool,
    /// Anything may come after it.
    pub open_end: bool,
}

/// How two values compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `!=`
    Unequal,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// What a list is sorted by: fields, and whether downwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order(Vec<(&'static str, bool)>);

/// Where an item is in that order.
pub type Key = Vec<(bool, Direction)>;

/// A value, sorted upwards or downwards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Direction {
    /// The least first.
    Up(Option<Value>),
    /// The greatest first.
    Down(Reverse<Option<Value>>),
}

impl Filter {
    /// The filter that a request gives; everything fits the empty one.
    ///
    /// # Errors
    /// A violation of the field `filter` when it cannot be read, or names what is none
    /// of `fields`.
    pub fn parse(text: &str, fields: &[Field]) -> Result<Filter, FieldViolation> {
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
                Some(Word::Bare(and)) if and.text == "AND" && words.peek().is_some() => {}
                Some(word) => {
                    return Err(wrong(format!(
                        "must go on with AND and another term, not {word}"
                    )));
                }
            }
        }
        Ok(Filter(terms))
    }

    /// What all has to hold.
    pub fn terms(&self) -> &[Term] {
        &self.0
    }

    /// Whether an item is so. `value`: what it has in a field.
    pub fn fits(&self, value: impl Fn(&str) -> Option<Value>) -> bool {
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
                pattern.fits(&text) == *wanted
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

impl Pattern {
    fn fits(&self, text: &str) -> bool {
        match (self.open_start, self.open_end) {
            (true, true) => text.contains(&self.text),
            (true, false) => text.ends_with(&self.text),
            (false, true) => text.starts_with(&self.text),
            (false, false) => text == self.text,
        }
    }
}

impl Order {
    /// The order that a request gives. `default`: the field that an empty one stands
    /// for.
    ///
    /// # Errors
    /// A violation of the field `order_by` when it cannot be read, or names what is
    /// none of `fields`, or a field twice.
    pub fn parse(
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

    /// The fields, the first first, and whether downwards.
    pub fn fields(&self) -> &[(&'static str, bool)] {
        &self.0
    }

    /// Where an item is. `value`: what it has in a field. What has no value comes last,
    /// whichever way.
    pub fn key(&self, value: impl Fn(&str) -> Option<Value>) -> Key {
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
    Bare(Text),
    Quoted(Text),
    Operator(&'static str),
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Word::Bare(text) => write!(f, "`{}`", text.text),
            Word::Quoted(text) => write!(f, "{:?}", text.text),
            Word::Operator(text) => write!(f, "`{text}`"),
        }
    }
}

/// A text as it was written, and where in it a * stands for anything: one after a
/// backslash is a * and no more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Text {
    text: String,
    /// Places in the text, upwards.
    stars: Vec<usize>,
}

impl Text {
    fn of_word(text: &str) -> Text {
        let stars = text.match_indices('*').map(|(at, _)| at).collect();
        Text {
            text: text.to_owned(),
            stars,
        }
    }

    /// None when it stands for itself alone.
    fn pattern(&self) -> Result<Option<Pattern>, &'static str> {
        let last = self.text.len().saturating_sub(1);
        if self.stars.is_empty() {
            return Ok(None);
        }
        if self.stars.iter().any(|&at| at != 0 && at != last) {
            return Err(
                "may have a * at the beginning and the end of a text alone; \"\\*\" is a * itself",
            );
        }
        let (open_start, open_end) = (self.stars.contains(&0), self.stars.contains(&last));
        let text = &self.text[usize::from(open_start)..];
        let text = text.strip_suffix('*').filter(|_| open_end).unwrap_or(text);
        Ok(Some(Pattern {
            text: text.to_owned(),
            open_start,
            open_end,
        }))
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
            words.push(Word::Bare(Text::of_word(&rest[..end])));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    Ok(words)
}

/// What is before the closing quote, and what is after it.
fn quoted(text: &str) -> Option<(Text, &str)> {
    let mut value = Text::default();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.text.push(chars.next()?.1),
            c => {
                if c == '*' {
                    value.stars.push(value.text.len());
                }
                value.text.push(c);
            }
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
        Word::Bare(name) => fields.iter().find(|(field, _)| *field == name.text),
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

fn test(field: &str, kind: Kind, operator: &str, value: Text) -> Result<Test, String> {
    if operator == ":" && value.text == "*" && !value.stars.is_empty() {
        return Ok(Test::Present);
    }
    let comparison = match operator {
        "=" => Comparison::Equal,
        "!=" => Comparison::Unequal,
        "<" => Comparison::Less,
        "<=" => Comparison::LessOrEqual,
        ">" => Comparison::Greater,
        ">=" => Comparison::GreaterOrEqual,
        _ if kind == Kind::Text => return Ok(Test::Holds(value.text)),
        _ => return Err(format!("may ask {field}:* and nothing else with `:`")),
    };
    let is_equality = matches!(comparison, Comparison::Equal | Comparison::Unequal);
    if !is_equality && kind != Kind::Time {
        return Err(format!(
            "cannot have {operator} for {field}, which is no time"
        ));
    }
    let value = match kind {
        Kind::Text => match value.pattern()? {
            Some(pattern) => return Ok(Test::Like(pattern, comparison == Comparison::Equal)),
            None => Value::Text(value.text),
        },
        Kind::Flag => match value.text.as_str() {
            "true" => Value::Flag(true),
            "false" => Value::Flag(false),
            _ => return Err(format!("must compare {field} with true or false")),
        },
        Kind::Time => Value::Time(value.text.parse().map_err(|_| {
            format!("must compare {field} with a time, as in \"2026-01-31T12:00:00Z\"")
        })?),
    };
    Ok(Test::Compared(comparison, value))
}

#[cfg(test)]
mod tests;
