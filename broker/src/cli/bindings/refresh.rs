//! `broker bindings refresh`.

use std::fmt::Write as _;

use proto::broker::v1 as pb;

use super::switch::{self, Terms};
use crate::cli::api::{Api, request_id};
use crate::cli::client::{Error, refused};
use crate::cli::output::Output;
use crate::cli::table;

#[derive(Debug, clap::Args)]
pub(super) struct RefreshArguments {
    binding: String,
    /// What the new branch is called. Without it: as broker.toml calls the binding's, with
    /// the time.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What the old branch is called then. Without it: what it is called.
    #[arg(long, value_name = "NAME")]
    keep_as: Option<String>,
    #[command(flatten)]
    terms: Terms,
}

/// Refreshes a binding. How it goes on is told on stderr, how it ended on stdout.
pub(super) async fn refresh(
    api: &mut Api,
    wished: RefreshArguments,
    output: Output,
) -> Result<(), Error> {
    let request = pb::RefreshBindingRequest {
        name: wished.binding,
        branch_display_name: wished.name.unwrap_or_default(),
        keep_as: wished.keep_as.unwrap_or_default(),
        unwatched: wished.terms.unwatched().into(),
        ack_timeout: wished.terms.ack_timeout(),
        drain_timeout: wished.terms.drain_timeout(),
        request_id: request_id(),
    };
    let progress = api.bindings.refresh_binding(request).await;
    let mut progress = progress.map_err(refused)?.into_inner();
    let (mut last, mut told) = (pb::RefreshBindingResponse::default(), String::new());
    while let Some(now) = progress.message().await.map_err(refused)? {
        last = now;
        let line = line(&last);
        if line != told {
            eprintln!("{line}");
            told = line;
        }
    }
    output.one(&last, shown)?;
    Ok(())
}

/// `SWITCHING: ANNOUNCED generation 3: 1 of 2 acknowledged`
fn line(refresh: &pb::RefreshBindingResponse) -> String {
    let phase = refresh.phase().as_str_name();
    let phase = phase.trim_start_matches("REFRESH_PHASE_");
    match (refresh.phase(), &refresh.switch) {
        (pb::RefreshPhase::Preparing, _) => format!("{phase} {}", refresh.branch_display_name),
        (pb::RefreshPhase::Switching, Some(switch)) => {
            format!("{phase}: {}", switch::line(switch))
        }
        _ => phase.to_owned(),
    }
}

fn shown(refresh: &pb::RefreshBindingResponse) -> String {
    let branches = vec![
        refresh.kept_branch.clone(),
        refresh.kept_display_name.clone(),
        refresh.branch.clone(),
        refresh.branch_display_name.clone(),
    ];
    let mut text = table::of(
        &["FROM", "KEPT AS", "TO", "CALLED"],
        std::iter::once(branches),
    );
    if !refresh.message.is_empty() {
        let _ = writeln!(
            text,
            "\nThe old branch has its name of before: {}",
            refresh.message
        );
    }
    text.push('\n');
    text.push_str(&report(&refresh.report.clone().unwrap_or_default()));
    text
}

/// What the version alone had written, by tables.
fn report(report: &pb::RefreshReport) -> String {
    let mut text = String::new();
    let note = match report.compared_with_fork {
        true => "Rows that the version itself had written, and that the new branch has otherwise:",
        false => "Rows of the old branch that the new one has otherwise, whoever wrote them:",
    };
    let kinds = |table: &pb::RefreshedTable| {
        let kinds = [
            ("only in the old branch", table.only_in_old.clone()),
            ("differing", table.differing.clone()),
            ("deleted in the old branch", table.deleted_in_old.clone()),
        ];
        kinds.map(|(kind, rows)| (kind, rows.unwrap_or_default()))
    };
    let rows = report.tables.iter().flat_map(|table| {
        let some = kinds(table).into_iter().filter(|(_, rows)| rows.count > 0);
        some.map(|(kind, rows)| {
            vec![
                table.table.clone(),
                kind.to_owned(),
                rows.count.to_string(),
                format!("{}: {}", table.key_columns.join(", "), keys(&rows)),
            ]
        })
    });
    let rows: Vec<Vec<String>> = rows.collect();
    match (rows.is_empty(), report.message.is_empty()) {
        (false, _) => {
            let _ = writeln!(text, "{note}\n");
            text.push_str(&table::of(
                &["TABLE", "ROWS", "COUNT", "KEYS"],
                rows.into_iter(),
            ));
        }
        (true, true) => text.push_str("No table that was compared has such rows.\n"),
        (true, false) => {}
    }
    let mut notes = Vec::new();
    if !report.fork_message.is_empty() {
        notes.push(format!(
            "What the parent has done since the fork is among that: {}",
            report.fork_message
        ));
    }
    if !report.message.is_empty() {
        notes.push(format!("The comparison came to no end: {}", report.message));
    }
    let uncompared = report.not_compared.iter();
    notes.extend(uncompared.map(|one| format!("Not compared: {}, {}", one.table, one.reason)));
    if !notes.is_empty() {
        let _ = writeln!(text, "\n{}", notes.join("\n"));
    }
    text
}

