//! How large tables are, and how that is said.

/// A table, as the target branch has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// About how many rows. Negative: nobody has counted.
    pub rows: i64,
    /// With its indexes.
    pub bytes: i64,
}

/// From here on reading or writing all of a table is noticed by those who wait: some
/// tens of milliseconds for this many rows, or this much to read.
const LARGE_ROWS_MIN: i64 = 10_000;
const LARGE_BYTES_MIN: i64 = 16 * 1024 * 1024;

impl Size {
    /// Whether it has no rows: an index upon nothing takes bytes too.
    pub fn is_empty(&self) -> bool {
        self.rows == 0 || (self.rows < 0 && self.bytes == 0)
    }

    /// Whether it takes noticeably long to read or write all of it.
    pub fn is_large(&self) -> bool {
        !self.is_empty() && (self.rows >= LARGE_ROWS_MIN || self.bytes >= LARGE_BYTES_MIN)
    }

    /// What is worse is more.
    pub(super) fn weight(&self) -> (bool, bool, i64, i64) {
        (self.is_large(), !self.is_empty(), self.rows, self.bytes)
    }
}

/// `users has 1,000,000 rows (73 MB) on the branch.`
pub(super) fn said(table: &str, size: Option<&Size>) -> String {
    match size {
        None => format!("{table} is not on the branch yet."),
        Some(size) if size.is_empty() => format!("{table} has no rows on the branch."),
        Some(Size { rows, bytes }) if *rows < 0 => {
            format!("{table} takes {} on the branch.", in_bytes(*bytes))
        }
        Some(Size { rows, bytes }) => {
            let noun = if *rows == 1 { "row" } else { "rows" };
            let (rows, bytes) = (in_thousands(*rows), in_bytes(*bytes));
            format!("{table} has {rows} {noun} ({bytes}) on the branch.")
        }
    }
}

/// 1,000,000.
fn in_thousands(number: i64) -> String {
    let digits = number.to_string();
    let mut parts = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            parts.push(',');
        }
        parts.push(digit);
    }
    parts
}

/// As pg_size_pretty says it.
fn in_bytes(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["bytes", "kB", "MB", "GB", "TB"];
    // From there on the next unit is used: two digits are left at least.
    const NUMBER_MAX: i64 = 10 * 1024;
    let mut number = bytes;
    let mut unit = 0;
    while number >= NUMBER_MAX && unit + 1 < UNITS.len() {
        // Halves are rounded up.
        number = (number + 512) / 1024;
        unit += 1;
    }
    format!("{number} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_how_large_a_table_is() {
        let cases = [
            (
                Some((1_000_000, 76_546_048)),
                "t has 1,000,000 rows (73 MB) on the branch.",
            ),
            (Some((1, 8192)), "t has 1 row (8192 bytes) on the branch."),
            (Some((999, 16_384)), "t has 999 rows (16 kB) on the branch."),
            (Some((-1, 16_384)), "t takes 16 kB on the branch."),
            (Some((0, 8192)), "t has no rows on the branch."),
            (Some((-1, 0)), "t has no rows on the branch."),
            (None, "t is not on the branch yet."),
        ];
        for (size, expected) in cases {
            let size = size.map(|(rows, bytes)| Size { rows, bytes });
            assert_eq!(said("t", size.as_ref()), expected);
        }
    }
}
