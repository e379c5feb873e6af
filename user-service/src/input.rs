//! Checking what a request says of a user: once, where it arrives, all of it at
//! once, and by the names that the request has for it.

use std::collections::BTreeSet;

use email_address::EmailAddress;
use prost_types::FieldMask;
use rpc::status::{FieldViolation, FieldViolations};

use crate::user::{Change, Field, NewUser, UserId};

/// The most characters of a name.
const NAME_CHARACTERS_MAX: usize = 200;
/// The most bytes of an email address, as mail servers take them (RFC 5321).
const EMAIL_BYTES_MAX: usize = 254;
/// The most years; the table's own check says the same.
const AGE_YEARS_MAX: i32 = 150;
/// The most characters of a city.
const CITY_CHARACTERS_MAX: usize = 200;
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
}

impl Input {
    /// The message that a request cannot do without.
    pub(crate) fn required<U: Into<Self>>(user: Option<U>) -> Result<Self, FieldViolations> {
        user.map(Into::into).ok_or_else(|| {
            let mut violations = FieldViolations::new();
            violations.add(FieldViolation::new("user", "must be given"));
            violations
        })
    }

    /// A user to create.
    pub(crate) fn into_new(self) -> Result<NewUser, FieldViolations> {
        let mut violations = FieldViolations::new();
        violations.check(self.id == 0, "user.id", "must be left out: it is given");
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

const NUL_REFUSED: &str = "must not hold the character NUL";

/// Postgres stores every character but this.
fn holds_nul(text: &str) -> bool {
    text.contains('\0')
}

#[cfg(test)]
mod tests;
