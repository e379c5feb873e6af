//! The emulator's API, through neon-api's client and, where that would not say
//! it wrong, over plain HTTP.

use std::collections::BTreeMap;

use anyhow::Context;
use neon_api::types::{
    BranchCreateRequest, BranchListQuery, BranchUpdateRequest, DatabaseCreateRequest,
    DatabaseUpdateRequest, EndpointCreateRequest, EndpointSettingsData, EndpointUpdate,
    EndpointUpdateRequest, ProjectCreateBranch, ProjectCreateRequest, RoleCreateRequest,
};
use neon_api::{BranchId, Error};
use suite::{API_KEY, EmulatorProcess, Folder};

#[tokio::test]
async fn the_first_project_is_as_documented() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let client = emulator.client();
    let project = client.get_project(emulator.project()).await?.project;
    assert_eq!(project.id, *emulator.project());

    let branches = client.list_all_branches(emulator.project(), None).await?;
    let [main] = branches.branches.as_slice() else {
        panic!("one branch, not {:?}", branches.branches);
    };
    assert_eq!(
        (main.name.as_str(), main.default, &main.parent_id),
        ("main", true, &None)
    );
    let roles = client.list_roles(emulator.project(), &main.id).await?.roles;
    assert_eq!(
        roles
            .iter()
            .map(|role| role.name.as_str())
            .collect::<Vec<_>>(),
        ["neondb_owner"]
    );
    assert!(roles[0].password.is_none(), "a list shows no passwords");
    let databases = client
        .list_databases(emulator.project(), &main.id)
        .await?
        .databases;
    assert_eq!(databases[0].name, "neondb");
    assert_eq!(databases[0].owner_name, "neondb_owner");
    emulator.stop().await
}

#[tokio::test]
async fn branches_are_created_listed_changed_and_deleted() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    let request = BranchCreateRequest::named("dev")
        .parent(main.clone())
        .read_write_endpoint()
        .annotation([("managed-by", "a test")]);
    let dev = client.create_branch(project, &request).await?;
    assert_eq!(dev.operations.len(), 2);
    assert!(dev.connection_uris.is_some());
    emulator.finished(&dev.operations).await?;

    let read = client.get_branch(project, &dev.branch.id).await?;
    assert_eq!(read.branch.parent_id.as_ref(), Some(&main));
    assert!(read.branch.parent_lsn.is_some());
    assert_eq!(
        read.annotation.context("an annotation")?.value,
        BTreeMap::from([("managed-by".to_owned(), "a test".to_owned())])
    );

    // Names are the caller's to choose, once.
    let again = client.create_branch(project, &request).await;
    assert_api_error(again, 409, "branch already exists");
    // A parent cannot go before its children.
    let child = emulator.branch("child", Some(&dev.branch.id)).await?;
    let refused = client.delete_branch(project, &dev.branch.id).await;
    assert_api_error(refused, 422, "child");
    assert_api_error(client.delete_branch(project, &main).await, 422, "default");

    let protect = BranchUpdateRequest::default()
        .protected(true)
        .rename("kept");
    client
        .update_branch(project, &child.branch.id, &protect)
        .await?;
    let refused = client.delete_branch(project, &child.branch.id).await;
    assert_api_error(refused, 422, "protected");
    // Below a protected branch passwords are fresh.
    let secret = emulator.branch("secret", Some(&child.branch.id)).await?;
    assert_ne!(secret.roles[0].password, child.roles[0].password);
    assert_eq!(dev.roles[0].password, child.roles[0].password);
    let session = emulator.connect(&secret.branch.id).await?;
    session.simple_query("SELECT 1").await?;
    delete(&emulator, &secret.branch.id).await?;

    let unprotect = BranchUpdateRequest::default().protected(false);
    client
        .update_branch(project, &child.branch.id, &unprotect)
        .await?;
    delete(&emulator, &child.branch.id).await?;
    delete(&emulator, &dev.branch.id).await?;
    assert!(
        client
            .delete_branch(project, &dev.branch.id)
            .await?
            .is_none(),
        "deleting again is no error"
    );
    assert_api_error(
        client.get_branch(project, &dev.branch.id).await,
        404,
        "branch not found",
    );
    let left = std::fs::read_dir(folder.join("data/branches"))?.count();
    assert_eq!(left, 1, "the folders of deleted branches are gone");
    emulator.stop().await
}

