use super::*;

const SERVICE: &str = "users.v1.UserService";

fn user(id: i32, name: &str) -> User {
    User {
        id: UserId::of_row(id),
        name: name.to_owned(),
        email: format!("{id}@example.com"),
        age: None,
        city: None,
    }
}

fn page(tokens: &PageTokens, asked: Asked<'_>) -> Result<Page, FieldViolations> {
    Page::of(tokens, SERVICE, asked)
}

fn filtered(filter: &str) -> Result<[Option<Wanted>; 2], String> {
    wanted(filter).map_err(|violation| {
        assert_eq!(violation.field, "filter");
        violation.description
    })
}

fn begins(from: &str, to: Option<&str>) -> Option<Wanted> {
    Some(Wanted::Begins {
        from: from.to_owned(),
        to: to.map(str::to_owned),
    })
}

#[test]
fn a_token_leads_to_the_next_page_of_its_own_list() {
    let tokens = PageTokens::random();
    for (order_by, text) in [
        ("", ""),
        ("id desc", ""),
        ("name", "Zoë"),
        ("email desc", "258@example.com"),
    ] {
        let asked = Asked {
            page_size: 1,
            filter: "name = \"Z*\"",
            order_by,
            ..Asked::default()
        };
        let first = page(&tokens, asked).unwrap();
        let mut users = vec![user(258, "Zoë"), user(259, "Zoë")];
        let page_token = first.cut(&tokens, SERVICE, &mut users);
        assert_eq!(users, [user(258, "Zoë")]);
        let next = Asked {
            page_token: &page_token,
            ..asked
        };
        let after = page(&tokens, next).unwrap().after;
        let place = Place {
            id: UserId::of_row(258),
            text: text.to_owned(),
        };
        assert_eq!(after, Some(place), "{order_by:?}");
        for other in [
            Asked { filter: "", ..next },
            Asked {
                order_by: "name desc",
                ..next
            },
        ] {
            let refused = page(&tokens, other).unwrap_err();
            let fields: Vec<_> = refused.iter().map(|v| v.field.as_str()).collect();
            assert_eq!(fields, ["page_token"], "{other:?}");
        }
        let elsewhere = Page::of(&tokens, "users.v2.UserService", next);
        assert!(elsewhere.is_err(), "another version's list");
        // As many as fit: there is no next page.
        assert_eq!(first.cut(&tokens, SERVICE, &mut users), "");
        assert_eq!(first.cut(&tokens, SERVICE, &mut Vec::new()), "");
    }
}

#[test]
fn everything_wrong_with_a_list_is_told_at_once() {
    let tokens = PageTokens::random();
    let asked = Asked {
        page_size: -1,
        page_token: "forged",
        filter: "age = 3",
        order_by: "age",
    };
    let refused = page(&tokens, asked).unwrap_err();
    let fields: Vec<_> = refused.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["page_size", "filter", "order_by", "page_token"]);
    let all = page(&tokens, Asked::default()).unwrap();
    assert_eq!((all.size, all.after.is_none()), (100, true));
    let by_id = Order {
        by: By::Id,
        down: false,
    };
    assert_eq!((all.order, all.name, all.email), (by_id, None, None));
}

#[test]
fn filters_are_equality_and_what_a_text_begins_with() {
    let is = |text: &str| Some(Wanted::Is(text.to_owned()));
    for (filter, name, email) in [
        ("name = Alice", is("Alice"), None),
        ("name = \"Al ice\"", is("Al ice"), None),
        ("name = \"\"", is(""), None),
        ("name = \"A\\*\"", is("A*"), None),
        ("name = \"A\\\"*\"", begins("A\"", Some("A#")), None),
        ("email = al*", None, begins("al", Some("am"))),
        (
            "email = \"al@x.org\" AND name = \"A*\"",
            begins("A", Some("B")),
            is("al@x.org"),
        ),
        ("name = *", None, None),
        ("name = \"*\" AND email = a*", None, begins("a", Some("b"))),
    ] {
        assert_eq!(filtered(filter), Ok([name, email]), "{filter}");
    }
    for (filter, says) in [
        ("name = *a", "* at the end alone for name"),
        ("email = *a*", "* at the end alone for email"),
        ("name = a*b", "beginning and the end"),
        ("name != a", "= alone for name"),
        ("name != a*", "= alone for name"),
        ("name : a", "= alone for name"),
        ("name:*", "= alone for name"),
        ("name < b", "no time"),
        ("name = a AND name = b", "more than one term for name"),
        ("name = * AND name = b", "more than one term for name"),
        ("city = Bern", "the fields are name, email"),
        ("id = 1", "the fields are name, email"),
        ("name = \"a\0\"", "NUL for name"),
        ("name = \"a", "quote"),
        ("name = a OR name = b", "AND"),
    ] {
        let refused = filtered(filter).unwrap_err();
        assert!(refused.contains(says), "{filter}: {refused}");
    }
}

#[test]
fn orders_are_by_one_field() {
    for (order_by, by, down) in [
        ("", By::Id, false),
        ("id", By::Id, false),
        ("id desc", By::Id, true),
        ("name asc", By::Name, false),
        (" name  desc ", By::Name, true),
        ("email", By::Email, false),
    ] {
        assert_eq!(order(order_by), Ok(Order { by, down }), "{order_by:?}");
    }
    for refused in [
        "age",
        "city",
        "etag",
        "name, id",
        "name down",
        "desc",
        "Name",
        ",",
    ] {
        let field = order(refused).map_err(|violation| violation.field);
        assert_eq!(field, Err("order_by".to_owned()), "{refused:?}");
    }
}

#[test]
fn beyond_a_text_is_all_that_does_not_begin_with_it() {
    for (prefix, wanted) in [
        ("", None),
        ("a", Some("b")),
        ("Al", Some("Am")),
        ("a\u{7f}", Some("a\u{80}")),
        ("a\u{d7ff}", Some("a\u{e000}")),
        ("a\u{10ffff}", Some("b")),
        ("\u{10ffff}\u{10ffff}", None),
        ("é", Some("ê")),
    ] {
        assert_eq!(beyond(prefix).as_deref(), wanted, "{prefix:?}");
        let Some(beyond) = wanted else { continue };
        for more in ["", "a", "\u{10ffff}"] {
            let text = format!("{prefix}{more}");
            assert!(
                prefix <= text.as_str() && text.as_str() < beyond,
                "{text:?}"
            );
        }
    }
}
