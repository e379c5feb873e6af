#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;
use crate::neon::ReplicaUris;
use crate::postgres::OwnerUri;

fn config() -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../broker.toml");
    Config::load(&path).unwrap()
}

fn outcome(branch: &str, port: u16) -> Outcome {
    let uri = OwnerUri::new(format!("postgresql://o:p@127.0.0.1:{port}/neondb"));
    Outcome {
        branch: branch.parse().unwrap(),
        uris: OwnerUris {
            direct: uri.clone(),
            pooled: uri,
            replica: None,
        },
        reset_at: None,
        revision: Some("r".into()),
    }
}

fn bindings(state: &Arc<State>) -> (Bindings, BindingSpec) {
    let bindings = Bindings::new(Arc::clone(state), Clock::system());
    let config = config();
    bindings.declare(&config);
    (bindings, config.bindings[0].clone())
}

fn found(bindings: &Bindings, spec: &BindingSpec, outcome: Outcome) -> Found {
    let last = |data: &crate::state::Data| data.generations.get(&spec.name).map(|one| one.number);
    Found {
        outcome,
        seen: bindings.state.read(last),
        renewed: None,
        in_background: true,
    }
}

async fn generation(bindings: &Bindings, spec: &BindingSpec, outcome: Outcome) -> i64 {
    let found = found(bindings, spec, outcome);
    bindings.ready(spec, found).await.unwrap();
    let binding = bindings.get(&spec.name).unwrap();
    binding.target.as_ref().unwrap().generation
}

#[tokio::test]
async fn a_generation_goes_up_when_the_connection_changes_and_outlives_the_broker() {
    let state = Arc::new(State::in_memory());
    {
        let (bindings, spec) = bindings(&state);
        assert_eq!(generation(&bindings, &spec, outcome("br-a", 1)).await, 1);
        assert_eq!(generation(&bindings, &spec, outcome("br-a", 1)).await, 1);
        assert_eq!(generation(&bindings, &spec, outcome("br-a", 2)).await, 2);
    }
    let (bindings, spec) = bindings(&state);
    assert_eq!(generation(&bindings, &spec, outcome("br-a", 2)).await, 2);
    assert_eq!(generation(&bindings, &spec, outcome("br-b", 2)).await, 3);
}

/// Who knows the number has missed nothing, although the role is the same.
#[tokio::test]
async fn a_read_only_endpoint_that_comes_or_goes_is_another_generation() {
    let state = Arc::new(State::in_memory());
    let (bindings, spec) = bindings(&state);
    let with = |port: u16, read_only: u16| {
        let uri = OwnerUri::new(format!("postgresql://o:p@127.0.0.1:{read_only}/neondb"));
        let mut outcome = outcome("br-a", port);
        outcome.uris.replica = Some(ReplicaUris {
            direct: uri.clone(),
            pooled: uri,
        });
        outcome
    };
    let steps = [
        (outcome("br-a", 1), 1, "is ready"),
        (with(1, 2), 2, "has a read-only endpoint now"),
        (with(1, 2), 2, "has a read-only endpoint now"),
        (with(1, 3), 3, "has another read-only endpoint"),
        (outcome("br-a", 1), 4, "has no read-only endpoint any more"),
        // Without a pooler, an address has one part: that it is the writer's counts.
        (with(1, 1), 5, "has a read-only endpoint now"),
        (with(4, 1), 6, "has another address"),
    ];
    for (outcome, number, reason) in steps {
        assert_eq!(generation(&bindings, &spec, outcome).await, number);
        let binding = bindings.get(&spec.name).unwrap();
        let said = &binding.target.as_ref().unwrap().reason;
        assert!(said.ends_with(reason), "{said}");
    }
}