#[tokio::test]
async fn lists_are_searched_sorted_and_paged() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    for name in ["page-c", "page-a", "page-b"] {
        let request = BranchCreateRequest::named(name);
        let created = client.create_branch(project, &request).await?;
        emulator.finished(&created.operations).await?;
    }
    let mut query = BranchListQuery {
        search: Some("page-".to_owned()),
        sort_by: Some("name".into()),
        sort_order: Some("asc".into()),
        limit: Some(2),
        ..BranchListQuery::default()
    };
    let first = client.list_branches(project, &query).await?;
    assert_eq!(names(&first.branches), ["page-a", "page-b"]);
    query.cursor = first.pagination.context("a page")?.next;
    assert!(query.cursor.is_some());
    let second = client.list_branches(project, &query).await?;
    assert_eq!(names(&second.branches), ["page-c"]);
    assert_eq!(second.pagination.context("a page")?.next, None);

    query.cursor = Some("bm90IG91cnM".to_owned());
    assert_api_error(client.list_branches(project, &query).await, 400, "cursor");
    emulator.stop().await
}

#[tokio::test]
async fn roles_and_databases_are_real() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    let made = client
        .create_role(project, &main, &RoleCreateRequest::named("reporting"))
        .await?;
    emulator.finished(&made.operations).await?;
    let database = client
        .create_database(
            project,
            &main,
            &DatabaseCreateRequest::new("reports", "reporting"),
        )
        .await?;
    emulator.finished(&database.operations).await?;

    let old = made.role.password.context("a new role has a password")?;
    let uri = async |password: &str| {
        let owner = emulator.uri(&main).await?;
        let mut uri: String = owner.expose().replace("/neondb?", "/reports?");
        let from = uri.find("//").context("a URI")? + 2;
        let to = uri.find('@').context("a URI")?;
        uri.replace_range(from..to, &format!("reporting:{password}"));
        anyhow::Ok(uri)
    };
    let session = suite::connect(&uri(old.expose()).await?, emulator.data()).await?;
    session.simple_query("CREATE TABLE report (id int)").await?;

    // A new password ends the sessions of the old one.
    let reset = client
        .reset_role_password(project, &main, "reporting")
        .await?;
    emulator.finished(&reset.operations).await?;
    assert!(session.simple_query("SELECT 1").await.is_err());
    let refused = suite::connect(&uri(old.expose()).await?, emulator.data()).await;
    assert!(refused.is_err(), "the old password opens nothing");
    let revealed = client
        .reveal_role_password(project, &main, "reporting")
        .await?;
    suite::connect(&uri(revealed.password.expose()).await?, emulator.data()).await?;

    let refused = client.delete_role(project, &main, "reporting").await;
    assert_api_error(refused, 422, "reports");
    let dropped = client.delete_database(project, &main, "reports").await?;
    emulator
        .finished(&dropped.context("it was there")?.operations)
        .await?;
    let dropped = client.delete_role(project, &main, "reporting").await?;
    emulator
        .finished(&dropped.context("it was there")?.operations)
        .await?;
    let owner = emulator.connect(&main).await?;
    let left = owner
        .query("SELECT FROM pg_roles WHERE rolname = 'reporting'", &[])
        .await?;
    assert!(left.is_empty());
    emulator.stop().await
}

