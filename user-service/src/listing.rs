//! Lists: what narrows them, what sorts them, and where a page of one begins.

use rpc::{
    filter::{Comparison, Field, Filter, Kind, Order as Fields, Pattern, Term, Test, Value},
    page::PageTokens,
    status::{FieldViolation, FieldViolations},
};

use crate::{
    input::{NUL_REFUSED, holds_nul},
    user::{User, UserId},
};

/// What a list can be narrowed by.
const FILTERED: [Field; 2] = [(NAME, Kind::Text), (EMAIL, Kind::Text)];
/// What it can be sorted by: what an index sorts. An age and a city may be absent, and
/// nobody has asked for the two indexes that their order would take.
const SORTED: [&str; 3] = [ID, NAME, EMAIL];

const ID: &str = "id";
const NAME: &str = "name";
const EMAIL: &str = "email";

/// What a request for a page says, unchecked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// The most users; 0 stands for a default.
    pub page_size: i32,
    /// Where it begins; empty: at the beginning.
    pub page_token: &'a str,
    /// Which users; empty: all.
    pub filter: &'a str,
    /// By what; empty: by id.
    pub order_by: &'a str,
}

/// A page of a list, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The most users.
    pub size: usize,
    /// What their names are like.
    pub name: Option<Wanted>,
    /// What their emails are like.
    pub email: Option<Wanted>,
    /// How they are sorted.
    pub order: Order,
    /// Where the page before ended.
    pub after: Option<Place>,
    /// What a token of this list is bound to: another filter or order makes another
    /// list.
    list: String,
}

/// What a text is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// This one.
    Is(String),
    /// One between these: all that begin with the first.
    Begins {
        /// What it begins with.
        from: String,
        /// The least that is beyond all of these, if anything is.
        to: Option<String>,
    },
}

/// How a list is sorted: by code points where by a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// By what.
    pub by: By,
    /// The greatest first.
    pub down: bool,
}

/// What a list is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The id.
    Id,
    /// The name, and the id among those of one name.
    Name,
    /// The email, which is nobody else's.
    Email,
}

/// The place of a user in an order: that of the user, who may be gone since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The id.
    pub id: UserId,
    /// The text that is sorted by; empty where it is none.
    pub text: String,
}

impl Page {
    /// The page that a request asks for. `service`: whose list it is.
    ///
    /// # Errors
    /// Violations of page_size, filter, order_by and page_token.
    pub fn of(
        tokens: &PageTokens,
        service: &str,
        asked: Asked<'_>,
    ) -> Result<Self, FieldViolations> {
        let mut violations = FieldViolations::new();
        let list = format!("{}\n{}", asked.order_by, asked.filter);
        let size = violations.take(rpc::page::page_size(asked.page_size));
        let wanted = violations.take(wanted(asked.filter));
        let order = violations.take(order(asked.order_by));
        let cursor = violations.take(tokens.decode(service, &list, asked.page_token));
        let after = cursor.flatten().map(|cursor| Place::of(&cursor));
        let after = after.map(|place| violations.take(place));
        match (size, wanted, order) {
            (Some(size), Some([name, email]), Some(order)) if violations.is_empty() => Ok(Self {
                size,
                name,
                email,
                order,
                after: after.flatten(),
                list,
            }),
            _ => Err(violations),
        }
    }

    /// Cuts off what is beyond the page, and gives the token of the next one; empty:
    /// there is none. `users`: those of the page, and one more if there is.
    pub fn cut(&self, tokens: &PageTokens, service: &str, users: &mut Vec<User>) -> String {
        let more = users.len() > self.size;
        users.truncate(self.size);
        match users.last() {
            Some(last) if more => tokens.encode(service, &self.list, self.order.cursor(last)),
            _ => String::new(),
        }
    }
}

impl Order {
    /// The place of a user, as a token carries it: the id in four bytes, and the text.
    fn cursor(self, user: &User) -> Vec<u8> {
        let text = match self.by {
            By::Id => "",
            By::Name => &user.name,
            By::Email => &user.email,
        };
        let mut cursor = user.id.get().to_be_bytes().to_vec();
        cursor.extend_from_slice(text.as_bytes());
        cursor
    }
}

impl Place {
    /// Signed by this service, so it is a place again, unless another release of it
    /// made others.
    fn of(cursor: &[u8]) -> Result<Self, FieldViolation> {
        let parts = cursor.split_first_chunk();
        let place = parts.and_then(|(id, text)| {
            Some(Self {
                id: UserId::of_row(i32::from_be_bytes(*id)),
                text: String::from_utf8(text.to_vec()).ok()?,
            })
        });
        place.ok_or_else(|| FieldViolation::new("page_token", "is of another release"))
    }
}

/// What names and emails are to be like.
fn wanted(filter: &str) -> Result<[Option<Wanted>; 2], FieldViolation> {
    let (mut name, mut email) = (None, None);
    for term in Filter::parse(filter, &FILTERED)?.terms() {
        let of_field = if term.field == NAME {
            &mut name
        } else {
            &mut email
        };
        let refused = |problem: &str| {
            let field = term.field;
            FieldViolation::new("filter", format!("{problem} for {field}"))
        };
        if of_field.is_some() {
            return Err(refused("has more than one term"));
        }
        *of_field = Some(Wanted::of(term).map_err(refused)?);
    }
    // What everything begins with narrows nothing.
    let narrows =
        |wanted: &Wanted| !matches!(wanted, Wanted::Begins { to: None, from } if from.is_empty());
    Ok([name.filter(narrows), email.filter(narrows)])
}

impl Wanted {
    fn of(term: &Term) -> Result<Self, &'static str> {
        let (text, is_whole) = match &term.test {
            Test::Compared(Comparison::Equal, Value::Text(text)) => (text, true),
            Test::Like(
                Pattern {
                    text,
                    open_start: false,
                    open_end: true,
                },
                true,
            ) => (text, false),
            Test::Like(pattern, true) if pattern.text.is_empty() => (&pattern.text, false),
            Test::Like(_, true) => return Err("may have a * at the end alone"),
            _ => return Err("may have = alone"),
        };
        if holds_nul(text) {
            return Err(NUL_REFUSED);
        }
        Ok(if is_whole {
            Self::Is(text.clone())
        } else {
            Self::Begins {
                from: text.clone(),
                to: beyond(text),
            }
        })
    }
}

fn order(order_by: &str) -> Result<Order, FieldViolation> {
    let order = Fields::parse(order_by, &SORTED, ID)?;
    let [(field, down)] = *order.fields() else {
        let fields = SORTED.join(", ");
        let problem = format!("must be one of {fields}, with ` desc` for downwards");
        return Err(FieldViolation::new("order_by", problem));
    };
    let by = match field {
        NAME => By::Name,
        EMAIL => By::Email,
        _ => By::Id,
    };
    Ok(Order { by, down })
}

/// The least text that is greater than all that begin with this one, by code points;
/// none if there is none.
fn beyond(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // What is between two characters and none itself is passed over.
        if let Some(next) = (last..=char::MAX).nth(1) {
            text.push(next);
            return Some(text);
        }
    }
    None
}

#[cfg(test)]
mod tests;
