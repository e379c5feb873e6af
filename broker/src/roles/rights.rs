//! What a service's groups may do, as statements and as a question.

use tokio_postgres::Client;

use super::login::logins_of_other_branches;
use super::{Access, ddl, group_name};
use crate::config::ServiceSpec;
use crate::migrate::history::OWN_TABLES;
use crate::postgres::{self, Attempted as _, escape_identifier, escape_literal};
use neon_api::BranchId;

/// Rights on tables, on sequences, and on functions to come.
struct Rights {
    tables: &'static [&'static str],
    sequences: &'static [&'static str],
    functions: &'static [&'static str],
}

impl Access {
    fn rights(self) -> Rights {
        match self {
            Access::ReadOnly => Rights {
                tables: &["SELECT"],
                sequences: &["SELECT"],
                // A function may be SECURITY DEFINER, and write: grant gives
                // those that are not.
                functions: &[],
            },
            Access::ReadWrite => Rights {
                tables: &["SELECT", "INSERT", "UPDATE", "DELETE"],
                sequences: &["SELECT", "USAGE"],
                functions: &["EXECUTE"],
            },
            // An owner needs none.
            Access::Ddl => Rights {
                tables: &[],
                sequences: &[],
                functions: &[],
            },
        }
    }
}

/// The statements that give a group its rights, on what the schema has and on what the
/// migration role will add to it, or the owner, as Diesel's command line does. The
/// migration history is nobody's.
pub(super) fn statements(service: &ServiceSpec, group: &str, access: Access) -> String {
    let schema = escape_identifier(&service.schema);
    let group = escape_identifier(group);
    let migrating = escape_identifier(&group_name(&service.name, Access::Ddl));
    let rights = access.rights();
    let (tables, sequences) = (rights.tables.join(", "), rights.sequences.join(", "));
    format!(
        "GRANT USAGE ON SCHEMA {schema} TO {group};
         GRANT {tables} ON ALL TABLES IN SCHEMA {schema} TO {group};
         GRANT {sequences} ON ALL SEQUENCES IN SCHEMA {schema} TO {group};
         {}{}",
        by_default(&schema, "CURRENT_USER", &group, access),
        by_default(&schema, &migrating, &group, access),
    )
}

/// The statements that give a group its rights on what a role will add to a schema.
/// All three names are escaped already.
pub(super) fn by_default(schema: &str, role: &str, group: &str, access: Access) -> String {
    let Rights {
        tables,
        sequences,
        functions,
    } = access.rights();
    let kinds = [
        ("TABLES", tables),
        ("SEQUENCES", sequences),
        ("ROUTINES", functions),
    ];
    let given = kinds.into_iter().filter(|(_, rights)| !rights.is_empty());
    given
        .map(|(kind, rights)| {
            let rights = rights.join(", ");
            format!(
                "ALTER DEFAULT PRIVILEGES FOR ROLE {role} IN SCHEMA {schema}
                     GRANT {rights} ON {kind} TO {group};"
            )
        })
        .collect()
}

/// The statements that take from PUBLIC what every lease would have by it:
/// connecting, which the groups of the services in this database get, temporary
/// tables, making things in the schema public, and calling the service's functions,
/// which may run as the owner. Roles made by Neon's API connect as members of
/// neon_superuser. Functions go to the groups
/// instead, those that run as their owner to the writing one alone. Default
/// privileges of one schema can add to PUBLIC's and not take away, so the
/// owner's functions to come, and the migration role's, are taken from PUBLIC in the
/// whole database.
pub(super) fn nothing_for_public(service: &ServiceSpec) -> String {
    let [read, write] =
        Access::GROUPS.map(|access| escape_literal(&group_name(&service.name, access)));
    let schema = escape_literal(&service.schema);
    let migrating = escape_identifier(&group_name(&service.name, Access::Ddl));
    format!(
        "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON ROUTINES FROM PUBLIC;
         ALTER DEFAULT PRIVILEGES FOR ROLE {migrating} REVOKE EXECUTE ON ROUTINES FROM PUBLIC;
         DO $broker$ DECLARE routine record; BEGIN
             IF pg_has_role((SELECT datdba FROM pg_database
                             WHERE datname = current_database()), 'USAGE') THEN
                 EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I, %I',
                                current_database(), {read}, {write});
                 IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'neon_superuser') THEN
                     EXECUTE format('GRANT CONNECT ON DATABASE %I TO neon_superuser',
                                    current_database());
                 END IF;
                 EXECUTE format('REVOKE CONNECT, TEMPORARY ON DATABASE %I FROM PUBLIC',
                                current_database());
             END IF;
             IF pg_has_role((SELECT nspowner FROM pg_namespace
                             WHERE nspname = 'public'), 'USAGE') THEN
                 REVOKE CREATE ON SCHEMA public FROM PUBLIC;
             END IF;
             FOR routine IN SELECT p.oid::regprocedure AS name, p.prosecdef
                            FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                            WHERE n.nspname = {schema} AND pg_has_role(p.proowner, 'USAGE')
             LOOP
                 EXECUTE format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC, %I',
                                routine.name, {read});
                 EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %I', routine.name, {write});
                 IF NOT routine.prosecdef THEN
                     EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %I', routine.name, {read});
                 END IF;
             END LOOP;
         END $broker$;"
    )
}

