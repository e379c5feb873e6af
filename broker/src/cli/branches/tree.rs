//! Branches below their parents.

use std::collections::{BTreeMap, BTreeSet};

use proto::broker::v1 as pb;
use serde::Serialize;

use crate::cli::client::Error;
use crate::cli::output::{Output, Shown};
use crate::cli::table;

/// A branch and what was forked from it.
#[derive(Debug, Serialize)]
struct Tree {
    branch: Shown,
    children: Vec<Tree>,
}

/// A row of the table: how it is drawn, and the branch.
type Row<'a> = (String, &'a pb::Branch);

/// Prints branches below their parents, in the order in which they come. One whose
/// parent is not among them is a root.
pub(super) fn print(branches: &[pb::Branch], output: Output) -> Result<(), Error> {
    let by_parent = by_parent(branches);
    let roots = trees(&by_parent, "")?;
    output.value(&roots, |_| {
        let mut rows = Vec::new();
        draw(&by_parent, "", "", &mut rows);
        table_of(&rows)
    })?;
    Ok(())
}

type ByParent<'a> = BTreeMap<&'a str, Vec<&'a pb::Branch>>;

fn by_parent(branches: &[pb::Branch]) -> ByParent<'_> {
    let names: BTreeSet<&str> = branches.iter().map(|branch| &*branch.name).collect();
    let mut by_parent = ByParent::new();
    for branch in branches {
        let parent = match names.contains(&*branch.parent) {
            true => &*branch.parent,
            false => "",
        };
        by_parent.entry(parent).or_default().push(branch);
    }
    by_parent
}

fn children<'a>(by_parent: &ByParent<'a>, parent: &str) -> Vec<&'a pb::Branch> {
    by_parent.get(parent).cloned().unwrap_or_default()
}

/// As deep as the forks are: Neon has a limit on those.
fn trees(by_parent: &ByParent<'_>, parent: &str) -> Result<Vec<Tree>, Error> {
    let all = children(by_parent, parent).into_iter();
    let trees = all.map(|branch| {
        Ok(Tree {
            branch: Shown::of(branch)?,
            children: trees(by_parent, &branch.name)?,
        })
    });
    trees.collect()
}

fn draw<'a>(by_parent: &ByParent<'a>, parent: &str, indent: &str, rows: &mut Vec<Row<'a>>) {
    let all = children(by_parent, parent);
    let last = all.len().saturating_sub(1);
    for (index, branch) in all.into_iter().enumerate() {
        let (line, below) = match (parent, index == last) {
            ("", _) => ("", ""),
            (_, false) => ("├── ", "│   "),
            (_, true) => ("└── ", "    "),
        };
        let name = &branch.display_name;
        rows.push((format!("{indent}{line}{name}"), branch));
        draw(by_parent, &branch.name, &format!("{indent}{below}"), rows);
    }
}

fn table_of(rows: &[Row<'_>]) -> String {
    let rows = rows.iter().map(|(drawn, branch)| {
        vec![
            drawn.clone(),
            branch.name.clone(),
            super::state(branch),
            super::marks(branch),
            branch.bindings.join(","),
        ]
    });
    table::of(&["NAME", "RESOURCE", "STATE", "MARKS", "BINDINGS"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch(name: &str, parent: &str) -> pb::Branch {
        pb::Branch {
            name: format!("branches/{name}"),
            display_name: name.to_owned(),
            parent: match parent {
                "" => String::new(),
                parent => format!("branches/{parent}"),
            },
            ..Default::default()
        }
    }

    #[test]
    fn children_are_below_their_parents() {
        let branches = [
            branch("a", "main"),
            branch("b", "a"),
            branch("c", "main"),
            branch("main", ""),
            branch("orphan", "elsewhere"),
        ];
        let by_parent = by_parent(&branches);
        let mut rows = Vec::new();
        draw(&by_parent, "", "", &mut rows);
        let drawn: Vec<&str> = rows.iter().map(|(drawn, _)| &**drawn).collect();
        let expected = ["main", "├── a", "│   └── b", "└── c", "orphan"];
        assert_eq!(drawn, expected);
    }
}
