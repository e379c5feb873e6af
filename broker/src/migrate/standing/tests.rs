use super::*;
use crate::migrate::folder::Checksum;
use crate::migrate::history::Record;
use crate::migrate::tests::{applied, migration};

fn standings(folder: &[Migration], history: &[Applied], last: Option<&str>) -> Vec<Standing> {
    rows(folder, history, last)
        .iter()
        .map(|row| row.standing)
        .collect()
}

#[test]
fn each_revision_stands_as_folder_and_branch_say() {
    let folder = ["1", "2", "3", "4"].map(migration);
    let history = [applied(&folder[0]), applied(&folder[2])];
    assert_eq!(
        standings(&folder, &history, None),
        [
            Standing::Applied,
            Standing::OutOfOrder,
            Standing::Applied,
            Standing::Pending
        ]
    );
    assert_eq!(
        standings(&folder, &history, Some("2")),
        [
            Standing::Applied,
            Standing::OutOfOrder,
            Standing::Ahead,
            Standing::Beyond
        ]
    );
    assert_eq!(standings(&folder, &[], None), [Standing::Pending; 4]);
}

#[test]
fn what_was_changed_or_is_gone_is_told() {
    let folder = ["1", "3"].map(migration);
    let mut changed = applied(&folder[0]);
    changed.record = Some(Record {
        name: "1_then".to_owned(),
        checksum: Checksum::recorded("0".repeat(64)),
    });
    let gone = applied(&migration("2"));
    let found = rows(&folder, &[changed, gone], None);
    let standing: Vec<_> = found
        .iter()
        .map(|row| (row.name.as_str(), row.standing))
        .collect();
    assert_eq!(
        standing,
        [
            ("1_m", Standing::Changed),
            ("2_m", Standing::Missing),
            ("3_m", Standing::Pending)
        ]
    );
}

#[test]
fn what_diesel_applied_is_adopted() {
    let folder = ["1"].map(migration);
    let mut by_diesel = applied(&folder[0]);
    by_diesel.record = None;
    let found = rows(&folder, &[by_diesel], None);
    assert_eq!(
        (found[0].standing, found[0].is_adopted),
        (Standing::Applied, true)
    );
    assert!(!rows(&folder, &[applied(&folder[0])], None)[0].is_adopted);
}
