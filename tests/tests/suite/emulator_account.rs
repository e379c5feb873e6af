//! The emulator's account: keys, user, organization, and its projects.

use serde_json::{Value, json};
use suite::{EmulatorProcess, Folder, Http};

#[tokio::test]
async fn keys_open_until_they_are_revoked() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let emulator = EmulatorProcess::start(&data).await?;
    let http = Http::of(&emulator);
    let made = http
        .expect(200, "POST", "/api_keys", json!({"key_name": "ci"}))
        .await?;
    let key = made.text("/key").to_owned();
    assert!(key.starts_with("napi_"), "{made:?}");
    assert_eq!(made.text("/name"), "ci");
    let id = made.at("/id").as_i64().unwrap_or_default();

    let own = http.with_key(&key);
    let auth = own.expect(200, "GET", "/auth", Value::Null).await?;
    assert_eq!(auth.text("/auth_method"), "api_key_user");
    let listed = http.expect(200, "GET", "/api_keys", Value::Null).await?;
    assert_eq!(listed.at("/0/id").as_i64(), Some(id));
    assert!(listed.at("/0/key").is_null(), "a list shows no keys");
    assert_eq!(listed.text("/0/created_by/name"), "local");
    assert!(listed.at("/0/last_used_at").is_string(), "{listed:?}");

    // It is not in the state, and outlives the process.
    let state = std::fs::read_to_string(data.join("state.json"))?;
    assert!(!state.contains(&key), "the key itself is stored");
    let emulator = emulator.kill_and_start().await?;
    own.expect(200, "GET", "/projects", Value::Null).await?;
    let path = format!("/api_keys/{id}");
    let revoked = own.expect(200, "DELETE", &path, Value::Null).await?;
    assert_eq!(revoked.at("/revoked"), &json!(true));
    own.expect(401, "GET", "/projects", Value::Null).await?;
    http.expect(404, "DELETE", &path, Value::Null).await?;

    let long = json!({"key_name": "x".repeat(65)});
    for (body, word) in [(json!({}), "key_name"), (long, "key_name")] {
        let refused = http.expect(400, "POST", "/api_keys", body).await?;
        assert!(refused.text("/message").contains(word), "{refused:?}");
    }
    http.expect(400, "DELETE", "/api_keys/many", Value::Null)
        .await?;
    emulator.stop().await
}

#[tokio::test]
async fn a_projects_key_opens_that_project_alone() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let http = Http::of(&emulator);
    let first = format!("/projects/{}", emulator.project());
    let second = http
        .expect(201, "POST", "/projects", json!({"project": {"name": "b"}}))
        .await?;
    let second = format!("/projects/{}", second.text("/project/id"));
    let organizations = http
        .expect(200, "GET", "/users/me/organizations", Value::Null)
        .await?;
    let organization = organizations.text("/organizations/0/id");
    let keys = format!("/organizations/{organization}/api_keys");
    let body = json!({"key_name": "one", "project_id": emulator.project()});
    let made = http.expect(200, "POST", &keys, body).await?;
    assert_eq!(made.text("/project_id"), emulator.project().as_str());
    let own = http.with_key(made.text("/key"));
    own.expect(200, "GET", &first, Value::Null).await?;
    let branches = format!("{first}/branches");
    own.expect(200, "GET", &branches, Value::Null).await?;
    own.expect(404, "GET", &second, Value::Null).await?;
    own.expect(403, "DELETE", &first, Value::Null).await?;
    own.expect(403, "POST", "/api_keys", json!({"key_name": "x"}))
        .await?;
    let auth = own.expect(200, "GET", "/auth", Value::Null).await?;
    assert_eq!(auth.text("/auth_method"), "api_key_org");

    // A user's keys and an organization's are two lists.
    let listed = http.expect(200, "GET", "/api_keys", Value::Null).await?;
    assert_eq!(listed.body, json!([]));
    let revoke = format!("{keys}/{}", made.at("/id"));
    http.expect(200, "DELETE", &revoke, Value::Null).await?;
    own.expect(401, "GET", &first, Value::Null).await?;
    emulator.stop().await
}