/// What PUBLIC may still do, because the owner cannot take it away: before
/// PostgreSQL 15 the schema public is somebody else's.
pub(super) async fn left_to_public(client: &Client) -> Result<Vec<String>, postgres::Error> {
    const ASK: &str = "
        SELECT CASE privilege WHEN 'CONNECT' THEN 'connect to '
               ELSE 'make temporary tables in ' END || current_database()
        FROM unnest(ARRAY['CONNECT', 'TEMPORARY']) AS privilege
        WHERE EXISTS (
            SELECT FROM pg_database d
            CROSS JOIN aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) acl
            WHERE d.datname = current_database()
              AND acl.grantee = 0 AND acl.privilege_type = privilege)
        UNION ALL
        SELECT 'make tables in the schema public'
        WHERE EXISTS (
            SELECT FROM pg_namespace n
            CROSS JOIN aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) acl
            WHERE n.nspname = 'public'
              AND acl.grantee = 0 AND acl.privilege_type = 'CREATE')";
    let rows = client.query(ASK, &[]).await.attempted(PUBLIC)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

const PUBLIC: &str = "look at what PUBLIC may do";

/// Whether [`super::grant`] would change nothing. Reads only.
pub async fn are_granted(
    client: &Client,
    service: &ServiceSpec,
    branch: &BranchId,
) -> Result<bool, postgres::Error> {
    if !ddl::is_right(client, service).await? {
        return Ok(false);
    }
    for access in Access::GROUPS {
        if !group_has_rights(client, service, access).await? {
            return Ok(false);
        }
    }
    Ok(has_nothing_for_public(client, service).await?
        && logins_of_other_branches(client, branch).await?.is_empty())
}

/// Whether PUBLIC has nothing that [`nothing_for_public`] would take away, and
/// the groups, which are there, have the functions.
async fn has_nothing_for_public(
    client: &Client,
    service: &ServiceSpec,
) -> Result<bool, postgres::Error> {
    const ASK: &str = "
        SELECT NOT EXISTS (
                   SELECT FROM pg_database d
                   CROSS JOIN aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) acl
                   WHERE d.datname = current_database() AND pg_has_role(d.datdba, 'USAGE')
                     AND acl.grantee = 0
                     AND acl.privilege_type IN ('CONNECT', 'TEMPORARY'))
           AND NOT EXISTS (
                   SELECT FROM unnest(ARRAY[$2::text, $3::text]) AS of_group, pg_database d
                   WHERE d.datname = current_database() AND pg_has_role(d.datdba, 'USAGE')
                     AND NOT has_database_privilege(of_group, d.oid, 'CONNECT'))
           AND NOT EXISTS (
                   SELECT FROM pg_namespace n
                   CROSS JOIN aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) acl
                   WHERE n.nspname = 'public' AND pg_has_role(n.nspowner, 'USAGE')
                     AND acl.grantee = 0 AND acl.privilege_type = 'CREATE')
           AND NOT EXISTS (
                   SELECT FROM pg_roles r
                   WHERE r.rolname IN (current_user, $4) AND NOT EXISTS (
                       SELECT FROM pg_default_acl d
                       WHERE d.defaclnamespace = 0 AND d.defaclobjtype = 'f'
                         AND d.defaclrole = r.oid
                         AND NOT EXISTS (SELECT FROM aclexplode(d.defaclacl) acl
                                         WHERE acl.grantee = 0)))
           AND NOT EXISTS (
                   SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                   WHERE n.nspname = $1 AND pg_has_role(p.proowner, 'USAGE')
                     AND (EXISTS (SELECT FROM aclexplode(
                                      coalesce(p.proacl, acldefault('f', p.proowner))) acl
                                  WHERE acl.grantee = 0)
                          OR p.prosecdef = has_function_privilege($2::text, p.oid, 'EXECUTE')
                          OR NOT has_function_privilege($3::text, p.oid, 'EXECUTE')))";
    let [read, write] = Access::GROUPS.map(|access| group_name(&service.name, access));
    let migrating = group_name(&service.name, Access::Ddl);
    let row = client
        .query_one(ASK, &[&service.schema, &read, &write, &migrating])
        .await
        .attempted(PUBLIC)?;
    Ok(row.get(0))
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
            SELECT c.oid, c.relkind = 'S' AS sequence, c.relname = ANY($3) AS history
            FROM pg_class c JOIN space ON c.relnamespace = space.oid
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        ), maker AS (
            SELECT oid FROM pg_roles WHERE rolname IN (current_user, $7)
        ), wanted AS (
            SELECT maker.oid AS maker, kind, privilege
            FROM maker, (SELECT 'r' AS kind, unnest($4::text[]) AS privilege
                         UNION ALL SELECT 'S', unnest($5::text[])
                         UNION ALL SELECT 'f', unnest($6::text[])) every
        ), promised AS (
            SELECT d.defaclrole AS maker, d.defaclobjtype::text AS kind,
                   acl.privilege_type AS privilege
            FROM pg_default_acl d
            JOIN space ON d.defaclnamespace = space.oid
            CROSS JOIN aclexplode(d.defaclacl) acl
            JOIN role ON acl.grantee = role.oid
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
           AND NOT EXISTS (SELECT maker, kind, privilege FROM wanted
                           EXCEPT SELECT maker, kind, privilege FROM promised)";
    let group = group_name(&service.name, access);
    let rights = access.rights();
    let row = client
        .query_one(
            ASK,
            &[
                &group,
                &service.schema,
                &OWN_TABLES.as_slice(),
                &rights.tables,
                &rights.sequences,
                &rights.functions,
                &group_name(&service.name, Access::Ddl),
            ],
        )
        .await
        .attempted(format!("look at the rights of the group {group}"))?;
    Ok(row.get(0))
}
