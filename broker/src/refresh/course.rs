//! How far a refresh is, as it is written down.

use neon_api::BranchId;
use serde::{Deserialize, Serialize};

use crate::names::BranchName;
use crate::operations::Work;

/// How far a refresh is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// The new branch is made.
    Creating,
    /// It is made what the binding declares.
    Preparing,
    /// The binding moves there.
    Switching,
    /// It has; the branches are compared, and the old one gets its name.
    Comparing,
}

/// What a refresh works with, decided when it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Course {
    /// How far it is.
    pub stage: Stage,
    /// The branch that the binding leaves.
    pub source: BranchId,
    /// What the new branch is forked from.
    pub parent: BranchId,
    /// The new branch's name.
    pub name: BranchName,
    /// It, once it is there.
    pub branch: Option<BranchId>,
}

/// A course, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    stage: Stage,
    source: BranchId,
    parent: BranchId,
    name: String,
    branch: Option<BranchId>,
}

impl Course {
    /// For who has to take it up, and for who tells of it.
    pub(super) fn to_note(&self) -> String {
        let note = Note {
            stage: self.stage,
            source: self.source.clone(),
            parent: self.parent.clone(),
            name: self.name.to_string(),
            branch: self.branch.clone(),
        };
        // Texts.
        serde_json::to_string(&note).unwrap_or_default()
    }

    /// As it was written down. None: by a broker of another version.
    pub fn of_note(note: &str) -> Option<Course> {
        let note: Note = serde_json::from_str(note).ok()?;
        Some(Course {
            stage: note.stage,
            source: note.source,
            parent: note.parent,
            name: note.name.parse().ok()?,
            branch: note.branch,
        })
    }

    /// What a runner that is gone has left.
    pub(super) fn left(work: &Work) -> Option<Course> {
        work.note().and_then(Course::of_note)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_course_comes_back_as_it_was_written_down() {
        let mut course = Course {
            stage: Stage::Creating,
            source: "br-old".parse().unwrap(),
            parent: "br-parent".parse().unwrap(),
            name: "api_v2 \"next\"".parse().unwrap(),
            branch: None,
        };
        assert_eq!(Course::of_note(&course.to_note()), Some(course.clone()));
        course.stage = Stage::Comparing;
        course.branch = Some("br-new".parse().unwrap());
        assert_eq!(Course::of_note(&course.to_note()), Some(course));
        assert_eq!(Course::of_note("{}"), None);
    }
}
