use super::*;

const V1: &[Field] = &[Field::Name, Field::Email];
const V2: &[Field] = &[Field::Name, Field::Email, Field::Age, Field::City];

fn alice() -> Input {
    Input {
        id: 0,
        name: "Alice".to_owned(),
        email: "alice@example.com".to_owned(),
        age: Some(25),
        city: Some("New York".to_owned()),
        etag: String::new(),
    }
}

fn stored_alice() -> Input {
    Input { id: 1, ..alice() }
}

fn fields(violations: &FieldViolations) -> Vec<&str> {
    violations.iter().map(|v| v.field.as_str()).collect()
}

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
    })
}

#[test]
fn a_good_user_is_taken_as_given() {
    let new = alice().into_new().unwrap();
    assert_eq!(new.name, "Alice");
    assert_eq!(new.email, "alice@example.com");
    assert_eq!(new.age, Some(25));
    assert_eq!(new.city.as_deref(), Some("New York"));
    let bare = Input {
        age: None,
        city: None,
        ..alice()
    };
    let new = bare.into_new().unwrap();
    assert_eq!((new.age, new.city), (None, None));
}

#[test]
fn everything_wrong_is_told_at_once() {
    let wrong = Input {
        id: 7,
        age: Some(151),
        city: Some(String::new()),
        etag: "x".to_owned(),
        ..Input::default()
    };
    let violations = wrong.into_new().unwrap_err();
    assert_eq!(
        fields(&violations),
        [
            "user.id",
            "user.etag",
            "user.name",
            "user.email",
            "user.age",
            "user.city"
        ]
    );
    let missing = new(None::<Input>, "x").unwrap_err();
    assert_eq!(fields(&missing), ["request_id", "user"]);
    let missing = change(None::<Input>, None, V2).unwrap_err();
    assert_eq!(fields(&missing), ["user"]);
}

#[test]
fn names_and_cities_have_bounds() {
    for (taken, text) in [
        (true, "é".repeat(200)),
        (false, "é".repeat(201)),
        (true, " x ".to_owned()),
        (false, " \t\n\u{a0}".to_owned()),
        (false, "a\0b".to_owned()),
        (false, String::new()),
    ] {
        let named = Input {
            name: text.clone(),
            ..alice()
        };
        assert_eq!(named.into_new().is_ok(), taken, "name {text:?}");
        let living = Input {
            city: Some(text.clone()),
            ..alice()
        };
        assert_eq!(living.into_new().is_ok(), taken, "city {text:?}");
    }
}

#[test]
fn ages_have_bounds() {
    for (taken, age) in [
        (true, 0),
        (true, 150),
        (false, -1),
        (false, 151),
        (false, i32::MIN),
    ] {
        let aged = Input {
            age: Some(age),
            ..alice()
        };
        assert_eq!(aged.into_new().is_ok(), taken, "{age}");
    }
}

#[test]
fn emails_are_addresses() {
    let long = format!("{}@{}.example.com", "a".repeat(64), "b".repeat(63));
    let label = "c".repeat(61);
    let longest = format!("{}@{label}.{label}.{label}.com", "a".repeat(64));
    let exactly = &longest[longest.len() - 254..];
    assert_eq!(exactly.len(), 254);
    for taken in [
        "alice@example.com",
        "a.b+c@sub.example.co",
        "ål@exämple.se",
        "root@localhost",
        &long,
        exactly,
    ] {
        assert_eq!(email(taken.to_owned()).as_deref(), Ok(taken));
    }
    let too_long = format!("a{exactly}");
    for refused in [
        "",
        " ",
        "alice",
        "alice@",
        "@example.com",
        "alice@example..com",
        "a lice@example.com",
        "alice@exam ple.com",
        "alice@example.com\n",
        " alice@example.com",
        "Alice <alice@example.com>",
        "<alice@example.com>",
        "alice@[127.0.0.1]",
        "alice@@example.com",
        "al\0ice@example.com",
        &too_long,
    ] {
        let violation = email(refused.to_owned()).unwrap_err();
        assert_eq!(violation.field, "user.email", "{refused:?}");
    }
}

#[test]
fn a_mask_says_what_changes() {
    let (id, change) = stored_alice().into_change(mask(&["city"]), V2).unwrap();
    assert_eq!(id.get(), 1);
    assert_eq!(
        change,
        Change {
            city: Some(Some("New York".to_owned())),
            ..Change::default()
        }
    );
    let moved = Input {
        city: None,
        ..stored_alice()
    };
    let (_, change) = moved.into_change(mask(&["city", "city"]), V2).unwrap();
    assert_eq!(change.city, Some(None), "masked and absent is cleared");
    assert_eq!(change.name, None);
}

