#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

use super::super::tests::{Bench, id, request};
use super::super::{Lease, Making, Request, RequestId, Take, Taken, Target};
use super::*;
use crate::config::{LeaseSettings, ServiceSpec};
use crate::roles::Access;
use crate::state::RoleStatus;

const PARENT: &str = "br-p";
const HOUR: Duration = Duration::from_secs(3_600);

fn key() -> KeyId {
    KeyId::from("k".to_owned())
}

/// A pool that keeps so many for who writes.
fn pool(size: usize) -> PoolSpec {
    PoolSpec {
        name: "ci".parse().unwrap(),
        parent: "services/users/versions/v1".parse().unwrap(),
        service: Arc::new(ServiceSpec {
            name: "users".parse().unwrap(),
            database: "neondb".to_owned(),
            schema: "users".to_owned(),
            migrations: PathBuf::new(),
            statement_timeout: Duration::from_secs(30),
        }),
        size,
        max_age: HOUR,
        migrate: None,
        access: Access::ReadWrite,
    }
}

fn take(pools: &[PoolSpec], holder: &str) -> Take {
    Take {
        request: Request {
            target: Target::Ephemeral {
                parent: PARENT.parse().unwrap(),
            },
            ..request(holder)
        },
        ttl: None,
        making: Making {
            lease: LeaseId::random(),
            holder: holder.to_owned(),
            max: None,
            request_id: None,
        },
        parent: PARENT.parse().unwrap(),
        pools: pools.to_vec(),
        key: key(),
    }
}

fn with_id(take: Take, request_id: &RequestId) -> Take {
    let making = Making {
        request_id: Some(request_id.clone()),
        ..take.making
    };
    Take { making, ..take }
}

impl Bench {
    /// One whose parent is there.
    async fn of_parent() -> Bench {
        let bench = Bench::new();
        bench.parent_is(None, None).await;
        bench
    }

    async fn parent_is(&self, revision: Option<&str>, reset_at: Option<Timestamp>) {
        let generation = Generation {
            number: 1,
            branch: PARENT.parse().unwrap(),
            address: String::new(),
            revision: revision.map(str::to_owned),
            reset_at,
            since: Timestamp::UNIX_EPOCH,
            reason: String::new(),
            departure: None,
        };
        let binding = pool(1).parent;
        let put = move |draft: &mut Draft<'_>| {
            draft.generation_put(binding.clone(), generation.clone());
        };
        self.leases.state.change(put).await.unwrap();
    }

    fn at_most(&self, branches: usize) {
        let settings = LeaseSettings {
            ephemeral_branches_max: Some(branches),
            ..*self.leases.settings()
        };
        self.leases.configure(settings);
    }

    async fn begun(&self, pool: &PoolSpec) -> Option<WarmMaking> {
        self.leases.warm_intend(pool.clone(), key()).await.unwrap()
    }

    /// Makes another branch of the pool, with its role.
    async fn made(&self, pool: &PoolSpec) -> (BranchName, BranchId) {
        let begun = self.begun(pool).await.expect("the pool is short");
        let branch: BranchId = format!("br-{}", begun.lease.uuid()).parse().unwrap();
        let made = Some((branch.clone(), Some(begun.end)));
        self.leases.warm_making(&begun.name, made).await.unwrap();
        let of = RoleFor {
            branch: branch.clone(),
            service: pool.service.name.clone(),
            database: "neondb".to_owned(),
            access: pool.access,
            holder: "warm".to_owned(),
            key: key(),
        };
        let role = self.leases.warm_role(&begun.name, of).await.unwrap();
        let ready = self.leases.warm_ready(&begun.name, role, begun.end);
        ready.await.unwrap();
        (begun.name, branch)
    }

    async fn given(&self, take: Take) -> Lease {
        match self.leases.warm_take(take).await.unwrap() {
            Some(Taken::Given { lease, .. }) => *lease,
            other => panic!("given: {other:?}"),
        }
    }

    async fn has_none(&self, take: Take) {
        let taken = self.leases.warm_take(take).await.unwrap();
        assert_eq!(taken, None);
    }

    fn unwanted(&self, pools: &[PoolSpec]) -> Vec<&'static str> {
        let unwanted = self.leases.warm_unwanted(pools, &key());
        unwanted.into_iter().map(|(_, why)| why).collect()
    }

    fn role_status(&self, branch: &BranchId) -> RoleStatus {
        self.leases.state.read(|data| {
            let (_, role) = data.roles_on(branch).next().unwrap();
            role.status
        })
    }
}