#[tokio::test]
async fn conflicting_work_is_refused_until_it_is_done() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let created = client
        .create_branch(
            project,
            &BranchCreateRequest::named("busy").read_write_endpoint(),
        )
        .await?;
    let id = &created.branch.id;
    // It is still being made: nothing that needs it is scheduled.
    let role = RoleCreateRequest::named("early");
    assert_api_error(
        client.create_role(project, id, &role).await,
        423,
        "conflicting operations",
    );
    let child = BranchCreateRequest::named("early").parent(id.clone());
    assert_api_error(
        client.create_branch(project, &child).await,
        423,
        "conflicting",
    );
    emulator.finished(&created.operations).await?;
    let created = client.create_role(project, id, &role).await?;
    emulator.finished(&created.operations).await?;

    let second = EndpointCreateRequest::read_write(id.clone());
    assert_api_error(
        client.create_endpoint(project, &second).await,
        409,
        "read_write endpoint already exists",
    );
    emulator.stop().await
}

#[tokio::test]
async fn errors_have_neons_form() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let project = emulator.project();
    let http = Http::of(&emulator);
    let right = Some(API_KEY);
    let branches = format!("/projects/{project}/branches");
    let long = format!(r#"{{"branch":{{"name":"{}"}}}}"#, "x".repeat(257));
    for (method, path, key, body, status, word) in [
        ("GET", "/projects", None, "", 401, "key"),
        ("GET", "/projects", Some("wrong"), "", 401, "key"),
        (
            "GET",
            "/nothing",
            right,
            "",
            404,
            "this route does not exist",
        ),
        ("PUT", "/projects", right, "", 405, "method"),
        (
            "GET",
            "/projects/no-such-12345678",
            right,
            "",
            404,
            "project not found",
        ),
        ("GET", "/projects/UPPER", right, "", 400, "project"),
        ("GET", "/projects?limit=0", right, "", 400, "limit"),
        ("GET", "/projects?limit=many", right, "", 400, "limit"),
        ("POST", &branches, right, "{", 400, "JSON"),
        (
            "POST",
            &branches,
            right,
            r#"{"branch":{"name":7}}"#,
            400,
            "branch.name",
        ),
        (
            "POST",
            &branches,
            right,
            r#"{"branch":{"name":""}}"#,
            400,
            "branch.name",
        ),
        ("POST", &branches, right, &long, 400, "branch.name"),
        (
            "POST",
            &branches,
            right,
            r#"{"branch":{"parent_id":"br-no-such-12345678"}}"#,
            404,
            "branch",
        ),
        (
            "POST",
            &branches,
            right,
            r#"{"branch":{"parent_lsn":"0/1"}}"#,
            422,
            "parent_lsn",
        ),
        (
            "POST",
            &branches,
            right,
            r#"{"endpoints":[{"type":"sideways"}]}"#,
            400,
            "type",
        ),
    ] {
        let answer = http.call(method, path, key, body).await?;
        let context = format!("{method} {path}: {answer:?}");
        assert_eq!(answer.status, status, "{context}");
        assert!(answer.text("message").contains(word), "{context}");
        assert!(!answer.text("request_id").is_empty(), "{context}");
        assert!(answer.body.get("code").is_some(), "{context}");
    }
    let unchanged = emulator.client().list_all_branches(project, None).await?;
    assert_eq!(unchanged.branches.len(), 1);
    emulator.stop().await
}

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