#[test]
fn without_a_mask_what_is_set_changes() {
    for none in [None, mask(&[])] {
        let input = Input {
            id: 1,
            age: Some(0),
            ..Input::default()
        };
        let (_, change) = input.into_change(none.clone(), V2).unwrap();
        assert_eq!(
            change,
            Change {
                age: Some(Some(0)),
                ..Change::default()
            }
        );
        let nothing = Input {
            id: 1,
            ..Input::default()
        };
        let (_, change) = nothing.into_change(none, V2).unwrap();
        assert!(change.is_empty());
    }
}

#[test]
fn a_star_changes_all_fields_of_its_version() {
    let input = Input {
        age: None,
        ..stored_alice()
    };
    let (_, change) = input.clone().into_change(mask(&["*"]), V2).unwrap();
    assert_eq!(change.name.as_deref(), Some("Alice"));
    assert_eq!(change.age, Some(None));
    assert_eq!(change.city, Some(Some("New York".to_owned())));
    let (_, change) = input.into_change(mask(&["*"]), V1).unwrap();
    assert_eq!((change.age, change.city), (None, None));
    let nameless = Input {
        name: String::new(),
        ..stored_alice()
    };
    let violations = nameless.into_change(mask(&["*"]), V1).unwrap_err();
    assert_eq!(fields(&violations), ["user.name"], "it cannot be cleared");
}

#[test]
fn a_mask_names_known_fields_only() {
    for (path, known) in [
        ("id", V2),
        ("etag", V2),
        ("nickname", V2),
        ("age", V1),
        ("city", V1),
        ("user.name", V2),
        ("Name", V2),
        ("", V2),
        ("name ", V2),
    ] {
        let violations = stored_alice()
            .into_change(mask(&["name", path]), known)
            .unwrap_err();
        assert_eq!(fields(&violations), ["update_mask"], "{path:?}");
    }
    let violations = Input::default()
        .into_change(mask(&["nickname"]), V2)
        .unwrap_err();
    assert_eq!(fields(&violations), ["user.id", "update_mask"]);
    let long = "x".repeat(5_000);
    let violations = stored_alice().into_change(mask(&[&long]), V2).unwrap_err();
    assert!(violations.iter().all(|v| v.description.len() < 200));
}

#[test]
fn ids_are_one_to_a_thousand_in_their_order() {
    let parsed = ids(&[3, 1, 3]).unwrap();
    let numbers: Vec<i32> = parsed.iter().map(|id| id.get()).collect();
    assert_eq!(numbers, [3, 1, 3]);
    assert_eq!(ids(&[1; IDS_MAX]).map(|ids| ids.len()), Ok(IDS_MAX));
    for (refused, wanted) in [
        (&[][..], &["ids"][..]),
        (&[1; IDS_MAX + 1], &["ids"]),
        (&[1, 0, 2, -1, i32::MIN], &["ids[1]", "ids[3]", "ids[4]"]),
    ] {
        let violations = ids(refused).unwrap_err();
        assert_eq!(fields(&violations), wanted);
    }
}

#[test]
fn a_request_may_have_an_id() {
    let id = "6b8b4567-327b-43c6-a43c-986966334873";
    let (_, parsed) = new(Some(alice()), id).unwrap();
    assert_eq!(parsed.map(|id| id.to_string()).as_deref(), Some(id));
    let (user, none) = new(Some(alice()), "").unwrap();
    assert_eq!((user.name.as_str(), none), ("Alice", None));
    let nameless = Input {
        name: String::new(),
        ..alice()
    };
    let violations = new(Some(nameless), "no-uuid").unwrap_err();
    assert_eq!(fields(&violations), ["request_id", "user.name"]);
}

#[test]
fn an_etag_is_no_field_that_changes() {
    let input = Input {
        id: 1,
        name: "Alicia".to_owned(),
        etag: "as read".to_owned(),
        ..Input::default()
    };
    let (_, changed, etag) = change(Some(input.clone()), None, V2).unwrap();
    assert_eq!(etag.as_deref(), Some("as read"));
    let name = Change {
        name: Some("Alicia".to_owned()),
        ..Change::default()
    };
    assert_eq!(changed, name);
    let (_, _, etag) = change(
        Some(Input {
            etag: String::new(),
            ..input
        }),
        None,
        V2,
    )
    .unwrap();
    assert_eq!(etag, None);
}
