//! What may be done to a branch, as the project is. No I/O.

use neon_api::BranchId;
use neon_api::types::{Branch, Change};

use super::{Error, Restore, Source, Update, Which, etag};
use crate::names::{BindingName, BranchName, BranchResource, LeaseId};
use crate::neon::{Found, NewBranch, Purpose};

/// All branches of the project.
pub(super) struct View(pub(super) Vec<Found>);

/// Who needs a branch.
#[derive(Debug, Clone, Default)]
pub struct Users {
    /// Bindings that live on it.
    pub bindings: Vec<BindingName>,
    /// A live lease on it.
    pub lease: Option<LeaseId>,
}

/// The branch, if that request made it.
pub(super) fn same(new: &NewBranch, found: Found) -> Result<Found, Error> {
    let is_same = match &new.purpose {
        Purpose::Request(_) | Purpose::Lease(_) => found.managed && found.request == new.note(),
        Purpose::Binding(_) => found.managed,
    };
    match is_same {
        true => Ok(found),
        false => Err(Error::Exists {
            field: "branch.display_name",
            name: new.name.clone(),
        }),
    }
}

impl View {
    pub(super) fn named(&self, name: &BranchName) -> Option<&Found> {
        let mut all = self.0.iter();
        all.find(|found| found.branch.name == name.as_str())
    }

