//! What is upon a table: squawk's rules, and those of ours that weigh by size.

use super::*;

/// What changes a table, as `{}`, and which rule says so.
const UPON_TABLES: &[(&str, &str)] = &[
    (
        "CREATE INDEX ON {} (email)",
        "require-concurrent-index-creation",
    ),
    (
        "CREATE UNIQUE INDEX i ON {} (email)",
        "require-concurrent-index-creation",
    ),
    ("REINDEX TABLE {}", "require-concurrent-reindex"),
    (
        "ALTER TABLE {} ADD CONSTRAINT c CHECK (age > 0)",
        "constraint-missing-not-valid",
    ),
    (
        "ALTER TABLE {} ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES small (id)",
        "adding-foreign-key-constraint",
    ),
    (
        "ALTER TABLE {} ADD CONSTRAINT c UNIQUE (email)",
        "disallowed-unique-constraint",
    ),
    (
        "ALTER TABLE {} ADD CONSTRAINT c PRIMARY KEY (id)",
        "adding-serial-primary-key-field",
    ),
    (
        "ALTER TABLE {} ADD COLUMN id uuid DEFAULT gen_random_uuid()",
        "adding-field-with-default",
    ),
    (
        "ALTER TABLE {} ADD COLUMN at timestamptz DEFAULT clock_timestamp()",
        "adding-field-with-default",
    ),
    (
        "ALTER TABLE {} ADD COLUMN twice int GENERATED ALWAYS AS (age * 2) STORED",
        "adding-field-with-default",
    ),
    (
        "ALTER TABLE {} ALTER COLUMN age TYPE bigint",
        "changing-column-type",
    ),
    (
        "ALTER TABLE {} ALTER COLUMN age SET NOT NULL",
        "adding-not-nullable-field",
    ),
    (
        "ALTER TABLE {} ADD COLUMN age int NOT NULL",
        "adding-required-field",
    ),
    ("ALTER TABLE {} DROP COLUMN age", "ban-drop-column"),
    ("DROP TABLE {}", "ban-drop-table"),
    ("TRUNCATE {}", "loses-rows"),
    ("ALTER TABLE {} ADD COLUMN n bigserial", "rewrites-table"),
    (
        "ALTER TABLE {} ADD COLUMN n int GENERATED ALWAYS AS IDENTITY",
        "adding-field-with-default",
    ),
    ("CLUSTER {} USING i", "rewrites-table"),
    ("ALTER TABLE {} SET UNLOGGED", "rewrites-table"),
    (
        "ALTER TABLE {} DETACH PARTITION p",
        "require-concurrent-partition-detach",
    ),
];

/// Those of them that weigh as soon as there is a row.
const AT_ONCE: [&str; 4] = [
    "adding-required-field",
    "ban-drop-column",
    "ban-drop-table",
    "loses-rows",
];

fn upon(table: &str) -> impl Iterator<Item = (String, &'static str)> {
    UPON_TABLES
        .iter()
        .map(move |(sql, rule)| (sql.replace("{}", table), *rule))
}

#[test]
fn what_locks_or_loses_a_large_table_is_an_error() {
    for (sql, rule) in upon("public.\"Odd Name\"") {
        let found = findings(&sql, |_| ());
        assert_eq!(short(&found), [format!("error {rule}")], "{sql}");
        let end = " Odd Name has 20,000 rows (1953 kB) on the branch.";
        assert!(found[0].message.ends_with(end), "{}", found[0].message);
        assert_eq!(found[0].table.as_deref(), Some("Odd Name"));
    }
}

#[test]
fn what_locks_a_small_table_is_a_warning() {
    for (sql, rule) in upon("small") {
        let level = if AT_ONCE.contains(&rule) {
            "error"
        } else {
            "warning"
        };
        assert_eq!(found(&sql), [format!("{level} {rule}")], "{sql}");
    }
}

#[test]
fn upon_a_table_that_is_empty_or_not_there_it_is_a_warning() {
    for table in ["empty", "absent"] {
        for (sql, rule) in upon(table) {
            assert_eq!(found(&sql), [format!("warning {rule}")], "{sql}");
        }
    }
}

#[test]
fn upon_a_table_of_the_same_script_it_is_nothing() {
    let made = [
        "CREATE TABLE fresh (id int)",
        "CREATE TABLE IF NOT EXISTS fresh (id int)",
        "CREATE TABLE fresh AS SELECT 1",
        "SELECT 1 AS id INTO fresh",
        "CREATE TABLE old (id int); ALTER TABLE old RENAME TO fresh",
    ];
    for make in made {
        for (sql, _) in upon("fresh") {
            let script = format!("{make};\n{sql};");
            assert_eq!(found(&script), NONE, "{script}");
        }
    }
}

#[test]
fn what_is_there_is_not_made_again() {
    let script = "CREATE TABLE IF NOT EXISTS users (id int); CREATE INDEX ON users (id);";
    assert_eq!(found(script), ["error require-concurrent-index-creation"]);
    let script =
        "CREATE INDEX ON users (id); DROP TABLE \"Odd Name\"; CREATE TABLE users (id int);";
    let expected = [
        "error ban-drop-table",
        "error require-concurrent-index-creation",
    ];
    assert_eq!(found(script), expected);
}

