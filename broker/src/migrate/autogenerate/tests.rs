//! What is written, without a database.

use super::*;
use crate::migrate::catalog::{Column, Constraint, ConstraintKind, Noticed, Table, View};

fn column(name: &str, data_type: &str) -> Column {
    Column {
        name: name.to_owned(),
        data_type: data_type.to_owned(),
        collation: None,
        is_not_null: false,
        default: None,
        identity: None,
        generated: None,
    }
}

fn required(name: &str, data_type: &str) -> Column {
    Column {
        is_not_null: true,
        ..column(name, data_type)
    }
}

fn schema(tables: &[(&str, &[Column])]) -> Schema {
    let tables = tables.iter().map(|(name, columns)| {
        let table = Table {
            columns: columns.to_vec(),
            ..Table::default()
        };
        ((*name).to_owned(), table)
    });
    Schema {
        tables: tables.collect(),
        ..Schema::default()
    }
}

fn written(from: &Schema, to: &Schema) -> Written {
    write(from, to, &[]).unwrap()
}

#[test]
fn renames_are_read() {
    let rename: Rename = "users.name=full_name".parse().unwrap();
    assert_eq!(rename.table, "users");
    assert_eq!(rename.column.as_deref(), Some("name"));
    assert_eq!(rename.new, "full_name");
    let rename: Rename = "users=people".parse().unwrap();
    assert_eq!((rename.column, rename.new.as_str()), (None, "people"));
    let rename: Rename = "\"a.b\".\"c=\"\"d\"=e".parse().unwrap();
    assert_eq!(
        (rename.table.as_str(), rename.column.as_deref()),
        ("a.b", Some("c=\"d"))
    );
    assert_eq!(rename.to_string(), "\"a.b\".\"c=\"\"d\"=e");
}

#[test]
fn what_is_no_rename_is_refused() {
    let refused = |given: &str| given.parse::<Rename>().unwrap_err().to_string();
    assert_eq!(
        refused("users"),
        "read the rename \"users\": it has no =; write table=new or table.column=new"
    );
    assert!(refused("users=").contains("a name is empty"));
    assert!(refused(".a=b").contains("a name is empty"));
    assert!(refused("\"users=b").contains("a quote is not closed"));
    assert!(refused("users.a=people.b").contains("one name"));
    assert!(refused("users=users").contains("the same"));
}

#[test]
fn renames_have_to_fit() {
    let from = schema(&[("users", &[column("name", "text"), column("age", "integer")])]);
    let to = schema(&[(
        "people",
        &[column("full_name", "text"), column("age", "integer")],
    )]);
    let refused = |given: &[&str]| {
        let renames: Vec<_> = given.iter().map(|one| one.parse().unwrap()).collect();
        write(&from, &to, &renames).unwrap_err().to_string()
    };
    assert_eq!(
        refused(&["orders=people"]),
        "rename orders=people: there is no such table to be renamed"
    );
    assert_eq!(
        refused(&["users=persons"]),
        "rename users=persons: the new schema has no table of that name"
    );
    assert_eq!(
        refused(&["users=people", "users.nick=full_name"]),
        "rename users.nick=full_name: there is no such column to be renamed"
    );
    assert!(
        refused(&["users=people", "users.name=age"]).contains("has a column of that name already")
    );
    let refused_back = write(
        &to,
        &schema(&[(
            "people",
            &[
                column("age", "integer"),
                column("full_name", "text"),
                column("b", "integer"),
            ],
        )]),
        &["people.age=b".parse().unwrap()],
    );
    assert!(
        refused_back
            .unwrap_err()
            .to_string()
            .contains("of the old name too")
    );
    assert!(refused(&["users=people", "users=people"]).contains("another rename"));
}

#[test]
fn a_rename_leads_there_and_back() {
    let from = schema(&[("users", &[column("name", "text")])]);
    let to = schema(&[("people", &[column("full_name", "text")])]);
    let renames = ["users=people", "users.name=full_name"].map(|one| one.parse().unwrap());
    let written = write(&from, &to, &renames).unwrap();
    assert_eq!(
        written.up,
        "ALTER TABLE users RENAME TO people;\n\
         ALTER TABLE people RENAME COLUMN name TO full_name;\n"
    );
    assert_eq!(
        written.down,
        "ALTER TABLE people RENAME TO users;\n\
         ALTER TABLE users RENAME COLUMN full_name TO name;\n"
    );
}

#[test]
fn nothing_is_written_where_nothing_differs() {
    let from = schema(&[("users", &[column("a", "text"), column("b", "text")])]);
    let to = schema(&[("users", &[column("b", "text"), column("a", "text")])]);
    assert_eq!(written(&from, &to), Written::default());
    assert_eq!(Schema::difference(&from, &to), "");
    assert_eq!(from, to);
}

#[test]
fn a_new_table_reads_as_a_person_wrote_it() {
    let mut to = schema(&[("order", &[required("id", "bigint"), column("note", "text")])]);
    let key = Constraint {
        kind: ConstraintKind::PrimaryKey,
        definition: "PRIMARY KEY (id)".to_owned(),
        is_validated: true,
        columns: vec!["id".to_owned()],
        references: None,
    };
    let table = to.tables.get_mut("order").unwrap();
    table.constraints.insert("order_pkey".to_owned(), key);
    let written = written(&Schema::default(), &to);
    assert_eq!(
        written.up,
        "CREATE TABLE \"order\" (\n    id bigint NOT NULL,\n    note text,\n    \
         CONSTRAINT order_pkey PRIMARY KEY (id)\n);\n"
    );
    assert_eq!(written.down, "DROP TABLE \"order\";\n");
}

