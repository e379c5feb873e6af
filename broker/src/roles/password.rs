//! Setting a role's password.

use std::fmt;

use bytes::BytesMut;
use futures_util::future;
use secrecy::{ExposeSecret as _, SecretString};
use tokio_postgres::GenericClient;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// Sets a role's password, inside a transaction. Neon takes no verifier in its
/// place, so the password itself has to be in a statement: one that the server puts
/// together, because the text of a client's is logged. An error inside would carry
/// that text as its context, to us and into the server's log; so it is caught there,
/// and what comes out is its code and its message. The role's row should be locked by
/// that transaction already: then nothing in there waits or is cancelled.
pub async fn set(
    client: &impl GenericClient,
    role: &str,
    password: &SecretString,
) -> Result<(), tokio_postgres::Error> {
    let hidden = Hidden(password);
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&role, Type::TEXT), (&hidden, Type::TEXT)];
    let telling = client.query_typed(
        "SELECT set_config('branch_broker.role', $1, true) IS NOT NULL
            AND set_config('branch_broker.password', $2, true) IS NOT NULL",
        &parameters,
    );
    let setting = client.batch_execute(
        "DO $$ BEGIN
             EXECUTE format('ALTER ROLE %I PASSWORD %L',
                            current_setting('branch_broker.role'),
                            current_setting('branch_broker.password'));
         EXCEPTION WHEN query_canceled OR OTHERS THEN
             RAISE EXCEPTION USING ERRCODE = SQLSTATE, MESSAGE = SQLERRM;
         END $$",
    );
    // Both are on their way before the first is answered.
    let (told, set) = future::join(telling, setting).await;
    told?;
    set
}

/// A text parameter that does not print.
struct Hidden<'a>(&'a SecretString);

impl fmt::Debug for Hidden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl ToSql for Hidden<'_> {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        self.0.expose_secret().to_sql(kind, out)
    }

    fn accepts(kind: &Type) -> bool {
        <&str as ToSql>::accepts(kind)
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_among_the_parameters_does_not_print() {
        let password = SecretString::from("hunter2");
        let parameters: [&(dyn ToSql + Sync); 2] = [&"role", &Hidden(&password)];
        assert_eq!(format!("{parameters:?}"), r#"["role", [redacted]]"#);
    }
}
