#![allow(clippy::unwrap_used)]

mod roles;

use uuid::Uuid;

use super::*;
use crate::credentials::KeyId;
use crate::names::ServiceName;
use crate::state::{Generation, Intent};

const TTL: Duration = Duration::from_secs(60);

/// A clock that the test moves, and leases on it.
pub(super) struct Bench {
    folder: tempfile::TempDir,
    pub(super) leases: Leases,
}

impl Bench {
    pub(super) fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::with_offset_file(folder.path().join("clock")).unwrap();
        let settings = LeaseSettings {
            default_ttl: TTL,
            max_ttl: TTL * 10,
            roles_per_branch_max: 3,
            ack_grace: std::time::Duration::from_secs(10),
            ephemeral_branches_max: None,
        };
        Bench {
            leases: Leases::new(Arc::new(State::in_memory()), clock, settings),
            folder,
        }
    }

    /// Moves the clock to that many seconds from the system's.
    pub(super) fn clock(&self, seconds: i64) {
        std::fs::write(self.folder.path().join("clock"), seconds.to_string()).unwrap();
    }

    async fn acquire(&self) -> Lease {
        self.acquire_as(None).await.unwrap()
    }

    async fn acquire_as(&self, id: Option<&RequestId>) -> Result<Lease, Error> {
        let new = self.new_lease(id).await;
        let given = self.leases.give(new).await?;
        Ok(given.expect("its role is open"))
    }

    /// A lease that is to be given, its role made.
    async fn new_lease(&self, id: Option<&RequestId>) -> NewLease {
        NewLease {
            id: LeaseId::random(),
            request: request("a"),
            ttl: None,
            request_id: id.cloned(),
            generation: 1,
            role: self.role("a").await,
            branch_expire_time: None,
        }
    }

    /// A holder's role, made right now.
    async fn role(&self, holder: &str) -> Made {
        let of = role_for(holder);
        let role = self.leases.role_intend(of.clone()).await.unwrap();
        Made {
            role,
            key: of.key,
            valid_until: Some(self.leases.password_end()),
        }
    }

    /// Writes down that a branch is about to be made: for which lease.
    async fn intend(&self, making: Making) -> Result<LeaseId, Error> {
        let take = Take {
            request: request("a"),
            ttl: None,
            making,
            parent: "br-p".parse().unwrap(),
            pools: Vec::new(),
            key: KeyId::from("k".to_owned()),
        };
        match self.leases.ephemeral_take(take).await? {
            Taken::Cold(lease) => Ok(lease),
            other => panic!("no pool has one: {other:?}"),
        }
    }

    async fn revoke(&self, which: Which) -> Vec<Lease> {
        let request = RevokeRequest {
            which,
            reason: "by a test".to_owned(),
            request_id: None,
        };
        self.leases.revoke(request).await.unwrap()
    }

    async fn sweep(&self) {
        self.leases.sweep_once().await.unwrap();
    }

    fn actions(&self) -> Vec<Action> {
        let events = |data: &state::Data| data.events.iter().map(|event| event.action).collect();
        self.leases.state.read(events)
    }
}

/// An id of that caller, for that body.
pub(super) fn id(caller: &str, method: &'static str, id: Uuid, body: &str) -> RequestId {
    RequestId {
        key: state::RequestKey {
            caller: caller.into(),
            method,
            id,
        },
        body: body.into(),
    }
}

pub(super) fn request(holder: &str) -> Request {
    Request {
        target: Target::Binding("services/users/versions/v1".parse().unwrap()),
        service: "users".parse().unwrap(),
        access: Access::ReadWrite,
        pooled: false,
        holder: holder.into(),
        owner: None,
    }
}

fn role_for(holder: &str) -> RoleFor {
    RoleFor {
        branch: "br-a".parse().unwrap(),
        service: "users".parse().unwrap(),
        database: "neondb".to_owned(),
        access: Access::ReadWrite,
        holder: holder.to_owned(),
        key: KeyId::from("k".to_owned()),
    }
}

fn count(leases: &Leases) -> usize {
    leases.state.read(|data| data.leases.len())
}

