//! Compute endpoints.

use std::collections::BTreeMap;

use anyhow::Context;
use neon_api::types::{
    EndpointCreateRequest, EndpointSettingsData, EndpointUpdate, EndpointUpdateRequest,
    RoleCreateRequest,
};
use serde_json::{Value, json};
use suite::{EmulatorProcess, Folder, Http};

use super::assert_api_error;

#[tokio::test]
async fn endpoints_are_changed_restarted_and_deleted() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let dev = emulator.branch("dev", None).await?;
    let endpoint = dev.endpoints[0].id.clone();
    let settings = |name: &str, value: &str| EndpointUpdateRequest {
        endpoint: EndpointUpdate {
            settings: Some(EndpointSettingsData {
                pg_settings: Some(BTreeMap::from([(name.to_owned(), value.to_owned())])),
                ..EndpointSettingsData::default()
            }),
            ..EndpointUpdate::default()
        },
    };
    let changed = client
        .update_endpoint(project, &endpoint, &settings("work_mem", "8MB"))
        .await?;
    emulator.finished(&changed.operations).await?;
    let session = emulator.connect(&dev.branch.id).await?;
    let row = session.query_one("SHOW work_mem", &[]).await?;
    assert_eq!(row.get::<_, String>(0), "8MB");
    // What would run code, or open the server, is not for callers.
    for (name, value) in [
        ("archive_command", "id"),
        ("hba_file", "/tmp/x"),
        ("work_mem", "1MB'\nssl = 'off"),
    ] {
        let refused = client
            .update_endpoint(project, &endpoint, &settings(name, value))
            .await;
        assert_api_error(refused, 400, "pg_settings");
    }

    let restarted = client.restart_endpoint(project, &endpoint).await?;
    emulator.finished(&restarted.operations).await?;
    assert!(session.simple_query("SELECT 1").await.is_err());
    emulator.connect(&dev.branch.id).await?;
    let disable = EndpointUpdateRequest {
        endpoint: EndpointUpdate {
            disabled: Some(true),
            ..EndpointUpdate::default()
        },
    };
    let disabled = client.update_endpoint(project, &endpoint, &disable).await?;
    emulator.finished(&disabled.operations).await?;
    assert!(emulator.connect(&dev.branch.id).await.is_err());
    let refused = client.start_endpoint(project, &endpoint).await;
    assert_api_error(refused, 422, "disabled");
    let deleted = client.delete_endpoint(project, &endpoint).await?;
    emulator
        .finished(&deleted.context("it was there")?.operations)
        .await?;
    assert!(client.delete_endpoint(project, &endpoint).await?.is_none());
    let another = EndpointCreateRequest::read_write(dev.branch.id.clone());
    let another = client.create_endpoint(project, &another).await?;
    emulator.finished(&another.operations).await?;
    emulator.connect(&dev.branch.id).await?;
    emulator.stop().await
}

/// With a value that Postgres does not take, an endpoint would not start again.
#[tokio::test]
async fn values_that_postgres_does_not_take_change_nothing() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let http = Http::of(&emulator);
    let main = emulator.main_branch().await?;
    let project = format!("/projects/{}", emulator.project());
    let before = http.expect(200, "GET", &project, Value::Null).await?;
    let endpoint = emulator.endpoint(&main).await?;
    let settings = |name: &str, value: &str| json!({ "pg_settings": { name: value } });
    for (name, value, word) in [
        ("work_mem", "banana", "invalid value"),
        ("statement_timeout", "-5", "outside the valid range"),
        ("timezone", "Mars/Olympus", "invalid value"),
        ("archive_command", "id", "cannot be changed"),
        ("max_locks_per_transaction", "2000000000", "at most"),
    ] {
        let of_endpoint = settings(name, value);
        let of_branch = json!({
            "branch": {"name": "none"},
            "endpoints": [{"type": "read_write", "settings": of_endpoint}],
        });
        let of_project = json!({"project": {"default_endpoint_settings": of_endpoint}});
        let of_endpoint = json!({"endpoint": {"settings": of_endpoint}});
        for (method, path, body) in [
            (
                "PATCH",
                format!("{project}/endpoints/{}", endpoint.id),
                of_endpoint,
            ),
            ("POST", format!("{project}/branches"), of_branch),
            ("PATCH", project.clone(), of_project.clone()),
            ("POST", "/projects".to_owned(), of_project),
        ] {
            let refused = http.expect(400, method, &path, body).await?;
            let message = refused.text("/message");
            assert!(
                message.contains(&format!("pg_settings.{name}")),
                "{message}"
            );
            assert!(message.contains(word), "{word}: {message}");
        }
    }
    for name in [String::new(), "n".repeat(65)] {
        let path = format!("{project}/endpoints/{}", endpoint.id);
        let body = json!({"endpoint": {"name": name}});
        let refused = http.expect(400, "PATCH", &path, body).await?;
        assert!(refused.text("/message").contains("endpoint.name"));
    }
    assert_eq!(emulator.endpoint(&main).await?, endpoint);
    let after = http.expect(200, "GET", &project, Value::Null).await?;
    assert_eq!(after.body, before.body);
    emulator.connect(&main).await?;
    emulator.stop().await
}

/// The emulator's own sessions do not obey what callers choose for theirs.
#[tokio::test]
async fn a_callers_settings_do_not_stop_the_emulators_own_work() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let dev = emulator.branch("dev", None).await?;
    let settings = [
        ("default_transaction_read_only", "on"),
        ("statement_timeout", "1ms"),
        ("idle_session_timeout", "1ms"),
        ("lock_timeout", "1ms"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let request = EndpointUpdateRequest {
        endpoint: EndpointUpdate {
            settings: Some(EndpointSettingsData {
                pg_settings: Some(BTreeMap::from(settings)),
                ..EndpointSettingsData::default()
            }),
            ..EndpointUpdate::default()
        },
    };
    let changed = client
        .update_endpoint(project, &dev.endpoints[0].id, &request)
        .await?;
    emulator.finished(&changed.operations).await?;
    let role = RoleCreateRequest::named("alice");
    let made = client.create_role(project, &dev.branch.id, &role).await?;
    emulator.finished(&made.operations).await?;
    emulator.branch("child", Some(&dev.branch.id)).await?;
    emulator.stop().await
}
