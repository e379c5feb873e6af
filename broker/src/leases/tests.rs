#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;
use crate::credentials::Key;

const TTL: Duration = Duration::from_secs(60);

/// A clock that the test moves, and leases on it.
struct Bench {
    folder: tempfile::TempDir,
    leases: Leases,
}

impl Bench {
    fn durable() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(&folder.path().join("state")).unwrap();
        Bench {
            leases: leases(folder.path(), state),
            folder,
        }
    }

    fn in_memory() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        Bench {
            leases: leases(folder.path(), State::in_memory()),
            folder,
        }
    }

    /// Moves the clock to that many seconds from the system's.
    fn clock(&self, seconds: i64) {
        std::fs::write(self.folder.path().join("clock"), seconds.to_string()).unwrap();
    }

    /// A broker that starts again on what the last one left.
    fn restarted(self) -> Bench {
        let Bench {
            folder,
            leases: stopped,
        } = self;
        drop(stopped);
        let state = State::open(&folder.path().join("state")).unwrap();
        Bench {
            leases: leases(folder.path(), state),
            folder,
        }
    }

    async fn acquire(&self) -> Lease {
        let leases = &self.leases;
        leases.acquire(request("a"), None, grant()).await.unwrap()
    }
}

fn leases(folder: &Path, state: State) -> Leases {
    let clock = Clock::with_offset_file(folder.join("clock")).unwrap();
    let settings = LeaseSettings {
        default_ttl: TTL,
        max_ttl: TTL * 10,
    };
    Leases::new(Arc::new(state), clock, settings)
}

fn request(holder: &str) -> Request {
    Request {
        binding: "services/users/versions/v1".parse().unwrap(),
        access: Access::ReadWrite,
        pooled: false,
        holder: holder.into(),
        owner: None,
        ttl: None,
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
    let bench = Bench::in_memory();
    let lease = bench.acquire().await;
    let ending = bench.leases.ending(lease.id);
    bench.clock(55);
    bench.leases.sweep_once();
    assert_eq!(bench.leases.get(lease.id).unwrap(), lease);
    assert!(!ending.is_cancelled());

    bench.clock(61);
    // Even before the sweeper comes by.
    assert!(matches!(
        bench.leases.get(lease.id),
        Err(Error::NotFound(_))
    ));
    let renewed = bench.leases.renew(lease.id, None).await;
    assert!(matches!(renewed, Err(Error::NotFound(_))), "{renewed:?}");
    bench.leases.sweep_once();
    assert!(ending.is_cancelled());
    assert_eq!(count(&bench.leases), 0);
}

#[tokio::test]
async fn renewing_grants_no_more_than_the_maximum() {
    let bench = Bench::in_memory();
    let lease = bench.acquire().await;
    bench.clock(50);
    let renewed = bench.leases.renew(lease.id, None).await.unwrap();
    let moved = renewed.expire_time.duration_since(lease.expire_time);
    assert!((49..=52).contains(&moved.as_secs()), "{moved}");
    assert_eq!(renewed.grant, lease.grant);

    let ttl = Some(TTL * 1_000);
    let renewed = bench.leases.renew(lease.id, ttl).await.unwrap();
    bench.clock(50 + 599);
    assert!(bench.leases.get(lease.id).is_ok());
    bench.clock(50 + 602);
    assert!(bench.leases.get(lease.id).is_err(), "{renewed:?}");
}

#[tokio::test]
async fn releasing_twice_is_no_error() {
    let bench = Bench::in_memory();
    let lease = bench.acquire().await;
    let ending = bench.leases.ending(lease.id);
    assert!(bench.leases.release(lease.id).await.unwrap());
    assert!(ending.is_cancelled());
    assert!(!bench.leases.release(lease.id).await.unwrap());
}

#[tokio::test]
async fn a_request_id_gives_one_lease_and_is_good_for_one_request() {
    let bench = Bench::in_memory();
    let id = Some(Uuid::new_v4());
    let leases = &bench.leases;
    let first = leases.acquire(request("a"), id, grant()).await.unwrap();
    let again = leases.acquire(request("a"), id, grant()).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(count(leases), 1);
    let repeated = leases.repeated(id, &request("a")).unwrap();
    assert_eq!(repeated, Some(first.clone()));

    let other = leases.acquire(request("b"), id, grant()).await;
    assert!(matches!(other, Err(Error::RequestIdReused(_))), "{other:?}");
    assert_eq!(count(leases), 1);

    // With the lease, the id ends too.
    leases.release(first.id).await.unwrap();
    let new = leases.acquire(request("b"), id, grant()).await.unwrap();
    assert_ne!(new.id, first.id);
}

#[tokio::test]
async fn leases_go_on_after_a_restart() {
    let bench = Bench::durable();
    let kept = bench.acquire().await;
    let released = bench.acquire().await;
    bench.leases.release(released.id).await.unwrap();

    let bench = bench.restarted();
    assert_eq!(bench.leases.get(kept.id).unwrap(), kept);
    assert!(bench.leases.get(released.id).is_err());
    bench.clock(50);
    bench.leases.renew(kept.id, None).await.unwrap();

    let bench = bench.restarted();
    bench.clock(100);
    assert!(bench.leases.get(kept.id).is_ok());
    bench.clock(120);
    assert!(bench.leases.get(kept.id).is_err());
}

#[tokio::test]
async fn the_file_is_its_owners_alone_and_its_folder_is_one_brokers() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::durable();
    bench.acquire().await;
    let folder = bench.folder.path().join("state");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&folder.join("leases.json")), 0o600);
    let second = State::open(&folder).unwrap_err();
    assert!(matches!(second, state::Error::InUse { .. }), "{second}");
}

