//! Roles of leases, and leases that are taken.

use super::*;
use crate::state::Watching;

#[tokio::test]
async fn a_role_that_is_closed_is_never_opened_again() {
    let bench = Bench::new();
    let leases = &bench.leases;
    let new = bench.new_lease(None).await;
    let key = new.role.role.clone();
    assert!(
        !leases.role_closing(key.clone()).await.unwrap(),
        "it is being made"
    );
    let lease = leases.give(new.clone()).await.unwrap().unwrap();
    assert!(
        !leases.role_closing(key.clone()).await.unwrap(),
        "a lease has it"
    );
    assert_eq!(leases.role_ready(&role_for("a")).unwrap().role, key);
    leases.release(lease.id, None).await.unwrap();
    assert_eq!(leases.roles_to_close().len(), 1);
    assert!(leases.role_closing(key.clone()).await.unwrap());
    // Made before it was closed: it is given no more.
    let late = NewLease {
        id: LeaseId::random(),
        ..new
    };
    assert_eq!(leases.give(late).await.unwrap(), None);
    assert_eq!(leases.role_ready(&role_for("a")), None);
    let next = bench.acquire().await;
    assert_ne!(next.grant.role, key.role);
    leases.role_closed(key.clone()).await.unwrap();
    assert_eq!(leases.roles_to_close(), []);
    assert_eq!(leases.role_database(&key), None);
}

#[tokio::test]
async fn a_holder_has_one_role_and_a_branch_not_too_many() {
    let bench = Bench::new();
    let one = bench.acquire().await;
    let other = bench.acquire().await;
    assert_eq!(one.grant, other.grant);
    let mut roles = vec![one.grant.role];
    for holder in ["b", "c"] {
        roles.push(bench.role(holder).await.role.role);
    }
    roles.dedup();
    assert_eq!(roles.len(), 3);
    let refused = bench.leases.role_intend(role_for("d")).await;
    assert!(
        matches!(refused, Err(Error::TooManyRoles { max: 3, .. })),
        "{refused:?}"
    );
    // One more branch has room.
    let elsewhere = RoleFor {
        branch: "br-b".parse().unwrap(),
        ..role_for("d")
    };
    bench.leases.role_intend(elsewhere).await.unwrap();
    // Another key's role is another, and who has the old one keeps it.
    bench
        .leases
        .role_closed(bench.role("c").await.role)
        .await
        .unwrap();
    let rekeyed = RoleFor {
        key: KeyId::from("other".to_owned()),
        ..role_for("a")
    };
    let anew = bench.leases.role_intend(rekeyed).await;
    let anew = anew.unwrap();
    assert_ne!(anew, other.grant.role_key());
    assert!(!bench.leases.role_is_given(&other.grant.role_key()));
    assert!(bench.leases.renew(other.id, None, None).await.is_ok());
}

#[tokio::test]
async fn a_revoked_lease_is_there_until_its_role_is_closed() {
    let bench = Bench::new();
    let leases = &bench.leases;
    let (one, other) = (bench.acquire().await, bench.acquire().await);
    let turns = leases.follow(one.id);
    let revoked = bench.revoke(Which::Lease(one.id)).await;
    assert_eq!(revoked.len(), 1);
    assert_eq!(*turns.borrow(), Some(Turn::Ended));
    assert!(leases.known(one.id).is_err());
    assert!(leases.renew(one.id, None, None).await.is_err());
    assert!(!leases.release(one.id, None).await.unwrap());
    // The other had its role, and needs another.
    assert_eq!(leases.stranded(), std::slice::from_ref(&other));
    let fresh = bench.role("a").await;
    assert_ne!(fresh.role, one.grant.role_key());
    let moved = leases.moved(other.id, 1, fresh).await.unwrap().unwrap();
    assert_eq!(leases.stranded(), []);
    assert_ne!(moved.grant.role, one.grant.role);
    // Closing it fails, and is not forgotten when the lease's time is up.
    let key = one.grant.role_key();
    for failures in 1..=4 {
        let failed = leases
            .role_not_closed(key.clone(), "away".to_owned(), 4)
            .await;
        assert_eq!(failed.unwrap(), failures);
    }
    bench.clock(3_600);
    bench.sweep().await;
    let shown = leases.list();
    assert_eq!(shown.len(), 1);
    assert_eq!(leases.failure(&shown[0]), Some((4, "away".to_owned())));
    assert!(leases.roles_to_close().iter().any(|(due, _)| *due == key));
    leases.role_closed(key).await.unwrap();
    assert_eq!(leases.list(), []);
    let told = bench.actions();
    let of_it = [Action::Revoked, Action::Stuck, Action::Closed];
    for action in of_it {
        let times = told.iter().filter(|told| **told == action).count();
        assert_eq!(times, 1, "{action}: {told:?}");
    }
}