#[tokio::test]
async fn a_lease_ends_when_its_time_is_up_and_not_before() {
    let bench = Bench::new();
    let lease = bench.acquire().await;
    let turns = bench.leases.follow(lease.id);
    bench.clock(55);
    bench.sweep().await;
    assert_eq!(bench.leases.get(lease.id).await.unwrap(), lease);
    assert_eq!(*turns.borrow(), None);

    bench.clock(61);
    // Even before the sweeper comes by.
    let gone = bench.leases.get(lease.id).await;
    assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
    let renewed = bench.leases.renew(lease.id, None, None).await;
    assert!(matches!(renewed, Err(Error::NotFound(_))), "{renewed:?}");
    bench.sweep().await;
    assert_eq!(*turns.borrow(), Some(Turn::Ended));
    assert_eq!(count(&bench.leases), 0);
}

#[tokio::test]
async fn renewing_grants_no_more_than_the_maximum() {
    let bench = Bench::new();
    let lease = bench.acquire().await;
    bench.clock(50);
    let renewed = bench.leases.renew(lease.id, None, None).await.unwrap();
    let moved = renewed.expire_time.duration_since(lease.expire_time);
    assert!((49..=52).contains(&moved.as_secs()), "{moved}");
    assert_eq!(renewed.grant, lease.grant);

    // Nor beyond its role's password, which ends at 600.
    let ttl = Some(TTL * 1_000);
    bench.leases.renew(lease.id, ttl, None).await.unwrap();
    bench.clock(598);
    assert!(bench.leases.known(lease.id).is_ok());
    let key = lease.grant.role_key();
    assert!(bench.leases.role_runs_out(&key));
    let until = bench.leases.password_end();
    bench
        .leases
        .role_prolonged(key.clone(), until)
        .await
        .unwrap();
    assert!(!bench.leases.role_runs_out(&key));
    bench.leases.renew(lease.id, ttl, None).await.unwrap();
    bench.clock(598 + 599);
    assert!(bench.leases.known(lease.id).is_ok());
    bench.clock(598 + 602);
    assert!(bench.leases.known(lease.id).is_err());
}

#[tokio::test]
async fn releasing_twice_is_no_error() {
    let bench = Bench::new();
    let lease = bench.acquire().await;
    let turns = bench.leases.follow(lease.id);
    assert!(bench.leases.release(lease.id, None).await.unwrap());
    assert_eq!(*turns.borrow(), Some(Turn::Ended));
    assert!(!bench.leases.release(lease.id, None).await.unwrap());
}

#[tokio::test]
async fn there_are_no_more_leases_than_there_may_be() {
    let bench = Bench::new();
    let mut last = bench.acquire().await;
    for _ in 1..LEASES_MAX {
        last = bench.acquire().await;
    }
    let refused = bench.acquire_as(None).await;
    assert!(matches!(refused, Err(Error::TooMany)), "{refused:?}");
    bench.leases.release(last.id, None).await.unwrap();
    bench.acquire().await;
}

/// Closing a role and giving a lease that has it: whoever is later sees the other.
/// Its role was made before; nobody gets in on a branch whose data change, or that goes.
#[tokio::test]
async fn no_lease_is_given_on_a_branch_that_is_worked_on() {
    let bench = Bench::new();
    let branch: BranchId = "br-a".parse().unwrap();
    let refused = async || {
        let given = bench.acquire_as(None).await;
        matches!(given, Err(Error::BranchHeld(held)) if held == branch)
    };
    assert!(!refused().await);
    let resetting = |done| {
        let now = bench.leases.now();
        let operation = state::Operation {
            caller: String::new(),
            method: "ResetBranch".to_owned(),
            request: Vec::new(),
            branch: "branches/br-a".to_owned(),
            result: None,
            done,
            create_time: now,
            update_time: now,
            runner: None,
            heartbeat_time: None,
            committed: true,
            note: None,
        };
        let change =
            move |draft: &mut Draft<'_>| draft.operation_put(Uuid::nil(), operation.clone());
        bench.leases.state.change(change)
    };
    resetting(false).await.unwrap();
    assert!(refused().await);
    resetting(true).await.unwrap();
    assert!(!refused().await);

    let clock = Clock::system();
    let ledger = ledger::Ledger::new(Arc::clone(&bench.leases.state), clock);
    let name = "dev".parse().unwrap();
    ledger.created(&name, &branch).await.unwrap();
    assert!(!refused().await);
    ledger.intend_delete(&name, &branch).await.unwrap();
    assert!(refused().await);
    let before = ledger.row(&name);
    ledger.undone(&name, before).await.unwrap();
    assert!(!refused().await);
}

