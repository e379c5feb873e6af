#![allow(clippy::unwrap_used)]

use super::*;
use crate::migrate::history::Applied;
use crate::migrate::standing::rows;
use crate::migrate::tests::{applied, migration};

/// What is done, as `+2` and `-1`, `=3` for what is only written down, and `!4` for what
/// is forgotten.
fn done(folder: &[Migration], history: &[Applied], last: Option<&str>, wish: &Wish) -> String {
    let rows = rows(folder, history, last);
    match moves(folder, &rows, last, wish) {
        Err(error) => error.to_string(),
        Ok(found) => {
            let moves = found.moves.iter().map(|one| match one {
                Move::Run(one) => format!("+{}", one.revision.version),
                Move::Revert(one) => format!("-{}", one.revision.version),
                Move::Record(one) => format!("={}", one.revision.version),
            });
            let forgotten = found.forgotten.iter().map(|version| format!("!{version}"));
            moves.chain(forgotten).collect::<Vec<_>>().join(" ")
        }
    }
}

fn to(point: &str) -> Wish {
    Wish::To(point.into())
}

#[test]
fn what_is_asked_for_is_done_in_order() {
    let folder = ["1", "2", "3", "4"].map(migration);
    let has = |these: &[usize]| -> Vec<Applied> {
        these.iter().map(|index| applied(&folder[*index])).collect()
    };
    for (history, last, wish, expected) in [
        (has(&[]), None, Wish::Up(None), "+1 +2 +3 +4"),
        (has(&[]), Some("3"), Wish::Up(None), "+1 +2 +3"),
        (has(&[0, 2]), None, Wish::Up(None), "+2 +4"),
        (has(&[0]), None, Wish::Up(Some(2)), "+2 +3"),
        (has(&[0, 1, 2, 3]), None, Wish::Up(None), ""),
        (has(&[0, 1, 2]), None, Wish::Down(2), "-3 -2"),
        (has(&[0]), None, Wish::Down(5), "-1"),
        (has(&[0, 1]), None, Wish::Redo, "-2 +2"),
        (has(&[]), None, Wish::Redo, ""),
        (has(&[0, 1, 2]), None, to("1_m"), "-3 -2"),
        (has(&[0, 3]), None, to("2"), "-4 +2"),
        (has(&[0, 1]), None, to("base"), "-2 -1"),
        (has(&[0]), Some("2"), to("head"), "+2"),
        (has(&[0]), Some("2"), to("4"), "+2 +3 +4"),
        (
            has(&[0, 3]),
            None,
            Wish::Stamp(Point::Revision("2".into())),
            "=1 =2 !4",
        ),
        (has(&[0, 1]), None, Wish::Stamp(Point::Base), "!1 !2"),
        (has(&[]), Some("3"), Wish::Stamp(Point::Head), "=1 =2 =3"),
    ] {
        assert_eq!(
            done(&folder, &history, last, &wish),
            expected,
            "{wish:?} {last:?}"
        );
    }
}

#[test]
fn what_is_not_there_is_said() {
    let folder = ["20260101", "20260102", "2026"].map(migration);
    let history = [applied(&folder[0])];
    let done = |wish| done(&folder, &history, None, &wish);
    assert!(done(to("2027")).contains("no revision is called 2027"));
    assert!(done(to("202601")).contains("may be 20260101_m or 20260102_m"));
    // What is named whole is no beginning of another.
    assert_eq!(done(to("2026_m")), "-20260101 +2026");
    assert_eq!(done(to("2026-01-02")), "+2026 +20260102");
}

#[test]
fn nothing_builds_on_what_is_in_doubt_but_a_stamp() {
    let mut folder = ["1", "2"].map(migration).to_vec();
    let history = [applied(&folder[0]), applied(&folder[1])];
    folder[1].up.sql.push_str("-- and more");
    assert_eq!(
        done(&folder, &history, None, &Wish::Up(None)),
        "",
        "there is nothing to run"
    );
    for wish in [Wish::Down(1), Wish::Redo, to("base")] {
        let said = done(&folder, &history, None, &wish);
        assert!(said.contains("2_m were changed since"), "{wish:?}: {said}");
    }
    assert_eq!(
        done(&folder, &history, None, &Wish::Stamp(Point::Head)),
        "=1 =2"
    );
    let current = Wish::Stamp(Point::Current);
    assert_eq!(
        done(&folder, &history[..1], None, &current),
        "=1",
        "2 stays as it is"
    );
    folder.pop();
    folder.push(migration("3"));
    assert_eq!(done(&folder, &history, None, &current), "=1 !2");
    let said = done(&folder, &history, None, &Wish::Up(None));
    assert!(
        said.contains("the revision 2 (2_m), which the folder does not"),
        "{said}"
    );
    assert!(done(&folder, &history, None, &to("2031")).contains("no revision is called"));
}

#[test]
fn what_has_no_way_back_is_not_begun() {
    let mut folder = ["1", "2"].map(migration);
    folder[0].down = None;
    let history = [applied(&folder[0]), applied(&folder[1])];
    let said = done(&folder, &history, None, &Wish::Down(2));
    assert!(said.contains("1_m has no down.sql"), "{said}");
    assert_eq!(done(&folder, &history, None, &Wish::Down(1)), "-2");
}
