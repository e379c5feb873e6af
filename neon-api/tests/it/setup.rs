//! Making a client.

use neon_api::{ClientSetupError, NeonClient, Secret, Timeouts};

use crate::server::KEY;

fn client(url: &str, key: &str) -> Result<NeonClient, ClientSetupError> {
    NeonClient::new(url.parse().unwrap(), Secret::from(key))
}

#[test]
fn a_client_prints_no_key() {
    let client = client("http://127.0.0.1:7430/api/v2", KEY).unwrap();
    let client = client.with_timeouts(Timeouts::default()).unwrap();
    let printed = format!("{client:?}");
    assert!(printed.contains("127.0.0.1:7430/api/v2/"), "{printed}");
    assert!(!printed.contains(KEY), "{printed}");
}

#[test]
fn a_bad_url_is_refused_without_its_password() {
    let complaint = |url: &str| client(url, KEY).unwrap_err().to_string();
    assert_eq!(
        complaint("ftp://example.com/api"),
        "Neon API URL ftp://example.com/api: neither http nor https"
    );
    assert_eq!(
        complaint("http://alice:hunter2@127.0.0.1/api/v2"),
        "Neon API URL http://127.0.0.1/api/v2: a user or password does not belong into it"
    );
    assert_eq!(
        complaint("http://127.0.0.1/api/v2?key=hunter2"),
        "Neon API URL http://127.0.0.1/api/v2: a query or fragment does not belong into it"
    );
}

#[test]
fn a_bad_key_is_refused_and_not_repeated() {
    let url = "http://127.0.0.1/api/v2";
    let empty = client(url, "").unwrap_err();
    assert_eq!(empty.to_string(), "the Neon API key is empty");
    let broken = client(url, "hunter\n2").unwrap_err();
    assert!(!format!("{broken} {broken:?}").contains("hunter"));
}
