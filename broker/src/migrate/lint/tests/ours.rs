//! Rules that squawk does not have.

use super::*;

#[test]
fn what_would_break_the_engine_is_an_error() {
    let rules: &[(&str, &[&str])] = &[
        (
            "ends-transaction",
            &[
                "BEGIN",
                "begin work",
                "START TRANSACTION READ ONLY",
                "COMMIT",
                "END",
                "ROLLBACK",
                "abort",
                "COMMIT AND CHAIN",
            ],
        ),
        (
            "needs-no-transaction",
            &[
                "CREATE INDEX CONCURRENTLY i ON users (a)",
                "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON users (a)",
                "DROP INDEX CONCURRENTLY i",
                "REINDEX (VERBOSE) TABLE CONCURRENTLY users",
                "VACUUM users",
                "ALTER SYSTEM SET work_mem = '1MB'",
                "ALTER TABLE users DETACH PARTITION p CONCURRENTLY",
                "CREATE DATABASE d",
            ],
        ),
        (
            "leaves-its-role",
            &[
                "SET ROLE other",
                "set /* ; */ local\n role other",
                "RESET ROLE",
                "SET SESSION AUTHORIZATION other",
                "RESET SESSION AUTHORIZATION",
                "SELECT set_config('role', 'other', false)",
                "DO $a$ BEGIN SET ROLE other; END $a$",
            ],
        ),
        (
            "drops-the-lock",
            &[
                "SELECT pg_advisory_unlock_all()",
                "SELECT pg_catalog.PG_ADVISORY_UNLOCK_ALL ()",
                "DO $$ BEGIN PERFORM pg_advisory_unlock_all(); END $$",
                "DISCARD ALL",
            ],
        ),
    ];
    for (rule, scripts) in rules {
        for sql in *scripts {
            assert_eq!(found(sql), [format!("error {rule}")], "{sql}");
            assert_eq!(
                found(&format!("-- broker: allow: {rule}\n{sql}")),
                NONE,
                "{sql}"
            );
            // Asked of the way back as well.
            let down = findings("SELECT 1", |subject| subject.down = Some(sql));
            assert_eq!(short(&down), [format!("error {rule}")], "{sql}");
            assert_eq!(down[0].file, "down.sql");
        }
    }
}

#[test]
fn without_a_transaction_there_is_one_statement() {
    let script = "DROP INDEX CONCURRENTLY a;\n-- b\nDROP INDEX CONCURRENTLY b;\nSELECT 1;";
    let found = findings(script, |subject| subject.in_transaction = false);
    assert_eq!(short(&found), ["error several-statements"]);
    assert_eq!(
        (found[0].line, found[0].statement.as_str()),
        (3, "DROP INDEX CONCURRENTLY b")
    );
    assert_eq!(found_alone("BEGIN"), ["warning ends-transaction"]);
}

#[test]
fn changes_of_every_row_come_in_batches() {
    let expected = ["error unbatched-change"];
    assert_eq!(found("UPDATE users SET a = 1"), expected);
    assert_eq!(found("UPDATE users u SET a = s.a FROM small s"), expected);
    assert_eq!(found("UPDATE users SET a = 1 WHERE (1 = 1)"), expected);
    assert_eq!(
        found("WITH a AS (UPDATE users SET a = 1 RETURNING *) SELECT * FROM a"),
        expected
    );
    assert_eq!(
        found_alone("-- batch: 10000 by id\nUPDATE users SET a = 1"),
        NONE
    );
    assert_eq!(
        found("DELETE FROM users"),
        ["error loses-rows", "error unbatched-change"]
    );
    assert_eq!(
        found_alone("-- batch: 10000 by id\nDELETE FROM users"),
        ["error loses-rows"]
    );
    assert_eq!(found("DELETE FROM small"), ["error loses-rows"]);
    assert_eq!(found("UPDATE absent SET a = 1"), NONE);
    let within = "-- batch: 10000 by id\nUPDATE users SET a = 1";
    assert_eq!(found(within), ["error batch-in-transaction"]);
}

#[test]
fn what_a_live_version_uses_stays() {
    let cases: &[(&str, &str, &str)] = &[
        (
            "DROP TABLE IF EXISTS users",
            "drops-used",
            "users is dropped, and services/users/versions/v1, services/users/versions/v2 still use it",
        ),
        (
            "ALTER TABLE users DROP COLUMN IF EXISTS Email",
            "drops-used",
            "users.email is dropped",
        ),
        (
            "DROP VIEW other, active_users",
            "drops-used",
            "active_users is dropped, and services/users/versions/v2 still uses it",
        ),
        (
            "ALTER TABLE users RENAME TO people",
            "renames-used",
            "users is renamed",
        ),
        (
            "ALTER TABLE users RENAME email TO mail",
            "renames-used",
            "users.email is renamed",
        ),
        (
            "ALTER TABLE users SET SCHEMA other",
            "renames-used",
            "users is renamed",
        ),
        (
            "ALTER VIEW active_users RENAME TO people",
            "renames-used",
            "active_users is renamed",
        ),
    ];
    for (sql, rule, message) in cases {
        let found = findings(sql, |_| ());
        let found = found.iter().find(|one| one.rule == *rule).expect(sql);
        assert_eq!(found.level, Level::Error);
        assert!(found.message.starts_with(message), "{}", found.message);
    }
    assert_eq!(
        found("ALTER TABLE users RENAME TO people; CREATE VIEW users AS SELECT * FROM people"),
        ["warning renames-used"]
    );
}