#[tokio::test]
async fn a_branch_is_handed_out_once_and_its_lease_is_one_as_others() {
    let bench = Bench::of_parent().await;
    let pool = pool(2);
    let (_, first) = bench.made(&pool).await;
    bench.clock(1);
    let (_, second) = bench.made(&pool).await;
    assert_eq!(bench.begun(&pool).await, None, "it has enough");
    assert_eq!(bench.role_status(&first), RoleStatus::Reserved);
    assert_eq!(bench.leases.roles_to_close(), []);

    let one = bench.given(take(std::slice::from_ref(&pool), "a")).await;
    let other = bench.given(take(std::slice::from_ref(&pool), "b")).await;
    assert_eq!(
        (one.grant.branch.clone(), other.grant.branch),
        (first.clone(), second)
    );
    bench.has_none(take(std::slice::from_ref(&pool), "c")).await;
    assert_eq!(bench.role_status(&first), RoleStatus::Open);
    assert!(bench.leases.role_is_given(&one.grant.role_key()));
    assert_eq!(bench.leases.known(one.id).unwrap(), one);
    assert!(one.branch_expire_time.unwrap() > one.expire_time);
    assert_eq!(bench.leases.roles_to_close(), []);
    assert_eq!(bench.leases.orphans(), []);
    assert!(bench.leases.warm_is_short(&pool));

    // Neon hears of it.
    assert_eq!(bench.leases.handed_out().len(), 2);
    bench.leases.handed_out_named(one.id).await.unwrap();
    assert_eq!(bench.leases.handed_out().len(), 1);
    // Whether or not it has, the branch goes with its lease.
    for lease in [one.id, other.id] {
        bench.leases.release(lease, None).await.unwrap();
    }
    assert_eq!(bench.leases.orphans().len(), 2);
}

#[tokio::test]
async fn one_that_is_stale_is_handed_out_to_nobody() {
    let bench = Bench::of_parent().await;
    let pool = pool(1);
    let pools = [pool.clone()];
    bench.made(&pool).await;
    bench.clock(3_599);
    assert_eq!(bench.unwanted(&pools), [""; 0]);
    bench.clock(3_600);
    assert_eq!(bench.unwanted(&pools), ["it is as old as it may get"]);
    bench.has_none(take(&pools, "a")).await;

    bench.clock(0);
    let changed = "its parent was changed, or its pool is declared otherwise";
    for (revision, reset_at) in [
        (Some("2026-01-10-090000_create_users"), None),
        (None, Some(Timestamp::UNIX_EPOCH)),
    ] {
        bench.parent_is(revision, reset_at).await;
        assert_eq!(bench.unwanted(&pools), [changed]);
        bench.has_none(take(&pools, "a")).await;
    }
    bench.parent_is(None, None).await;
    let otherwise = PoolSpec {
        access: Access::Ddl,
        ..pool.clone()
    };
    assert_eq!(bench.unwanted(&[otherwise]), [changed]);
    assert_eq!(bench.unwanted(&[]), ["its pool is declared no more"]);
    let other_key = Take {
        key: KeyId::from("other".to_owned()),
        ..take(&pools, "a")
    };
    bench.has_none(other_key).await;
    let other_parent = Take {
        parent: "br-other".parse().unwrap(),
        ..take(&pools, "a")
    };
    bench.has_none(other_parent).await;
    bench.given(take(&pools, "a")).await;
    assert_eq!(bench.unwanted(&[]), [""; 0], "a lease has it");
}

#[tokio::test]
async fn the_oldest_of_too_many_go() {
    let bench = Bench::of_parent().await;
    let two = pool(2);
    let (oldest, _) = bench.made(&two).await;
    bench.clock(1);
    bench.made(&two).await;
    let unwanted = bench.leases.warm_unwanted(&[pool(1)], &key());
    assert_eq!(unwanted, [(oldest.clone(), "its pool has enough")]);
    assert!(bench.leases.warm_retire(&oldest).await.unwrap());
    assert!(!bench.leases.warm_retire(&oldest).await.unwrap());
    let [(name, own)] = bench.leases.orphans().try_into().unwrap();
    assert_eq!((&name, own.intent), (&oldest, Intent::Delete));
    let branch = own.branch.unwrap();
    let noted = bench.leases.orphan_note(name, Intent::Gone);
    assert!(noted.await.unwrap());
    assert_eq!(bench.role_status(&branch), RoleStatus::Closed);
    assert_eq!(bench.leases.orphans(), []);
}

