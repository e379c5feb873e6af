//! Schemas compared, without what differs each time.

use similar::TextDiff;

use crate::roles::{LOGIN_PREFIX, MIGRATION_SUFFIX};

/// Unchanged lines around a change.
const CONTEXT_LINES: usize = 3;

/// What leads from one dump to the other, as a unified diff; empty when they say
/// the same.
pub(super) fn unified(from: &str, to: &str, database: &str) -> String {
    let with_owners = !is_the_brokers(from) && !is_the_brokers(to);
    let (from, to) = (normal(from, with_owners), normal(to, with_owners));
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

/// A service's migration role owns everything of it where the broker was at work, and what
/// is made as a lease's role that is handed over later. Who owns what is then no difference
/// that anybody made.
fn is_the_brokers(dump: &str) -> bool {
    dump.lines().filter_map(owner).any(|owner| {
        let owner = owner.trim_end_matches([';', '"']);
        owner.starts_with(LOGIN_PREFIX) || owner.ends_with(MIGRATION_SUFFIX)
    })
}

/// Who owns something from this line on.
fn owner(line: &str) -> Option<&str> {
    let (_, owner) = line.strip_prefix("ALTER ")?.split_once(" OWNER TO ")?;
    Some(owner.trim_start_matches('"'))
}

/// Whether the line says what others may do with what a lease role makes later.
fn is_for_lease(line: &str) -> bool {
    let role = line.strip_prefix("ALTER DEFAULT PRIVILEGES FOR ROLE ");
    role.is_some_and(|role| role.trim_start_matches('"').starts_with(LOGIN_PREFIX))
}

/// Without pg_dump's comments, which name versions, psql's \restrict, which has a
/// random key, what is about lease roles, spaces at the end of a line, and more than one
/// empty line in a row.
fn normal(dump: &str, with_owners: bool) -> String {
    let mut text = String::with_capacity(dump.len());
    let mut after_empty = true;
    for line in dump.lines() {
        let line = line.trim_end();
        let is_noise = line == "--"
            || OWN_COMMENTS.iter().any(|own| line.starts_with(own))
            || is_for_lease(line)
            || (!with_owners && owner(line).is_some());
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
    fn that_the_broker_has_said_who_owns_what_is_no_difference() {
        let of = |role: &str, more: &str| {
            format!(
                "CREATE TABLE a (\n    id int\n{more});\n\nALTER TABLE a OWNER TO {role};\n\n\
                 ALTER DEFAULT PRIVILEGES FOR ROLE {role} GRANT SELECT ON TABLES  TO users_ro;\n"
            )
        };
        let base = "CREATE TABLE a (\n    id int\n);\n\nALTER TABLE a OWNER TO neondb_owner;\n";
        for role in ["lease_users_ddl_5d41402a_7", "\"lease_a-b_ddl_5d41402a_7\""] {
            assert_eq!(unified(base, &of(role, ""), "neondb"), "");
            let diff = unified(base, &of(role, "    , age int\n"), "neondb");
            assert!(diff.contains("\n+    , age int\n"), "{diff}");
            assert!(!diff.contains("lease_"), "{diff}");
        }
        for role in ["users_ddl", "\"a-b_ddl\""] {
            let handed_over = base.replace("neondb_owner", role);
            assert_eq!(unified(base, &handed_over, "neondb"), "");
        }
        let other = base.replace("neondb_owner", "somebody");
        let diff = unified(base, &other, "neondb");
        assert!(diff.contains("+ALTER TABLE a OWNER TO somebody;"), "{diff}");
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