#[test]
fn what_loses_data_stops_and_what_takes_back_does_not() {
    let from = schema(&[
        ("logs", &[column("line", "text")]),
        ("users", &[column("id", "bigint"), required("name", "text")]),
    ]);
    let to = schema(&[(
        "users",
        &[column("id", "integer"), required("nick", "text")],
    )]);
    let written = written(&from, &to);
    assert_eq!(
        written.up,
        "-- broker: stop: drops the table logs with its rows; remove this line when that is \
         meant\n\
         DROP TABLE logs;\n\
         -- broker: stop: drops users.name with its values; remove this line when that is meant\n\
         ALTER TABLE users DROP COLUMN name;\n\
         -- broker: stop: changes the type of users.id from bigint to integer, which may fail \
         or lose data; remove this line when that is meant\n\
         ALTER TABLE users ALTER COLUMN id TYPE integer;\n\
         -- broker: stop: users.nick is not null and has no default, which fails where there \
         are rows; remove this line when that is meant\n\
         ALTER TABLE users ADD COLUMN nick text NOT NULL;\n"
    );
    assert_eq!(
        written.down,
        "ALTER TABLE users DROP COLUMN nick;\n\
         ALTER TABLE users ALTER COLUMN id TYPE bigint;\n\
         \n\
         -- broker: stop: makes logs again, without its rows; remove this line when that is \
         meant\n\
         CREATE TABLE logs (\n    line text\n);\n\
         \n\
         -- broker: stop: adds users.name again, without its values, which fails where there \
         are rows, as it is not null; remove this line when that is meant\n\
         ALTER TABLE users ADD COLUMN name text NOT NULL;\n"
    );
}

#[test]
fn what_is_not_written_is_told() {
    let mut to = Schema::default();
    let key = ("function".to_owned(), "now_or\nnever()".to_owned());
    let noticed = Noticed {
        definition: "CREATE FUNCTION f()\n AS $$\n$$\n".to_owned(),
        on: None,
    };
    to.noticed.insert(key, noticed);
    let written = written(&Schema::default(), &to);
    assert_eq!(
        written.up,
        "-- broker: stop: the function now_or never() is new; write it here, then remove this \
         line\n--   CREATE FUNCTION f()\n--    AS $$\n--   $$\n"
    );
    assert_eq!(
        written.down,
        "-- broker: stop: the function now_or never() is gone; write it here, then remove this \
         line\n"
    );
}

#[test]
fn values_are_added_to_an_enum_where_they_belong() {
    let with = |labels: &[&str]| {
        let labels = labels.iter().map(|label| (*label).to_owned());
        let mut schema = Schema::default();
        schema.enums.insert("mood".to_owned(), labels.collect());
        schema
    };
    let written = written(&with(&["b", "d"]), &with(&["a", "b", "c", "d", "e"]));
    assert_eq!(
        written.up,
        "ALTER TYPE mood ADD VALUE 'a' BEFORE 'b';\n\
         ALTER TYPE mood ADD VALUE 'c' AFTER 'b';\n\
         ALTER TYPE mood ADD VALUE 'e';\n"
    );
    assert_eq!(
        written.down,
        "ALTER TYPE mood RENAME TO mood_old;\n\
         CREATE TYPE mood AS ENUM ('b', 'd');\n\
         DROP TYPE mood_old;\n"
    );
}

#[test]
fn views_are_replaced_where_columns_are_only_added() {
    let with = |columns: &[&str]| {
        let view = View {
            is_materialized: false,
            definition: format!("SELECT {}", columns.join(", ")),
            options: Vec::new(),
            columns: columns
                .iter()
                .map(|one| ((*one).to_owned(), "text".to_owned()))
                .collect(),
            uses: Vec::new(),
        };
        let mut schema = Schema::default();
        schema.views.insert("names".to_owned(), view);
        schema
    };
    let written = written(&with(&["a"]), &with(&["a", "b"]));
    assert_eq!(
        written.up,
        "CREATE OR REPLACE VIEW names AS\nSELECT a, b;\n"
    );
    assert_eq!(
        written.down,
        "DROP VIEW names;\n\nCREATE VIEW names AS\nSELECT a;\n"
    );
}

#[test]
fn types_that_keep_everything_are_known() {
    for (before, after) in [
        ("integer", "bigint"),
        ("integer", "numeric"),
        ("character varying(20)", "character varying(40)"),
        ("character varying(20)", "text"),
        ("numeric(10,2)", "numeric(12,2)"),
        ("uuid", "text"),
        ("integer[]", "bigint[]"),
        ("integer[]", "text"),
        ("date", "timestamp without time zone"),
    ] {
        assert!(types::is_lossless(before, after), "{before} to {after}");
    }
    for (before, after) in [
        ("bigint", "integer"),
        ("bigint", "double precision"),
        ("integer", "numeric(4,2)"),
        ("text", "character varying(20)"),
        ("character varying", "character varying(20)"),
        ("numeric(10,2)", "numeric(10,4)"),
        ("numeric", "numeric(10,4)"),
        ("character(4)", "text"),
        ("text", "text[]"),
        ("timestamp with time zone", "date"),
        ("mood", "temper"),
    ] {
        assert!(!types::is_lossless(before, after), "{before} to {after}");
    }
}
