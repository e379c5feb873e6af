//! Who sees that something is ready can work with it: its operation is finished.

use anyhow::ensure;
use serde_json::{Value, json};
use suite::{EmulatorProcess, Faults, Folder, Http, eventually};

#[tokio::test]
async fn what_is_ready_can_be_worked_with() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let (http, faults) = (Http::of(&emulator), Faults::of(&emulator));
    let project = format!("/projects/{}", emulator.project());
    // So that there is time to see one without the other.
    let late = json!({"fault": "delay", "milliseconds": 1_500, "after": true});
    for action in ["create_branch", "start_compute", "suspend_compute"] {
        faults.on_operation(action, late.clone()).await?;
    }
    let branches = format!("{project}/branches");
    let made = http
        .expect(201, "POST", &branches, json!({"branch": {"name": "dev"}}))
        .await?;
    let branch = format!("{branches}/{}", made.text("/branch/id"));
    let reached = async |path: &str, field: &str, state: &str| {
        eventually("it has got there", async || {
            let found = http.expect(200, "GET", path, Value::Null).await?;
            ensure!(found.text(field) == state, "{found:?}");
            Ok(())
        })
        .await
    };
    reached(&branch, "/branch/current_state", "ready").await?;
    let endpoint =
        json!({"endpoint": {"branch_id": made.text("/branch/id"), "type": "read_write"}});
    let endpoints = format!("{project}/endpoints");
    let endpoint = http.expect(201, "POST", &endpoints, endpoint).await?;
    let endpoint = format!("{endpoints}/{}", endpoint.text("/endpoint/id"));
    let suspend = format!("{endpoint}/suspend");

    // On its way it can be sent nowhere else, in Neon's words.
    let refused = http.expect(423, "POST", &suspend, Value::Null).await?;
    let message = "endpoint is in some transitive state, could not suspend";
    assert_eq!(refused.text("/message"), message);
    let state = "/endpoint/current_state";
    reached(&endpoint, state, "active").await?;
    http.expect(200, "POST", &suspend, Value::Null).await?;
    reached(&endpoint, state, "idle").await?;
    let start = format!("{endpoint}/start");
    http.expect(200, "POST", &start, Value::Null).await?;
    reached(&endpoint, state, "active").await?;

    // A restore, which is recorded with what it was to do.
    faults.on_operation("create_branch", late).await?;
    let main = emulator.main_branch().await?;
    let restore = json!({"source_branch_id": main});
    emulator.suspend(&made.text("/branch/id").parse()?).await?;
    http.expect(200, "POST", &format!("{branch}/restore"), restore)
        .await?;
    reached(&branch, "/branch/current_state", "ready").await?;
    http.expect(200, "POST", &start, Value::Null).await?;
    emulator.stop().await
}