    /// Whether no branch has that name. With the field that names it.
    pub(super) fn is_free_name(
        &self,
        (field, name): (&'static str, &BranchName),
    ) -> Result<(), Error> {
        match self.named(name) {
            None => Ok(()),
            Some(_) => Err(Error::Exists {
                field,
                name: name.clone(),
            }),
        }
    }

    /// The branch, if it is as the caller knows it.
    pub(super) fn find_as(&self, field: &'static str, which: &Which) -> Result<&Found, Error> {
        let found = self.find(field, &which.id)?;
        match &which.etag {
            Some(known) if *known != etag(&found.branch) => Err(Error::Changed {
                name: found.branch.name.clone(),
            }),
            _ => Ok(found),
        }
    }

    pub(super) fn may_have_child(&self, new: &NewBranch) -> Result<(), Error> {
        let field = "branch.parent";
        let Some(parent) = &new.parent else {
            return Ok(());
        };
        let parent = self.find(field, parent)?;
        match parent.branch.expires_at {
            // Without data it is nobody's child.
            Some(_) if !new.schema_only => Err(Error::ParentExpires {
                field,
                name: parent.branch.name.clone(),
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn may_update(
        &self,
        update: &Update,
        found: &Found,
        users: &Users,
    ) -> Result<(), Error> {
        let branch = &found.branch;
        let renamed = update.name.as_ref();
        let renamed = renamed.filter(|name| name.as_str() != branch.name);
        let ends = matches!(update.expires_at, Change::Set(_));
        if let Some(name) = renamed
            && self.named(name).is_some()
        {
            return Err(Error::Exists {
                field: "branch.display_name",
                name: name.clone(),
            });
        }
        if renamed.is_some() || ends {
            is_free(branch, users)?;
        }
        if ends {
            is_unleased(branch, users.lease)?;
            // Protection that ends with the same change is in nobody's way.
            let protected = update.protected.unwrap_or(branch.protected);
            is_ours(found, protected)?;
            self.is_childless(branch, "a branch with children cannot expire")?;
        }
        if update.protected == Some(true)
            && branch.expires_at.is_some()
            && update.expires_at != Change::Clear
        {
            return Err(Error::Expires {
                name: branch.name.clone(),
            });
        }
        Ok(())
    }

    pub(super) fn may_delete(&self, found: &Found, users: &Users) -> Result<(), Error> {
        is_ours(found, found.branch.protected)?;
        is_free(&found.branch, users)?;
        is_unleased(&found.branch, users.lease)?;
        self.is_childless(&found.branch, "delete them first")
    }

    /// The branch that gets the data, and the source.
    pub(super) fn may_restore(&self, restore: &Restore) -> Result<(&Found, BranchId), Error> {
        let found = self.find_as("name", &restore.which)?;
        let branch = &found.branch;
        is_ours(found, branch.protected)?;
        let no_parent = || Error::NoParent {
            name: branch.name.clone(),
        };
        let source = match &restore.source {
            Source::Itself => branch.id.clone(),
            Source::Parent => branch.parent_id.clone().ok_or_else(no_parent)?,
            Source::Branch(id) => id.clone(),
        };
        match &restore.preserve {
            Some(name) if self.named(name).is_some() => {
                return Err(Error::Exists {
                    field: "preserve_under_name",
                    name: name.clone(),
                });
            }
            Some(_) => {}
            None => {
                if let Source::Branch(id) = &restore.source {
                    let source = self.find("source", id)?;
                    if self.descends(source, &branch.id) {
                        return Err(Error::Cycle {
                            name: branch.name.clone(),
                            source_name: source.branch.name.clone(),
                        });
                    }
                    if source.branch.expires_at.is_some() {
                        return Err(Error::ParentExpires {
                            field: "source",
                            name: source.branch.name.clone(),
                        });
                    }
                }
                self.is_childless(
                    branch,
                    "keep the old data for them with preserve_under_name",
                )?;
            }
        }
        if source != branch.id {
            self.find("source", &source)?;
        }
        Ok((found, source))
    }

    pub(super) fn find(&self, field: &'static str, id: &BranchId) -> Result<&Found, Error> {
        let mut all = self.0.iter();
        let found = all.find(|found| found.branch.id == *id);
        found.ok_or_else(|| Error::NotFound {
            field,
            name: BranchResource(id.clone()),
        })
    }

    fn is_childless(&self, branch: &Branch, advice: &'static str) -> Result<(), Error> {
        let of_it = |found: &&Found| found.branch.parent_id.as_ref() == Some(&branch.id);
        let children = self.0.iter().filter(of_it);
        let children: Vec<_> = children.map(|found| found.branch.name.clone()).collect();
        match children.is_empty() {
            true => Ok(()),
            false => Err(Error::HasChildren {
                name: branch.name.clone(),
                children,
                advice,
            }),
        }
    }

    fn descends(&self, found: &Found, ancestor: &BranchId) -> bool {
        self.ancestors(found).any(|id| id == ancestor)
    }

    /// A branch's parent, that one's parent, and so on.
    pub(super) fn ancestors<'a>(&'a self, found: &'a Found) -> impl Iterator<Item = &'a BranchId> {
        let parent_of = |id: &&BranchId| {
            let parent = self.0.iter().find(|found| found.branch.id == **id);
            parent.and_then(|parent| parent.branch.parent_id.as_ref())
        };
        let all = std::iter::successors(found.branch.parent_id.as_ref(), parent_of);
        // No branch has more ancestors than there are branches.
        all.take(self.0.len())
    }
}

/// Nothing but what the broker made, by its annotation or its ledger, and no default
/// or protected branch.
pub(super) fn is_ours(found: &Found, protected: bool) -> Result<(), Error> {
    let name = || found.branch.name.clone();
    if found.branch.default {
        return Err(Error::Default { name: name() });
    }
    if protected {
        return Err(Error::Protected { name: name() });
    }
    match found.managed {
        true => Ok(()),
        false => Err(Error::NotOurs { name: name() }),
    }
}

/// Whether no live lease leads to the branch.
pub(super) fn is_unleased(branch: &Branch, lease: Option<LeaseId>) -> Result<(), Error> {
    match lease {
        None => Ok(()),
        Some(lease) => Err(Error::Leased {
            name: branch.name.clone(),
            lease,
        }),
    }
}

pub(super) fn is_free(branch: &Branch, users: &Users) -> Result<(), Error> {
    match users.bindings.first() {
        None => Ok(()),
        Some(binding) => Err(Error::InUse {
            name: branch.name.clone(),
            binding: binding.clone(),
        }),
    }
}
