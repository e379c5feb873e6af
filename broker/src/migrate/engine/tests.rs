use super::*;

#[test]
fn a_place_is_a_line_and_a_column_of_characters() {
    let sql = "SELECT 1;\n  -- ä\nSELEKT 2;\n";
    let place = |position| place_of(sql, position).map(|place| place.to_string());
    assert_eq!(place(1).as_deref(), Some("1:1: SELECT 1;"));
    assert_eq!(place(18).as_deref(), Some("3:1: SELEKT 2;"));
    assert_eq!(place(25).as_deref(), Some("3:8: SELEKT 2;"));
    assert_eq!(place(0), None);
}

#[test]
fn a_place_beyond_the_last_line_is_a_place() {
    let place = place_of("CREATE TABLE t (\n", 18).map(|place| place.to_string());
    assert_eq!(place.as_deref(), Some("2:1: "));
}

#[test]
fn what_stands_in_quotes_is_not_shown() {
    let line = "CREATE ROLE a PASSWORD 'hunter2' IN GROUP b; SELECT 'x";
    assert_eq!(
        shown(line),
        "CREATE ROLE a PASSWORD '…' IN GROUP b; SELECT '…"
    );
}