/// A lease of a branch of its own, and what is written down of that.
#[tokio::test]
async fn a_branch_goes_with_its_lease_and_not_before() {
    let bench = Bench::new();
    let leases = &bench.leases;
    let same = id("", "AcquireLease", Uuid::new_v4(), "e");
    let making = |request_id| Making {
        lease: LeaseId::random(),
        holder: "a".to_owned(),
        max: Some(1),
        request_id,
    };
    let lease = bench.intend(making(Some(same.clone()))).await.unwrap();
    // The same request goes on with it, another one is one too many.
    let again = bench.intend(making(Some(same.clone()))).await.unwrap();
    assert_eq!(again, lease);
    let refused = bench.intend(making(None)).await;
    assert!(
        matches!(refused, Err(Error::TooManyEphemeral { max: 1, .. })),
        "{refused:?}"
    );
    assert_eq!(leases.orphans(), []);
    bench.clock(20);
    leases.making(lease, None).await.unwrap();
    bench.clock(40);
    assert_eq!(leases.orphans(), [], "it is still being made");
    leases
        .making(lease, Some("br-a".parse().unwrap()))
        .await
        .unwrap();
    let end = leases.branch_end(leases.end_of(None));
    let new = NewLease {
        id: lease,
        request: Request {
            target: Target::Ephemeral {
                parent: "br-p".parse().unwrap(),
            },
            ..request("a")
        },
        branch_expire_time: Some(end),
        ..bench.new_lease(Some(&same)).await
    };
    let given = leases.give(new).await.unwrap().unwrap();
    assert_eq!(given.id, lease);
    assert!(given.expire_time < end);
    assert_eq!(leases.orphans(), []);
    // Never promised for longer than Neon has confirmed.
    bench.clock(80);
    let renewed = leases.renew(lease, Some(TTL * 10), None).await.unwrap();
    assert!(renewed.expire_time < end, "{} {end}", renewed.expire_time);
    assert!(leases.branch_runs_out(&renewed));
    let later = leases.branch_end(renewed.expire_time);
    leases.branch_prolonged(lease, later).await.unwrap();
    assert!(!leases.branch_runs_out(&leases.known(lease).unwrap()));
    leases.release(lease, None).await.unwrap();
    let [(name, own)] = leases.orphans().try_into().unwrap();
    assert_eq!(own.intent, Intent::Own);
    assert!(
        leases
            .orphan_note(name.clone(), Intent::Delete)
            .await
            .unwrap()
    );
    assert_eq!(leases.orphans().len(), 1, "until it is gone");
    assert!(leases.orphan_note(name, Intent::Gone).await.unwrap());
    assert_eq!(leases.orphans(), []);
}

#[tokio::test]
async fn a_branch_that_nobody_makes_any_more_goes() {
    let bench = Bench::new();
    let leases = &bench.leases;
    let making = Making {
        lease: LeaseId::random(),
        holder: "a".to_owned(),
        max: None,
        request_id: None,
    };
    let lease = bench.intend(making).await.unwrap();
    bench.clock(60);
    let [(name, _)] = leases.orphans().try_into().unwrap();
    assert!(leases.orphan_note(name, Intent::Delete).await.unwrap());
    // Who made it after all is too late.
    let late = leases.making(lease, Some("br-a".parse().unwrap())).await;
    assert!(matches!(late, Err(Error::BranchGone)), "{late:?}");
}

