//! What a rehearsal found, as text for a terminal and as Markdown for a pull request.

use std::fmt::Write as _;
use std::time::Duration;

use proto::broker::v1 as pb;

use super::{called, level};

/// As text.
pub(super) fn text(report: &pb::RehearseResponse) -> String {
    let mut text = format!("{}\n", headline(report));
    for reason in &report.reasons {
        let _ = writeln!(text, "  {reason}");
    }
    for revision in &report.revisions {
        let _ = writeln!(text, "\n{}", called(&revision.version, &revision.name));
        for (what, script) in scripts(revision) {
            let Some(script) = script else {
                let _ = writeln!(text, "  {what}: not tried");
                continue;
            };
            let _ = writeln!(text, "  {what}: {}", took(script.duration));
            for statement in &script.statements {
                statement_text(&mut text, statement);
            }
            if !script.error.is_empty() {
                let _ = writeln!(text, "    failed: {}", script.error);
            }
        }
        if let Some(restored) = restored(revision) {
            let _ = writeln!(text, "  going back {restored}");
        }
        for finding in &revision.findings {
            let _ = writeln!(text, "  {}", finding_line(finding));
        }
        diff_text(&mut text, "schema", &revision.difference);
        diff_text(&mut text, "not restored", &revision.unrestored_schema);
    }
    diff_text(
        &mut text,
        "after the second time",
        &report.second_difference,
    );
    let contracts = contract_lines(report);
    if !contracts.is_empty() {
        let _ = writeln!(text, "\n{}", contracts.join("\n"));
    }
    text
}

/// As Markdown.
pub(super) fn markdown(report: &pb::RehearseResponse) -> String {
    let mut text = format!("### Rehearsal: {}\n", headline(report));
    if !report.reasons.is_empty() {
        text.push('\n');
    }
    for reason in &report.reasons {
        let _ = writeln!(text, "- {}", plain(reason));
    }
    for revision in &report.revisions {
        let name = called(&revision.version, &revision.name);
        let _ = writeln!(text, "\n#### `{name}`\n");
        let _ = writeln!(
            text,
            "| | statement | took | locks | held |\n|---|---|---|---|---|"
        );
        for (what, script) in scripts(revision) {
            markdown_rows(&mut text, what, script);
        }
        if let Some(restored) = restored(revision) {
            let _ = writeln!(text, "\nGoing back {}.", plain(&restored));
        }
        if !revision.findings.is_empty() {
            text.push('\n');
        }
        for finding in &revision.findings {
            let _ = writeln!(text, "- {}", plain(&finding_line(finding)));
        }
        diff_markdown(&mut text, "Schema", &revision.difference);
        diff_markdown(&mut text, "Not restored", &revision.unrestored_schema);
    }
    diff_markdown(
        &mut text,
        "After the second time",
        &report.second_difference,
    );
    let contracts = contract_lines(report);
    if !contracts.is_empty() {
        text.push_str("\n#### Contracts\n\n");
    }
    for line in contracts {
        let _ = writeln!(text, "- {}", plain(line.trim()));
    }
    text
}

/// What linting found, on one line.
pub(super) fn finding_line(finding: &pb::LintFinding) -> String {
    let pb::LintFinding {
        file,
        line,
        rule,
        message,
        help,
        ..
    } = finding;
    let help = match help.as_str() {
        "" => String::new(),
        help => format!(" — {help}"),
    };
    format!("{file}:{line}: {} {rule}: {message}{help}", level(finding))
}

fn headline(report: &pb::RehearseResponse) -> String {
    let verdict = report.verdict().as_str_name();
    let verdict = verdict.trim_start_matches("REHEARSAL_VERDICT_");
    let count = match report.revisions.len() {
        0 => "nothing is pending".to_owned(),
        1 => "1 revision".to_owned(),
        count => format!("{count} revisions"),
    };
    format!(
        "{verdict}, {count} on {}, {} (statements {})",
        report.branch,
        took(report.duration),
        took(report.sql_duration)
    )
}

type Tried<'r> = (&'static str, Option<&'r pb::ScriptRehearsal>);

