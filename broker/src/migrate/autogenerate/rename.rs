//! What somebody says was renamed: a catalog cannot tell.

use std::fmt;
use std::str::FromStr;

use super::Error;
use crate::migrate::catalog::names::quote;

/// One rename: `users=people` of a table, `users.name=full_name` of a column, whose table
/// is called as it was before. Names may be in double quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rename {
    /// The table, as it was.
    pub table: String,
    /// The column, as it was, if it is one that is renamed.
    pub column: Option<String>,
    /// What it is called now.
    pub new: String,
}

impl FromStr for Rename {
    type Err = Error;

    fn from_str(given: &str) -> Result<Rename, Error> {
        let bad = |reason| Error::BadRename {
            given: given.to_owned(),
            reason,
        };
        let (table, rest) = name(given).map_err(bad)?;
        let (column, rest) = match rest.strip_prefix('.') {
            Some(rest) => {
                let (column, rest) = name(rest).map_err(bad)?;
                (Some(column), rest)
            }
            None => (None, rest),
        };
        let rest = rest.strip_prefix('=').ok_or_else(|| bad("it has no ="))?;
        let (new, rest) = name(rest).map_err(bad)?;
        if !rest.is_empty() {
            return Err(bad("the new name is one name, without a table's"));
        }
        if column.as_ref().unwrap_or(&table) == &new {
            return Err(bad("both names are the same"));
        }
        Ok(Rename { table, column, new })
    }
}

impl fmt::Display for Rename {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quote(&self.table))?;
        if let Some(column) = &self.column {
            write!(f, ".{}", quote(column))?;
        }
        write!(f, "={}", quote(&self.new))
    }
}

/// The name that a text begins with, and what follows.
fn name(text: &str) -> Result<(String, &str), &'static str> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find(['.', '=', '"']).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        return match name.trim() {
            "" => Err("a name is empty"),
            name => Ok((name.to_owned(), rest)),
        };
    };
    let mut name = String::new();
    loop {
        let (part, after) = rest.split_once('"').ok_or("a quote is not closed")?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None if name.is_empty() => return Err("a name is empty"),
            None => return Ok((name, after)),
        }
    }
}
