//! Schemas compared, without what differs each time.

use similar::TextDiff;

/// Unchanged lines around a change.
const CONTEXT_LINES: usize = 3;

/// What leads from one dump to the other, as a unified diff; empty when they say
/// the same.
pub(super) fn unified(from: &str, to: &str, database: &str) -> String {
    let (from, to) = (normal(from), normal(to));
    TextDiff::from_lines(&from, &to)
        .unified_diff()
        .context_radius(CONTEXT_LINES)
        .header(&format!("a/{database}"), &format!("b/{database}"))
        .to_string()
}

/// What pg_dump begins its own comments with.
const OWN_COMMENTS: [&str; 5] = [
    "-- Name: ",
    "-- Dumped ",
    "-- PostgreSQL database ",
    "\\restrict ",
    "\\unrestrict ",
];

/// Without pg_dump's comments, which name versions, psql's \restrict, which has a
/// random key, spaces at the end of a line, and more than one empty line in a row.
fn normal(dump: &str) -> String {
    let mut text = String::with_capacity(dump.len());
    let mut after_empty = true;
    for line in dump.lines() {
        let line = line.trim_end();
        let is_noise = line == "--" || OWN_COMMENTS.iter().any(|own| line.starts_with(own));
        if is_noise || (line.is_empty() && after_empty) {
            continue;
        }
        after_empty = line.is_empty();
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pg_dump_says_of_itself_is_no_difference() {
        let one = "--\n-- Dumped by pg_dump version 15.1\n\\restrict abc\n\n\nCREATE TABLE a (\n    id int\n);  \n";
        let other =
            "-- Dumped by pg_dump version 17.0\n\\restrict xyz\nCREATE TABLE a (\n    id int\n);\n";
        assert_eq!(unified(one, other, "neondb"), "");
    }

    #[test]
    fn a_column_more_is_shown_with_what_is_around_it() {
        let diff = unified(
            "CREATE TABLE a (\n    id int\n);\n",
            "CREATE TABLE a (\n    id int,\n    age int\n);\n",
            "neondb",
        );
        assert!(diff.starts_with("--- a/neondb\n+++ b/neondb\n@@"), "{diff}");
        assert!(diff.contains("\n+    age int\n"), "{diff}");
    }
}
