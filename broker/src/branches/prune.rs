//! Deleting the branches of bindings that broker.toml declares no more.
//!
//! Only what was made for a binding goes, and only by the checks that any deletion
//! passes. Each is written down before Neon is asked, so that one that was cut off is
//! finished by whoever settles the ledger, or by the next who prunes.

use super::unused::{Unused, unused, unused_of};
use super::{Branches, Error, Users, intend_delete};
use crate::config::Config;
use crate::reconcile::{Action, Remark, Step};
use crate::state::{Data, Draft};
use crate::text::one_line;

impl Branches {
    /// What of the branches of bindings that are declared no more would be deleted, and
    /// what there is to say of them. Without `prune` none would be.
    pub async fn plan_prune(
        &self,
        config: &Config,
        prune: bool,
    ) -> Result<(Vec<Step>, Vec<Remark>), Error> {
        let view = self.view().await?;
        let now = self.ledger.now();
        // Which bindings there are is said by what is planned, not by what was applied.
        let all = unused(config, &view, |branch| Users {
            bindings: Vec::new(),
            lease: {
                let lease = |data: &Data| data.lease_on(&branch.id, now);
                self.ledger.state().read(lease)
            },
        });
        let (mut steps, mut remarks) = (Vec::new(), Vec::new());
        for one in &all {
            match &one.kept {
                None if prune => steps.push(step(one)),
                _ => remarks.push(remark(one)),
            }
        }
        Ok((steps, remarks))
    }

    /// Deletes the branches of bindings that are declared no more, as far as they may
    /// be. For whoever applies `config`, while nobody else applies. Says what it has
    /// done.
    pub async fn prune(&self, config: &Config) -> Result<Vec<Step>, Error> {
        let view = self.view().await?;
        let mut steps = Vec::new();
        for one in unused(config, &view, |branch| self.users(branch)) {
            let kept = match &one.kept {
                None => self.prune_one(config, &one).await?,
                Some(kept) => Some(one_line(kept)),
            };
            let binding = &one.binding;
            match kept {
                None => {
                    let step = step(&one);
                    tracing::info!(%binding, "{step}");
                    self.keeper.tell(std::slice::from_ref(&step)).await;
                    steps.push(step);
                }
                Some(why) => {
                    tracing::info!(%binding, branch = %one.name, why, "is declared no more, and stays");
                }
            }
        }
        Ok(steps)
    }

    /// Deletes one of them. Says why, if it is not to be after all.
    async fn prune_one(&self, config: &Config, one: &Unused) -> Result<Option<String>, Error> {
        let turn = self.neon().turn().await?;
        // Somebody may have come between.
        let view = self.view().await?;
        let found = match view.find("name", &one.branch) {
            Ok(found) if unused_of(config, found) == Some(&one.binding) => found,
            Ok(_) => return Ok(Some("it is in use by now".to_owned())),
            Err(_) => return Ok(Some("it is gone by now".to_owned())),
        };
        if let Err(kept) = view.may_delete(found, &self.users(&found.branch)) {
            return Ok(Some(one_line(&kept)));
        }
        let (branch, now) = (found.branch.clone(), self.ledger.now());
        let before = self.ledger.row(&one.name);
        let intend = move |draft: &mut Draft<'_>| intend_delete(draft, &branch, now);
        if let Err(kept) = self.ledger.state().change(intend).await? {
            return Ok(Some(one_line(&kept)));
        }
        self.delete_intended(&found.branch, before, &turn).await?;
        Ok(None)
    }
}

fn step(one: &Unused) -> Step {
    Step {
        binding: one.binding.clone(),
        branch: one.name.clone(),
        action: Action::DeleteBranch,
    }
}

fn remark(one: &Unused) -> Remark {
    let name = &one.name;
    let text = match &one.kept {
        None => format!("{name} is declared no more; `broker apply --prune` deletes it"),
        Some(kept) => format!("{name} is declared no more, and stays: {}", one_line(kept)),
    };
    Remark {
        binding: one.binding.clone(),
        text,
    }
}
