//! Times: how they are read and written.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use suite::{EmulatorProcess, Folder, Http};

#[tokio::test]
async fn times_are_of_rfc_3339_and_in_the_next_thirty_days() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (http, project) = (Http::of(&emulator), emulator.project());
    let branches = format!("/projects/{project}/branches");
    let main = format!("{branches}/{}", emulator.main_branch().await?);
    let created = http.expect(200, "GET", &main, json!(null)).await?;
    let created: Timestamp = created.text("/branch/created_at").parse()?;
    let later = |hours: i64| created + SignedDuration::from_hours(hours);
    let day = later(24).strftime("%Y-%m-%dT%H:%M:%S").to_string();
    for time in [
        day.clone(),
        format!("{day}Z[UTC]"),
        format!("{}Z", day.replace('T', " ")),
        format!("{}Z", day.replace(['-', ':'], "")),
        day[..10].to_owned(),
        String::new(),
        later(-24).to_string(),
        later(31 * 24).to_string(),
    ] {
        let request = json!({"branch": {"name": "late", "expires_at": time}});
        let refused = http.expect(400, "POST", &branches, request).await?;
        let message = refused.text("/message");
        assert!(
            message.starts_with("branch.expires_at"),
            "{time}: {refused:?}"
        );
    }
    let snapshot = format!("{main}/snapshot?timestamp=yesterday");
    let refused = http.expect(400, "POST", &snapshot, json!(null)).await?;
    assert!(
        refused.text("/message").starts_with("timestamp"),
        "{refused:?}"
    );
    let count = http
        .expect(200, "GET", &format!("{branches}/count"), json!(null))
        .await?;
    assert_eq!(count.at("/count"), 1);

    let wanted = format!("{day}.75+02:00");
    let expected = wanted.parse::<Timestamp>()?.as_second();
    let request = json!({"branch": {"name": "late", "expires_at": wanted}});
    let made = http.expect(201, "POST", &branches, request).await?;
    let found: Timestamp = made.text("/branch/expires_at").parse()?;
    assert_eq!(found, Timestamp::from_second(expected)?);
    emulator.stop().await
}

/// Clients that read `%Y-%m-%dT%H:%M:%SZ`, as all of Neon's own examples are.
#[tokio::test]
async fn times_in_answers_are_whole_seconds() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (http, project) = (Http::of(&emulator), emulator.project());
    let noted = "2026-01-01T00:00:00.5Z";
    let request = json!({"branch": {"name": noted}, "annotation_value": {"made_at": noted}});
    let branches = format!("/projects/{project}/branches");
    let made = http.expect(201, "POST", &branches, request).await?;
    assert_eq!(made.text("/branch/name"), noted);
    let branch = format!("{branches}/{}", made.text("/branch/id"));
    let key = json!({"key_name": "one"});
    http.expect(200, "POST", "/api_keys", key).await?;
    let mut times = Vec::new();
    for path in [
        "/projects".to_owned(),
        format!("/projects/{project}"),
        format!("/projects/{project}/operations"),
        format!("/projects/{project}/endpoints"),
        format!("{branches}/{}/roles", emulator.main_branch().await?),
        format!("{branch}/databases"),
        branch,
        branches,
        "/api_keys".to_owned(),
        "/users/me".to_owned(),
        "/users/me/organizations".to_owned(),
    ] {
        let answer = http.expect(200, "GET", &path, json!(null)).await?;
        let before = times.len();
        collect(&answer.body, &mut times);
        assert!(times.len() > before, "{path} has times");
    }
    let exact: Vec<_> = times.iter().filter(|(_, time)| time.len() > 20).collect();
    // The caller's own name and note stay as they are.
    for (name, time) in &exact {
        assert_eq!((name.as_str(), time.as_str()), ("made_at", noted));
    }
    assert_eq!(exact.len(), 2, "in the list and in the branch");
    emulator.stop().await
}

/// Every text in it that is a time, but for names, with its field.
fn collect(value: &Value, times: &mut Vec<(String, String)>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, times)),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if name != "name" && text.parse::<Timestamp>().is_ok() => {
                        times.push((name.clone(), text.to_owned()));
                    }
                    _ => collect(value, times),
                }
            }
        }
        _ => {}
    }
}