fn scripts(revision: &pb::RevisionRehearsal) -> [Tried<'_>; 3] {
    [
        ("up", revision.up.as_ref()),
        ("down", revision.down.as_ref()),
        ("up again", revision.again.as_ref()),
    ]
}

/// `None`: it was not tried, or failed.
fn restored(revision: &pb::RevisionRehearsal) -> Option<String> {
    revision
        .down
        .as_ref()
        .filter(|down| down.error.is_empty())?;
    let mut left = revision.unrestored_rows.clone();
    if !revision.unrestored_schema.is_empty() {
        left.push("the schema is another".to_owned());
    }
    Some(match left.is_empty() {
        true => "restores the schema and the rows".to_owned(),
        false => format!("does not restore all: {}", left.join("; ")),
    })
}

fn statement_text(text: &mut String, statement: &pb::StatementRehearsal) {
    let _ = writeln!(
        text,
        "    {}: {} ({})",
        statement.line,
        statement.statement,
        took(statement.duration)
    );
    for lock in &statement.locks {
        let _ = writeln!(text, "      {}, held {}", lock_words(lock), took(lock.held));
    }
    for rewrite in &statement.rewrites {
        let _ = writeln!(
            text,
            "      writes {} anew: {} rows",
            rewrite.table, rewrite.rows
        );
    }
    for blocked in &statement.blocked {
        let _ = writeln!(text, "      keeps waiting: {blocked}");
    }
}

fn markdown_rows(text: &mut String, what: &str, script: Option<&pb::ScriptRehearsal>) {
    let Some(script) = script else {
        let _ = writeln!(text, "| {what} | not tried | | | |");
        return;
    };
    for statement in &script.statements {
        let mut words: Vec<String> = statement.locks.iter().map(lock_words).collect();
        let rewrites = statement.rewrites.iter();
        words.extend(rewrites.map(|one| format!("writes {} anew: {} rows", one.table, one.rows)));
        let blocked = statement.blocked.iter();
        words.extend(blocked.map(|one| format!("keeps waiting: {one}")));
        let words: Vec<String> = words.iter().map(|word| plain(word)).collect();
        let held = statement.locks.iter().filter_map(|lock| lock.held);
        let held = held.max_by_key(|held| (held.seconds, held.nanos));
        let _ = writeln!(
            text,
            "| {what} | `{}` | {} | {} | {} |",
            statement.statement.replace('|', "\\|").replace('`', "'"),
            took(statement.duration),
            words.join("<br>"),
            held.map(|held| took(Some(held))).unwrap_or_default()
        );
    }
    if !script.error.is_empty() {
        let _ = writeln!(text, "| {what} | failed: {} | | | |", plain(&script.error));
    }
}

fn lock_words(lock: &pb::TableLock) -> String {
    let pb::TableLock {
        table,
        mode,
        rows,
        bytes,
        ..
    } = lock;
    format!("{mode} on {table} ({rows} rows, {})", size(*bytes))
}

fn contract_lines(report: &pb::RehearseResponse) -> Vec<String> {
    let mut lines = Vec::new();
    let mut bindings: Vec<(&str, bool)> = report
        .contracts
        .iter()
        .map(|one| (one.binding.as_str(), one.live))
        .collect();
    bindings.dedup();
    for (binding, is_live) in bindings {
        let of = || report.contracts.iter().filter(|one| one.binding == binding);
        let works = of().filter(|one| one.error_after.is_empty()).count();
        let where_it_lives = match is_live {
            true => "",
            false => ", which lives on another branch",
        };
        lines.push(format!(
            "{binding}{where_it_lives}: {works} of {} queries work afterwards",
            of().count()
        ));
        // What failed before fails for another reason than these revisions.
        let failing = of().filter(|one| one.broken || (is_live && !one.error_after.is_empty()));
        lines.extend(failing.map(|one| {
            let said = match (one.error_after.as_str(), one.error_before.as_str()) {
                ("", _) => "answers with other columns".to_owned(),
                (after, "") => after.to_owned(),
                (after, _) => format!("{after}, as before"),
            };
            format!("  line {}, {}: {said}", one.line, one.query)
        }));
    }
    lines
}

