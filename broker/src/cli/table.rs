//! Tables for people.

/// Rows under a head, each column as wide as its widest cell, two spaces between.
/// A column that is empty in every row is left out.
pub(super) fn of(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let columns: Vec<(usize, usize)> = head
        .iter()
        .enumerate()
        .map(|(column, name)| (column, width(column), name.len()))
        .filter(|(_, width, _)| *width > 0 || rows.is_empty())
        .map(|(column, width, least)| (column, width.max(least)))
        .collect();
    let line = |cell: &dyn Fn(usize) -> String| {
        let cells = columns.iter().map(|(column, width)| {
            let cell = cell(*column);
            format!("{cell:width$}")
        });
        let cells: Vec<_> = cells.collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    let mut text = line(&|column| head[column].to_owned());
    for row in &rows {
        text.push_str(&line(&|column| row[column].clone()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_empty_ones_are_left_out() {
        let rows = [["dev", "", "READY"], ["a-longer-name", "", "INIT"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        let table = of(&["NAME", "EXPIRES", "STATE"], rows.into_iter());
        let expected = "NAME           STATE\n\
                        dev            READY\n\
                        a-longer-name  INIT\n";
        assert_eq!(table, expected);
        let nothing = of(&["NAME", "STATE"], std::iter::empty());
        assert_eq!(nothing, "NAME  STATE\n");
    }
}
