//! Names as SQL has them: quoted where they must be, and found again in expressions.

use std::collections::BTreeSet;

/// Words that Postgres does not take as a name without quotes: those of any version, as
/// quotes too many do no harm.
const RESERVED: &str = " all analyse analyze and any array as asc asymmetric authorization \
    between bigint binary bit boolean both case cast char character check coalesce collate \
    collation column concurrently constraint create cross current_catalog current_date \
    current_role current_schema current_time current_timestamp current_user dec decimal \
    default deferrable desc distinct do else end except exists extract false fetch float for \
    foreign freeze from full grant greatest group grouping having ilike in initially inner \
    inout int integer intersect interval into is isnull join json json_array json_arrayagg \
    json_exists json_object json_objectagg json_query json_scalar json_serialize json_table \
    json_value lateral leading least left like limit localtime localtimestamp merge_action \
    national natural nchar none normalize not notnull null nullif numeric offset on only or \
    order out outer overlaps overlay placing position precision primary real references \
    returning right row select session_user setof similar smallint some substring symmetric \
    system_user table tablesample then time timestamp to trailing treat trim true union \
    unique user using values varchar variadic verbose when where window with xmlattributes \
    xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot \
    xmlserialize xmltable ";

/// A name as it stands in SQL: in quotes only where it needs them, as `quote_ident` does.
pub fn quote(name: &str) -> String {
    let is_plain = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && name.chars().all(is_plain_character)
        && !RESERVED.contains(&format!(" {name} "));
    if is_plain {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// Several names, with commas.
pub fn quote_all<'n>(names: impl IntoIterator<Item = &'n String>) -> String {
    let names: Vec<_> = names.into_iter().map(|name| quote(name)).collect();
    names.join(", ")
}

/// A text as a literal.
pub fn literal(text: &str) -> String {
    let escaped = text.replace('\'', "''");
    if escaped.contains('\\') {
        format!("E'{}'", escaped.replace('\\', "\\\\"))
    } else {
        format!("'{escaped}'")
    }
}

/// Every name that an expression may mean: of columns, functions and types alike.
pub fn names_in(expression: &str) -> BTreeSet<String> {
    let pieces = pieces(expression).into_iter();
    pieces.filter_map(|piece| piece.name).collect()
}

/// The expression with other names in it. Functions and types keep theirs.
pub fn substitute(expression: &str, other: impl Fn(&str) -> Option<String>) -> String {
    let pieces = pieces(expression);
    let mut written = String::with_capacity(expression.len());
    let mut is_type = false;
    for (at, piece) in pieces.iter().enumerate() {
        let follows = pieces.get(at + 1).map_or("", |next| next.text);
        let is_word = piece
            .text
            .starts_with(|first: char| first.is_alphanumeric());
        is_type = piece.text == "::" || (is_type && (is_word || piece.text == " "));
        let name = piece.name.as_deref();
        let name = name.filter(|_| !is_type && follows != "(");
        match name.and_then(&other) {
            Some(name) => written.push_str(&quote(&name)),
            None => written.push_str(piece.text),
        }
        is_type &= piece.name.is_none() || is_word;
    }
    written
}

/// A piece of an expression: a name, a literal, a number, `::`, or one character.
struct Piece<'e> {
    text: &'e str,
    /// What is meant, if it is a name.
    name: Option<String>,
}

fn pieces(expression: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\'' | '"' => quoted_length(rest, first),
            ':' if rest.starts_with("::") => 2,
            _ if is_word_character(first) => {
                let end = rest.find(|next| !is_word_character(next));
                end.unwrap_or(rest.len())
            }
            _ => first.len_utf8(),
        };
        let (text, after) = rest.split_at(length);
        // What is a name without quotes is in small letters: the others are keywords.
        let is_bare = !first.is_ascii_digit() && text.chars().all(is_plain_character);
        let name = match first {
            '"' if length > 1 => Some(text[1..length - 1].replace("\"\"", "\"")),
            _ if is_bare => Some(text.to_owned()),
            _ => None,
        };
        pieces.push(Piece { text, name });
        rest = after;
    }
    pieces
}

/// How long a quoted piece is, its quotes with it: two of them in it are one that is meant.
fn quoted_length(text: &str, quote: char) -> usize {
    let mut at = 1;
    while let Some(end) = text[at..].find(quote) {
        at += end + 1;
        if !text[at..].starts_with(quote) {
            return at;
        }
        at += 1;
    }
    text.len()
}

fn is_plain_character(character: char) -> bool {
    character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_'
}

fn is_word_character(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '$')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_stand_only_where_they_must() {
        assert_eq!(quote("users"), "users");
        assert_eq!(quote("_a1"), "_a1");
        assert_eq!(quote("1a"), "\"1a\"");
        assert_eq!(quote("order"), "\"order\"");
        assert_eq!(quote("all"), "\"all\"");
        assert_eq!(quote("xmltable"), "\"xmltable\"");
        assert_eq!(quote("Users"), "\"Users\"");
        assert_eq!(quote("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote(""), "\"\"");
        assert_eq!(quote("über"), "\"über\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\b"), "E'a\\\\b'");
    }

    #[test]
    fn columns_are_renamed_and_nothing_else() {
        let other = |name: &str| (name == "name").then(|| "Full name".to_owned());
        let renamed = |text: &str| substitute(text, other);
        assert_eq!(
            renamed("lower(name) = 'name'"),
            "lower(\"Full name\") = 'name'"
        );
        assert_eq!(
            renamed("name(\"name\")::name = name"),
            "name(\"Full name\")::name = \"Full name\""
        );
        assert_eq!(renamed("names || 'it''s name'"), "names || 'it''s name'");
        let other = |name: &str| (name == "zone").then(|| "area".to_owned());
        let renamed = substitute("a::timestamp with time zone < zone", other);
        assert_eq!(renamed, "a::timestamp with time zone < area");
    }

    #[test]
    fn names_are_found_and_keywords_are_not() {
        let names = names_in("\"a b\" IS NOT NULL AND c > 1e5 AND d <> 'e'::text");
        assert_eq!(Vec::from_iter(names), ["a b", "c", "d", "text"]);
    }
}
