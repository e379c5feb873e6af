//! Generated pairs of schemas, and the check that what is written between them leads there
//! and back.

mod check;
mod model;
mod render;

use proptest::prelude::*;

pub(super) use check::round_trip;

/// Two schemas as SQL with unqualified names. The second is mostly the first, changed here
/// and there.
pub(super) fn pair() -> impl Strategy<Value = (String, String)> {
    model::models().prop_map(|(before, after)| (render::sql(&before), render::sql(&after)))
}

/// Two schemas, the second with other names for some tables and columns, and what was
/// renamed, as [`Rename`](broker::migrate::autogenerate::Rename) has it.
pub(super) fn renamed_pair() -> impl Strategy<Value = (String, String, Vec<String>)> {
    (model::models(), 1..8_u8).prop_map(|((before, mut after), which)| {
        let renames = after.rename(&before, which);
        (render::sql(&before), render::sql(&after), renames)
    })
}
