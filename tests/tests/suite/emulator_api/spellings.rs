//! Requests as other clients, proxies and browsers write them.

use serde_json::{Value, json};
use suite::{API_KEY, EmulatorProcess, Folder, Http};

#[tokio::test]
async fn methods_paths_and_parameters_are_read_as_http_has_them() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (http, project) = (Http::of(&emulator), emulator.project());
    let one = format!("/projects/{project}");
    let branches = format!("{one}/branches");
    // HEAD is GET without its body.
    for (path, status) in [("/projects", 200), (&*branches, 200), ("/nothing", 404)] {
        let answer = http.call("HEAD", path, Value::Null).await?;
        assert_eq!(
            (answer.status, &answer.body),
            (status, &Value::Null),
            "{path}"
        );
        assert!(!answer.header("x-neon-ret-request-id").is_empty(), "{path}");
    }
    let stranger = http.with_key("napi_wrong");
    let answer = stranger.call("HEAD", &one, Value::Null).await?;
    assert_eq!(answer.status, 401);
    // A path is what is written, and nothing near it.
    for path in ["/projects/", "//projects", "/Projects"] {
        let answer = http.call("GET", path, Value::Null).await?;
        assert_eq!(answer.status, 404, "{path} {answer:?}");
        assert!(
            answer.text("/message").contains("route"),
            "{path} {answer:?}"
        );
    }
    // A parameter that is there twice is no answer to which.
    for path in [
        "/projects?limit=1&limit=2".to_owned(),
        format!("{branches}?sort_by=name&sort_by=created_at"),
        format!("{one}/connection_uri?database_name=neondb&database_name=x&role_name=y"),
    ] {
        let answer = http.expect(400, "GET", &path, Value::Null).await?;
        assert!(answer.text("/message").contains("duplicate"), "{answer:?}");
    }
    // One that nobody knows is left alone, as by Neon.
    let more = format!("{branches}?utm_source=x&utm_source=y");
    http.expect(200, "GET", &more, Value::Null).await?;

    let main = emulator.main_branch().await?;
    let branch = format!("{branches}/{main}");
    for (method, path) in [
        ("POST", "/projects".to_owned()),
        ("PATCH", one.clone()),
        ("PATCH", branch.clone()),
        ("POST", format!("{branch}/restore")),
        ("POST", format!("{branch}/roles")),
        ("POST", format!("{branch}/databases")),
        ("POST", format!("{one}/endpoints")),
        ("POST", "/api_keys".to_owned()),
    ] {
        let answer = http.expect(400, method, &path, Value::Null).await?;
        let message = answer.text("/message");
        assert!(
            message.starts_with("the body"),
            "{method} {path}: {message}"
        );
    }
    // Where none is needed, none and an empty one are the same.
    http.expect(201, "POST", &branches, Value::Null).await?;
    emulator.stop().await
}

/// A page in a browser asks first whether it may ask.
#[tokio::test]
async fn a_page_of_another_origin_may_ask() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let http = Http::of(&emulator);
    let origin = "Origin: http://localhost:3000";
    let asks = [
        origin,
        "Access-Control-Request-Method: PATCH",
        "Access-Control-Request-Headers: authorization,content-type",
    ];
    for path in ["/projects", "/nothing"] {
        // It shows no key: browsers do not.
        let answer = http.send("OPTIONS", path, &asks, "").await?;
        assert_eq!((answer.status, &answer.body), (204, &Value::Null), "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        let allowed = |header: &str| answer.header(header).to_lowercase();
        assert!(allowed("access-control-allow-methods").contains("patch"));
        let headers = allowed("access-control-allow-headers");
        for name in ["authorization", "content-type", "x-request-id"] {
            assert!(headers.contains(name), "{headers}");
        }
    }
    let key = format!("Authorization: Bearer {API_KEY}");
    for (headers, status) in [(vec![origin, &key], 200), (vec![origin], 401)] {
        let answer = http.send("GET", "/projects", &headers, "").await?;
        assert_eq!(answer.status, status);
        // Refusals are to be read as well.
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        let exposed = answer.header("access-control-expose-headers");
        assert!(exposed.contains("x-neon-ret-request-id"), "{exposed}");
    }
    // Whoever asks otherwise gets what it got before.
    let answer = http.send("OPTIONS", "/projects", &[&key], "").await?;
    assert_eq!(answer.status, 405);
    let answer = http.send("GET", "/projects", &[&key], "").await?;
    assert_eq!(answer.header("access-control-allow-origin"), "");
    let refused = http.expect(405, "PUT", "/projects", json!({})).await?;
    assert!(refused.header("allow").contains("GET"), "{refused:?}");
    emulator.stop().await
}
