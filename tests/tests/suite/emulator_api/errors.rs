//! Requests that are wrong, and what they are answered with.

use serde_json::{Value, json};
use suite::{API_KEY, EmulatorProcess, Folder, Http};

#[tokio::test]
async fn errors_have_neons_form() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let project = emulator.project();
    let http = Http::of(&emulator);
    let right = format!("Authorization: Bearer {API_KEY}");
    let right = Some(right.as_str());
    let branches = format!("/projects/{project}/branches");
    let long = format!(r#"{{"branch":{{"name":"{}"}}}}"#, "x".repeat(257));
    for (method, path, key, body, status, word) in [
        ("GET", "/projects", None, "", 401, "key"),
        (
            "GET",
            "/projects",
            Some("Authorization: Bearer wrong"),
            "",
            401,
            "key",
        ),
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
        let headers: Vec<&str> = key.into_iter().collect();
        let answer = http.send(method, path, &headers, body).await?;
        let context = format!("{method} {path}: {answer:?}");
        assert_eq!(answer.status, status, "{context}");
        assert!(answer.text("/message").contains(word), "{context}");
        assert!(!answer.text("/request_id").is_empty(), "{context}");
        assert!(answer.body.get("code").is_some(), "{context}");
    }
    let unchanged = emulator.client().list_all_branches(project, None).await?;
    assert_eq!(unchanged.branches.len(), 1);
    emulator.stop().await
}

/// Serde would take an array for an object, by the order of its fields.
#[tokio::test]
async fn an_array_is_no_object() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (http, project) = (Http::of(&emulator), emulator.project());
    let main = emulator.main_branch().await?;
    let branches = format!("/projects/{project}/branches");
    let branch = format!("{branches}/{main}");
    let roles = format!("{branch}/roles");
    let look = async || {
        let mut seen = vec![];
        for path in ["/projects", &branches, &roles, "/api_keys"] {
            let mut body = http.expect(200, "GET", path, json!(null)).await?.body;
            // Measured at a time of its own.
            if let Some(branch) = body.pointer_mut("/branches/0") {
                branch["logical_size"] = json!(0);
            }
            seen.push(body);
        }
        anyhow::Ok(seen)
    };
    let before = look().await?;
    for (method, path, body, place) in [
        ("POST", branches.as_str(), json!([]), "the body"),
        ("POST", &branches, json!({"branch": []}), "branch"),
        ("POST", &branches, json!({"branch": "x"}), "branch"),
        (
            "POST",
            &branches,
            json!({"endpoints": [["read_write"]]}),
            "endpoints[0]",
        ),
        ("PATCH", &branch, json!({"branch": ["renamed"]}), "branch"),
        ("PATCH", &branch, json!({"branch": null}), "branch"),
        ("POST", &roles, json!({"role": ["reporting"]}), "role"),
        ("POST", "/projects", json!({"project": []}), "project"),
        ("POST", "/api_keys", json!(["key"]), "the body"),
    ] {
        let refused = http.expect(400, method, path, body).await?;
        let message = refused.text("/message");
        let start = format!("{place}: invalid type");
        assert!(message.starts_with(&start), "{method} {path}: {refused:?}");
    }
    assert_eq!(look().await?, before, "nothing changed");
    emulator.stop().await
}

/// Most clients look for the answer when they have sent everything: one that
/// comes sooner, with the connection's end, is lost to them.
#[tokio::test]
async fn a_body_that_is_too_long_is_received_and_refused() -> anyhow::Result<()> {
    const BODY_BYTES: usize = 100 << 20;
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (http, project) = (Http::of(&emulator), emulator.project());
    let key = format!("Authorization: Bearer {API_KEY}");
    let branches = format!("/projects/{project}/branches");
    let name = "x".repeat(BODY_BYTES);
    let whole = format!(r#"{{"branch":{{"name":"{name}"}}}}"#);
    let chunked = format!("{:x}\r\n{whole}\r\n0\r\n\r\n", whole.len());
    let chunks = "Transfer-Encoding: chunked";
    for (method, path, headers, body) in [
        ("POST", branches.as_str(), vec![key.as_str()], &whole),
        ("POST", &branches, vec![&key, chunks], &chunked),
        // Neither a missing key nor a route that reads no body makes a difference.
        ("POST", "/projects", vec![], &whole),
        ("GET", "/projects", vec![&key], &whole),
    ] {
        let answer = http.send(method, path, &headers, body).await?;
        assert_eq!(answer.status, 413, "{method} {path} {}", answer.head);
        assert!(answer.text("/message").contains("body"), "{answer:?}");
        assert!(!answer.text("/request_id").is_empty(), "{answer:?}");
    }
    // A client that asks first is spared the effort.
    let length = format!("Content-Length: {BODY_BYTES}");
    let asking = [key.as_str(), "Expect: 100-continue", &length];
    let refused = http.send("POST", &branches, &asking, "").await?;
    assert_eq!(refused.status, 413, "{}", refused.head);
    let count = http
        .expect(200, "GET", &format!("{branches}/count"), Value::Null)
        .await?;
    assert_eq!(count.at("/count"), 1);
    emulator.stop().await
}

#[tokio::test]
async fn requests_may_be_spelled_in_more_than_one_way() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (http, project) = (Http::of(&emulator), emulator.project());
    let one = format!("/projects/{project}");
    let encoded = one.replace('-', "%2D");
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let key = format!("Authorization: {scheme} {API_KEY}");
        assert_eq!(
            http.send("GET", &one, &[&key], "").await?.status,
            200,
            "{scheme}"
        );
    }
    let basic = format!("Authorization: Basic {API_KEY}");
    assert_eq!(http.send("GET", &one, &[&basic], "").await?.status, 401);
    http.expect(200, "GET", &encoded, json!(null)).await?;
    // So may the id that a key is for.
    let organizations = "/users/me/organizations";
    let found = http.expect(200, "GET", organizations, json!(null)).await?;
    let keys = format!(
        "/organizations/{}/api_keys",
        found.text("/organizations/0/id")
    );
    let request = json!({"key_name": "one", "project_id": project});
    let made = http.expect(200, "POST", &keys, request).await?;
    let limited = http.with_key(made.text("/key"));
    limited.expect(200, "GET", &encoded, json!(null)).await?;
    limited
        .expect(403, "GET", "/projects/shared", json!(null))
        .await?;

    // Python's clients write flags so.
    let uri = format!("{one}/connection_uri?database_name=neondb&role_name=neondb_owner");
    for (flag, status) in [
        ("True", 200),
        ("False", 200),
        ("1", 200),
        ("yes", 400),
        ("", 400),
    ] {
        let path = format!("{uri}&pooled={flag}");
        let answer = http.expect(status, "GET", &path, json!(null)).await?;
        assert!(status == 200 || answer.text("/message").starts_with("pooled"));
    }
    emulator.stop().await
}

#[tokio::test]
async fn a_request_has_the_id_that_it_came_with() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let http = Http::of(&emulator);
    let key = format!("Authorization: Bearer {API_KEY}");
    let mine = [key.as_str(), "X-Request-ID: mine-7"];
    let answer = http.send("GET", "/nothing", &mine, "").await?;
    assert_eq!(answer.text("/request_id"), "mine-7");
    assert_eq!(answer.header("x-neon-ret-request-id"), "mine-7");
    let empty = [key.as_str(), "X-Request-ID:"];
    let answer = http.send("GET", "/nothing", &empty, "").await?;
    assert!(!answer.text("/request_id").is_empty(), "{answer:?}");
    emulator.stop().await
}
