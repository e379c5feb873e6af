//! What a project is where its creation does not say it, and where it does.

use serde_json::{Value, json};
use suite::{EmulatorProcess, Folder, Http};

fn settings() -> Value {
    json!({
        "allowed_ips": {"ips": [], "protected_branches_only": false},
        "enable_logical_replication": false,
        "maintenance_window": {"weekdays": [5], "start_time": "07:00", "end_time": "08:00"},
        "block_public_connections": false,
        "block_vpc_connections": false,
        "hipaa": false,
    })
}

#[tokio::test]
async fn a_project_has_neons_defaults() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let http = Http::of(&emulator);
    let one = format!("/projects/{}", emulator.project());
    let found = http.expect(200, "GET", &one, Value::Null).await?;
    let listed = http.expect(200, "GET", "/projects", Value::Null).await?;
    let defaults = json!({
        "autoscaling_limit_min_cu": 0.25,
        "autoscaling_limit_max_cu": 0.25,
        "suspend_timeout_seconds": 0,
    });
    for project in [found.at("/project"), listed.at("/projects/0")] {
        assert_eq!(project["settings"], settings());
        assert_eq!(project["default_endpoint_settings"], defaults);
        assert_eq!(project["branch_logical_size_limit"], json!(16_777_216));
        assert_eq!(
            project["branch_logical_size_limit_bytes"],
            json!(16_777_216_i64 << 20)
        );
        assert_eq!(project["owner_id"], project["org_id"]);
    }
    assert_eq!(found.text("/project/owner/subscription_type"), "scale");

    // A change of some leaves the others.
    let change = json!({"project": {
        "settings": {"allowed_ips": {"ips": ["10.0.0.1"]}, "hipaa": true},
        "default_endpoint_settings": {"autoscaling_limit_min_cu": 2},
    }});
    let changed = http.expect(200, "PATCH", &one, change).await?;
    let mut expected = settings();
    expected["allowed_ips"]["ips"] = json!(["10.0.0.1"]);
    expected["hipaa"] = json!(true);
    assert_eq!(changed.at("/project/settings"), &expected);
    let more = json!({"project": {"default_endpoint_settings": {"suspend_timeout_seconds": 600}}});
    let changed = http.expect(200, "PATCH", &one, more).await?;
    assert_eq!(
        changed.at("/project/default_endpoint_settings"),
        &json!({
            "autoscaling_limit_min_cu": 2.0,
            "autoscaling_limit_max_cu": 2.0,
            "suspend_timeout_seconds": 600,
        })
    );
    emulator.stop().await
}

/// As an emulator of the first days wrote it.
#[tokio::test]
async fn an_older_project_gets_them_too() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let emulator = EmulatorProcess::start(&data).await?;
    let id = emulator.project().to_string();
    emulator.stop().await?;
    let path = data.join("state.json");
    let mut state: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let project = &mut state["projects"][&id]["project"];
    project["settings"] = Value::Null;
    project["default_endpoint_settings"] = Value::Null;
    project["branch_logical_size_limit"] = json!(0);
    project["branch_logical_size_limit_bytes"] = json!(0);
    project["owner_id"] = json!("local");
    std::fs::write(&path, serde_json::to_vec(&state)?)?;
    let emulator = EmulatorProcess::start(&data).await?;
    let http = Http::of(&emulator);
    let found = http
        .expect(200, "GET", &format!("/projects/{id}"), Value::Null)
        .await?;
    let project = found.at("/project");
    assert_eq!(project["settings"], settings());
    assert_eq!(
        project["default_endpoint_settings"]["autoscaling_limit_max_cu"],
        json!(0.25)
    );
    assert_eq!(project["branch_logical_size_limit"], json!(16_777_216));
    assert_eq!(project["owner_id"], project["org_id"]);
    emulator.stop().await
}

#[tokio::test]
async fn a_projects_creation_is_obeyed() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let http = Http::of(&emulator);
    let regions = http.expect(200, "GET", "/regions", Value::Null).await?;
    let regions = regions
        .at("/regions")
        .as_array()
        .cloned()
        .unwrap_or_default();
    let default: Vec<_> = regions
        .iter()
        .filter(|one| one["default"] == true)
        .collect();
    assert_eq!(default.len(), 1);
    assert_eq!(default[0]["region_id"], "aws-us-east-2");
    for region in ["aws-us-east-1", "aws-eu-central-1", "azure-eastus2"] {
        assert!(
            regions.iter().any(|one| one["region_id"] == region),
            "{region}"
        );
    }

    for (project, field) in [
        (json!({"region_id": "moon-1"}), "project.region_id"),
        (json!({"provisioner": "mainframe"}), "project.provisioner"),
        (
            json!({"autoscaling_limit_min_cu": 4, "autoscaling_limit_max_cu": 1}),
            "project.autoscaling_limit_max_cu",
        ),
    ] {
        let body = json!({"project": project});
        let refused = http.expect(400, "POST", "/projects", body).await?;
        assert!(refused.text("/message").contains(field), "{refused:?}");
    }
    // Its owner could have no name.
    let body = json!({"project": {"branch": {"database_name": "pg_things"}}});
    let refused = http.expect(422, "POST", "/projects", body).await?;
    assert!(
        refused.text("/message").contains("role_name"),
        "{refused:?}"
    );

    let body = json!({"project": {
        "name": "two",
        "region_id": "azure-eastus2",
        "provisioner": "k8s-pod",
        "autoscaling_limit_min_cu": 0.5,
        "autoscaling_limit_max_cu": 3,
        "default_endpoint_settings": {"autoscaling_limit_max_cu": 8},
        "branch": {"database_name": "shop"},
    }});
    let made = http.expect(201, "POST", "/projects", body).await?;
    assert_eq!(made.text("/project/region_id"), "azure-eastus2");
    assert_eq!(made.text("/project/platform_id"), "azure");
    for at in ["/project", "/endpoints/0"] {
        assert_eq!(made.text(&format!("{at}/provisioner")), "k8s-pod");
        assert_eq!(made.text(&format!("{at}/region_id")), "azure-eastus2");
    }
    // What is said of the first endpoint is for it; of the others it holds as far
    // as nothing is said of them.
    for (at, max) in [
        ("/project/default_endpoint_settings", 8.0),
        ("/endpoints/0", 3.0),
    ] {
        let of = made.at(at);
        assert_eq!(of["autoscaling_limit_min_cu"], json!(0.5), "{at}");
        assert_eq!(of["autoscaling_limit_max_cu"], json!(max), "{at}");
    }
    assert_eq!(made.text("/roles/0/name"), "shop_owner");
    assert_eq!(made.text("/databases/0/owner_name"), "shop_owner");
    let uri = made.text("/connection_uris/0/connection_uri");
    let session = suite::eventually("it is there", async || {
        suite::connect(uri, emulator.data()).await
    })
    .await?;
    let row = session.query_one("SELECT current_user::text", &[]).await?;
    assert_eq!(row.get::<_, String>(0), "shop_owner");
    // Branches of it are like it.
    let branches = format!("/projects/{}/branches", made.text("/project/id"));
    let child = json!({"endpoints": [{"type": "read_write"}]});
    let child = http.expect(201, "POST", &branches, child).await?;
    assert_eq!(child.text("/endpoints/0/region_id"), "azure-eastus2");
    assert_eq!(child.text("/endpoints/0/provisioner"), "k8s-pod");
    assert_eq!(
        child.at("/endpoints/0/autoscaling_limit_max_cu"),
        &json!(8.0)
    );
    emulator.stop().await
}
