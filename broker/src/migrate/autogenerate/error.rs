//! What can be wrong with what is asked for.

use super::Rename;

/// Why no revision was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is no rename.
    #[error("read the rename {given:?}: {reason}; write table=new or table.column=new")]
    BadRename {
        /// What was given.
        given: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The old name is not there.
    #[error("rename {rename}: there is no such {what} to be renamed")]
    OldNotFound {
        /// Which.
        rename: Rename,
        /// `table` or `column`.
        what: &'static str,
    },
    /// The new name is not there.
    #[error("rename {rename}: the new schema has no {what} of that name")]
    NewNotFound {
        /// Which.
        rename: Rename,
        /// `table` or `column`.
        what: &'static str,
    },
    /// The new name is taken before.
    #[error("rename {rename}: the old schema has a {what} of that name already")]
    NewTaken {
        /// Which.
        rename: Rename,
        /// `table` or `column`.
        what: &'static str,
    },
    /// The old name is another's after.
    #[error(
        "rename {rename}: the new schema has a {what} of the old name too; rename in one \
         revision and make the other in the next"
    )]
    OldTaken {
        /// Which.
        rename: Rename,
        /// `table` or `column`.
        what: &'static str,
    },
    /// One thing gets two names, or two things get one.
    #[error("rename {rename}: another rename has the same name")]
    Twice {
        /// The second.
        rename: Rename,
    },
}
