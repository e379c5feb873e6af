//! What a pool has told the broker on the watch that is open.

use std::collections::BTreeSet;

use crate::announcement::{Report, Reports};

/// Says each thing once on each watch: the broker forgets what a watch said that is
/// gone, so a new one is told it all again.
#[derive(Debug, Default)]
pub(crate) struct Voice {
    /// `None`: there was no watch yet.
    reports: Option<Reports>,
    said: BTreeSet<Report>,
}

impl Voice {
    /// Speaks on this watch from now on.
    pub(crate) fn on(&mut self, reports: Reports) {
        let same = self.reports.as_ref().is_some_and(|one| one.is_of(&reports));
        if !same {
            self.said.clear();
            self.reports = Some(reports);
        }
    }

    /// Says what is so now; what of it was said already is not said again, and what is
    /// not so any more is forgotten.
    pub(crate) fn say(&mut self, so: BTreeSet<Report>) {
        self.said.retain(|report| so.contains(report));
        for report in so {
            if !self.said.contains(&report)
                && self
                    .reports
                    .as_ref()
                    .is_some_and(|reports| reports.say(&report))
            {
                self.said.insert(report);
            }
        }
    }
}
