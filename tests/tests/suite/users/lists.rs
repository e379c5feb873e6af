//! Lists: their pages, their filters and their orders.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use proto::users::v1::user_service_client::UserServiceClient;
use proto::users::{v1, v2};
use suite::System;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tonic::Code;
use tonic::transport::Channel;

use super::{create, user};
use crate::details::refused;
use crate::sessions::owner;

const ORDERS: [&str; 6] = ["id", "id desc", "name", "name desc", "email", "email desc"];

fn list(filter: &str, order_by: &str) -> v1::ListUsersRequest {
    v1::ListUsersRequest {
        filter: filter.to_owned(),
        order_by: order_by.to_owned(),
        page_size: 1_000,
        ..Default::default()
    }
}

/// Those that stay, by their ids: 200 of ten names, whose emails are in another order.
async fn settle(owner: &Client) -> anyhow::Result<BTreeSet<i32>> {
    let settle = "INSERT INTO users.users (name, email)
                  SELECT 'Name ' || number % 10, md5(number::text) || '@stays.example.com'
                  FROM generate_series(1, 200) AS number";
    owner.batch_execute(settle).await?;
    let all = owner.query("SELECT id FROM users.users", &[]).await?;
    Ok(all.iter().map(|row| row.get(0)).collect())
}

/// Others come and go among them, until it is ended.
struct Crowd {
    running: Arc<AtomicBool>,
    task: JoinHandle<anyhow::Result<usize>>,
}

impl Crowd {
    fn begin(session: Client) -> Self {
        let running = Arc::new(AtomicBool::new(true));
        let task = tokio::spawn({
            let running = Arc::clone(&running);
            async move {
                let mut rounds = 0;
                while running.load(Ordering::Relaxed) {
                    let come = "INSERT INTO users.users (name, email)
                                SELECT 'Name ' || number % 10, gen_random_uuid() || '@goes.example.com'
                                FROM generate_series(1, 40) AS number";
                    session.batch_execute(come).await?;
                    let go = "DELETE FROM users.users
                              WHERE email LIKE '%@goes.example.com' AND random() < 0.7";
                    session.batch_execute(go).await?;
                    rounds += 1;
                }
                Ok(rounds)
            }
        });
        Self { running, task }
    }

