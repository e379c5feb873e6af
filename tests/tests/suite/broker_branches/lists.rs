use proto::broker::v1 as pb;
use tonic::{Code, Status};

use super::Place;
use crate::details::refused;

async fn list(
    place: &Place,
    request: pb::ListBranchesRequest,
) -> Result<(Vec<String>, String), Status> {
    let answer = place
        .branches
        .clone()
        .list_branches(request)
        .await?
        .into_inner();
    let names = answer
        .branches
        .into_iter()
        .map(|branch| branch.display_name);
    Ok((names.collect(), answer.next_page_token))
}

#[tokio::test]
async fn lists_are_narrowed_sorted_and_paged() -> anyhow::Result<()> {
    let place = Place::start().await?;
    for name in ["b", "a", "c"] {
        place.make(name).await?;
    }
    let asked =
        |filter: &str, order_by: &str, page_size, page_token: &str| pb::ListBranchesRequest {
            page_size,
            page_token: page_token.to_owned(),
            filter: filter.to_owned(),
            order_by: order_by.to_owned(),
        };
    for (filter, order, names) in [
        ("", "", &["a", "b", "c", "main"][..]),
        ("managed = true", "display_name desc", &["c", "b", "a"]),
        ("default = true", "", &["main"]),
        ("managed = true AND display_name != b", "", &["a", "c"]),
        ("display_name = \"ma*\"", "", &["main"]),
        ("state = READY AND NOT_HERE = 1", "", &[]),
        ("expire_time:*", "", &[]),
        (
            "create_time > \"2020-01-01T00:00:00Z\"",
            "create_time desc, display_name",
            &["c"],
        ),
    ] {
        let answer = list(&place, asked(filter, order, 0, "")).await;
        match filter.contains("NOT_HERE") {
            true => drop(refused(answer, Code::InvalidArgument, Some("filter"))),
            false => {
                let (found, _) = answer?;
                let found: Vec<&str> = found.iter().map(String::as_str).collect();
                // Those made within one second are sorted by what follows.
                match order.starts_with("create_time") {
                    true => assert_eq!(found.len(), 4, "{filter}"),
                    false => assert_eq!(found, names, "{filter}"),
                }
            }
        }
    }
    // Each page goes on where the one before ended.
    let (filter, order) = ("managed = true", "display_name desc");
    let mut token = String::new();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (mut names, next) = list(&place, asked(filter, order, 1, &token)).await?;
        seen.append(&mut names);
        token = next;
    }
    assert_eq!(
        (seen, &*token),
        (vec!["c".to_owned(), "b".to_owned(), "a".to_owned()], "")
    );

    let (_, token) = list(&place, asked(filter, order, 1, "")).await?;
    for (filter, order) in [("", order), (filter, ""), ("managed = false", order)] {
        let answer = list(&place, asked(filter, order, 1, &token)).await;
        refused(answer, Code::InvalidArgument, Some("page_token"));
    }
    for (filter, order, field) in [
        ("size = 1", "", "filter"),
        ("managed = maybe", "", "filter"),
        ("", "size", "order_by"),
        ("", "display_name up", "order_by"),
    ] {
        let answer = list(&place, asked(filter, order, 0, "")).await;
        refused(answer, Code::InvalidArgument, Some(field));
    }
    let answer = list(&place, asked("", "", -1, "")).await;
    refused(answer, Code::InvalidArgument, Some("page_size"));
    place.stop().await
}
