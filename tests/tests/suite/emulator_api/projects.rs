//! Projects.

use neon_api::types::{ProjectCreateBranch, ProjectCreateRequest};
use serde_json::{Map, json};
use suite::{EmulatorProcess, Folder, Http};

use super::assert_api_error;

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

#[tokio::test]
async fn settings_of_a_project_make_sense() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let http = Http::of(&emulator);
    let window = |weekdays: &[u8], start: &str, end: &str| {
        json!({"settings": {"maintenance_window":
            {"weekdays": weekdays, "start_time": start, "end_time": end}}})
    };
    let ips = |ips: &[&str]| json!({"settings": {"allowed_ips": {"ips": ips}}});
    let notes: Map<_, _> = (0..51).map(|at| (format!("{at}"), json!("x"))).collect();
    let one = format!("/projects/{}", emulator.project());
    let before = http.expect(200, "GET", &one, json!(null)).await?;
    for (project, field) in [
        (ips(&["banana"]), "allowed_ips.ips"),
        (ips(&["10.0.0.1", "10.0.0.0/33"]), "allowed_ips.ips"),
        (window(&[0], "01:00", "02:00"), "weekdays"),
        (window(&[1, 8], "01:00", "02:00"), "weekdays"),
        (window(&[1], "25:00", "02:00"), "start_time"),
        (window(&[1], "01:00", "soon"), "end_time"),
    ] {
        let request = json!({"project": project});
        for (method, path) in [("POST", "/projects"), ("PATCH", &one)] {
            let refused = http.expect(400, method, path, request.clone()).await?;
            assert!(
                refused.text("/message").contains(field),
                "{field}: {refused:?}"
            );
        }
    }
    for (project, field) in [
        (json!({"autoscaling_limit_min_cu": 0.1}), "min_cu"),
        (
            json!({"autoscaling_limit_min_cu": 2, "autoscaling_limit_max_cu": 1}),
            "max_cu",
        ),
        (json!({"branch": {"annotations": notes}}), "annotations"),
    ] {
        let request = json!({"project": project});
        let refused = http.expect(400, "POST", "/projects", request).await?;
        assert!(
            refused.text("/message").contains(field),
            "{field}: {refused:?}"
        );
    }
    let after = http.expect(200, "GET", &one, json!(null)).await?;
    assert_eq!(
        after.at("/project/settings"),
        before.at("/project/settings")
    );
    let all = http.expect(200, "GET", "/projects", json!(null)).await?;
    assert_eq!(all.at("/projects").as_array().map(Vec::len), Some(1));

    let good = json!({"project": {"settings": {
        "allowed_ips": {"ips": ["10.0.0.1", "10.0.0.0/8", "10.0.0.1-10.0.0.9", "::1"]},
        "maintenance_window": {"weekdays": [1, 7], "start_time": "00:00", "end_time": "23:59"},
    }}});
    let changed = http.expect(200, "PATCH", &one, good.clone()).await?;
    let (changed, good) = (
        changed.at("/project/settings"),
        &good["project"]["settings"],
    );
    assert_eq!(changed["allowed_ips"]["ips"], good["allowed_ips"]["ips"]);
    assert_eq!(changed["maintenance_window"], good["maintenance_window"]);
    for timeout in ["99", "30001"] {
        let path = format!("/projects?timeout={timeout}");
        let refused = http.expect(400, "GET", &path, json!(null)).await?;
        assert!(
            refused.text("/message").starts_with("timeout"),
            "{refused:?}"
        );
    }
    emulator.stop().await
}