#[tokio::test]
async fn a_database_is_renamed_and_another_branch_made_default() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let dev = emulator.branch("dev", None).await?.branch.id;
    let made = client
        .create_database(
            project,
            &dev,
            &DatabaseCreateRequest::new("old", "neondb_owner"),
        )
        .await?;
    emulator.finished(&made.operations).await?;
    let mut rename = DatabaseUpdateRequest::default();
    rename.database.name = Some("new".to_owned());
    let renamed = client
        .update_database(project, &dev, "old", &rename)
        .await?;
    emulator.finished(&renamed.operations).await?;
    let session = emulator.connect(&dev).await?;
    let names = session
        .query(
            "SELECT datname::text FROM pg_database WHERE NOT datistemplate ORDER BY 1",
            &[],
        )
        .await?;
    let names: Vec<String> = names.iter().map(|row| row.get(0)).collect();
    assert_eq!(names, ["neondb", "new", "postgres"]);
    for name in ["postgres", "template1", ""] {
        let request = DatabaseCreateRequest::new(name, "neondb_owner");
        let refused = client.create_database(project, &dev, &request).await;
        let status = if name.is_empty() { 400 } else { 422 };
        assert_api_error(refused, status, "database.name");
    }
    for name in ["cloud_admin", "neon_superuser", "pg_x"] {
        let request = RoleCreateRequest::named(name);
        let refused = client.create_role(project, &dev, &request).await;
        assert_api_error(refused, 422, "role.name");
    }

    client.set_default_branch(project, &dev).await?;
    assert_eq!(emulator.main_branch().await?, dev);
    let child = emulator.branch("child", None).await?.branch;
    assert_eq!(child.parent_id, Some(dev), "the default parent");
    emulator.stop().await
}

/// A second project is one more world; the first stays the emulator's own.
#[tokio::test]
async fn a_second_project_is_another_world() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let emulator = EmulatorProcess::start(&data).await?;
    let first = emulator.project().clone();
    let mut request = ProjectCreateRequest::named("second");
    request.project.branch = Some(ProjectCreateBranch {
        database_name: Some("postgres".to_owned()),
        ..ProjectCreateBranch::default()
    });
    let refused = emulator.client().create_project(&request).await;
    assert_api_error(refused, 422, "database_name");
    let request = ProjectCreateRequest::named("second");
    let second = emulator.client().create_project(&request).await?;
    assert_ne!(second.project.id, first);
    suite::eventually("the second project is there", async || {
        let uri = &second.connection_uris[0].connection_uri;
        suite::connect(uri.expose(), emulator.data()).await
    })
    .await?;
    emulator.stop().await?;
    let emulator = EmulatorProcess::start(&data).await?;
    assert_eq!(*emulator.project(), first);
    emulator.stop().await
}

fn names(branches: &[neon_api::types::Branch]) -> Vec<&str> {
    branches.iter().map(|branch| branch.name.as_str()).collect()
}

async fn delete(emulator: &EmulatorProcess, branch: &BranchId) -> anyhow::Result<()> {
    let deleted = emulator
        .client()
        .delete_branch(emulator.project(), branch)
        .await?
        .context("it was there")?;
    emulator.finished(&deleted.operations).await
}

#[track_caller]
fn assert_api_error<T: std::fmt::Debug>(result: Result<T, Error>, status: u16, word: &str) {
    match result {
        Err(error @ Error::Api { .. }) => {
            let text = error.to_string();
            assert!(text.contains(&status.to_string()), "{status}: {text}");
            assert!(text.contains(word), "{word}: {text}");
        }
        other => panic!("an error {status}, not {other:?}"),
    }
}

/// Plain HTTP/1.1, to send what the typed client cannot.
struct Http {
    host: String,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    body: serde_json::Value,
}

impl Answer {
    fn text(&self, field: &str) -> &str {
        self.body
            .get(field)
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
    }
}

impl Http {
    fn of(emulator: &EmulatorProcess) -> Self {
        let url = emulator.url();
        let host = url
            .trim_start_matches("http://")
            .trim_end_matches("/api/v2")
            .to_owned();
        Self { host }
    }

    async fn call(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: &str,
    ) -> anyhow::Result<Answer> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(&self.host).await?;
        let authorization = key
            .map(|key| format!("Authorization: Bearer {key}\r\n"))
            .unwrap_or_default();
        let request = format!(
            "{method} /api/v2{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{authorization}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("a whole answer")?;
        let status = head.split(' ').nth(1).context("a status")?.parse()?;
        Ok(Answer {
            status,
            body: serde_json::from_str(body).with_context(|| format!("JSON: {body}"))?,
        })
    }
}
