//! A project whose passwords are not stored.

use serde_json::{Value, json};
use suite::{EmulatorProcess, Folder, Http, eventually};

#[tokio::test]
async fn passwords_that_are_not_stored_are_told_by_a_reset_alone() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let http = Http::of(&emulator);
    let body = json!({"project": {"name": "two", "store_passwords": false}});
    let made = http.expect(201, "POST", "/projects", body).await?;
    assert_eq!(made.at("/project/store_passwords"), &json!(false));
    assert_eq!(made.at("/connection_uris"), &json!([]));
    let project = format!("/projects/{}", made.text("/project/id"));
    let branch = format!("{project}/branches/{}", made.text("/branch/id"));
    let owner = format!("{branch}/roles/neondb_owner");
    let reset = eventually("the project is there", async || {
        let path = format!("{owner}/reset_password");
        http.expect(200, "POST", &path, Value::Null).await
    })
    .await?;
    let password = reset.text("/role/password");
    assert!(password.starts_with("npg_"), "who else would tell it");

    let role = eventually("it is done", async || {
        let role = json!({"role": {"name": "reporting"}});
        http.expect(201, "POST", &format!("{branch}/roles"), role)
            .await
    })
    .await?;
    let child = eventually("it is done", async || {
        let child = json!({"endpoints": [{"type": "read_write"}]});
        http.expect(201, "POST", &format!("{project}/branches"), child)
            .await
    })
    .await?;
    assert_eq!(child.at("/connection_uris"), &Value::Null);
    for answer in [&made, &role, &child] {
        let text = answer.body.to_string();
        assert!(
            !text.contains("npg_") && !text.contains("\"password\":"),
            "{text}"
        );
    }
    let uri = format!("{project}/connection_uri?database_name=neondb&role_name=neondb_owner");
    let reveal = format!("{owner}/reveal_password");
    for path in [&uri, &reveal] {
        let refused = http.expect(412, "GET", path, Value::Null).await?;
        assert_eq!(refused.text("/message"), "Storing passwords is disabled");
    }
    // What does not exist is still not found.
    let nobody = uri.replace("neondb_owner", "nobody");
    http.expect(404, "GET", &nobody, Value::Null).await?;
    let nobody = reveal.replace("neondb_owner", "nobody");
    http.expect(404, "GET", &nobody, Value::Null).await?;
    let host = made.text("/endpoints/0/host");
    let uri = format!("postgresql://neondb_owner:{password}@{host}/neondb?sslmode=require");
    eventually("the password is right", async || {
        suite::connect(&uri, emulator.data()).await
    })
    .await?;
    emulator.stop().await
}