/// `3, 17, (a, 4), …`
fn keys(rows: &pb::RefreshedRows) -> String {
    // They are what callers of the service have written.
    let plain = |value: &String| -> String {
        let chars = value.chars().map(|one| match one.is_control() {
            true => one.escape_default().to_string(),
            false => one.to_string(),
        });
        chars.collect()
    };
    let keys = rows.keys.iter().map(|key| match &key.values[..] {
        [one] => plain(one),
        several => {
            let several: Vec<String> = several.iter().map(plain).collect();
            format!("({})", several.join(", "))
        }
    });
    let mut keys: Vec<String> = keys.collect();
    if usize::try_from(rows.count).is_ok_and(|count| count > keys.len()) {
        keys.push("…".to_owned());
    }
    keys.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: i64, keys: &[&[&str]]) -> Option<pb::RefreshedRows> {
        let key = |values: &&[&str]| pb::RowKey {
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        };
        Some(pb::RefreshedRows {
            count,
            keys: keys.iter().map(key).collect(),
        })
    }

    #[test]
    fn a_report_names_tables_and_keys() {
        let told = report(&pb::RefreshReport {
            compared_with_fork: true,
            tables: vec![
                pb::RefreshedTable {
                    table: "users".to_owned(),
                    key_columns: vec!["id".to_owned()],
                    only_in_old: rows(3, &[&["17"], &["18"]]),
                    ..Default::default()
                },
                pb::RefreshedTable {
                    table: "pairs".to_owned(),
                    key_columns: vec!["a".to_owned(), "b".to_owned()],
                    deleted_in_old: rows(1, &[&["x", "1"]]),
                    ..Default::default()
                },
            ],
            not_compared: vec![pb::UncomparedTable {
                table: "log".to_owned(),
                reason: "it has no primary key".to_owned(),
            }],
            ..Default::default()
        });
        let expected = "\
Rows that the version itself had written, and that the new branch has otherwise:

TABLE  ROWS                       COUNT  KEYS
users  only in the old branch     3      id: 17, 18, …
pairs  deleted in the old branch  1      a, b: (x, 1)

Not compared: log, it has no primary key
";
        assert_eq!(told, expected);
    }

    #[test]
    fn a_report_claims_no_more_than_was_compared() {
        let told = report(&pb::RefreshReport {
            fork_message: "the old branch has no parent".to_owned(),
            ..Default::default()
        });
        let expected = "\
No table that was compared has such rows.

What the parent has done since the fork is among that: the old branch has no parent
";
        assert_eq!(told, expected);
    }

    #[test]
    fn a_refresh_is_told_in_one_line() {
        let mut refresh = pb::RefreshBindingResponse {
            phase: pb::RefreshPhase::Preparing.into(),
            branch_display_name: "next".to_owned(),
            ..Default::default()
        };
        assert_eq!(line(&refresh), "PREPARING next");
        refresh.phase = pb::RefreshPhase::Switching.into();
        refresh.switch = Some(pb::Switch {
            generation: 3,
            phase: pb::SwitchPhase::Committed.into(),
            ..Default::default()
        });
        assert_eq!(
            line(&refresh),
            "SWITCHING: COMMITTED generation 3: 0 of 0 drained"
        );
    }
}