#[tokio::test]
async fn a_request_id_gives_one_lease_and_is_good_for_one_request() {
    let bench = Bench::new();
    let uuid = Uuid::new_v4();
    let same = id("", "AcquireLease", uuid, "a");
    let first = bench.acquire_as(Some(&same)).await.unwrap();
    let again = bench.acquire_as(Some(&same)).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(count(&bench.leases), 1);
    let repeated = bench.leases.repeated(Some(&same)).unwrap();
    assert_eq!(repeated, Some((first.id, Some(first.clone()))));

    let other = id("", "AcquireLease", uuid, "b");
    let refused = bench.acquire_as(Some(&other)).await;
    assert!(
        matches!(refused, Err(Error::RequestIdReused(_))),
        "{refused:?}"
    );
    assert!(bench.leases.repeated(Some(&other)).is_err());

    // Another caller's and another method's are others.
    let caller = id("token:b", "AcquireLease", uuid, "b");
    let theirs = bench.acquire_as(Some(&caller)).await.unwrap();
    assert_ne!(theirs.id, first.id);
    let release = id("", "ReleaseLease", uuid, "r");
    let released = bench.leases.release(first.id, Some(release.clone())).await;
    assert!(released.unwrap());

    // The lease is gone, and the id is good for the same request alone.
    let new = bench.acquire_as(Some(&same)).await.unwrap();
    assert_ne!(new.id, first.id);
    assert!(bench.acquire_as(Some(&other)).await.is_err());
    bench.clock(24 * 3_600 + 1);
    bench.sweep().await;
    bench.acquire_as(Some(&other)).await.unwrap();
}

#[tokio::test]
async fn a_renewal_that_comes_again_renews_nothing() {
    let bench = Bench::new();
    let lease = bench.acquire().await;
    let same = Some(id("", "RenewLease", Uuid::new_v4(), "r"));
    bench.clock(10);
    let once = bench
        .leases
        .renew(lease.id, None, same.clone())
        .await
        .unwrap();
    bench.clock(20);
    let again = bench
        .leases
        .renew(lease.id, None, same.clone())
        .await
        .unwrap();
    assert_eq!(again, once);
    assert_eq!(again.renewals, 1);
    bench.leases.release(lease.id, None).await.unwrap();
    let ended = bench.leases.renew(lease.id, None, same).await;
    assert!(matches!(ended, Err(Error::NotFound(_))), "{ended:?}");
}

#[tokio::test]
async fn what_happens_to_a_lease_is_told_and_renewals_once_an_hour() {
    let bench = Bench::new();
    let lease = bench.acquire().await;
    let ttl = Some(TTL * 10);
    for minutes in 0..70 {
        bench.clock(minutes * 60);
        let until = bench.leases.password_end();
        let key = lease.grant.role_key();
        bench.leases.role_prolonged(key, until).await.unwrap();
        bench.leases.renew(lease.id, ttl, None).await.unwrap();
    }
    for _ in 0..2 {
        let role = bench.role("a").await;
        bench
            .leases
            .moved(lease.id, 2, role)
            .await
            .unwrap()
            .unwrap();
    }
    bench.leases.release(lease.id, None).await.unwrap();
    bench.leases.release(lease.id, None).await.unwrap();
    bench.acquire().await;
    bench.clock(80 * 60);
    bench.sweep().await;
    bench.sweep().await;
    assert_eq!(
        bench.actions(),
        [
            Action::Acquired,
            Action::Renewed,
            Action::Moved,
            Action::Released,
            Action::Acquired,
            Action::Expired,
        ]
    );
}

#[tokio::test]
async fn no_lease_goes_where_its_binding_led_before() {
    let bench = Bench::new();
    let leases = &bench.leases;
    let given = bench.acquire().await;
    let binding = given.request.target.binding().unwrap().clone();
    let moved = Generation {
        number: 2,
        branch: "br-b".parse().unwrap(),
        address: String::new(),
        revision: None,
        reset_at: None,
        since: leases.now(),
        reason: String::new(),
        departure: None,
    };
    let change = move |draft: &mut Draft<'_>| draft.generation_put(binding.clone(), moved.clone());
    leases.state.change(change).await.unwrap();
    // By who has not heard of that yet.
    let refused = bench.acquire_as(None).await;
    assert!(
        matches!(refused, Err(Error::BindingOvertaken(_))),
        "{refused:?}"
    );
    let role = bench.role("a").await;
    let refused = leases.moved(given.id, 1, role.clone()).await;
    assert!(
        matches!(refused, Err(Error::BindingOvertaken(_))),
        "{refused:?}"
    );
    assert!(leases.moved(given.id, 2, role).await.unwrap().is_some());
}
