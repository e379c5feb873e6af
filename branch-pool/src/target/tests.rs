use std::io::Write as _;
use std::time::Duration;

use tokio_postgres::config::ChannelBinding;

use super::*;
use crate::tls::Verification;
use crate::uri::{KEEPALIVE_IDLE, KEEPALIVE_RETRIES};

const BASE: &str = "postgresql://role:s%40cret@db.example.com:5433/neondb";

fn parse(uri: &str) -> Result<Target, UriError> {
    Target::parse(&SecretString::from(uri), &Options::default())
}

fn authority_file() -> tempfile::NamedTempFile {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["ca.example.com".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(certificate.pem().as_bytes()).unwrap();
    file
}

/// What a URI comes to: the modes to try, and what is verified.
fn outcome(query: &str) -> Result<(SslMode, Option<SslMode>, &'static str), UriError> {
    let uri = format!("{BASE}?{query}");
    let target = parse(&uri)?;
    let split = Uri::split(&uri)?;
    let verified = match Mode::of(&split)?.verification(&split)? {
        Verification::Nothing => "nothing",
        Verification::Chain(_) => "chain",
        Verification::ChainAndName(_) => "chain and name",
    };
    Ok((target.config.get_ssl_mode(), target.fallback, verified))
}

#[test]
fn sslmode_means_what_it_means_to_libpq() {
    let file = authority_file();
    let with = |mode: &str| format!("sslmode={mode}&sslrootcert={}", file.path().display());
    let (none, disable) = (None, Some(SslMode::Disable));
    let cases = [
        ("", SslMode::Prefer, disable, "nothing"),
        ("sslmode=", SslMode::Prefer, disable, "nothing"),
        ("sslmode=disable", SslMode::Disable, none, "nothing"),
        (
            "sslmode=allow",
            SslMode::Disable,
            Some(SslMode::Require),
            "nothing",
        ),
        ("sslmode=prefer", SslMode::Prefer, disable, "nothing"),
        ("sslmode=require", SslMode::Require, none, "nothing"),
        (
            "sslmode=require&channel_binding=require",
            SslMode::Require,
            none,
            "nothing",
        ),
        (
            "sslmode=disable&sslmode=require",
            SslMode::Require,
            none,
            "nothing",
        ),
        (
            "sslmode=verify%2Dfull",
            SslMode::Require,
            none,
            "chain and name",
        ),
        (
            "sslmode=verify-full",
            SslMode::Require,
            none,
            "chain and name",
        ),
        (
            "sslrootcert=system",
            SslMode::Require,
            none,
            "chain and name",
        ),
        (
            "sslmode=verify-full&sslrootcert=system",
            SslMode::Require,
            none,
            "chain and name",
        ),
        (
            &with("allow"),
            SslMode::Disable,
            Some(SslMode::Require),
            "chain",
        ),
        (&with("prefer"), SslMode::Prefer, disable, "chain"),
        (&with("require"), SslMode::Require, none, "chain"),
        (&with("verify-ca"), SslMode::Require, none, "chain"),
        (
            &with("verify-full"),
            SslMode::Require,
            none,
            "chain and name",
        ),
    ];
    for (query, first, then, verified) in cases {
        assert_eq!(outcome(query).unwrap(), (first, then, verified), "{query}");
    }
}

#[test]
fn what_is_refused_names_the_parameter_and_shows_no_secret() {
    let mut garbage = tempfile::NamedTempFile::new().unwrap();
    garbage.write_all(b"no certificate").unwrap();
    let garbage = format!("sslmode=require&sslrootcert={}", garbage.path().display());
    let cases = [
        (
            "sslmode=strict",
            "sslmode=strict is not a value that libpq knows",
        ),
        ("sslmode=Require", "sslmode=Require"),
        ("sslmode=verify-ca", "sslrootcert"),
        (
            "sslmode=require&sslrootcert=system",
            "sslmode=verify-full, not sslmode=require",
        ),
        (
            "sslmode=require&sslrootcert=/none/such.crt",
            "sslrootcert=/none/such.crt",
        ),
        (&garbage, "not a PEM file of certificates"),
        ("channel_binding=maybe", "channel_binding"),
        ("gssencmode=disable", "gssencmode"),
        ("connect_timeout=soon", "connect_timeout"),
    ];
    for (query, expected) in cases {
        let error = outcome(query).unwrap_err();
        let text = format!("{} / {error:?}", chain(&error));
        assert!(text.contains(expected), "{query}: {text}");
        assert!(
            !text.contains("s@cret") && !text.contains("s%40cret"),
            "{query}: {text}"
        );
    }
    for uri in ["", "mysql://a:s%40cret@b/c", "host=a password=s@cret"] {
        assert!(matches!(parse(uri), Err(UriError::NotPostgres)), "{uri}");
    }
}

#[test]
fn the_rest_of_the_uri_arrives() {
    let target = parse(&format!(
        "{BASE}?sslmode=require&application_name=a%20b&channel_binding=require&options=-c%20x%3D1"
    ))
    .unwrap();
    let config = &target.config;
    assert_eq!(config.get_user(), Some("role"));
    assert_eq!(config.get_password(), Some(b"s@cret".as_slice()));
    assert_eq!(config.get_dbname(), Some("neondb"));
    assert_eq!(config.get_hosts(), [Host::Tcp("db.example.com".to_owned())]);
    assert_eq!(config.get_ports(), [5433]);
    assert_eq!(config.get_application_name(), Some("a b"));
    assert_eq!(config.get_options(), Some("-c x=1"));
    assert_eq!(config.get_channel_binding(), ChannelBinding::Require);
}

#[test]
fn a_question_mark_in_the_password_begins_no_parameters() {
    let target = parse("postgres://role:a?sslmode=b@host/db?sslmode=require").unwrap();
    assert_eq!(
        target.config.get_password(),
        Some(b"a?sslmode=b".as_slice())
    );
    assert_eq!(target.config.get_ssl_mode(), SslMode::Require);
}

#[test]
fn what_the_uri_leaves_open_has_defaults() {
    let options = Options::default()
        .holder("billing")
        .connect_timeout(Duration::from_secs(7));
    let parse = |uri: &str| {
        Target::parse(&SecretString::from(uri), &options)
            .unwrap()
            .config
    };

    let config = parse(BASE);
    assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(7)));
    assert_eq!(config.get_application_name(), Some("billing"));
    assert!(config.get_keepalives());
    assert_eq!(config.get_keepalives_idle(), KEEPALIVE_IDLE);
    assert_eq!(config.get_keepalives_retries(), Some(KEEPALIVE_RETRIES));

    let config = parse(&format!(
        "{BASE}?connect_timeout=3&keepalives_idle=60&keepalives=0"
    ));
    assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(3)));
    assert_eq!(config.get_keepalives_idle(), Duration::from_secs(60));
    assert!(!config.get_keepalives());
}

#[test]
fn a_unix_socket_has_no_tls_whatever_sslmode_says() {
    let target = parse("postgresql://role@%2Fvar%2Frun/db?sslmode=require").unwrap();
    assert_eq!(target.config.get_ssl_mode(), SslMode::Disable);
    assert_eq!(target.fallback, None);
}

#[test]
fn debug_shows_nothing() {
    let target = parse(BASE).unwrap();
    assert_eq!(format!("{target:?}"), "Target([redacted])");
}
