//! Takes secrets and noise out of what a server wrote, before it becomes part of
//! an error.

use crate::Secret;

const REDACTED: &str = "[redacted]";

/// How much of an error's words is kept, in characters.
const MESSAGE_LENGTH_MAX: usize = 1_000;

/// How much of an unknown body is kept, in characters.
const EXCERPT_LENGTH_MAX: usize = 200;

/// A server's words, on one line, without the key and without the passwords of
/// URIs.
pub(super) fn text(text: &str, key: &Secret) -> String {
    one_line(text, key, MESSAGE_LENGTH_MAX)
}

/// The title of a page, or the beginning of what is none.
pub(super) fn excerpt(body: &str, key: &Secret) -> String {
    one_line(title(body).unwrap_or(body), key, EXCERPT_LENGTH_MAX)
}

/// What a JSON parser has against a body, without the body's values, which it
/// likes to repeat.
pub(super) fn decode_problem(error: &serde_json::Error, body_length: usize) -> String {
    let words = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let words = words.strip_suffix(&place).unwrap_or(&words);
    let names_a_field =
        words.starts_with("missing field ") || words.starts_with("duplicate field ");
    let words = match words.find(['"', '`', '\'']) {
        Some(quote) if !names_a_field => format!("{}{REDACTED}", &words[..quote]),
        _ => words.to_owned(),
    };
    format!("{words}{place} of {body_length} bytes")
}

fn title(body: &str) -> Option<&str> {
    let (_, rest) = body.split_once("<title>")?;
    let (title, _) = rest.split_once("</title>")?;
    Some(title)
}

fn one_line(text: &str, key: &Secret, length_max: usize) -> String {
    let text = without_uri_passwords(&text.replace(key.expose(), REDACTED));
    let mut words = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty());
    let mut line = words.next().unwrap_or_default().to_owned();
    for word in words {
        line.push(' ');
        line.push_str(word);
    }
    match line.char_indices().nth(length_max) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Replaces `user:password` in `scheme://user:password@host`.
fn without_uri_passwords(text: &str) -> String {
    let mut pieces = text.split("://");
    let mut clean = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        clean.push_str("://");
        let end = piece
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | '<' | '>'))
            .unwrap_or(piece.len());
        // The last @, as a password may hold one.
        match piece[..end].rfind('@') {
            Some(at) => {
                clean.push_str(REDACTED);
                clean.push_str(&piece[at..]);
            }
            None => clean.push_str(piece),
        }
    }
    clean
}
