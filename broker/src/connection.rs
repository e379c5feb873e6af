//! Connection URIs of lease roles: the owner's, with role and password swapped.

use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::postgres::OwnerUri;

/// An owner's URI in which no role can be put.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the connection URI that Neon gave has no place for a role")]
pub struct NotAUri;

/// The owner's URI with that role and password; the rest is as Neon gave it.
pub fn lease_uri(
    owner: &OwnerUri,
    role: &str,
    password: &SecretString,
) -> Result<SecretString, NotAUri> {
    let mut uri = Url::parse(owner.expose()).map_err(|_| NotAUri)?;
    uri.set_username(role).map_err(|()| NotAUri)?;
    uri.set_password(Some(password.expose_secret()))
        .map_err(|()| NotAUri)?;
    Ok(String::from(uri).into())
}

/// Host, port and database of a URI: what is no secret in it.
pub fn address_of(owner: &OwnerUri) -> String {
    let parsed = Url::parse(owner.expose()).ok();
    parsed
        .map(|uri| {
            let host = uri.host_str().unwrap_or_default();
            let port = uri.port().unwrap_or(5432);
            format!("{host}:{port}{}", uri.path())
        })
        .unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NEON: &str = "postgresql://neondb_owner:npg_hunter2@ep-a-b-c1.eu-central-1.aws.neon.tech/neondb?sslmode=require&channel_binding=require";

    #[test]
    fn only_the_role_and_the_password_change() {
        let uri = lease_uri(
            &OwnerUri::new(NEON),
            "lease_users_v1_rw",
            &"pa-ss_word".into(),
        );
        assert_eq!(
            uri.unwrap().expose_secret(),
            "postgresql://lease_users_v1_rw:pa-ss_word@ep-a-b-c1.eu-central-1.aws.neon.tech/neondb?sslmode=require&channel_binding=require"
        );
        let local = OwnerUri::new("postgresql://o:p@127.0.0.1:54321/neondb?sslmode=require");
        let uri = lease_uri(&local, "lease_a-b_v1_ro", &"x".into()).unwrap();
        assert_eq!(
            uri.expose_secret(),
            "postgresql://lease_a-b_v1_ro:x@127.0.0.1:54321/neondb?sslmode=require"
        );
    }

    #[test]
    fn an_address_holds_no_secret() {
        assert_eq!(
            address_of(&OwnerUri::new(NEON)),
            "ep-a-b-c1.eu-central-1.aws.neon.tech:5432/neondb"
        );
        let local = OwnerUri::new("postgresql://o:p@127.0.0.1:54321/neondb?sslmode=require");
        assert_eq!(address_of(&local), "127.0.0.1:54321/neondb");
        assert!(lease_uri(&OwnerUri::new("neondb"), "a", &"b".into()).is_err());
    }
}
