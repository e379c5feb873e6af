#![allow(clippy::unwrap_used)]

use uuid::Uuid;

use super::*;
use crate::credentials::Key;

const TTL: Duration = Duration::from_secs(60);

/// A clock that the test moves, and leases on it.
struct Bench {
    folder: tempfile::TempDir,
    leases: Leases,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::with_offset_file(folder.path().join("clock")).unwrap();
        let settings = LeaseSettings {
            default_ttl: TTL,
            max_ttl: TTL * 10,
        };
        Bench {
            leases: Leases::new(Arc::new(State::in_memory()), clock, settings),
            folder,
        }
    }

    /// Moves the clock to that many seconds from the system's.
    fn clock(&self, seconds: i64) {
        std::fs::write(self.folder.path().join("clock"), seconds.to_string()).unwrap();
    }

    async fn acquire(&self) -> Lease {
        self.acquire_as(None).await.unwrap()
    }

    async fn acquire_as(&self, id: Option<&RequestId>) -> Result<Lease, Error> {
        let acquiring = self
            .leases
            .acquire(request("a"), None, id.cloned(), grant(), 0);
        acquiring.await.map(|given| given.lease)
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
fn id(caller: &str, method: &'static str, id: Uuid, body: &str) -> RequestId {
    RequestId {
        key: state::RequestKey {
            caller: caller.into(),
            method,
            id,
        },
        body: body.into(),
    }
}

fn request(holder: &str) -> Request {
    Request {
        binding: "services/users/versions/v1".parse().unwrap(),
        access: Access::ReadWrite,
        pooled: false,
        holder: holder.into(),
        owner: None,
    }
}

fn grant() -> Grant {
    Grant {
        branch: "br-a".parse().unwrap(),
        generation: 1,
        role: "lease_users_v1_rw".into(),
        key: Key::random().id().clone(),
    }
}

fn count(leases: &Leases) -> usize {
    leases.state.read(|data| data.leases.len())
}

#[tokio::test]
async fn a_lease_ends_when_its_time_is_up_and_not_before() {
    let bench = Bench::new();
    let lease = bench.acquire().await;
    let ending = bench.leases.ending(lease.id);
    bench.clock(55);
    bench.sweep().await;
    assert_eq!(bench.leases.get(lease.id).unwrap(), lease);
    assert!(!ending.is_cancelled());

    bench.clock(61);
    // Even before the sweeper comes by.
    assert!(matches!(
        bench.leases.get(lease.id),
        Err(Error::NotFound(_))
    ));
    let renewed = bench.leases.renew(lease.id, None, None).await;
    assert!(matches!(renewed, Err(Error::NotFound(_))), "{renewed:?}");
    bench.sweep().await;
    assert!(ending.is_cancelled());
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

    let ttl = Some(TTL * 1_000);
    let renewed = bench.leases.renew(lease.id, ttl, None).await.unwrap();
    bench.clock(50 + 599);
    assert!(bench.leases.get(lease.id).is_ok());
    bench.clock(50 + 602);
    assert!(bench.leases.get(lease.id).is_err(), "{renewed:?}");
}

#[tokio::test]
async fn releasing_twice_is_no_error() {
    let bench = Bench::new();
    let lease = bench.acquire().await;
    let ending = bench.leases.ending(lease.id);
    assert!(bench.leases.release(lease.id, None).await.unwrap());
    assert!(ending.is_cancelled());
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
#[tokio::test]
async fn a_lease_whose_role_was_closed_meanwhile_says_so() {
    let bench = Bench::new();
    let give = async |closings| {
        let leases = &bench.leases;
        let given = leases.acquire(request("a"), None, None, grant(), closings);
        given.await.unwrap()
    };
    let first = give(0).await;
    assert!(!first.was_closed);
    let key = first.lease.grant.role_key();
    let close = async |status, closings| {
        let role = Role {
            binding: request("a").binding,
            status,
            closings,
        };
        let key = key.clone();
        let change = move |draft: &mut Draft<'_>| draft.role_put(key.clone(), role.clone());
        bench.leases.state.change(change).await.unwrap();
    };
    close(RoleStatus::Closing, 1).await;
    assert!(give(1).await.was_closed, "it is being closed");
    assert!(!give(1).await.was_closed);
    assert!(give(0).await.was_closed, "made before it was closed");
    close(RoleStatus::Closed, 2).await;
    assert_eq!(bench.leases.closings(&key), 2);
    assert!(!give(2).await.was_closed, "made after it was closed");
    let role = bench.leases.state.read(|data| data.roles[&key].clone());
    assert_eq!((role.status, role.closings), (RoleStatus::Open, 2));
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
    assert_eq!(repeated, Some(first.clone()));

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
        bench.leases.renew(lease.id, ttl, None).await.unwrap();
    }
    let moved = Grant {
        generation: 2,
        ..lease.grant.clone()
    };
    bench
        .leases
        .moved(lease.id, moved.clone(), 0)
        .await
        .unwrap();
    bench.leases.moved(lease.id, moved, 0).await.unwrap();
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
