//! Points of the past: branches, restores and schemas, against a ledger that says
//! what was true then.

mod failed_restore;
mod head;
pub(crate) mod ledger;
mod window;

use std::path::Path;

use anyhow::{Context, ensure};
use jiff::ToSpan;
use ledger::{Entry, check_branch, check_restore, has_history, pick, state, write};
use neon_api::types::{BranchCreateRequest, BranchRestoreRequest};
use serde_json::{Value, json};
use suite::{EmulatorProcess, Folder, Http, count};

#[tokio::test]
async fn points_of_the_past_are_what_they_were() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    check_points(&emulator, &folder.join("data")).await?;
    emulator.stop().await
}

/// Branches at random points, a restore to one, and branches again: before it,
/// across it and after it.
pub(crate) async fn check_points(emulator: &EmulatorProcess, data: &Path) -> anyhow::Result<()> {
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    has_history(data, &main).await?;
    let session = emulator.connect(&main).await?;
    session
        .batch_execute("CREATE TABLE entry (number bigint, filler text)")
        .await?;
    let mut ledger = write(&session, 1..=60, 0).await?;
    let points = count(8, 20);
    for round in 0..points {
        let entry = pick(&ledger, round);
        check_branch(emulator, &main, &entry, round).await?;
    }
    // Another branch, restored to them.
    let scratch = emulator.branch("scratch", Some(&main)).await?.branch.id;
    let restores = count(2, 20);
    for round in 0..restores {
        let entry = pick(&ledger, round * 3 + 1);
        check_restore(emulator, &scratch, &main, &entry, round).await?;
    }

    // Suspended, it has a past as well.
    let endpoint = client
        .list_branch_endpoints(project, &main)
        .await?
        .endpoints[0]
        .id
        .clone();
    let suspended = client.suspend_endpoint(project, &endpoint).await?;
    emulator.finished(&suspended.operations).await?;
    for entry in [&ledger[59], &ledger[20]] {
        for round in [1_000, 1_001] {
            check_branch(
                emulator,
                &main,
                entry,
                round + entry.number.unsigned_abs() as usize * 2,
            )
            .await?;
        }
    }
    let started = client.start_endpoint(project, &endpoint).await?;
    emulator.finished(&started.operations).await?;

    let back = ledger[39].clone();
    let request = BranchRestoreRequest::from_branch(main.clone())
        .at_lsn(back.lsn.clone())
        .preserve_under_name("kept");
    let restored = client.restore_branch(project, &main, &request).await?;
    emulator.finished(&restored.operations).await?;
    let kept = restored.branch.parent_id.context("the old data")?;
    let session = emulator.connect(&main).await?;
    assert_eq!(state(&session).await?, (40, 40));
    let record = client.get_branch(project, &main).await?.branch;
    assert_eq!(record.parent_lsn.as_deref(), Some(&*back.lsn));

    let lost = ledger.split_off(40);
    ledger.extend(write(&session, 101..=130, 40).await?);
    for round in 0..points {
        let entry = pick(&ledger, round * 7 + 3);
        check_branch(emulator, &main, &entry, 2_000 + round).await?;
    }
    for round in 0..restores {
        let entry = pick(&ledger, round * 11 + 5);
        check_restore(emulator, &scratch, &main, &entry, round).await?;
    }
    // When what was left behind was written, the branch of today stood still.
    let then = Entry {
        time: lost[10].time,
        ..back
    };
    check_branch(emulator, &main, &then, 3_001).await?;
    // The old data go on where they were.
    let made = client
        .create_endpoint(
            project,
            &neon_api::types::EndpointCreateRequest::read_write(kept.clone()),
        )
        .await?;
    emulator.finished(&made.operations).await?;
    let session = emulator.connect(&kept).await?;
    assert_eq!(state(&session).await?, (60, 60));
    Ok(())
}