#[tokio::test]
async fn the_account_says_who_it_is() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let http = Http::of(&emulator);
    let user = http.expect(200, "GET", "/users/me", Value::Null).await?;
    for field in ["id", "email", "login", "name", "last_name", "image", "plan"] {
        assert!(user.body[field].is_string(), "{field}: {user:?}");
    }
    assert_eq!(user.at("/projects_limit"), &json!(1_000));
    let regions = http.expect(200, "GET", "/regions", Value::Null).await?;
    let project = format!("/projects/{}", emulator.project());
    let found = http.expect(200, "GET", &project, Value::Null).await?;
    assert_eq!(
        found.at("/project/region_id"),
        regions.at("/regions/0/region_id")
    );

    let organization = found.text("/project/org_id");
    let path = format!("/organizations/{organization}");
    let details = http.expect(200, "GET", &path, Value::Null).await?;
    assert_eq!(details.text("/id"), organization);
    let listed = format!("/projects?limit=2&org_id={organization}");
    let listed = http.expect(200, "GET", &listed, Value::Null).await?;
    assert_eq!(listed.text("/projects/0/id"), emulator.project().as_str());
    let shared = http
        .expect(200, "GET", "/projects/shared?limit=100", Value::Null)
        .await?;
    assert_eq!(shared.at("/projects"), &json!([]));
    let libraries = format!("{project}/available_preload_libraries");
    let libraries = http.expect(200, "GET", &libraries, Value::Null).await?;
    assert_eq!(libraries.at("/libraries"), &json!([]));

    for path in [
        "/organizations/org-no-such-12345678",
        "/projects?org_id=org-no-such-12345678",
        "/regions?org_id=org-no-such-12345678",
        "/projects/no-such-12345678/available_preload_libraries",
    ] {
        http.expect(404, "GET", path, Value::Null).await?;
    }
    http.expect(405, "POST", "/regions", Value::Null).await?;
    emulator.stop().await
}

#[tokio::test]
async fn projects_are_changed_and_deleted() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let emulator = EmulatorProcess::start(&data).await?;
    let http = Http::of(&emulator);
    let first = format!("/projects/{}", emulator.project());
    let change = json!({"project": {
        "name": "renamed",
        "history_retention_seconds": 3600,
        "settings": {"enable_logical_replication": true},
    }});
    let changed = http.expect(200, "PATCH", &first, change).await?;
    assert_eq!(changed.text("/project/name"), "renamed");
    let quota = json!({"project": {"settings": {"quota": {"active_time_seconds": 7}}}});
    let changed = http.expect(200, "PATCH", &first, quota).await?;
    let settings = changed.at("/project/settings");
    assert_eq!(settings["enable_logical_replication"], json!(true));
    assert_eq!(settings["quota"]["active_time_seconds"], json!(7));
    for (status, body, word) in [
        (
            400,
            json!({"project": {"name": "x".repeat(257)}}),
            "project.name",
        ),
        (
            400,
            json!({"project": {"history_retention_seconds": 2_592_001}}),
            "history",
        ),
        (400, json!({}), "project"),
        (
            422,
            json!({"project": {"settings": {"enable_logical_replication": false}}}),
            "logical",
        ),
    ] {
        let refused = http.expect(status, "PATCH", &first, body).await?;
        assert!(refused.text("/message").contains(word), "{refused:?}");
    }

    let main = emulator.main_branch().await?;
    let branch = format!("{first}/branches/{main}");
    let protect = |protected: bool| json!({"branch": {"protected": protected}});
    http.expect(200, "PATCH", &branch, protect(true)).await?;
    let refused = http.expect(422, "DELETE", &first, Value::Null).await?;
    assert!(refused.text("/message").contains("main"), "{refused:?}");
    http.expect(200, "PATCH", &branch, protect(false)).await?;

    // With a branch that is still being made.
    let child = json!({"branch": {"name": "child"}, "endpoints": [{"type": "read_write"}]});
    http.expect(201, "POST", &format!("{first}/branches"), child)
        .await?;
    let session = emulator.connect(&main).await?;
    let deleted = http.expect(200, "DELETE", &first, Value::Null).await?;
    assert_eq!(deleted.text("/project/name"), "renamed");
    http.expect(404, "GET", &first, Value::Null).await?;
    http.expect(404, "DELETE", &first, Value::Null).await?;
    suite::eventually("the folders are gone", async || {
        let left = std::fs::read_dir(data.join("branches"))?.count();
        anyhow::ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .await?;
    assert!(session.simple_query("SELECT 1").await.is_err());

    // An emulator that starts has a project.
    let gone = emulator.project().clone();
    let emulator = emulator.kill_and_start().await?;
    assert_ne!(*emulator.project(), gone);
    emulator.connect(&emulator.main_branch().await?).await?;
    emulator.stop().await
}

#[tokio::test]
async fn limits_are_those_asked_for() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let flags = ["--projects-max", "1"];
    let listen = suite::free_address()?;
    let emulator = EmulatorProcess::start_with(&folder.join("data"), &listen, &flags).await?;
    let http = Http::of(&emulator);
    let refused = http
        .expect(422, "POST", "/projects", json!({"project": {}}))
        .await?;
    assert_eq!(refused.text("/code"), "PROJECTS_LIMIT_EXCEEDED");
    emulator.stop().await
}

/// Optional in Neon's description of today; neon-api for Python needs it.
#[tokio::test]
async fn the_user_has_a_billing_account() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let http = Http::of(&emulator);
    let user = http.expect(200, "GET", "/users/me", Value::Null).await?;
    assert_eq!(user.text("/billing_account/state"), "active");
    assert_eq!(user.text("/billing_account/subscription_type"), "scale");
    assert!(user.at("/billing_account/payment_source/type").is_string());
    emulator.stop().await
}