/// Who had a lease moved may go on with its old role for a while, but not when they are
/// revoked.
#[tokio::test]
async fn a_revocation_takes_the_roles_that_its_holder_has_left() {
    let bench = Bench::new();
    let leases = &bench.leases;
    let lease = bench.acquire().await;
    let left = lease.grant.role_key();
    let of = RoleFor {
        branch: "br-b".parse().unwrap(),
        ..role_for("a")
    };
    let role = leases.role_intend(of.clone()).await.unwrap();
    let made = Made {
        role: role.clone(),
        key: of.key,
        valid_until: Some(leases.password_end()),
    };
    leases.moved(lease.id, 2, made).await.unwrap().unwrap();
    assert_eq!(leases.roles_to_close(), []);
    let revoked = bench.revoke(Which::Lease(lease.id)).await;
    let taken: Vec<_> = leases.roles_revoked(&revoked).into_iter().collect();
    assert_eq!(taken, [left, role]);
    assert_eq!(leases.roles_to_close().len(), 2);
}

#[tokio::test]
async fn a_revocation_that_comes_again_takes_no_more() {
    let bench = Bench::new();
    let first = bench.acquire().await;
    let service: ServiceName = "users".parse().unwrap();
    let request = RevokeRequest {
        which: Which::Service(service),
        reason: String::new(),
        request_id: Some(id("", "RevokeLeases", Uuid::new_v4(), "r")),
    };
    let once = bench.leases.revoke(request.clone()).await.unwrap();
    assert_eq!(once.len(), 1);
    let second = bench.acquire().await;
    assert_ne!(second.grant.role, first.grant.role);
    let again = bench.leases.revoke(request).await.unwrap();
    assert_eq!(again, once);
    assert!(bench.leases.known(second.id).is_ok());
    let missing = RevokeRequest {
        which: Which::Lease(LeaseId::random()),
        reason: String::new(),
        request_id: None,
    };
    let refused = bench.leases.revoke(missing).await;
    assert!(matches!(refused, Err(Error::NotFound(_))), "{refused:?}");
}

#[tokio::test]
async fn leases_turn_over_with_their_binding_where_the_next_role_is_there() {
    let bench = Bench::new();
    let leases = &bench.leases;
    let moves = bench.acquire().await;
    let unwatched = bench.acquire().await;
    let stays = NewLease {
        request: super::Request {
            holder: "b".to_owned(),
            ..request("b")
        },
        role: bench.role("b").await,
        ..bench.new_lease(None).await
    };
    let stays = leases.give(stays).await.unwrap().unwrap();
    let binding = moves.request.target.binding().unwrap().clone();
    let elsewhere = |holder| RoleFor {
        branch: "br-b".parse().unwrap(),
        ..role_for(holder)
    };
    let of = elsewhere("a");
    let made = Made {
        role: leases.role_intend(of.clone()).await.unwrap(),
        key: of.key,
        valid_until: Some(leases.password_end()),
    };
    let until = leases.password_end();
    leases.role_reserve(made.clone(), until).await.unwrap();
    // Written down, and not made.
    leases.role_intend(elsewhere("b")).await.unwrap();
    let now = leases.now();
    let watched = [moves.id, stays.id];
    let change = move |draft: &mut Draft<'_>| {
        for id in watched {
            draft.watch_put(id, Watching::default());
        }
        let branch = "br-b".parse().unwrap();
        turn_over(draft, &binding, &branch, 2, now);
    };
    leases.state.change(change).await.unwrap();
    let moved = leases.get(moves.id).await.unwrap();
    assert_eq!(moved.grant, made.grant(2));
    assert_eq!(leases.get(stays.id).await.unwrap().grant, stays.grant);
    assert_eq!(
        leases.get(unwatched.id).await.unwrap().grant,
        unwatched.grant
    );
    // What runs on the old role may come to its end.
    assert!(!leases.role_closing(moves.grant.role_key()).await.unwrap());
}
