//! Checking what a request says of users: once, where it arrives, all of it at
//! once, and by the names that the request has for it.

use std::collections::BTreeSet;

use email_address::EmailAddress;
use prost_types::FieldMask;
use rpc::{
    request_id,
    status::{FieldViolation, FieldViolations},
};
use uuid::Uuid;

use crate::user::{Change, Field, NewUser, UserId};

/// The most characters of a name.
const NAME_CHARACTERS_MAX: usize = 200;
/// The most bytes of an email address, as mail servers take them (RFC 5321).
const EMAIL_BYTES_MAX: usize = 254;
/// The most years; the table's own check says the same.
const AGE_YEARS_MAX: i32 = 150;
/// The most characters of a city.
const CITY_CHARACTERS_MAX: usize = 200;
/// The most ids of one request: as many as a page has users.
const IDS_MAX: usize = 1_000;
/// How much of a path that is not known is quoted back.
const QUOTED_CHARACTERS_MAX: usize = 64;

/// What a request says of a user, unchecked. Fields that an API version does not
/// have are absent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Input {
    pub(crate) id: i32,
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) age: Option<i32>,
    pub(crate) city: Option<String>,
    pub(crate) etag: String,
}

/// The ids that a request names, in their order.
pub(crate) fn ids(ids: &[i32]) -> Result<Vec<UserId>, FieldViolations> {
    let mut violations = FieldViolations::new();
    violations.check(
        (1..=IDS_MAX).contains(&ids.len()),
        "ids",
        format!("must be 1 to {IDS_MAX} of them"),
    );
    if violations.is_empty() {
        for (at, id) in ids.iter().enumerate() {
            violations.take(UserId::parse(format!("ids[{at}]"), *id));
        }
    }
    violations.into_result()?;
    Ok(ids.iter().copied().map(UserId::of_row).collect())
}

/// A user to create, and the id of the request.
pub(crate) fn new<U: Into<Input>>(
    user: Option<U>,
    request_id: &str,
) -> Result<(NewUser, Option<Uuid>), FieldViolations> {
    let mut violations = FieldViolations::new();
    let id = violations.take(request_id::parse(request_id));
    let new = match required(user).and_then(Input::into_new) {
        Ok(new) => Some(new),
        Err(more) => {
            violations.append(more);
            None
        }
    };
    match (new, id) {
        (Some(new), Some(id)) => Ok((new, id)),
        _ => Err(violations),
    }
}

/// Which user to change, what, and the etag that the user is to have still. `known`:
/// the fields of the API version.
pub(crate) fn change<U: Into<Input>>(
    user: Option<U>,
    mask: Option<FieldMask>,
    known: &[Field],
) -> Result<(UserId, Change, Option<String>), FieldViolations> {
    let mut user = required(user)?;
    let etag = etag(std::mem::take(&mut user.etag));
    let (id, change) = user.into_change(mask, known)?;
    Ok((id, change, etag))
}

/// The etag that a request gives. None can be wrong but as another one.
pub(crate) fn etag(etag: String) -> Option<String> {
    Some(etag).filter(|etag| !etag.is_empty())
}

/// The message that a request cannot do without.
fn required<U: Into<Input>>(user: Option<U>) -> Result<Input, FieldViolations> {
    user.map(Into::into).ok_or_else(|| {
        let mut violations = FieldViolations::new();
        violations.add(FieldViolation::new("user", "must be given"));
        violations
    })
}

impl Input {
    /// A user to create.
    pub(crate) fn into_new(self) -> Result<NewUser, FieldViolations> {
        let mut violations = FieldViolations::new();
        violations.check(self.id == 0, "user.id", "must be left out: it is given");
        violations.check(
            self.etag.is_empty(),
            "user.etag",
            "must be left out: it is given",
        );
        let name = violations.take(name(self.name));
        let email = violations.take(email(self.email));
        let age = violations.take(age(self.age));
        let city = violations.take(city(self.city));
        match (name, email, age, city, violations.is_empty()) {
            (Some(name), Some(email), Some(age), Some(city), true) => Ok(NewUser {
                name,
                email,
                age,
                city,
            }),
            _ => Err(violations),
        }
    }

