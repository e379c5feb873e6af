//! What a service's groups may do, as statements and as a question.

use tokio_postgres::Client;

use super::{Access, group_name, logins_of_other_branches};
use crate::config::ServiceSpec;
use crate::migrate::{self, HISTORY_TABLE};
use crate::postgres::{self, Attempted as _, escape_identifier};
use neon_api::BranchId;

/// Rights on tables and on sequences.
struct Rights {
    tables: &'static [&'static str],
    sequences: &'static [&'static str],
}

impl Access {
    fn rights(self) -> Rights {
        match self {
            Access::ReadOnly => Rights {
                tables: &["SELECT"],
                sequences: &["SELECT"],
            },
            Access::ReadWrite => Rights {
                tables: &["SELECT", "INSERT", "UPDATE", "DELETE"],
                sequences: &["SELECT", "USAGE"],
            },
        }
    }
}

/// The statements that give a group its rights, on what the schema has and on
/// what the migrating role will add to it. The migration history is nobody's.
pub(super) fn statements(service: &ServiceSpec, group: &str, access: Access) -> String {
    let schema = escape_identifier(&service.schema);
    let group = escape_identifier(group);
    let rights = access.rights();
    let (tables, sequences) = (rights.tables.join(", "), rights.sequences.join(", "));
    format!(
        "CREATE SCHEMA IF NOT EXISTS {schema};
         GRANT USAGE ON SCHEMA {schema} TO {group};
         GRANT {tables} ON ALL TABLES IN SCHEMA {schema} TO {group};
         GRANT {sequences} ON ALL SEQUENCES IN SCHEMA {schema} TO {group};
         ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT {tables} ON TABLES TO {group};
         ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT {sequences} ON SEQUENCES TO {group};"
    )
}

/// The statement that keeps a group out of the migration history.
pub(super) fn no_history(service: &ServiceSpec, group: &str) -> String {
    let history = migrate::history_table(service);
    format!(
        "REVOKE ALL ON TABLE {history} FROM {}",
        escape_identifier(group)
    )
}

/// Whether [`super::grant`] would change nothing. Reads only.
pub async fn are_granted(
    client: &Client,
    service: &ServiceSpec,
    branch: &BranchId,
) -> Result<bool, postgres::Error> {
    for access in Access::ALL {
        if !group_has_rights(client, service, access).await? {
            return Ok(false);
        }
    }
    Ok(logins_of_other_branches(client, branch).await?.is_empty())
}

/// Looks at each table and sequence, because each could have been made by
/// somebody whose default privileges are not ours.
async fn group_has_rights(
    client: &Client,
    service: &ServiceSpec,
    access: Access,
) -> Result<bool, postgres::Error> {
    const ASK: &str = "
        WITH role AS (
            SELECT oid FROM pg_roles WHERE rolname = $1
        ), space AS (
            SELECT oid FROM pg_namespace WHERE nspname = $2
        ), relation AS (
            SELECT c.oid, c.relkind = 'S' AS sequence, c.relname = $3 AS history
            FROM pg_class c JOIN space ON c.relnamespace = space.oid
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        ), promised AS (
            SELECT d.defaclobjtype AS kind, acl.privilege_type AS privilege
            FROM pg_default_acl d
            JOIN space ON d.defaclnamespace = space.oid
            CROSS JOIN aclexplode(d.defaclacl) acl
            JOIN role ON acl.grantee = role.oid
            WHERE d.defaclrole = (SELECT oid FROM pg_roles WHERE rolname = current_user)
        )
        SELECT EXISTS (SELECT FROM role)
           AND EXISTS (SELECT FROM space)
           AND coalesce((SELECT bool_and(has_schema_privilege(role.oid, space.oid, 'USAGE'))
                         FROM role, space), false)
           AND NOT EXISTS (
               SELECT FROM role, relation, unnest($4::text[]) AS wanted
               WHERE NOT sequence AND NOT history
                 AND NOT has_table_privilege(role.oid, relation.oid, wanted))
           AND NOT EXISTS (
               SELECT FROM role, relation, unnest($5::text[]) AS wanted
               WHERE CASE WHEN sequence
                     THEN NOT has_sequence_privilege(role.oid, relation.oid, wanted) END)
           AND NOT EXISTS (
               SELECT FROM role, relation
               WHERE history AND NOT sequence
                 AND has_table_privilege(role.oid, relation.oid,
                                         'SELECT, INSERT, UPDATE, DELETE'))
           AND NOT EXISTS (
               SELECT unnest($4::text[]) EXCEPT SELECT privilege FROM promised WHERE kind = 'r')
           AND NOT EXISTS (
               SELECT unnest($5::text[]) EXCEPT SELECT privilege FROM promised WHERE kind = 'S')";
    let group = group_name(&service.name, access);
    let rights = access.rights();
    let row = client
        .query_one(
            ASK,
            &[
                &group,
                &service.schema,
                &HISTORY_TABLE,
                &rights.tables,
                &rights.sequences,
            ],
        )
        .await
        .attempted(format!("look at the rights of the group {group}"))?;
    Ok(row.get(0))
}