#[tokio::test]
async fn changes_that_come_together_are_all_stored() {
    let bench = Bench::durable();
    let leases = &bench.leases;
    let asked = (0..50).map(|_| leases.acquire(request("a"), None, grant()));
    let given = futures_util::future::join_all(asked).await;
    let bench = bench.restarted();
    for lease in given {
        let id = lease.unwrap().id;
        assert!(bench.leases.get(id).is_ok(), "{id}");
    }
}

#[tokio::test]
async fn a_lease_that_cannot_be_stored_is_not_given() {
    let bench = Bench::durable();
    bench.acquire().await;
    let folder = bench.folder.path().join("state");
    std::fs::remove_dir_all(&folder).unwrap();
    let refused = bench.leases.acquire(request("a"), None, grant()).await;
    assert!(matches!(refused, Err(Error::State(_))), "{refused:?}");
    assert_eq!(count(&bench.leases), 1);
}

/// Two requests of one id while nothing can be stored: whoever is refused takes
/// no lease away from whoever is not.
#[tokio::test]
async fn a_request_that_cannot_be_stored_takes_no_others_lease() {
    let bench = Bench::durable();
    let folder = bench.folder.path().join("state");
    let away = bench.folder.path().join("away");
    let id = Some(Uuid::new_v4());
    std::fs::rename(&folder, &away).unwrap();
    let leases = &bench.leases;
    let first = async {
        let refused = leases.acquire(request("a"), id, grant()).await;
        // The disk is back before the second is looked at.
        std::fs::rename(&away, &folder).unwrap();
        refused
    };
    let second = leases.acquire(request("a"), id, grant());
    let (first, second) = tokio::join!(biased; first, second);
    assert!(matches!(first, Err(Error::State(_))), "{first:?}");
    match second {
        Ok(lease) => assert!(leases.get(lease.id).is_ok(), "acknowledged, and gone"),
        Err(error) => assert!(matches!(error, Error::State(_)), "{error}"),
    }
    let lease = leases.acquire(request("a"), id, grant()).await.unwrap();
    let bench = bench.restarted();
    assert!(bench.leases.get(lease.id).is_ok());
}

#[tokio::test]
async fn a_release_that_cannot_be_stored_is_none() {
    let bench = Bench::durable();
    let lease = bench.acquire().await;
    let folder = bench.folder.path().join("state");
    let away = bench.folder.path().join("away");
    std::fs::rename(&folder, &away).unwrap();
    let refused = bench.leases.release(lease.id).await;
    assert!(matches!(refused, Err(Error::State(_))), "{refused:?}");
    assert!(bench.leases.get(lease.id).is_ok(), "as after a restart");
    std::fs::rename(&away, &folder).unwrap();
    assert!(bench.leases.release(lease.id).await.unwrap());
    let bench = bench.restarted();
    assert!(bench.leases.get(lease.id).is_err());
}

#[tokio::test]
async fn there_are_no_more_leases_than_there_may_be() {
    let bench = Bench::in_memory();
    let mut last = bench.acquire().await;
    for _ in 1..LEASES_MAX {
        last = bench.acquire().await;
    }
    let refused = bench.leases.acquire(request("a"), None, grant()).await;
    assert!(matches!(refused, Err(Error::TooMany)), "{refused:?}");
    bench.leases.release(last.id).await.unwrap();
    bench.acquire().await;
}

#[tokio::test]
async fn a_role_is_to_be_closed_when_its_last_lease_ends() {
    let bench = Bench::in_memory();
    let (one, other) = (bench.acquire().await, bench.acquire().await);
    let Grant { branch, role, .. } = &one.grant;
    bench.leases.release(one.id).await.unwrap();
    assert_eq!(bench.leases.take_ended().len(), 1);
    assert!(bench.leases.is_used(branch, role), "by the other");
    bench.clock(61);
    bench.leases.sweep_once();
    let ended = bench.leases.take_ended();
    let role = ended.first().map(|ended| &ended.role);
    assert_eq!(role, Some(&other.grant.role));
    assert!(!bench.leases.is_used(branch, &other.grant.role));
    assert!(bench.leases.take_ended().is_empty());
}

/// What a broker that was killed in a write left behind.
#[tokio::test]
async fn halves_of_writes_are_swept_away() {
    let folder = tempfile::tempdir().unwrap();
    for name in [".tmpAbC123", ".key-AbC123", "key", "leases.json.bak"] {
        std::fs::write(folder.path().join(name), "x").unwrap();
    }
    let _state = State::open(folder.path()).unwrap();
    let names = std::fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["key", "leases.json.bak", "lock"]);
}

#[test]
fn a_file_that_is_not_ours_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    for (text, expected) in [
        ("{}", "not a state file"),
        ("nonsense", "not a state file"),
        (r#"{"format": 99}"#, "newer broker"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("leases.json"), text).unwrap();
        let error = State::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[tokio::test]
async fn request_ids_of_different_callers_have_nothing_to_do_with_each_other() {
    let bench = Bench::durable();
    let id = Some(Uuid::new_v4());
    let owned = |owner: &str| Request {
        owner: Some(owner.to_owned()),
        ..request(owner)
    };
    let (a, b) = (owned("token:a"), owned("token:b"));
    let first = bench.leases.acquire(a.clone(), id, grant()).await.unwrap();
    let second = bench.leases.acquire(b.clone(), id, grant()).await.unwrap();
    assert_ne!(first.id, second.id);
    let bench = bench.restarted();
    let again = |request: &Request| bench.leases.repeated(id, request).unwrap();
    assert_eq!(again(&a).map(|lease| lease.id), Some(first.id));
    assert_eq!(again(&b).map(|lease| lease.id), Some(second.id));
}
