//! Lists: searched, sorted, in pages.

use anyhow::Context;
use neon_api::types::{BranchCreateRequest, BranchListQuery};
use serde_json::{Value, json};
use suite::{Answer, EmulatorProcess, Folder, Http};

use super::assert_api_error;

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

/// As clients do it that follow `next` and forget how they began.
#[tokio::test]
async fn a_cursor_keeps_the_order_of_its_list() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (http, project) = (Http::of(&emulator), emulator.project());
    let branches = format!("/projects/{project}/branches");
    for name in ["c", "a", "b"] {
        let request = json!({"branch": {"name": name}});
        http.expect(201, "POST", &branches, request).await?;
    }
    let get = async |query: &str| {
        http.call("GET", &format!("{branches}?{query}"), json!(null))
            .await
    };
    let first = get("limit=3&sort_by=name&sort_order=asc").await?;
    assert_eq!(branch_names(&first), ["a", "b", "c"]);
    let next = first.text("/pagination/next");
    assert_eq!(
        branch_names(&get(&format!("cursor={next}")).await?),
        ["main"]
    );
    for other in ["sort_by=created_at", "sort_order=desc"] {
        let refused = get(&format!("{other}&cursor={next}")).await?;
        assert_eq!(refused.status, 400, "{other}: {refused:?}");
        assert!(
            refused.text("/message").starts_with("cursor"),
            "{refused:?}"
        );
    }
    emulator.stop().await
}

#[tokio::test]
async fn cursors_that_no_list_gave_out_are_refused() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (http, project) = (Http::of(&emulator), emulator.project());
    let make = json!({"project": {"name": "second"}});
    http.expect(201, "POST", "/projects", make).await?;
    let page = http
        .expect(200, "GET", "/projects?limit=1", json!(null))
        .await?;
    let cursor = page.text("/pagination/cursor");
    let second = format!("/projects?limit=1&cursor={cursor}");
    let last = http.expect(200, "GET", &second, json!(null)).await?;
    assert_ne!(last.at("/projects/0/id"), page.at("/projects/0/id"));
    assert!(last.at("/pagination").is_null(), "{last:?}");

    let branches = format!("/projects/{project}/branches");
    let operations = format!("/projects/{project}/operations");
    // The last two: of another list, and of a form that lists have.
    for list in ["/projects", "/projects/shared", &branches, &operations] {
        for cursor in ["zzz", "WyJhIiwiYiJd", "%00", cursor, "2020-01-01T00:00:00Z"] {
            if list == "/projects" && *cursor == *page.text("/pagination/cursor") {
                continue;
            }
            let path = format!("{list}?cursor={cursor}");
            let refused = http.expect(400, "GET", &path, json!(null)).await?;
            assert!(
                refused.text("/message").starts_with("cursor"),
                "{refused:?}"
            );
        }
        // What is empty is none.
        http.expect(200, "GET", &format!("{list}?cursor="), json!(null))
            .await?;
    }
    emulator.stop().await
}

fn branch_names(answer: &Answer) -> Vec<&str> {
    let branches = answer.at("/branches").as_array().map(Vec::as_slice);
    let branches = branches.unwrap_or_default().iter();
    branches
        .filter_map(|branch| branch.get("name").and_then(Value::as_str))
        .collect()
}

fn names(branches: &[neon_api::types::Branch]) -> Vec<&str> {
    branches.iter().map(|branch| branch.name.as_str()).collect()
}
