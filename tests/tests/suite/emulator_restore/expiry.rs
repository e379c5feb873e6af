//! Branches that expire.

use anyhow::{Context, ensure};
use neon_api::types::{BranchCreateRequest, BranchRestoreRequest, BranchUpdateRequest};
use serde_json::{Value, json};
use suite::{EmulatorProcess, Folder, Http, eventually};

use super::{branch, folders};

#[tokio::test]
async fn branches_expire_when_the_clock_says_so() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let clock = folder.join("clock");
    let set_clock = |seconds: i64| -> anyhow::Result<()> {
        let new = folder.join("clock.new");
        std::fs::write(&new, seconds.to_string())?;
        Ok(std::fs::rename(&new, &clock)?)
    };
    // The tests' own clock is not for them to read: the emulator's is.
    // What moves the clock is not to suspend endpoints as well.
    let flags = [
        "--unsafe-test-clock",
        clock.to_str().context("UTF-8")?,
        "--suspend-seconds-default",
        "-1",
    ];
    let listen = suite::free_address()?;
    let emulator = EmulatorProcess::start_with(&folder.join("data"), &listen, &flags).await?;
    assert!(emulator.process().log().contains("UNSAFE"));
    let (client, project) = (emulator.client(), emulator.project());
    let http = Http::of(&emulator);
    let main = emulator.main_branch().await?;
    let created_at = branch(&emulator, &main).await?.created_at;
    let hour = jiff::SignedDuration::from_hours(1);
    let expires_at = created_at + hour;
    let request = BranchCreateRequest::named("brief")
        .read_write_endpoint()
        .expires_at(expires_at);
    let made = client.create_branch(project, &request).await?;
    emulator.finished(&made.operations).await?;
    let brief = &made.branch.id;
    let stored = made.branch.expires_at.context("it expires")?;
    assert_eq!(stored.as_second(), expires_at.as_second());
    assert_eq!(stored.subsec_nanosecond(), 0, "seconds are stored");
    let ttl = made.branch.ttl_interval_seconds.context("a ttl")?;
    assert!((3_500..=3_600).contains(&ttl), "{ttl}");

    let branches = format!("/projects/{project}/branches");
    let path = format!("{branches}/{brief}");
    let expiry = |value: Value| json!({"branch": {"expires_at": value}});
    let later = |hours: i64| json!((created_at + hour * (hours as i32)).to_string());
    for (method, path, body, status, word) in [
        (
            "PATCH",
            &path,
            expiry(json!("2020-01-01T00:00:00Z")),
            400,
            "future",
        ),
        ("PATCH", &path, expiry(later(24 * 31)), 400, "30 days"),
        (
            "PATCH",
            &path,
            expiry(json!("2027-01-01T00:00:00")),
            400,
            "expires_at",
        ),
        (
            "PATCH",
            &path,
            json!({"branch": {"protected": true}}),
            422,
            "expires",
        ),
        (
            "PATCH",
            &format!("{branches}/{main}"),
            expiry(later(2)),
            422,
            "branch.expires_at",
        ),
        (
            "POST",
            &branches,
            json!({"branch": {"name": "child", "parent_id": brief}}),
            422,
            "branch.parent_id",
        ),
        (
            "POST",
            &branches,
            json!({"branch": {"protected": true, "expires_at": later(2)}}),
            422,
            "protected",
        ),
        (
            "POST",
            &format!("{path}/set_as_default"),
            Value::Null,
            422,
            "default",
        ),
    ] {
        let refused = http.expect(status, method, path, body).await?;
        assert!(
            refused.text("/message").contains(word),
            "{word}: {refused:?}"
        );
    }

    // A reset gives it its time anew.
    set_clock(1_800)?;
    let reset = BranchRestoreRequest::from_branch(main.clone());
    let reset = client.restore_branch(project, brief, &reset).await?;
    emulator.finished(&reset.operations).await?;
    let rearmed = branch(&emulator, brief).await?;
    assert_eq!(rearmed.ttl_interval_seconds, Some(ttl));
    let expires_at = rearmed.expires_at.context("it expires")?;
    assert!(
        expires_at.as_second() >= stored.as_second() + 1_700,
        "{expires_at}"
    );

    let kept = emulator.branch("kept", None).await?.branch.id;
    let set = BranchUpdateRequest::default().expires_at(expires_at);
    client.update_branch(project, &kept, &set).await?;
    let cleared = client
        .update_branch(
            project,
            &kept,
            &BranchUpdateRequest::default().never_expires(),
        )
        .await?;
    assert_eq!(cleared.branch.expires_at, None);
    assert_eq!(cleared.branch.ttl_interval_seconds, None);

    set_clock(3_700)?;
    branch(&emulator, brief).await?;
    set_clock(10_000)?;
    eventually("it has expired", async || {
        let left = folders(emulator.data())?;
        ensure!(!left.contains(&brief.to_string()), "{left:?}");
        Ok(())
    })
    .await?;
    http.expect(404, "GET", &path, Value::Null).await?;
    branch(&emulator, &kept).await?;
    emulator.stop().await
}
