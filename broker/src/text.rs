//! Errors as one line, for the places that show them to people.

use std::error::Error;

/// An error and its causes, outermost first, in one line: `open a: not found`.
/// A cause that its parent's text already ends with is not said twice.
pub fn one_line(error: &(dyn Error + '_)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        next = cause.source();
    }
    line.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}