#[tokio::test]
async fn a_watcher_hears_of_changes_and_of_nothing_else() {
    let state = Arc::new(State::in_memory());
    let (bindings, spec) = bindings(&state);
    let mut watch = bindings.watch(&spec.name).unwrap();
    assert!(matches!(
        watch.borrow_and_update().status,
        Status::Preparing(_)
    ));

    bindings.not_ready(&spec.name, "no luck".into(), true);
    let failed = Status::Failed("no luck".into());
    assert_eq!(watch.borrow_and_update().status, failed);

    bindings
        .ready(&spec, found(&bindings, &spec, outcome("br-a", 1)))
        .await
        .unwrap();
    assert!(watch.has_changed().unwrap());
    assert_eq!(watch.borrow_and_update().status, Status::Ready);
    bindings
        .ready(&spec, found(&bindings, &spec, outcome("br-a", 1)))
        .await
        .unwrap();
    assert!(!watch.has_changed().unwrap());

    // What leads somewhere goes on doing so.
    bindings.not_ready(&spec.name, "an outage".into(), true);
    assert!(!watch.has_changed().unwrap());
    bindings.declare(&config());
    assert!(!watch.has_changed().unwrap());

    let mut none = config();
    none.bindings.clear();
    bindings.declare(&none);
    assert!(watch.has_changed().is_err());
    assert!(bindings.get(&spec.name).is_none());
}

/// broker.toml names another branch, which cannot be made: the binding goes on
/// as it was declared before, and says what is the matter.
#[tokio::test]
async fn a_binding_that_cannot_move_stays_what_it_was() {
    let state = Arc::new(State::in_memory());
    let (bindings, spec) = bindings(&state);
    bindings
        .ready(&spec, found(&bindings, &spec, outcome("br-a", 1)))
        .await
        .unwrap();
    let mut moved = config();
    moved.bindings[0].branch = "elsewhere".parse().unwrap();
    bindings.declare(&moved);
    bindings.not_ready(&spec.name, "no luck".into(), true);
    let binding = bindings.get(&spec.name).unwrap();
    assert_eq!(binding.status, Status::Ready);
    assert_eq!(binding.trouble.as_deref(), Some("no luck"));
    assert_eq!(binding.target.as_ref().unwrap().spec, spec);

    let moved = &moved.bindings[0];
    bindings
        .ready(moved, found(&bindings, moved, outcome("br-b", 1)))
        .await
        .unwrap();
    let binding = bindings.get(&spec.name).unwrap();
    assert_eq!(binding.trouble, None);
    assert_eq!(binding.target.as_ref().unwrap().spec, *moved);
}

#[tokio::test]
async fn a_generation_goes_up_when_the_branch_has_other_data() {
    let state = Arc::new(State::in_memory());
    let (bindings, spec) = bindings(&state);
    assert_eq!(generation(&bindings, &spec, outcome("br-a", 1)).await, 1);
    assert!(!bindings.has_other_data(&spec.name, &outcome("br-a", 1)));
    let reset = || Outcome {
        reset_at: Some(Timestamp::UNIX_EPOCH),
        ..outcome("br-a", 1)
    };
    assert!(bindings.has_other_data(&spec.name, &reset()));
    let found = Found {
        renewed: Some("reset".to_owned()),
        ..found(&bindings, &spec, reset())
    };
    bindings.ready(&spec, found).await.unwrap();
    assert!(!bindings.has_other_data(&spec.name, &reset()));
    let binding = bindings.get(&spec.name).unwrap();
    let target = binding.target.as_ref().unwrap();
    assert_eq!((target.generation, &*target.reason), (2, "reset"));
    assert_eq!(generation(&bindings, &spec, reset()).await, 2);
}

/// The roles of a rotation are made first, and the binding may move meanwhile.
#[tokio::test]
async fn a_rotation_that_a_switch_has_overtaken_announces_nothing() {
    let state = Arc::new(State::in_memory());
    let (bindings, spec) = bindings(&state);
    generation(&bindings, &spec, outcome("br-a", 1)).await;
    let before = bindings.get(&spec.name).unwrap().target.clone().unwrap();
    let rotated = || Rotated {
        name: spec.name.clone(),
        next: Vec::new(),
        by: "somebody".to_owned(),
        request_id: None,
    };
    bindings.rotate(&before, rotated()).await.unwrap();
    assert_eq!(generation(&bindings, &spec, outcome("br-b", 2)).await, 3);
    let refused = bindings.rotate(&before, rotated()).await;
    assert!(
        matches!(refused, Err(crate::leases::Error::BindingOvertaken(_))),
        "{refused:?}"
    );
    let target = bindings.get(&spec.name).unwrap().target.clone().unwrap();
    assert_eq!((target.generation, target.branch.as_str()), (3, "br-b"));
}
