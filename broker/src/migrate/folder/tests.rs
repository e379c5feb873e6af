#![allow(clippy::unwrap_used)]

use diesel::migration::{Migration as _, MigrationSource as _};
use diesel::pg::Pg;
use diesel_migrations::FileBasedMigrations;

use super::*;

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn refusal(files: &[(&str, &str)]) -> String {
    read(folder(files).path()).unwrap_err().to_string()
}

#[test]
fn revisions_come_oldest_first_with_what_they_do() {
    let folder = folder(&[
        (
            "2026-02-01-000000_b/up.sql",
            "CREATE INDEX CONCURRENTLY ON t (a);",
        ),
        (
            "2026-02-01-000000_b/metadata.toml",
            "run_in_transaction = false",
        ),
        ("2026-01-01-000000_z/up.sql", "CREATE TABLE t (a int);"),
        ("2026-01-01-000000_z/down.sql", "DROP TABLE t;"),
        ("README.md", "passed over"),
        (".hidden/up.sql", "passed over"),
    ]);
    let found = read(folder.path()).unwrap();
    let names: Vec<&str> = found.iter().map(|one| one.revision.name.as_str()).collect();
    assert_eq!(names, ["2026-01-01-000000_z", "2026-02-01-000000_b"]);
    assert_eq!(found[0].revision.version, "20260101000000");
    assert_eq!(found[0].down.as_ref().unwrap().sql, "DROP TABLE t;");
    assert_eq!(
        (found[0].in_transaction, found[1].in_transaction),
        (true, false)
    );
    assert_eq!(found[1].down, None);
}

#[test]
fn diesel_finds_the_same() {
    let folder = folder(&[
        ("2026-02-01-000000_b/up.sql", "SELECT 1;"),
        (
            "2026-02-01-000000_b/metadata.toml",
            "run_in_transaction = false",
        ),
        ("20260101_c/up.sql", "SELECT 1;"),
        ("00000000000000_diesel_initial_setup/up.sql", "SELECT 1;"),
        (".git/up.sql", "SELECT 1;"),
    ]);
    let ours = read(folder.path()).unwrap();
    let ours: Vec<_> = ours
        .iter()
        .map(|one| (one.revision.version.clone(), one.in_transaction))
        .collect();
    let source = FileBasedMigrations::from_path(folder.path()).unwrap();
    let theirs: Vec<Box<dyn diesel::migration::Migration<Pg>>> = source.migrations().unwrap();
    let mut theirs: Vec<_> = theirs
        .iter()
        .map(|one| {
            let in_transaction = one.metadata().run_in_transaction();
            (one.name().version().to_string(), in_transaction)
        })
        .collect();
    theirs.sort();
    assert_eq!(ours, theirs);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let two = refusal(&[
        ("2026-01-01-000000_a/up.sql", "SELECT 1;"),
        ("20260101000000_b/up.sql", "SELECT 1;"),
    ]);
    assert!(
        two.contains("2026-01-01-000000_a and 20260101000000_b"),
        "{two}"
    );
    assert!(two.contains("same version"), "{two}");
    let none = refusal(&[("2026-01-01-000000_a/down.sql", "SELECT 1;")]);
    assert!(
        none.contains("2026-01-01-000000_a: it has no up.sql"),
        "{none}"
    );
    for metadata in ["run_in_transaction = 3", "# nothing", "= ="] {
        let bad = refusal(&[
            ("2026-01-01-000000_a/up.sql", "SELECT 1;"),
            ("2026-01-01-000000_a/metadata.toml", metadata),
        ]);
        assert!(bad.contains("metadata.toml"), "{metadata}: {bad}");
    }
    let unnamed = refusal(&[("_a/up.sql", "SELECT 1;")]);
    assert!(unnamed.contains("no name of a revision"), "{unnamed}");
    let nowhere = read(Path::new("/no/such/folder")).unwrap_err().to_string();
    assert!(nowhere.contains("/no/such/folder"), "{nowhere}");
}

#[test]
fn a_checksum_is_of_all_that_a_revision_does() {
    let script = |sql: &str| Script {
        path: PathBuf::new(),
        sql: sql.to_owned(),
    };
    let one = Migration {
        revision: Revision {
            version: "1".to_owned(),
            name: "1_a".to_owned(),
        },
        up: script("up"),
        down: Some(script("down")),
        in_transaction: true,
    };
    let others = [
        Migration {
            up: script("UP"),
            ..one.clone()
        },
        Migration {
            down: Some(script("DOWN")),
            ..one.clone()
        },
        Migration {
            up: script("upd"),
            down: Some(script("own")),
            ..one.clone()
        },
        Migration {
            down: Some(script("")),
            ..one.clone()
        },
        Migration {
            down: None,
            ..one.clone()
        },
        Migration {
            in_transaction: false,
            ..one.clone()
        },
    ];
    let mut all: Vec<String> = others
        .iter()
        .map(|other| other.checksum().to_string())
        .collect();
    all.push(one.checksum().to_string());
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 7);
    assert!(all.iter().all(|one| one.len() == 64), "{all:?}");
    // Where it lies, and what it is called, is not what it does.
    let renamed = Migration {
        revision: Revision {
            name: "1_b".to_owned(),
            ..one.revision.clone()
        },
        ..one.clone()
    };
    assert_eq!(renamed.checksum(), one.checksum());
}