#[tokio::test]
async fn points_that_are_not_there_are_refused_by_name() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let clock = folder.join("clock");
    // What moves the clock is not to suspend endpoints as well.
    let flags = [
        "--unsafe-test-clock",
        clock.to_str().context("UTF-8")?,
        "--suspend-seconds-default",
        "-1",
    ];
    let emulator = EmulatorProcess::start_with(&data, &suite::free_address()?, &flags).await?;
    let project = emulator.project().clone();
    let main = emulator.main_branch().await?;
    has_history(&data, &main).await?;
    let session = emulator.connect(&main).await?;
    session
        .batch_execute("CREATE TABLE entry (number bigint, filler text)")
        .await?;
    let ledger = write(&session, 1..=3, 0).await?;
    let http = Http::of(&emulator);
    let branches = format!("/projects/{project}/branches");
    let at = |hours: i64| (ledger[2].time + hours.hours()).to_string();
    let refused = async |body: Value, words: &[&str]| {
        let answer = http
            .call("POST", &branches, json!({ "branch": body }))
            .await?;
        let is_malformed = words.contains(&"is no LSN") || words.contains(&"together");
        let status = if is_malformed { 400 } else { 422 };
        ensure!(answer.status == status, "{body}: {answer:?}");
        for word in words {
            let message = answer.text("/message");
            ensure!(message.contains(word), "{body}: {word}: {message}");
        }
        anyhow::Ok(())
    };
    for (body, words) in [
        (
            json!({"parent_timestamp": at(1)}),
            ["branch.parent_timestamp", "in the future"],
        ),
        (
            json!({"parent_timestamp": at(-30)}),
            ["branch.parent_timestamp", "before the history window"],
        ),
        (
            json!({"parent_timestamp": at(-2)}),
            ["branch.parent_timestamp", "before the branch's history"],
        ),
        (
            json!({"parent_lsn": "FF/0"}),
            ["branch.parent_lsn", "beyond the branch's end"],
        ),
        (
            json!({"parent_lsn": "0/1"}),
            ["branch.parent_lsn", "before the branch's history"],
        ),
        (
            json!({"parent_lsn": "yesterday"}),
            ["branch.parent_lsn", "is no LSN"],
        ),
        (
            json!({"parent_lsn": ledger[0].lsn, "parent_timestamp": ledger[0].time.to_string()}),
            ["branch.parent_lsn", "together"],
        ),
    ] {
        refused(body, &words).await?;
    }
    let restore = format!("{branches}/{main}/restore");
    let body =
        json!({"source_branch_id": main, "preserve_under_name": "kept", "source_lsn": "FF/0"});
    let answer = http.expect(422, "POST", &restore, body).await?;
    ensure!(answer.text("/message").contains("source_lsn"), "{answer:?}");
    let schema = format!(
        "{branches}/{main}/schema?db_name=neondb&timestamp={}",
        at(1)
    );
    let answer = http.expect(422, "GET", &schema, Value::Null).await?;
    ensure!(answer.text("/message").contains("timestamp"), "{answer:?}");
    let snapshot = format!("{branches}/{main}/snapshot?lsn=FF/0");
    let answer = http.expect(422, "POST", &snapshot, Value::Null).await?;
    ensure!(answer.text("/message").contains("lsn"), "{answer:?}");
    // Nothing of it is there.
    let found = emulator.client().list_all_branches(&project, None).await?;
    assert_eq!(found.branches.len(), 1);

    // What the window has passed is gone.
    let entry = &ledger[1];
    let body = json!({"parent_timestamp": entry.time.to_string()});
    http.expect(201, "POST", &branches, json!({ "branch": body.clone() }))
        .await?;
    std::fs::write(&clock, "90000")?;
    refused(
        body,
        &["branch.parent_timestamp", "before the history window"],
    )
    .await?;
    std::fs::write(&clock, "0")?;
    let none = json!({"project": {"history_retention_seconds": 0}});
    http.expect(200, "PATCH", &format!("/projects/{project}"), none)
        .await?;
    let body = json!({"parent_lsn": entry.lsn});
    refused(body, &["branch.parent_lsn", "history_retention_seconds"]).await?;
    emulator.stop().await
}

#[tokio::test]
async fn a_past_point_has_its_own_schema_roles_and_databases() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let emulator = EmulatorProcess::start(&data).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    has_history(&data, &main).await?;
    let role = neon_api::types::RoleCreateRequest::named("early");
    let made = client.create_role(project, &main, &role).await?;
    emulator.finished(&made.operations).await?;
    let database = neon_api::types::DatabaseCreateRequest::new("early", "early");
    let made = client.create_database(project, &main, &database).await?;
    emulator.finished(&made.operations).await?;
    let session = emulator.connect(&main).await?;
    session
        .batch_execute("CREATE TABLE entry (number bigint, filler text)")
        .await?;
    let entry = write(&session, 1..=1, 0).await?.remove(0);
    session
        .batch_execute("CREATE TABLE later (id bigint); ALTER TABLE entry ADD COLUMN more text")
        .await?;
    let gone = client.delete_database(project, &main, "early").await?;
    emulator
        .finished(&gone.context("it was there")?.operations)
        .await?;
    let gone = client.delete_role(project, &main, "early").await?;
    emulator
        .finished(&gone.context("it was there")?.operations)
        .await?;
    let role = neon_api::types::RoleCreateRequest::named("late");
    let made = client.create_role(project, &main, &role).await?;
    emulator.finished(&made.operations).await?;

    let http = Http::of(&emulator);
    let path = format!("/projects/{project}/branches/{main}");
    for point in [
        format!("lsn={}", entry.lsn),
        format!("timestamp={}", entry.time),
    ] {
        let schema = format!("{path}/schema?db_name=neondb&{point}");
        let then = http.expect(200, "GET", &schema, Value::Null).await?;
        ensure!(then.text("/sql").contains("TABLE public.entry"), "{then:?}");
        ensure!(!then.text("/sql").contains("later"), "{then:?}");
        ensure!(!then.text("/sql").contains("more text"), "{then:?}");
    }
    let compare = format!(
        "{path}/compare_schema?db_name=neondb&base_branch_id={main}&base_lsn={}",
        entry.lsn
    );
    let compared = http.expect(200, "GET", &compare, Value::Null).await?;
    ensure!(
        compared.text("/diff").contains("+    more text"),
        "{compared:?}"
    );

    let request = BranchCreateRequest::named("then")
        .parent(main.clone())
        .at_lsn(entry.lsn.clone())
        .read_write_endpoint();
    let then = client.create_branch(project, &request).await?;
    emulator.finished(&then.operations).await?;
    let id = then.branch.id;
    let roles = client.list_roles(project, &id).await?.roles;
    let mut names: Vec<&str> = roles.iter().map(|role| &*role.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["early", "neondb_owner"]);
    let databases = client.list_databases(project, &id).await?.databases;
    let mut names: Vec<(&str, &str)> = databases
        .iter()
        .map(|database| (&*database.name, &*database.owner_name))
        .collect();
    names.sort_unstable();
    assert_eq!(names, [("early", "early"), ("neondb", "neondb_owner")]);
    let query = neon_api::types::ConnectionUriQuery::new("early", "early").branch(id.clone());
    let uri = client.get_connection_uri(project, &query).await?.uri;
    suite::connect(uri.expose(), &data).await?;
    emulator.stop().await
}
