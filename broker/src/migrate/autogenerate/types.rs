//! Which changes of a type keep everything, and how they are put.

/// What a type's name says: `numeric(10,2)[]`.
struct Shape<'t> {
    /// Without its modifiers: `numeric`, `timestamp with time zone`.
    base: String,
    /// `[10, 2]`
    modifiers: Vec<i64>,
    is_array: bool,
    whole: &'t str,
}

/// Whether every value of the one is a value of the other, and means the same.
pub(super) fn is_lossless(before: &str, after: &str) -> bool {
    if before == after {
        return true;
    }
    let (before, after) = (Shape::of(before), Shape::of(after));
    let is_free = after.modifiers.is_empty();
    match (before.base.as_str(), after.base.as_str()) {
        // A text's form can be read again, but a padded one loses its blanks.
        (base, "text" | "character varying") if is_free && !after.is_array => {
            base != "character" && base != "\"char\""
        }
        _ if before.is_array != after.is_array => false,
        (base, "text" | "character varying") if is_free => base != "character",
        ("character varying", "character varying") => {
            before.modifiers.first() <= after.modifiers.first() && !before.modifiers.is_empty()
        }
        ("numeric", "numeric") => is_free || is_wider(&before.modifiers, &after.modifiers),
        ("smallint", "integer" | "bigint" | "real" | "double precision")
        | ("integer", "bigint" | "double precision")
        | ("real", "double precision")
        | ("date", "timestamp without time zone")
        | ("cidr", "inet") => is_free,
        ("smallint" | "integer" | "bigint", "numeric") => is_free,
        _ => false,
    }
}

/// What follows `USING`, where Postgres would not convert by itself.
pub(super) fn conversion(column: &str, before: &str, after: &str, is_anew: bool) -> Option<String> {
    let (before, after) = (Shape::of(before), Shape::of(after));
    if before.whole == after.whole && !is_anew {
        return None;
    }
    let is_alike = before.is_array == after.is_array;
    let (one, other) = (family(&before.base), family(&after.base));
    if is_alike && !is_anew && one.is_some() && one == other {
        return None;
    }
    if other == Some(Family::Text) && !after.is_array {
        return None;
    }
    let whole = after.whole;
    if is_alike && (one == Some(Family::Text) || other == Some(Family::Text)) {
        return Some(format!("{column}::{whole}"));
    }
    let text = if before.is_array && after.is_array {
        "text[]"
    } else {
        "text"
    };
    Some(format!("{column}::{text}::{whole}"))
}

pub(super) fn is_integer(data_type: &str) -> bool {
    matches!(data_type, "smallint" | "integer" | "bigint")
}

impl Shape<'_> {
    fn of(whole: &str) -> Shape<'_> {
        let element = whole.trim_end_matches("[]");
        let (base, modifiers) = match element.split_once('(') {
            Some((before, rest)) => {
                let (inside, after) = rest.split_once(')').unwrap_or((rest, ""));
                let modifiers = inside.split(',').filter_map(|one| one.trim().parse().ok());
                (format!("{before}{after}"), modifiers.collect())
            }
            None => (element.to_owned(), Vec::new()),
        };
        Shape {
            base,
            modifiers,
            is_array: element.len() < whole.len(),
            whole,
        }
    }
}

/// Types between which Postgres converts on assignment.
#[derive(PartialEq, Eq)]
enum Family {
    Number,
    Text,
    Time,
    Json,
}

fn family(base: &str) -> Option<Family> {
    match base {
        "smallint" | "integer" | "bigint" | "numeric" | "real" | "double precision" => {
            Some(Family::Number)
        }
        "text" | "character varying" | "character" => Some(Family::Text),
        "date" | "timestamp without time zone" | "timestamp with time zone" => Some(Family::Time),
        "json" | "jsonb" => Some(Family::Json),
        _ => None,
    }
}

/// As many digits after the point, and as many before it.
fn is_wider(before: &[i64], after: &[i64]) -> bool {
    match (before, after) {
        ([precision, scale], [other, other_scale]) => {
            other_scale >= scale && other - other_scale >= precision - scale
        }
        _ => false,
    }
}
