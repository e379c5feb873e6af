//! What the Terraform provider kislerdm/neon sends, in its order: the bodies that
//! its resources make of a configuration, and the fields that it reads back. Its
//! plan fails where an answer has another value than the configuration.

use anyhow::Context;
use neon_api::types::Operation;
use serde_json::{Value, json};
use suite::{EmulatorProcess, Folder, Http};

/// The provider: after each change it waits for the operations.
struct Provider<'a> {
    emulator: &'a EmulatorProcess,
    http: Http,
    project: String,
}

impl Provider<'_> {
    async fn sends(&self, status: u16, method: &str, path: &str, body: Value) -> Answered {
        let path = format!("{}{path}", self.project);
        let answer = self.http.expect(status, method, &path, body).await?;
        self.waits(&answer.body).await?;
        Ok(answer.body)
    }

    async fn waits(&self, body: &Value) -> anyhow::Result<()> {
        let operations = &body["operations"];
        if operations.is_null() {
            return Ok(());
        }
        let operations: Vec<Operation> = serde_json::from_value(operations.clone())?;
        let of = operations.first().map(|first| first.project_id.clone());
        match of {
            Some(project) => self.emulator.finished_in(&project, &operations).await,
            None => Ok(()),
        }
    }

    async fn reads(&self, path: &str) -> Answered {
        self.sends(200, "GET", path, Value::Null).await
    }
}

type Answered = anyhow::Result<Value>;

/// Fails where the answer has not what was asked for.
#[track_caller]
fn same(asked: &Value, answered: &Value) {
    for (field, value) in asked.as_object().into_iter().flatten() {
        match value {
            Value::Object(_) => same(value, &answered[field]),
            _ => assert_eq!(&answered[field], value, "{field}: {answered}"),
        }
    }
}

#[tokio::test]
async fn a_terraform_configuration_is_applied_changed_and_destroyed() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let mut provider = Provider {
        emulator: &emulator,
        http: Http::of(&emulator),
        project: String::new(),
    };
    let settings = json!({
        "quota": {"active_time_seconds": 3600, "compute_time_seconds": 3600},
        "allowed_ips": {"ips": ["10.0.0.0/8"], "protected_branches_only": true},
        "block_public_connections": false,
        "enable_logical_replication": false,
        "maintenance_window": {"weekdays": [7], "start_time": "01:00", "end_time": "02:00"},
    });
    let asked = json!({
        "name": "by terraform",
        "org_id": "org-calm-sea-12345678",
        "provisioner": "k8s-pod",
        "region_id": "aws-eu-central-1",
        "history_retention_seconds": 3600,
        "store_passwords": true,
        "default_endpoint_settings": {
            "autoscaling_limit_min_cu": 0.5, "autoscaling_limit_max_cu": 1.0,
            "suspend_timeout_seconds": 300,
        },
        "settings": settings,
    });
    let mut body = asked.clone();
    body["branch"] = json!({"name": "prod", "role_name": "owner", "database_name": "shop"});
    let made = provider
        .sends(201, "POST", "/projects", json!({"project": body}))
        .await?;
    same(&asked, &made["project"]);
    let id = made["project"]["id"].as_str().context("an id")?;
    provider.project = format!("/projects/{id}");
    let branches = provider.reads("/branches").await?;
    let prod = &branches["branches"][0];
    assert_eq!(
        (&prod["primary"], &prod["name"]),
        (&json!(true), &json!("prod"))
    );
    let prod = format!("/branches/{}", prod["id"].as_str().context("an id")?);
    let endpoints = provider.reads(&format!("{prod}/endpoints")).await?;
    assert_eq!(endpoints["endpoints"][0]["provisioner"], "k8s-pod");
    assert_eq!(endpoints["endpoints"][0]["suspend_timeout_seconds"], 300);
    let databases = provider.reads(&format!("{prod}/databases")).await?;
    assert_eq!(databases["databases"][0]["owner_name"], "owner");
    let password = provider
        .reads(&format!("{prod}/roles/owner/reveal_password"))
        .await?;
    assert_eq!(password["password"], made["roles"][0]["password"]);

    // A configuration that says nothing of addresses any more.
    let fewer = json!({"settings": {"allowed_ips": {}, "enable_logical_replication": false}});
    provider
        .sends(200, "PATCH", "", json!({"project": fewer}))
        .await?;
    let project = provider.reads("").await?;
    let ips = &project["project"]["settings"]["allowed_ips"]["ips"];
    assert_eq!(ips, &json!([]));
    same(
        &json!({"quota": settings["quota"], "maintenance_window": settings["maintenance_window"]}),
        &project["project"]["settings"],
    );

    let asked = json!({"name": "dev", "parent_id": made["branch"]["id"], "protected": false});
    let dev = provider
        .sends(201, "POST", "/branches", json!({"branch": asked}))
        .await?;
    same(&asked, &dev["branch"]);
    let of_dev = dev["branch"]["id"].as_str().context("an id")?;
    let dev = format!("/branches/{of_dev}");
    let asked = json!({
        "branch_id": of_dev,
        "type": "read_write",
        "region_id": "aws-eu-central-1",
        "disabled": false,
        "provisioner": "k8s-neonvm",
        "autoscaling_limit_min_cu": 0.25,
        "autoscaling_limit_max_cu": 2.0,
        "suspend_timeout_seconds": 600,
        "settings": {"pg_settings": {"work_mem": "8MB"}},
    });
    let endpoint = provider
        .sends(201, "POST", "/endpoints", json!({"endpoint": asked}))
        .await?;
    same(&asked, &endpoint["endpoint"]);
    let endpoint = endpoint["endpoint"]["id"].as_str().context("an id")?;
    let endpoint = format!("/endpoints/{endpoint}");
    // It says of every field what it is, also where it stays: the branch as well.
    let asked = json!({
        "pooler_enabled": false,
        "disabled": false,
        "branch_id": of_dev,
        "autoscaling_limit_min_cu": 0.5,
        "autoscaling_limit_max_cu": 4.0,
        "provisioner": "k8s-pod",
        "suspend_timeout_seconds": 300,
    });
    provider
        .sends(200, "PATCH", &endpoint, json!({"endpoint": asked}))
        .await?;
    same(&asked, &provider.reads(&endpoint).await?["endpoint"]);

    let role = json!({"role": {"name": "app"}});
    let role = provider
        .sends(201, "POST", &format!("{dev}/roles"), role)
        .await?;
    assert!(role["role"]["password"].is_string());
    let database = json!({"database": {"name": "things", "owner_name": "app"}});
    provider
        .sends(201, "POST", &format!("{dev}/databases"), database)
        .await?;
    let renamed = json!({"database": {"name": "stuff", "owner_name": "app"}});
    let things = format!("{dev}/databases/things");
    provider.sends(200, "PATCH", &things, renamed).await?;
    for path in [
        format!("{dev}/databases/stuff"),
        format!("{dev}/roles/app"),
        endpoint.clone(),
        dev,
        String::new(),
    ] {
        provider.sends(200, "DELETE", &path, Value::Null).await?;
        // Destroyed twice is no error, but for a project.
        let status = if path.is_empty() { 404 } else { 204 };
        provider.sends(status, "DELETE", &path, Value::Null).await?;
    }
    emulator.stop().await
}
