//! What there may be no more of, and what may not go.

use serde_json::{Value, json};
use suite::{EmulatorProcess, Folder, Http};

#[tokio::test]
async fn limits_and_protection_are_kept() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let flags = [
        ("--branches-max", "4"),
        ("--root-branches-max", "2"),
        ("--protected-branches-max", "1"),
        ("--roles-max", "2"),
        ("--databases-max", "2"),
    ];
    let flags: Vec<&str> = flags.iter().flat_map(|(flag, max)| [*flag, *max]).collect();
    let listen = suite::free_address()?;
    let emulator = EmulatorProcess::start_with(&folder.join("data"), &listen, &flags).await?;
    let http = Http::of(&emulator);
    let (project, main) = (emulator.project(), emulator.main_branch().await?);
    let branches = format!("/projects/{project}/branches");
    let one = format!("{branches}/{main}");
    let (roles, databases) = (format!("{one}/roles"), format!("{one}/databases"));
    let dev = emulator.branch("dev", None).await?;
    let endpoint = format!("/projects/{project}/endpoints/{}", dev.endpoints[0].id);
    let dev = format!("{branches}/{}", dev.branch.id);
    let schema_only = |name: &str| json!({"branch": {"name": name, "init_source": "schema-only", "parent_id": main}});
    let database = |name: &str| json!({"database": {"name": name, "owner_name": "neondb_owner"}});
    let protect = json!({"branch": {"protected": true}});
    for (path, body) in [
        (&branches, schema_only("root")),
        (&roles, json!({"role": {"name": "second"}})),
        (&databases, database("second")),
    ] {
        let made = http.expect(201, "POST", path, body).await?;
        let operations = serde_json::from_value::<Vec<_>>(made.at("/operations").clone())?;
        emulator.finished(&operations).await?;
    }
    http.expect(200, "PATCH", &dev, protect.clone()).await?;
    let look = async || {
        let mut seen = vec![];
        for path in [&branches, &roles, &databases] {
            let mut found = http.expect(200, "GET", path, Value::Null).await?.body;
            for branch in found["branches"].as_array_mut().into_iter().flatten() {
                // Measured at a time of its own.
                branch["logical_size"] = json!(0);
                branch["updated_at"] = json!("");
            }
            seen.push(found);
        }
        anyhow::Ok(seen)
    };
    let before = look().await?;
    for (method, path, body, code, word) in [
        (
            "POST",
            &branches,
            schema_only("third root"),
            "ROOT_BRANCHES_LIMIT_EXCEEDED",
            "2 root branches",
        ),
        (
            "PATCH",
            &one,
            protect.clone(),
            "BRANCHES_PROTECTED_LIMIT_EXCEEDED",
            "1 protected",
        ),
        (
            "POST",
            &branches,
            json!({"branch": {"name": "safe", "protected": true}}),
            "BRANCHES_PROTECTED_LIMIT_EXCEEDED",
            "1 protected",
        ),
        (
            "POST",
            &roles,
            json!({"role": {"name": "third"}}),
            "ROLES_LIMIT_EXCEEDED",
            "2 roles",
        ),
        (
            "POST",
            &databases,
            database("third"),
            "DATABASES_LIMIT_EXCEEDED",
            "2 databases",
        ),
        ("DELETE", &endpoint, Value::Null, "", "protected"),
        ("DELETE", &dev, Value::Null, "", "protected"),
        ("DELETE", &one, Value::Null, "", "default"),
    ] {
        let refused = http.expect(422, method, path, body).await?;
        assert_eq!(refused.text("/code"), code, "{refused:?}");
        assert!(refused.text("/message").contains(word), "{refused:?}");
    }
    assert_eq!(look().await?, before, "nothing has changed");

    let fourth = json!({"branch": {"name": "fourth"}});
    http.expect(201, "POST", &branches, fourth).await?;
    let fifth = json!({"branch": {"name": "fifth"}});
    let refused = http.expect(422, "POST", &branches, fifth).await?;
    assert_eq!(refused.text("/code"), "BRANCHES_LIMIT_EXCEEDED");
    assert!(
        refused.text("/message").contains("4 branches"),
        "{refused:?}"
    );

    // The project's first branch stays, whichever is the default.
    let default = format!("{dev}/set_as_default");
    http.expect(200, "POST", &default, Value::Null).await?;
    let refused = http.expect(422, "DELETE", &one, Value::Null).await?;
    let message = refused.text("/message");
    assert_eq!(message, "a root branch cannot be deleted");
    emulator.stop().await
}
