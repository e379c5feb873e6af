use std::collections::BTreeMap;

use super::*;

mod ours;
mod tables;

/// A branch with a large table, a small one and an empty one, and a version that uses
/// some of it.
fn findings(up: &str, change: impl FnOnce(&mut Subject<'_>)) -> Vec<Finding> {
    let size = |rows, bytes| Size { rows, bytes };
    let tables = BTreeMap::from([
        ("users".to_owned(), size(1_000_000, 76_546_048)),
        ("Odd Name".to_owned(), size(20_000, 2_000_000)),
        ("small".to_owned(), size(12, 16_384)),
        ("empty".to_owned(), size(0, 8192)),
    ]);
    let uses = |by: &str, table: &str, column: Option<&str>| Used {
        by: format!("services/users/versions/{by}"),
        table: table.to_owned(),
        column: column.map(str::to_owned),
    };
    let used = [
        uses("v1", "users", None),
        uses("v1", "users", Some("email")),
        uses("v2", "users", Some("email")),
        uses("v2", "active_users", None),
    ];
    let mut subject = Subject {
        up,
        down: Some("SELECT 1"),
        in_transaction: true,
        tables: &tables,
        used: &used,
        postgres: 17,
    };
    change(&mut subject);
    lint(&subject)
}

/// `error rule`, `warning rule`: of all that was found, in order.
fn short(findings: &[Finding]) -> Vec<String> {
    let level = |one: &Finding| match one.level {
        Level::Error => "error",
        Level::Warning => "warning",
    };
    let short = findings.iter();
    short
        .map(|one| format!("{} {}", level(one), one.rule))
        .collect()
}

fn found(up: &str) -> Vec<String> {
    short(&findings(up, |_| ()))
}

fn found_alone(up: &str) -> Vec<String> {
    short(&findings(up, |subject| subject.in_transaction = false))
}

const NONE: [&str; 0] = [];

#[test]
fn squawks_own_comments_are_heeded() {
    let ignored = "-- squawk-ignore ban-drop-table\nDROP TABLE small;";
    assert_eq!(found(ignored), NONE);
    let ignored = "SELECT 1;\n-- squawk-ignore-file ban-drop-table\nDROP TABLE small;";
    assert_eq!(found(ignored), NONE);
    let unknown = "-- squawk-ignore ban-drop-tabel\nDROP TABLE small;";
    assert_eq!(
        found(unknown),
        ["warning unknown-rule", "error ban-drop-table"]
    );
}

#[test]
fn a_name_that_no_rule_has_is_told() {
    let there = findings(
        "SELECT 1;\n-- broker: allow: ban-drop-tabel\nDROP TABLE small;",
        |_| (),
    );
    assert_eq!(
        short(&there),
        ["error ban-drop-table", "warning unknown-rule"]
    );
    assert_eq!(there[1].line, 3);
    assert!(there[1].message.starts_with("ban-drop-tabel is allowed"));
    assert_eq!(
        found("-- broker: allow: nonsense\n\nSELECT 1"),
        ["warning unknown-rule"]
    );
    // Off here, and squawk has it.
    assert_eq!(found("-- broker: allow: prefer-text-field\nSELECT 1"), NONE);
}

#[test]
fn there_is_a_way_back() {
    let down = |up, down| short(&findings(up, |subject| subject.down = down));
    assert_eq!(down("SELECT 1", None), ["warning missing-down"]);
    assert_eq!(down("SELECT 1", Some("-- none;\n")), ["warning blank-down"]);
    assert_eq!(
        down("-- broker: allow: missing-down\n\nSELECT 1", None),
        NONE
    );
    // A way back may drop what the way there has made.
    assert_eq!(
        down("SELECT 1", Some("DROP TABLE users; DROP INDEX i")),
        NONE
    );
    assert_eq!(found("-- nothing"), ["error blank-up"]);
}

#[test]
fn one_statement_that_is_not_understood_hides_no_other() {
    let script = "SELECT 1;\nFROBNICATE\n  TABLE 'ü;';\nDROP TABLE small;";
    let found = findings(script, |_| ());
    assert_eq!(
        short(&found),
        ["warning not-understood", "error ban-drop-table"]
    );
    assert_eq!((found[0].line, found[1].line), (2, 4));
    // What would break the engine is seen all the same.
    let found = self::found("SET role = 'other'");
    assert_eq!(found, ["error leaves-its-role", "warning not-understood"]);
}

#[test]
fn what_is_nested_too_deep_is_left_alone() {
    let deep = [
        format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000)),
        format!("SELECT {}1{}", "f(1, ".repeat(10_000), ")".repeat(10_000)),
        format!("SELECT {}true", "NOT ".repeat(10_000)),
        format!(
            "CREATE FUNCTION f() RETURNS bool LANGUAGE sql AS $a$ SELECT {}true $a$",
            "NOT ".repeat(10_000)
        ),
        format!(
            "CREATE FUNCTION f() RETURNS bool LANGUAGE sql AS 'SELECT {}true'",
            "NOT ".repeat(10_000)
        ),
        format!("SELECT 1{}", " + 1".repeat(10_000)),
        format!("SELECT 1, 2{}", " UNION SELECT 1, 2".repeat(10_000)),
    ];
    for sql in deep {
        assert_eq!(found(&sql), ["warning not-understood"]);
    }
    let wide = format!(
        "INSERT INTO users VALUES (1, 'a'){}",
        ", (f(1), 'a')".repeat(2_000)
    );
    assert_eq!(found(&wide), NONE);
}

#[test]
fn a_finding_says_where() {
    let script =
        "SELECT 'ü';\n\nALTER TABLE users\n  ADD COLUMN a int,\n  ADD COLUMN b int NOT NULL;";
    let found = findings(script, |_| ());
    assert_eq!(found, [Finding {
        rule: "adding-required-field".to_owned(),
        level: Level::Error,
        file: "up.sql",
        line: 5,
        statement: "ALTER TABLE users".to_owned(),
        message: "A NOT NULL column without a default fails upon a table that has rows, and live versions that do not know it can insert none. users has 1,000,000 rows (73 MB) on the branch.".to_owned(),
        help: Some("give it a DEFAULT, or add it nullable, fill it, and SET NOT NULL in a later revision".to_owned()),
        table: Some("users".to_owned()),
    }]);
}

#[test]
fn a_statement_is_shown_short_and_without_what_stands_in_quotes() {
    let found = findings("SET ROLE 'secret it''s'", |_| ());
    assert_eq!(found[0].statement, "SET ROLE '…''…'");
    let found = findings(&format!("DROP TABLE small, {}", "a".repeat(100)), |_| ());
    assert_eq!(found[0].statement.chars().count(), STATEMENT_CHARS_MAX + 1);
}

#[test]
fn rules_are_told_and_no_name_is_there_twice() {
    let rules = rules();
    assert!(rules.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert!(rules.iter().all(|(name, _)| is_known(name)));
}
