use super::split;

#[test]
fn splits_at_semicolons_alone() {
    let cases: &[(&str, &[&str])] = &[
        ("", &[]),
        (" ;; ; \n", &[]),
        ("-- nothing;\n/* none; /* nested; */ still; */", &[]),
        ("SELECT 1", &["SELECT 1"]),
        ("SELECT 1;SELECT 2;", &["SELECT 1", "SELECT 2"]),
        ("SELECT 1 -- a; b\n;\nSELECT 2", &["SELECT 1", "SELECT 2"]),
        (
            "SELECT ';', 'it''s;' ; SELECT 2",
            &["SELECT ';', 'it''s;'", "SELECT 2"],
        ),
        // A backslash escapes in E'' alone.
        (r"SELECT '\'; SELECT 2", &[r"SELECT '\'", "SELECT 2"]),
        (r"SELECT E'\';'; SELECT 2", &[r"SELECT E'\';'", "SELECT 2"]),
        (
            r#"SELECT "a;""b;" ; SELECT 2"#,
            &[r#"SELECT "a;""b;""#, "SELECT 2"],
        ),
        (
            r#"SELECT U&"d\0061;t", U&'\0061;' ; X"#,
            &[r#"SELECT U&"d\0061;t", U&'\0061;'"#, "X"],
        ),
        (
            "SELECT $$a; $b$ ; $$; SELECT 2",
            &["SELECT $$a; $b$ ; $$", "SELECT 2"],
        ),
        (
            "SELECT $a$ $$;$$ $b$;$b$ $a$; S",
            &["SELECT $a$ $$;$$ $b$;$b$ $a$", "S"],
        ),
        // A dollar within a name opens no string, and $1 is a parameter.
        (
            "SELECT a$$b; SELECT $1; SELECT c$$d",
            &["SELECT a$$b", "SELECT $1", "SELECT c$$d"],
        ),
        (
            "SELECT 1 /* a; /* b; */ c; */ + 2; X",
            &["SELECT 1 /* a; /* b; */ c; */ + 2", "X"],
        ),
        ("SELECT '/*'; SELECT '*/'", &["SELECT '/*'", "SELECT '*/'"]),
        ("SELECT '--'; SELECT 2", &["SELECT '--'", "SELECT 2"]),
        ("SELECT 2 --1; \n; X", &["SELECT 2", "X"]),
        (
            "SELECT N'a;', B'1;', x'f;'; X",
            &["SELECT N'a;', B'1;', x'f;'", "X"],
        ),
        (
            "\u{feff}SELECT 'ü;'; SELECT 'ß'",
            &["SELECT 'ü;'", "SELECT 'ß'"],
        ),
        (
            "CREATE RULE r AS ON INSERT TO t DO ALSO (INSERT INTO a VALUES (1); DELETE FROM b); X",
            &[
                "CREATE RULE r AS ON INSERT TO t DO ALSO (INSERT INTO a VALUES (1); DELETE FROM b)",
                "X",
            ],
        ),
        // What is not finished is the last one.
        ("SELECT 1; SELECT 'a; b", &["SELECT 1", "SELECT 'a; b"]),
        ("SELECT 1; SELECT $$a; b", &["SELECT 1", "SELECT $$a; b"]),
        ("SELECT 1; SELECT /* a; b", &["SELECT 1", "SELECT"]),
        ("SELECT 1); SELECT 2", &["SELECT 1)", "SELECT 2"]),
    ];
    for (script, expected) in cases {
        let found: Vec<_> = split(script).iter().map(|one| one.sql).collect();
        assert_eq!(found, *expected, "{script}");
    }
}

#[test]
fn a_body_between_begin_atomic_and_end_is_one() {
    let bodies = [
        "BEGIN ATOMIC END",
        "begin /* ; */ atomic SELECT 1; SELECT 2; end",
        "BEGIN ATOMIC SELECT CASE WHEN a THEN 1 ELSE CASE b WHEN 1 THEN 2 END END; SELECT 3; END",
        "BEGIN ATOMIC SELECT (CASE WHEN a THEN 1 END); INSERT INTO t VALUES (1); END",
        "BEGIN ATOMIC SELECT r.end, r.\"end\", 1 AS end, 'end' FROM r; SELECT 1; END",
        "BEGIN ATOMIC SELECT $$end$$; -- end\n SELECT 1; END",
    ];
    for body in bodies {
        let create =
            format!("CREATE OR REPLACE FUNCTION f(a int) RETURNS int LANGUAGE sql\n{body}");
        let script = format!("SELECT 0;\n{create};\nSELECT CASE WHEN 1 = 1 THEN 2 END;\nX");
        let found: Vec<_> = split(&script).iter().map(|one| one.sql).collect();
        let expected = [
            "SELECT 0",
            &create,
            "SELECT CASE WHEN 1 = 1 THEN 2 END",
            "X",
        ];
        assert_eq!(found, expected);
    }
}

#[test]
fn begin_that_is_no_body_is_a_statement() {
    let found = split("BEGIN; CREATE TABLE atomic (\"begin\" int); END; BEGIN ATOMIC; X");
    let found: Vec<_> = found.iter().map(|one| one.sql).collect();
    let expected = [
        "BEGIN",
        "CREATE TABLE atomic (\"begin\" int)",
        "END",
        "BEGIN ATOMIC",
        "X",
    ];
    assert_eq!(found, expected);
}

#[test]
fn says_where_each_begins() {
    let script = "-- top\n\nSELECT 'a\nb'; /* x\ny */ SELECT\n 2;\r\n\r\n-- z\r\nSELECT 3";
    let found = split(script);
    let lines: Vec<_> = found.iter().map(|one| one.line).collect();
    assert_eq!(lines, [3, 5, 9]);
    for one in &found {
        assert!(script[one.start..].starts_with(one.sql));
    }
}

#[test]
fn comments_directly_before_it_are_its_own() {
    let cases: &[(&str, &[&str])] = &[
        ("-- a\nSELECT 1", &["-- a"]),
        (
            "-- a\n-- b\n/* c\n d */ SELECT 1",
            &["-- a", "-- b", "/* c\n d */"],
        ),
        ("-- a\n\n-- b\nSELECT 1", &["-- b"]),
        ("-- a\n\nSELECT 1", &[]),
        ("-- a\r\n\r\n-- b\r\nSELECT 1", &["-- b"]),
        // Behind the semicolon it belongs to what ended there.
        ("X; -- a\n-- b\nSELECT 1", &["-- b"]),
        ("X; /* a */ -- b\nSELECT 1", &[]),
        ("-- a\n; -- b\n-- c\nSELECT 1", &["-- c"]),
        ("X -- a\n;\n-- b\nSELECT 1 -- c\n, 2", &["-- b"]),
    ];
    for (script, expected) in cases {
        let found = split(script);
        let last = found.last().expect("a statement");
        assert_eq!(last.comments, *expected, "{script}");
    }
}