fn diff_text(text: &mut String, what: &str, diff: &str) {
    if diff.is_empty() {
        return;
    }
    let _ = writeln!(text, "  {what}:");
    for line in diff.lines() {
        let _ = writeln!(text, "    {line}");
    }
}

fn diff_markdown(text: &mut String, what: &str, diff: &str) {
    if !diff.is_empty() {
        let _ = writeln!(
            text,
            "\n<details><summary>{what}</summary>\n\n```diff\n{}\n```\n</details>",
            diff.trim_end()
        );
    }
}

/// Without what Markdown would take for more than text.
fn plain(words: &str) -> String {
    let mut text = String::new();
    for character in words.chars() {
        if matches!(character, '|' | '<' | '*' | '_') {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

fn took(took: Option<prost_types::Duration>) -> String {
    let took = took.and_then(|took| Duration::try_from(took).ok());
    let seconds = took.unwrap_or_default().as_secs_f64();
    match seconds {
        ..0.01 => format!("{:.1} ms", seconds * 1e3),
        ..1.0 => format!("{:.0} ms", seconds * 1e3),
        _ => format!("{seconds:.1} s"),
    }
}

fn size(bytes: i64) -> String {
    const KIB: f64 = 1024.0;
    let kib = bytes as f64 / KIB;
    match kib {
        ..1024.0 => format!("{kib:.0} kB"),
        _ => format!("{:.0} MB", kib / KIB),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> pb::RehearseResponse {
        let milliseconds = |count: i32| {
            Some(prost_types::Duration {
                seconds: 0,
                nanos: count * 1_000_000,
            })
        };
        let statement = pb::StatementRehearsal {
            statement: "ALTER TABLE users ADD a text DEFAULT '…' || b".to_owned(),
            line: 3,
            duration: milliseconds(2),
            locks: vec![pb::TableLock {
                table: "users".to_owned(),
                mode: "AccessExclusiveLock".to_owned(),
                rows: 1_000_000,
                bytes: 73 << 20,
                held: milliseconds(700),
            }],
            blocked: vec!["services/users/versions/v1: SELECT 1".to_owned()],
            ..Default::default()
        };
        let script = pb::ScriptRehearsal {
            duration: milliseconds(700),
            statements: vec![statement],
            error: String::new(),
        };
        pb::RehearseResponse {
            verdict: pb::RehearsalVerdict::Unproven.into(),
            reasons: vec!["a: down was not tried: it has no down.sql".to_owned()],
            branch: "branches/br-a".to_owned(),
            revisions: vec![pb::RevisionRehearsal {
                name: "2027-01-01-000000_a".to_owned(),
                up: Some(script),
                ..Default::default()
            }],
            contracts: vec![pb::ContractRehearsal {
                binding: "services/users/versions/v1".to_owned(),
                live: true,
                line: 1,
                query: "SELECT 1".to_owned(),
                ..Default::default()
            }],
            duration: milliseconds(900),
            ..Default::default()
        }
    }

    #[test]
    fn a_report_says_what_held_whom_for_how_long() {
        let said = text(&report());
        for part in [
            "UNPROVEN, 1 revision on branches/br-a, 900 ms",
            "  a: down was not tried: it has no down.sql",
            "3: ALTER TABLE users ADD a text DEFAULT '…' || b (2.0 ms)",
            "AccessExclusiveLock on users (1000000 rows, 73 MB), held 700 ms",
            "keeps waiting: services/users/versions/v1: SELECT 1",
            "down: not tried",
            "services/users/versions/v1: 1 of 1 queries work afterwards",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }

    #[test]
    fn markdown_keeps_its_table_whatever_a_statement_says() {
        let said = markdown(&report());
        let row = said.lines().find(|line| line.contains("ALTER TABLE"));
        let row = row.unwrap_or_default();
        let cells = row.replace("\\|", "").matches('|').count();
        assert_eq!(cells, 6, "{row}");
        assert!(said.starts_with("### Rehearsal: UNPROVEN"), "{said}");
    }
}