#[test]
fn every_rule_is_silenced_by_its_name() {
    for (sql, rule) in upon("users") {
        let rules = format!("-- broker: allow: {rule}, drops-used\n");
        assert_eq!(found(&format!("{rules}{sql};")), NONE, "{sql}");
        assert_eq!(
            found(&format!("{rules}\n\nSELECT 1;\n\n{sql};")),
            NONE,
            "{sql}"
        );
        // Not for the one after, and not across an empty line further down.
        let after = format!("-- x\n{rules}SELECT 1;\n{sql};\n");
        assert!(
            found(&after).iter().any(|one| one.ends_with(rule)),
            "{after}"
        );
        let apart = format!("SELECT 1;\n{rules}\n{sql};\n");
        assert!(
            found(&apart).iter().any(|one| one.ends_with(rule)),
            "{apart}"
        );
    }
}

#[test]
fn harmless_changes_are_none() {
    let harmless = [
        "CREATE TABLE a (id serial PRIMARY KEY, name varchar(10), at timestamp)",
        "ALTER TABLE users ADD COLUMN a int",
        "ALTER TABLE users ADD COLUMN a int NOT NULL DEFAULT 0",
        "ALTER TABLE users ADD COLUMN a int NOT NULL DEFAULT -1",
        "ALTER TABLE users ADD COLUMN a date DEFAULT current_date",
        "ALTER TABLE users ADD COLUMN a timestamptz DEFAULT now()",
        "ALTER TABLE users ADD COLUMN a int GENERATED ALWAYS AS (age * 2) VIRTUAL",
        "ALTER TABLE users ADD COLUMN a jsonb DEFAULT '{}'::jsonb",
        "ALTER TABLE users ADD CONSTRAINT c CHECK (age > 0) NOT VALID",
        "ALTER TABLE users ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES small (id) NOT VALID",
        "ALTER TABLE users VALIDATE CONSTRAINT c",
        "ALTER TABLE users ADD CONSTRAINT c UNIQUE USING INDEX i",
        "ALTER TABLE users RENAME COLUMN phone TO telephone",
        "ALTER TABLE users ALTER COLUMN a DROP NOT NULL",
        "UPDATE users SET a = 1 WHERE a IS NULL",
        "DELETE FROM users WHERE a = 1",
        "UPDATE small SET a = 1",
        "CREATE FUNCTION f() RETURNS void LANGUAGE sql BEGIN ATOMIC DELETE FROM users; SELECT pg_advisory_unlock_all(); END",
        "CREATE FUNCTION f() RETURNS void LANGUAGE sql SET role = x AS $$ SET ROLE x; DROP TABLE users $$",
        "COMMENT ON TABLE users IS 'SET ROLE; pg_advisory_unlock_all()'",
        "SAVEPOINT a; ROLLBACK TO a; RELEASE a",
        "SET LOCAL statement_timeout = 0; SET search_path = public; RESET ALL",
        "DO $$ BEGIN RAISE NOTICE 'hello'; END $$",
        "DROP VIEW nobody_uses",
        "DROP TYPE a; DROP EXTENSION b RESTRICT",
    ];
    for sql in harmless {
        assert_eq!(found(sql), NONE, "{sql}");
    }
    for sql in [
        "CREATE INDEX CONCURRENTLY i ON users (a)",
        "DROP INDEX CONCURRENTLY i",
        "VACUUM users",
    ] {
        assert_eq!(found_alone(sql), NONE, "{sql}");
    }
}

#[test]
fn what_is_of_no_table_is_found() {
    let cases: &[(&str, &str)] = &[
        ("DROP INDEX i", "warning require-concurrent-index-deletion"),
        ("DROP SCHEMA a", "error ban-drop-schema"),
        ("DROP TYPE a CASCADE", "error drops-dependents"),
        ("DROP EXTENSION a CASCADE", "error drops-dependents"),
        ("DROP OWNED BY a", "error drops-dependents"),
        ("DROP SEQUENCE a", "warning ban-drop-sequence"),
        (
            "ALTER DOMAIN d ADD CHECK (value > 0)",
            "warning ban-alter-domain-with-add-constraint",
        ),
        (
            "ALTER TABLE users ADD COLUMN a int REFERENCES small (id)",
            "warning adding-foreign-key-constraint",
        ),
        (
            "ALTER TABLE users ADD COLUMN a int DEFAULT 1 REFERENCES small (id)",
            "error adding-foreign-key-constraint",
        ),
        (
            "SELECT 1 AS a123456789_123456789_123456789_123456789_123456789_123456789_1234",
            "warning identifier-too-long",
        ),
    ];
    for (sql, expected) in cases {
        assert_eq!(found(sql), [*expected], "{sql}");
    }
    let both = found("TRUNCATE small CASCADE");
    assert_eq!(both, ["error ban-truncate-cascade", "error loses-rows"]);
    let validated = "ALTER TABLE users ADD CONSTRAINT c CHECK (a > 0) NOT VALID;
        ALTER TABLE users VALIDATE CONSTRAINT c;";
    assert_eq!(found(validated), ["error constraint-missing-not-valid"]);
}
