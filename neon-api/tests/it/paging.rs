//! Lists of more than one page.

use serde_json::json;

use crate::samples;
use crate::server::{Reply, Server, project};

#[tokio::test]
async fn all_pages_are_walked() {
    let page = |id: &str, next: Option<&str>| {
        let branch = samples::with(samples::branch_least(), json!({ "id": id }));
        Reply::json(
            200,
            &json!({
                "branches": [branch],
                "annotations": {id: samples::annotation()},
                "pagination": {"next": next}
            }),
        )
    };
    let server = Server::start([page("br-1", Some("two+/=")), page("br-2", None)]).await;

    let all = server
        .client()
        .list_all_branches(&project(), Some("br"))
        .await
        .unwrap();

    let ids: Vec<String> = all.branches.iter().map(|b| b.id.to_string()).collect();
    assert_eq!(ids, ["br-1", "br-2"]);
    assert_eq!(all.annotations.len(), 2);
    let lines: Vec<String> = server
        .requests()
        .await
        .into_iter()
        .map(|r| r.line)
        .collect();
    let path = "GET /api/v2/projects/late-frost-12345678/branches";
    assert_eq!(
        lines,
        [
            format!("{path}?search=br&sort_by=created_at&sort_order=asc&limit=1000"),
            format!(
                "{path}?search=br&sort_by=created_at&sort_order=asc&cursor=two%2B%2F%3D&limit=1000"
            ),
        ]
    );
}

#[tokio::test]
async fn a_list_without_an_end_is_given_up() {
    let replies = (0..100).map(|_| {
        Reply::json(
            200,
            &json!({"branches": [], "pagination": {"next": "again"}}),
        )
    });
    let server = Server::start(replies).await;
    let error = server
        .client()
        .list_all_branches(&project(), None)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "GET /projects/late-frost-12345678/branches: the list does not end within 100 pages"
    );
    assert_eq!(server.requests().await.len(), 100);
}
