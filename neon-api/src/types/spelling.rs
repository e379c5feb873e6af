//! Values of which the API takes more than one spelling, or fewer than their
//! type's own parser.

use jiff::Timestamp;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::Change;

/// A flag of a query: `true` and `false`, and as the API's server has them too
/// `1`, `t`, `T`, `TRUE`, `True` and their opposites. Python's clients write
/// `True`.
pub(super) fn flag<'de, D>(deserializer: D) -> Result<Option<bool>, D::Error>
where
    D: Deserializer<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Flag {
        Bool(bool),
        Text(String),
    }
    let text = match Option::deserialize(deserializer)? {
        None => return Ok(None),
        Some(Flag::Bool(value)) => return Ok(Some(value)),
        Some(Flag::Text(text)) => text,
    };
    match text.as_str() {
        "true" | "1" | "t" | "T" | "TRUE" | "True" => Ok(Some(true)),
        "false" | "0" | "f" | "F" | "FALSE" | "False" => Ok(Some(false)),
        _ => Err(D::Error::custom(format!(
            "{text:?} is neither true nor false"
        ))),
    }
}

/// A time by RFC 3339, with its zone.
pub(super) fn time<'de, D>(deserializer: D) -> Result<Option<Timestamp>, D::Error>
where
    D: Deserializer<'de>,
{
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| parsed(&text).map_err(D::Error::custom))
        .transpose()
}

/// As [`time`], where `null` empties the field.
pub(super) fn changed_time<'de, D>(deserializer: D) -> Result<Change<Timestamp>, D::Error>
where
    D: Deserializer<'de>,
{
    Ok(time(deserializer)?.map_or(Change::Clear, Change::Set))
}

fn parsed(text: &str) -> Result<Timestamp, String> {
    has_form(text)
        .then(|| text.parse().ok())
        .flatten()
        .ok_or_else(|| format!("{text:?} is no time by RFC 3339, as 2025-06-09T18:02:16Z is"))
}

/// jiff takes more: no separators, a space for the `T`, a zone's name.
fn has_form(text: &str) -> bool {
    let matches = |text: &str, form: &str| {
        text.len() == form.len()
            && text
                .bytes()
                .zip(form.bytes())
                .all(|(byte, wanted)| match wanted {
                    b'0' => byte.is_ascii_digit(),
                    wanted => byte.eq_ignore_ascii_case(&wanted),
                })
    };
    let form = "0000-00-00T00:00:00";
    let Some((seconds, rest)) = text.split_at_checked(form.len()) else {
        return false;
    };
    let zone = match rest.strip_prefix('.') {
        None => rest,
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
    };
    let is_empty_fraction = rest.len() == zone.len() + 1;
    matches(seconds, form)
        && !is_empty_fraction
        && (matches(zone, "Z") || matches(zone, "+00:00") || matches(zone, "-00:00"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_of_rfc_3339() {
        for text in [
            "2026-01-01T00:00:00Z",
            "2026-01-01t00:00:00z",
            "2026-01-01T00:00:00.5Z",
            "2026-01-01T00:00:00.123456789+02:00",
            "2026-01-01T00:00:00-07:30",
        ] {
            assert!(parsed(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00Z[UTC]",
            "20260101T000000Z",
            "2026-01-01T00:00:00.Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T00:00:00+0200",
            "+002026-01-01T00:00:00Z",
            "soon",
        ] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }
}