#[tokio::test]
async fn who_wants_another_access_gets_the_branch_and_another_role() {
    let bench = Bench::of_parent().await;
    let pools = [pool(1)];
    let (_, branch) = bench.made(&pools[0]).await;
    let mut ddl = take(&pools, "a");
    ddl.request.access = Access::Ddl;
    let same = id("a", "AcquireLease", Uuid::new_v4(), "body");
    let ddl = with_id(ddl, &same);
    let taken = bench.leases.warm_take(ddl.clone()).await.unwrap().unwrap();
    let Taken::Warm {
        lease, branch: of, ..
    } = &taken
    else {
        panic!("warm: {taken:?}");
    };
    assert_eq!(*of, branch);
    assert_eq!(bench.role_status(&branch), RoleStatus::Closing);
    assert_eq!(bench.leases.orphans(), [], "the lease is being made");
    // The same request goes on with it, by its id: it has its name of before.
    bench.has_none(ddl.clone()).await;
    assert_eq!(bench.leases.ephemeral_take(ddl).await.unwrap(), taken);
    bench.leases.making_over(*lease).await.unwrap();
    assert_eq!(bench.leases.orphans().len(), 1);
}

#[tokio::test]
async fn the_same_request_has_one_lease() {
    let bench = Bench::of_parent().await;
    let pools = [pool(2)];
    bench.made(&pools[0]).await;
    bench.made(&pools[0]).await;
    let same = id("a", "AcquireLease", Uuid::new_v4(), "body");
    let first = bench.given(with_id(take(&pools, "a"), &same)).await;
    let again = bench.leases.warm_take(with_id(take(&pools, "a"), &same));
    let again = again.await.unwrap().unwrap();
    let is_new = false;
    let known = Taken::Given {
        lease: Box::new(first.clone()),
        is_new,
    };
    assert_eq!(again, known);
    // Nor is it given back, though its second caller was gone.
    bench.leases.untake(again).await.unwrap();
    assert_eq!(bench.leases.known(first.id).unwrap(), first);
}

#[tokio::test]
async fn the_cap_is_kept_and_what_is_given_back_makes_room() {
    let bench = Bench::of_parent().await;
    let pools = [pool(2)];
    bench.at_most(2);
    bench.made(&pools[0]).await;
    let cold = bench.leases.ephemeral_take(take(&[], "a")).await.unwrap();
    // Neither a caller nor a pool gets another.
    let refused = bench.leases.ephemeral_take(take(&[], "b")).await;
    assert!(
        matches!(refused, Err(Error::EphemeralFull { max: 2 })),
        "{refused:?}"
    );
    assert_eq!(bench.begun(&pools[0]).await, None);
    assert!(!bench.leases.warm_is_short(&pools[0]));
    // What waits is handed out all the same: there are no more by that.
    bench.given(take(&pools, "b")).await;
    bench.leases.untake(cold).await.unwrap();
    assert_eq!(bench.leases.ephemeral_count(), (1, Some(2)));
    bench.leases.ephemeral_take(take(&[], "c")).await.unwrap();
    assert_eq!(bench.begun(&pools[0]).await, None);
}

#[tokio::test]
async fn a_holder_has_no_more_than_granted() {
    let bench = Bench::of_parent().await;
    let pools = [pool(2)];
    bench.made(&pools[0]).await;
    bench.made(&pools[0]).await;
    let mut one = take(&pools, "a");
    one.making.max = Some(1);
    bench.given(one.clone()).await;
    let refused = bench.leases.warm_take(one).await;
    assert!(
        matches!(refused, Err(Error::TooManyEphemeral { max: 1, .. })),
        "{refused:?}"
    );
    // It has not cost the pool one.
    assert_eq!(bench.leases.warm_count(&pools[0]).ready, 1);
}

#[tokio::test]
async fn what_nobody_makes_any_more_goes_and_its_maker_is_too_late() {
    let bench = Bench::of_parent().await;
    let pool = pool(1);
    let begun = bench.begun(&pool).await.unwrap();
    assert_eq!(bench.begun(&pool).await, None, "one is being made");
    bench.clock(20);
    bench.leases.warm_making(&begun.name, None).await.unwrap();
    bench.clock(40);
    assert_eq!(bench.leases.orphans(), []);
    bench.leases.warm_makings_over().await.unwrap();
    let [(name, own)] = bench.leases.orphans().try_into().unwrap();
    assert_eq!(name, begun.name);
    assert!(bench.leases.may_come(&own), "its request may be on its way");
    assert!(bench.begun(&pool).await.is_some(), "and another is made");
    let noted = bench.leases.orphan_note(name.clone(), Intent::Delete);
    assert!(noted.await.unwrap());
    let late = bench.leases.warm_making(&name, None).await;
    assert!(matches!(late, Err(Error::BranchGone)), "{late:?}");
}

#[tokio::test]
async fn what_a_caller_who_is_gone_was_given_goes() {
    let bench = Bench::of_parent().await;
    let pools = [pool(1)];
    bench.made(&pools[0]).await;
    let taken = bench.leases.warm_take(take(&pools, "a")).await.unwrap();
    bench.leases.untake(taken.unwrap()).await.unwrap();
    assert_eq!(bench.leases.list(), []);
    assert_eq!(bench.leases.orphans().len(), 1);
}
