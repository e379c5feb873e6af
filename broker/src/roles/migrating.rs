//! Logging in as a service's migration role.
//!
//! A session that logs in as the role has nowhere to go back to: RESET ROLE and
//! SET SESSION AUTHORIZATION DEFAULT lead to the role itself. It has no password that
//! anybody keeps: it may log in for as long as one session takes to be opened, with a
//! password of that moment, and the sessions that are open go on without.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use secrecy::SecretString;
use tokio_postgres::Client;

use super::{Access, Error, ddl, group_name, login, password};
use crate::config::ServiceSpec;
use crate::connection;
use crate::postgres::{self, Attempted as _, OwnerUri, escape_identifier, escape_literal};

/// When a password ends by itself that its broker did not live to take away, in seconds:
/// later than the tries to connect end.
const PASSWORD_SECONDS: u64 = 180;
/// How often a login is tried that is refused, beyond the first time, and the pause
/// before it, in milliseconds: what is in front of Postgres may for a moment remember what
/// the role was before.
const REFUSED_RETRIES_MAX: u32 = 4;
const REFUSED_PAUSE_MS: u64 = 500;
/// Bytes of a password.
const PASSWORD_BYTES: usize = 32;

/// Opens a session as the service's migration role, which is made, or made right, as the
/// owner before.
pub async fn migrating_session(uri: &OwnerUri, service: &ServiceSpec) -> Result<Client, Error> {
    let owner = postgres::session(uri).await?;
    ddl::turn_take(&owner, service).await?;
    ddl::make_right(&owner, service).await?;
    let role = group_name(&service.name, Access::Ddl);
    let password = random();
    let as_role = connection::lease_uri(uri, &role, &password);
    let as_role = OwnerUri::new(as_role.map_err(|_| Error::NoPlaceForRole)?);
    let_in(&owner, &role, &password).await?;
    let opened = open(&as_role).await;
    // Whether or not it was opened.
    let shut = shut_out(&owner, &role).await;
    let session = opened?;
    shut?;
    // The turn ends with the owner's session, and sooner so.
    ddl::turn_leave(&owner, service).await?;
    Ok(session)
}

/// Lets the role log in, without whatever a script may have set for it.
async fn let_in(
    owner: &Client,
    role: &str,
    password: &SecretString,
) -> Result<(), postgres::Error> {
    let letting = || format!("let the role {role} log in");
    // By the server's clock.
    let sql = format!(
        "BEGIN; {lock}
         DO $broker$ BEGIN
             EXECUTE format('ALTER ROLE %I LOGIN VALID UNTIL %L', {role},
                            now() + interval '{PASSWORD_SECONDS} seconds');
         END $broker$;
         {no_settings}",
        lock = login::LOCK,
        no_settings = login::no_settings(role),
        role = escape_literal(role),
    );
    owner.batch_execute(&sql).await.attempted(letting())?;
    let set = password::set(owner, role, password).await;
    set.attempted(letting())?;
    owner.batch_execute("COMMIT").await.attempted(letting())
}

/// No login, no password. The role's sessions go on.
async fn shut_out(owner: &Client, role: &str) -> Result<(), postgres::Error> {
    let sql = format!(
        "BEGIN; {} ALTER ROLE {} NOLOGIN PASSWORD NULL; COMMIT;",
        login::LOCK,
        escape_identifier(role)
    );
    let shut = owner.batch_execute(&sql).await;
    shut.attempted(format!("let the role {role} log in no more"))
}

async fn open(uri: &OwnerUri) -> Result<Client, postgres::Error> {
    let mut tries = 0;
    loop {
        match postgres::session(uri).await {
            Err(error) if error.is_login_refused() && tries < REFUSED_RETRIES_MAX => tries += 1,
            opened => return opened,
        }
        tokio::time::sleep(Duration::from_millis(REFUSED_PAUSE_MS)).await;
    }
}

fn random() -> SecretString {
    let bytes = rand::random::<[u8; PASSWORD_BYTES]>();
    BASE64_URL_SAFE_NO_PAD.encode(bytes).into()
}
