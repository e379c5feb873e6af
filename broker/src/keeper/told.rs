//! What an apply did, for the audit events.

use jiff::Timestamp;

use super::Keeper;
use crate::audit::{Action, Event};
use crate::reconcile::Step;
use crate::state::Draft;
use crate::text::one_line;

impl Keeper {
    /// Writes down what was done. It is done, whether or not it is written down.
    pub async fn tell(&self, steps: &[Step]) {
        if steps.is_empty() {
            return;
        }
        let time = self.leases.now();
        let events: Vec<Event> = steps.iter().map(|step| applied(step, time)).collect();
        let change = move |draft: &mut Draft<'_>| {
            events.iter().for_each(|event| draft.audit(event.clone()));
        };
        if let Err(error) = self.state.change(change).await {
            tracing::warn!(error = %one_line(&error), "an apply is missing from the audit events");
        }
    }
}

fn applied(step: &Step, time: Timestamp) -> Event {
    Event {
        id: 0,
        time,
        action: Action::Applied,
        service: Some(step.binding.service.clone()),
        binding: Some(step.binding.clone()),
        branch: None,
        lease: None,
        holder: String::new(),
        message: step.to_string(),
    }
}