    async fn end(self) -> anyhow::Result<()> {
        self.running.store(false, Ordering::Relaxed);
        let rounds = self.task.await??;
        ensure!(rounds > 0, "nobody came");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_miss_nobody_and_repeat_nobody_while_others_come_and_go() -> anyhow::Result<()> {
    let system = System::start().await?;
    let (session, deleting) = (owner(&system).await?, owner(&system).await?);
    let stays = settle(&session).await?;
    let mut users = system.users_v1().await?;
    let crowd = Crowd::begin(session);
    for _ in 0..suite::count(1, 10) {
        for (order_by, filter) in ORDERS
            .into_iter()
            .flat_map(|order| ["", "name = \"Name *\""].map(|filter| (order, filter)))
        {
            let seen = walk(&mut users, &deleting, list(filter, order_by)).await?;
            let mut wanted = stays.clone();
            if !filter.is_empty() {
                wanted.retain(|id| *id > 2);
            }
            let missed: Vec<_> = wanted.difference(&seen).collect();
            assert!(missed.is_empty(), "{order_by:?} {filter:?}: {missed:?}");
        }
    }
    crowd.end().await?;
    system.finish().await
}

/// Goes through all pages. Who ends one of them and may go does: a page begins after
/// somebody who is there no more.
async fn walk(
    users: &mut UserServiceClient<Channel>,
    deleting: &Client,
    mut request: v1::ListUsersRequest,
) -> anyhow::Result<BTreeSet<i32>> {
    request.page_size = 7;
    let mut seen = BTreeSet::new();
    let mut last = None;
    loop {
        let page = users.list_users(request.clone()).await?.into_inner();
        assert!(page.users.len() <= 7);
        for user in &page.users {
            assert!(seen.insert(user.id), "twice: {user:?} {request:?}");
            let place = place(user, &request.order_by);
            let before = last.replace(place.clone());
            let sorted = before.as_ref().is_none_or(|before| {
                if request.order_by.ends_with(" desc") {
                    *before > place
                } else {
                    *before < place
                }
            });
            assert!(sorted, "{before:?} {place:?} {request:?}");
        }
        if page.next_page_token.is_empty() {
            return Ok(seen);
        }
        assert_eq!(page.users.len(), 7, "a page with one after it is full");
        request.page_token = page.next_page_token;
        let ended = page.users.last().context("a user")?.id;
        let go = "DELETE FROM users.users WHERE id = $1 AND email LIKE '%@goes.example.com'";
        deleting.execute(go, &[&ended]).await?;
    }
}

/// Where a user is in that order: texts by their bytes.
fn place(user: &v1::User, order_by: &str) -> (String, i32) {
    match order_by.trim_end_matches(" desc") {
        "name" => (user.name.clone(), user.id),
        "email" => (user.email.clone(), 0),
        _ => (String::new(), user.id),
    }
}

#[tokio::test]
async fn filters_find_what_they_say_and_nothing_else() -> anyhow::Result<()> {
    let system = System::start().await?;
    let mut users = system.users_v1().await?;
    let names = [
        "Al",
        "al",
        "Al*",
        "Al*x",
        "Al\"q",
        "Al\\b",
        "A%l",
        "A_l",
        "Am",
        "Ål",
        "Al\u{10ffff}",
        "Al\u{10ffff}z",
        " AND ",
        "Robert'); DROP TABLE users;--",
    ];
    for (number, name) in names.into_iter().enumerate() {
        let new = create(user(name, &format!("{number}@sub.example.com")));
        users.create_user(new).await?;
    }
    let of_al = [
        "Al",
        "Alice",
        "Al*",
        "Al*x",
        "Al\"q",
        "Al\\b",
        "Al\u{10ffff}",
        "Al\u{10ffff}z",
    ];
    let cases: &[(&str, &[&str])] = &[
        ("name = Al", &["Al"]),
        ("name = al", &["al"]),
        ("name = \"Al*\"", &of_al),
        ("name = Al*", &of_al),
        ("name = \"Al\\*\"", &["Al*"]),
        ("name = \"Al\\**\"", &["Al*", "Al*x"]),
        ("name = \"Al\\\"q\"", &["Al\"q"]),
        ("name = \"Al\\\"*\"", &["Al\"q"]),
        ("name = \"Al\\\\*\"", &["Al\\b"]),
        ("name = \"A%*\"", &["A%l"]),
        ("name = \"A_*\"", &["A_l"]),
        ("name = \"Å*\"", &["Ål"]),
        (
            "name = \"Al\u{10ffff}*\"",
            &["Al\u{10ffff}", "Al\u{10ffff}z"],
        ),
        ("name = \" AND \"", &[" AND "]),
        (
            "name = \"Robert'); DROP TABLE users;--\"",
            &["Robert'); DROP TABLE users;--"],
        ),
        ("name = nobody", &[]),
        ("email = alice@example.com", &["Alice"]),
        ("email = \"alice@*\"", &["Alice"]),
        ("email = \"ALICE@*\"", &[]),
        (
            "email = \"1*\" AND name = \"A*\"",
            &["Al\u{10ffff}", "Al\u{10ffff}z"],
        ),
        ("name = Al AND email = \"0@sub.example.com\"", &["Al"]),
        ("name = Al AND email = \"1@sub.example.com\"", &[]),
    ];
    for (filter, wanted) in cases {
        let wanted: BTreeSet<&str> = wanted.iter().copied().collect();
        for order_by in ORDERS {
            let found = users.list_users(list(filter, order_by)).await?.into_inner();
            let names = found.users.iter().map(|user| user.name.as_str());
            assert_eq!(
                names.collect::<BTreeSet<_>>(),
                wanted,
                "{filter} {order_by}"
            );
            assert_eq!(found.users.len(), wanted.len(), "{filter} {order_by}");
        }
    }
    for everybody in ["", "  ", "name = *", "email = \"*\" AND name = *"] {
        let found = users.list_users(list(everybody, "")).await?.into_inner();
        assert_eq!(found.users.len(), names.len() + 2, "{everybody:?}");
    }
    // By code points, whatever the machine's language.
    let sorted = users.list_users(list("", "name")).await?.into_inner().users;
    let sorted: Vec<String> = sorted.into_iter().map(|user| user.name).collect();
    assert!(sorted.is_sorted(), "{sorted:?}");
    let place = |name: &str| sorted.iter().position(|one| one == name);
    let places = ["Am", "al", "Ål"].map(place);
    assert!(places.is_sorted() && places[0].is_some(), "{sorted:?}");
    system.finish().await
}

#[tokio::test]
async fn lists_refuse_what_they_do_not_know() -> anyhow::Result<()> {
    let system = System::start().await?;
    let mut users = system.users_v1().await?;
    let mut users2 = system.users_v2().await?;
    let invalid = Code::InvalidArgument;
    let long = format!("name = {}", "a".repeat(2_000));
    for filter in [
        "nickname = x",
        "id = 1",
        "etag = x",
        "name",
        "name =",
        "name != x",
        "name : x",
        "name < x",
        "name = *x",
        "name = x*y",
        "name = \"x",
        "name = \"x\0\"",
        "name = x OR name = y",
        "name = x AND name = y",
        "NOT name = x",
        "(name = x)",
        &long,
    ] {
        let answer = users.list_users(list(filter, "")).await;
        refused(answer, invalid, Some("filter"));
    }
    for order_by in [
        "nickname",
        "etag",
        "name,",
        "name, id",
        "id id",
        "name down",
        "age",
    ] {
        let answer = users.list_users(list("", order_by)).await;
        refused(answer, invalid, Some("order_by"));
    }
    for (filter, order_by, field) in [
        ("age = 3", "", "filter"),
        ("city = Bern", "", "filter"),
        ("", "age", "order_by"),
        ("", "city desc", "order_by"),
    ] {
        let request = v2::ListUsersRequest {
            filter: filter.to_owned(),
            order_by: order_by.to_owned(),
            ..Default::default()
        };
        refused(users2.list_users(request).await, invalid, Some(field));
    }
    for page_size in [-1, 1_001, i32::MIN] {
        let request = v1::ListUsersRequest {
            page_size,
            ..list("", "")
        };
        refused(users.list_users(request).await, invalid, Some("page_size"));
    }
    system.finish().await
}

#[tokio::test]
async fn tokens_are_of_one_list_and_not_to_be_forged() -> anyhow::Result<()> {
    let system = System::start().await?;
    let mut users = system.users_v1().await?;
    // Two fit: one page, and one after it.
    users
        .create_user(create(user("Anna", "anna@example.com")))
        .await?;
    let first = v1::ListUsersRequest {
        page_size: 1,
        ..list("email = \"a*\"", "name")
    };
    let page = users.list_users(first.clone()).await?.into_inner();
    assert_eq!(page.users[0].name, "Alice");
    let token = page.next_page_token;
    let next = v1::ListUsersRequest {
        page_token: token.clone(),
        ..first.clone()
    };
    // Of another size, it is the same list.
    let larger = v1::ListUsersRequest {
        page_size: 5,
        ..next.clone()
    };
    for request in [next.clone(), larger] {
        let page = users.list_users(request).await?.into_inner();
        assert_eq!(page.users[0].name, "Anna");
        assert!(page.next_page_token.is_empty());
    }

    let changed = |change: fn(&mut v1::ListUsersRequest)| {
        let mut request = next.clone();
        change(&mut request);
        request
    };
    let others = [
        changed(|request| request.filter.clear()),
        changed(|request| request.filter = "email = \"al*\"".to_owned()),
        changed(|request| request.order_by.clear()),
        changed(|request| request.order_by = "name desc".to_owned()),
        changed(|request| request.order_by = "email".to_owned()),
    ];
    let other = system
        .users_v2()
        .await?
        .list_users(v2::ListUsersRequest {
            page_size: 1,
            filter: "name = \"*\"".to_owned(),
            order_by: "name".to_owned(),
            ..Default::default()
        })
        .await?
        .into_inner()
        .next_page_token;
    assert!(!other.is_empty());
    let mut tampered = token.clone();
    let last = if tampered.ends_with('A') { 'B' } else { 'A' };
    tampered.replace_range(tampered.len() - 1.., &last.to_string());
    let forged = ["x", "MTA", &tampered, &other].map(|page_token| v1::ListUsersRequest {
        page_token: page_token.to_owned(),
        ..next.clone()
    });
    for request in others.into_iter().chain(forged) {
        let answer = users.list_users(request).await;
        refused(answer, Code::InvalidArgument, Some("page_token"));
    }
    system.finish().await
}

/// Each order, and each page of it, comes from an index: nothing is sorted, and nothing
/// is read that does not belong to the page.
#[tokio::test]
async fn every_order_has_its_index() -> anyhow::Result<()> {
    let system = System::start().await?;
    let owner = owner(&system).await?;
    // What else Postgres could do costs more than anything.
    owner
        .batch_execute("SET enable_seqscan = off; SET enable_sort = off;")
        .await?;
    for query in [
        "SELECT * FROM users.users WHERE id > 7 ORDER BY id LIMIT 101",
        "SELECT * FROM users.users WHERE email < 'x' ORDER BY email DESC LIMIT 101",
        "SELECT * FROM users.users WHERE ROW(name, id) > ROW('x', 7) ORDER BY name, id LIMIT 101",
        "SELECT * FROM users.users WHERE name >= 'Al' AND name < 'Am'
         AND ROW(name, id) < ROW('x', 7) ORDER BY name DESC, id DESC LIMIT 101",
        "SELECT * FROM users.users WHERE email >= 'al' AND email < 'am' ORDER BY email LIMIT 101",
    ] {
        let plan = owner.query(&format!("EXPLAIN {query}"), &[]).await?;
        let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        assert!(plan.contains("Index Scan"), "{query}: {plan}");
        for word in ["Sort", "Seq Scan", "Filter"] {
            assert!(!plan.contains(word), "{query}: {plan}");
        }
    }
    system.finish().await
}