    /// Which user to change, and what. `known`: the fields of the API version.
    pub(crate) fn into_change(
        self,
        mask: Option<FieldMask>,
        known: &[Field],
    ) -> Result<(UserId, Change), FieldViolations> {
        let mut violations = FieldViolations::new();
        let id = violations.take(UserId::parse("user.id", self.id));
        let fields = violations.take(self.masked(mask, known));
        let mut change = Change::default();
        for field in fields.unwrap_or_default() {
            match field {
                Field::Name => change.name = violations.take(name(self.name.clone())),
                Field::Email => change.email = violations.take(email(self.email.clone())),
                Field::Age => change.age = violations.take(age(self.age)),
                Field::City => change.city = violations.take(city(self.city.clone())),
            }
        }
        match id {
            Some(id) if violations.is_empty() => Ok((id, change)),
            _ => Err(violations),
        }
    }

    /// The fields that an update_mask names: those that are set where it is
    /// absent or empty, all where it is `*`.
    fn masked(
        &self,
        mask: Option<FieldMask>,
        known: &[Field],
    ) -> Result<BTreeSet<Field>, FieldViolation> {
        let paths = mask.unwrap_or_default().paths;
        if paths.is_empty() {
            let set = known.iter().copied().filter(|field| self.has(*field));
            return Ok(set.collect());
        }
        let mut fields = BTreeSet::new();
        for path in &paths {
            if path == "*" && paths.len() == 1 {
                fields.extend(known);
            } else if let Some(field) = known.iter().find(|field| field.path() == path) {
                fields.insert(*field);
            } else {
                return Err(FieldViolation::new("update_mask", refused(path)));
            }
        }
        Ok(fields)
    }

    fn has(&self, field: Field) -> bool {
        match field {
            Field::Name => !self.name.is_empty(),
            Field::Email => !self.email.is_empty(),
            Field::Age => self.age.is_some(),
            Field::City => self.city.is_some(),
        }
    }
}

fn refused(path: &str) -> String {
    if path == "id" {
        return "names id, which never changes".to_owned();
    }
    if path == "etag" {
        return "names etag, which changes with the others".to_owned();
    }
    if path == "*" {
        return "names * beside other fields; * stands alone".to_owned();
    }
    let quoted: String = path.chars().take(QUOTED_CHARACTERS_MAX).collect();
    format!("names {quoted:?}, which is not a field of a user")
}

fn name(name: String) -> Result<String, FieldViolation> {
    text("user.name", name, NAME_CHARACTERS_MAX)
}

fn city(city: Option<String>) -> Result<Option<String>, FieldViolation> {
    city.map(|city| text("user.city", city, CITY_CHARACTERS_MAX))
        .transpose()
}

fn age(age: Option<i32>) -> Result<Option<i32>, FieldViolation> {
    match age {
        Some(years) if !(0..=AGE_YEARS_MAX).contains(&years) => Err(FieldViolation::new(
            "user.age",
            format!("must be between 0 and {AGE_YEARS_MAX}"),
        )),
        age => Ok(age),
    }
}

fn email(email: String) -> Result<String, FieldViolation> {
    let violation = |description: &str| Err(FieldViolation::new("user.email", description));
    let options = email_address::Options::default()
        .without_display_text()
        .without_domain_literal();
    if email.is_empty() {
        violation("must not be empty")
    } else if email.len() > EMAIL_BYTES_MAX {
        violation(&format!("must have at most {EMAIL_BYTES_MAX} bytes"))
    } else if holds_nul(&email) {
        violation(NUL_REFUSED)
    } else if EmailAddress::parse_with_options(&email, options).is_err() {
        violation("must be an email address, as in alice@example.com")
    } else {
        Ok(email)
    }
}

fn text(
    field: &'static str,
    text: String,
    characters_max: usize,
) -> Result<String, FieldViolation> {
    if text.trim().is_empty() {
        Err(FieldViolation::new(field, "must not be empty or blank"))
    } else if text.chars().count() > characters_max {
        let description = format!("must have at most {characters_max} characters");
        Err(FieldViolation::new(field, description))
    } else if holds_nul(&text) {
        Err(FieldViolation::new(field, NUL_REFUSED))
    } else {
        Ok(text)
    }
}

pub(crate) const NUL_REFUSED: &str = "must not hold the character NUL";

/// Postgres stores every character but this.
pub(crate) fn holds_nul(text: &str) -> bool {
    text.contains('\0')
}

#[cfg(test)]
mod tests;
