//! What requests say of endpoints: kept, told again, and refused where Neon has
//! no such value.

use serde_json::{Value, json};
use suite::{EmulatorProcess, Folder, Http};

#[tokio::test]
async fn what_is_said_of_an_endpoint_is_told_again() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let http = Http::of(&emulator);
    let project = format!("/projects/{}", emulator.project());
    let bare = http
        .expect(201, "POST", &format!("{project}/branches"), Value::Null)
        .await?;
    let operations = serde_json::from_value::<Vec<_>>(bare.at("/operations").clone())?;
    emulator.finished(&operations).await?;
    let branch = bare.text("/branch/id");
    let all = json!({
        "name": "writer", "provisioner": "k8s-pod", "passwordless_access": true,
        "pooler_enabled": true, "pooler_mode": "transaction", "suspend_timeout_seconds": 600,
        "autoscaling_limit_min_cu": 0.5, "autoscaling_limit_max_cu": 2.0, "disabled": true,
    });
    let mut wanted = all.clone();
    wanted["branch_id"] = json!(branch);
    wanted["type"] = json!("read_write");
    wanted["region_id"] = json!("aws-us-east-2");
    let endpoints = format!("{project}/endpoints");
    let wrong = [
        ("provisioner", json!("k8s-mainframe")),
        ("pooler_mode", json!("session")),
        ("passwordless_access", json!("yes")),
        ("suspend_timeout_seconds", json!(7)),
    ];
    let of_region = [
        ("region_id", json!("moon-1")),
        // Neon has it, and the project is elsewhere.
        ("region_id", json!("aws-eu-central-1")),
    ];
    for (field, value) in wrong.iter().chain(&of_region) {
        let mut body = wanted.clone();
        body[field] = value.clone();
        let body = json!({"endpoint": body});
        let refused = http.expect(400, "POST", &endpoints, body).await?;
        let message = refused.text("/message");
        assert!(message.contains(&format!("endpoint.{field}")), "{message}");
    }
    let made = http
        .expect(201, "POST", &endpoints, json!({"endpoint": wanted}))
        .await?;
    let path = format!("{endpoints}/{}", made.text("/endpoint/id"));
    let has = async |wanted: &Value| {
        let found = http.expect(200, "GET", &path, Value::Null).await?;
        for (field, value) in wanted.as_object().into_iter().flatten() {
            assert_eq!(&found.at("/endpoint")[field], value, "{field}");
        }
        anyhow::Ok(())
    };
    has(&wanted).await?;

    let before = http.expect(200, "GET", &path, Value::Null).await?;
    for (field, value) in &wrong {
        let body = json!({"endpoint": {"name": "changed", *field: value}});
        let refused = http.expect(400, "PATCH", &path, body).await?;
        let message = refused.text("/message");
        assert!(message.contains(&format!("endpoint.{field}")), "{message}");
    }
    let after = http.expect(200, "GET", &path, Value::Null).await?;
    assert_eq!(after.body, before.body, "nothing has changed");
    let other = json!({
        "name": "other", "provisioner": "serverless-platform", "passwordless_access": false,
        "pooler_enabled": false, "suspend_timeout_seconds": 0, "autoscaling_limit_max_cu": 4.0,
        "disabled": false,
    });
    http.expect(200, "PATCH", &path, json!({"endpoint": other}))
        .await?;
    has(&other).await?;
    // A start, and another run, leave it so.
    emulator.connect(&branch.parse()?).await?;
    has(&other).await?;
    let listen = emulator.kill().await?;
    let emulator = EmulatorProcess::start_at(&folder.join("data"), &listen).await?;
    has(&other).await?;
    emulator.stop().await
}

/// An empty object would take all settings away, and restart for it.
#[tokio::test]
async fn settings_that_say_nothing_are_refused() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let http = Http::of(&emulator);
    let endpoint = emulator.endpoint(&emulator.main_branch().await?).await?;
    let path = format!("/projects/{}/endpoints/{}", emulator.project(), endpoint.id);
    let change = |settings: Value| json!({"endpoint": {"settings": settings}});
    let settings = json!({"pg_settings": {"work_mem": "8MB"}});
    let changed = http
        .expect(200, "PATCH", &path, change(settings.clone()))
        .await?;
    let operations = serde_json::from_value::<Vec<_>>(changed.at("/operations").clone())?;
    emulator.finished(&operations).await?;
    for nothing in [json!({}), json!({"pg_settings": null})] {
        let refused = http.expect(400, "PATCH", &path, change(nothing)).await?;
        let message = refused.text("/message");
        assert!(message.contains("settings must not be nil"), "{message}");
    }
    let found = http.expect(200, "GET", &path, Value::Null).await?;
    assert_eq!(found.at("/endpoint/settings"), &settings);
    // What is not named stays.
    let more = json!({"preload_libraries": {"use_defaults": true}});
    let changed = http.expect(200, "PATCH", &path, change(more)).await?;
    assert_eq!(
        changed.at("/endpoint/settings/pg_settings"),
        &settings["pg_settings"]
    );
    emulator.stop().await
}

#[tokio::test]
async fn an_endpoint_of_a_new_branch_is_named_by_its_place() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let http = Http::of(&emulator);
    let path = format!("/projects/{}/branches", emulator.project());
    let good = json!({"type": "read_write"});
    for (wrong, field) in [
        (json!({"type": "sideways"}), "type"),
        (
            json!({"type": "read_only", "provisioner": "x"}),
            "provisioner",
        ),
        (
            json!({"type": "read_only", "suspend_timeout_seconds": 7}),
            "suspend_timeout_seconds",
        ),
        (
            json!({"type": "read_only", "autoscaling_limit_min_cu": 0.1}),
            "autoscaling_limit_min_cu",
        ),
    ] {
        let body = json!({"endpoints": [good, wrong]});
        let refused = http.expect(400, "POST", &path, body).await?;
        let message = refused.text("/message");
        assert!(
            message.contains(&format!("endpoints[1].{field}")),
            "{message}"
        );
    }
    let body = json!({"endpoints": [{"type": "read_write", "provisioner": "k8s-pod"}]});
    let made = http.expect(201, "POST", &path, body).await?;
    assert_eq!(made.text("/endpoints/0/provisioner"), "k8s-pod");
    emulator.stop().await
}
