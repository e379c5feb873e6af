//! A script as it is written.

use super::STOP;

/// Statements, and the lines that tell of them.
#[derive(Debug, Default)]
pub(super) struct Script {
    text: String,
    /// Whether the last statement has several lines: what follows stands apart.
    is_apart: bool,
    /// Lines for the next statement.
    remarks: String,
}

impl Script {
    /// A statement, without its semicolon.
    pub(super) fn push(&mut self, statement: impl AsRef<str>) {
        let statement = statement.as_ref();
        let is_long = statement.contains('\n');
        if (is_long || self.is_apart) && !self.text.is_empty() {
            self.text.push('\n');
        }
        self.is_apart = is_long;
        self.text.push_str(&std::mem::take(&mut self.remarks));
        self.text.push_str(statement);
        self.text.push_str(";\n");
    }

    /// What the next statement loses, or may fail for.
    pub(super) fn stop(&mut self, what: impl AsRef<str>) {
        let what = one_line(what.as_ref());
        let line = format!("{STOP}: {what}; remove this line when that is meant\n");
        self.remarks.push_str(&line);
    }

    /// What has to be written by hand, with how it is defined, if it is.
    pub(super) fn cannot(&mut self, what: impl AsRef<str>, definition: Option<&str>) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.is_apart = true;
        let what = one_line(what.as_ref());
        let line = format!("{STOP}: {what}; write it here, then remove this line\n");
        self.text.push_str(&line);
        for line in definition.unwrap_or_default().trim_end().lines() {
            let line = format!("--   {line}");
            self.text.push_str(line.trim_end());
            self.text.push('\n');
        }
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}

/// Names may hold anything, and a comment ends with its line.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}
