//! A user, as every API version's messages and tables are turned into.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rpc::status::FieldViolation;
use sha2::{Digest as _, Sha256};
use twox_hash::XxHash3_128;

/// Of the hash's 16 bytes: enough that two states of a user never share them, short
/// to send.
const ETAG_BYTES: usize = 12;
/// Bytes of what is absent or not, an age and an id.
const ROOM_OF_NUMBERS: usize = 2 + 4 + 4;

/// Which user: 1 or more, given by the database. Each version's branch counts
/// for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(i32);

impl UserId {
    /// The id that a request names in `field`.
    ///
    /// # Errors
    /// A violation of that field for an id below 1.
    pub fn parse(field: impl Into<String>, id: i32) -> Result<Self, FieldViolation> {
        if id < 1 {
            return Err(FieldViolation::new(field, "must be 1 or more"));
        }
        Ok(Self(id))
    }

    /// The id that a row has.
    pub(crate) fn of_row(id: i32) -> Self {
        Self(id)
    }

    /// The number.
    pub fn get(self) -> i32 {
        self.0
    }
}

/// A user. What a version does not know is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Which.
    pub id: UserId,
    /// The name.
    pub name: String,
    /// The email address, of this user only.
    pub email: String,
    /// Years.
    pub age: Option<i32>,
    /// The city.
    pub city: Option<String>,
}

impl User {
    /// Stands for all that the user is, in one version: the hash of it (XXH3, of 128
    /// bits). It need not withstand who looks for another user of the same hash: a
    /// write compares the columns themselves.
    pub fn etag(&self) -> String {
        let mut content = content(&self.name, &self.email, self.age, self.city.as_deref());
        content.extend(self.id.0.to_be_bytes());
        let hash = XxHash3_128::oneshot(&content).to_be_bytes();
        BASE64_URL_SAFE_NO_PAD.encode(&hash[..ETAG_BYTES])
    }
}

/// A user who is to be created, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUser {
    /// The name.
    pub name: String,
    /// The email address.
    pub email: String,
    /// Years.
    pub age: Option<i32>,
    /// The city.
    pub city: Option<String>,
}

impl NewUser {
    /// Stands for the request to create this user.
    pub fn hash(&self) -> Vec<u8> {
        let content = content(&self.name, &self.email, self.age, self.city.as_deref());
        Sha256::digest(content).to_vec()
    }

    /// The user that was made of it.
    pub fn created(self, id: UserId) -> User {
        User {
            id,
            name: self.name,
            email: self.email,
            age: self.age,
            city: self.city,
        }
    }
}

/// What is to change in a user, checked. `None` stays as it is; `Some(None)` is
/// cleared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The name.
    pub name: Option<String>,
    /// The email address.
    pub email: Option<String>,
    /// Years.
    pub age: Option<Option<i32>>,
    /// The city.
    pub city: Option<Option<String>>,
}

impl Change {
    /// Whether nothing is to change.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A field of a user that a request can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// The name.
    Name,
    /// The email address.
    Email,
    /// Years.
    Age,
    /// The city.
    City,
}

impl Field {
    /// As an update_mask names it.
    pub fn path(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Email => "email",
            Self::Age => "age",
            Self::City => "city",
        }
    }
}

/// What is to be known of a user but the id, in one row of bytes. Each text has its
/// length before it, and what may be absent a byte that says whether it is: no two
/// users read the same.
fn content(name: &str, email: &str, age: Option<i32>, city: Option<&str>) -> Vec<u8> {
    let texts = [Some(name), Some(email), city];
    let room: usize = texts.iter().flatten().map(|text| 4 + text.len()).sum();
    let mut content = Vec::with_capacity(room + ROOM_OF_NUMBERS);
    for text in texts.into_iter().flatten() {
        // A text in Postgres has at most 1 GiB.
        content.extend((text.len() as u32).to_be_bytes());
        content.extend(text.as_bytes());
    }
    content.extend([u8::from(city.is_some()), u8::from(age.is_some())]);
    content.extend(age.unwrap_or_default().to_be_bytes());
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> User {
        User {
            id: UserId(1),
            name: "Alice".to_owned(),
            email: "alice@example.com".to_owned(),
            age: None,
            city: None,
        }
    }

    #[test]
    fn an_etag_stands_for_all_that_a_user_is() {
        let same = alice().etag();
        assert_eq!(same, alice().etag());
        assert_eq!(same.len(), 16);
        let mut etags = vec![same];
        let changes: [fn(&mut User); 9] = [
            |user| user.id = UserId(2),
            |user| user.name.push(' '),
            |user| user.email.push('x'),
            |user| user.age = Some(0),
            |user| user.age = Some(1),
            |user| user.city = Some(String::new()),
            |user| user.city = Some("Bern".to_owned()),
            // The same characters in all, in other places.
            |user| {
                user.name = "Alicealice".to_owned();
                user.email = "@example.com".to_owned();
            },
            |user| {
                user.name = String::new();
                user.city = Some("Alice".to_owned());
            },
        ];
        for change in changes {
            let mut user = alice();
            change(&mut user);
            etags.push(user.etag());
        }
        let all = etags.len();
        etags.sort_unstable();
        etags.dedup();
        assert_eq!(etags.len(), all, "{etags:?}");
    }

    #[test]
    fn etags_are_the_same_in_every_release() {
        // As the README shows them.
        assert_eq!(alice().etag(), "thnXJMhEaoUeSVYb");
        let in_v2 = User {
            age: Some(25),
            city: Some("New York".to_owned()),
            ..alice()
        };
        assert_eq!(in_v2.etag(), "m1o6SvaTj9LOmdUy");
    }

    #[test]
    fn the_hash_of_a_request_is_of_all_that_it_asks_for() {
        let new = NewUser {
            name: "Alice".to_owned(),
            email: "alice@example.com".to_owned(),
            age: None,
            city: None,
        };
        assert_eq!(new.hash(), new.clone().hash());
        let older = NewUser {
            age: Some(7),
            ..new.clone()
        };
        assert_ne!(new.hash(), older.hash());
        assert_eq!(new.created(UserId(1)), alice());
    }
}
