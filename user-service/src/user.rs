//! A user, as every API version's messages and tables are turned into.

use rpc::status::FieldViolation;

/// Which user: 1 or more, given by the database. Each version's branch counts
/// for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(i32);

impl UserId {
    /// The id that a request names in `field`.
    ///
    /// # Errors
    /// A violation of that field for an id below 1.
    pub fn parse(field: &'static str, id: i32) -> Result<Self, FieldViolation> {
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
