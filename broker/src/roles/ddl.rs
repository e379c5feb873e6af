//! Owning a service's schema, for roles that may change it: on branches that go
//! with their lease, and nowhere else.

use super::{Access, group_name, rights};
use crate::config::ServiceSpec;
use crate::postgres::{escape_identifier, escape_literal};

/// The statements that make a role the owner of the service's schema and all that
/// is in it, as far as the connection's role is owner of it now. What the role adds
/// is the groups' as well. It may make schemas, which migration tools try even for
/// one that is there, and temporary tables.
pub(super) fn own(service: &ServiceSpec, role: &str) -> String {
    let (schema, name) = (escape_identifier(&service.schema), escape_identifier(role));
    let rights: String = Access::GROUPS
        .map(|access| {
            let group = escape_identifier(&group_name(&service.name, access));
            rights::by_default(&schema, &name, &group, access)
        })
        .concat();
    format!(
        "GRANT {name} TO CURRENT_USER;
         GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {database} TO {name};
         ALTER SCHEMA {schema} OWNER TO {name};
         DO $broker$ DECLARE thing record; BEGIN
             FOR thing IN
                 SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
                                       WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'S' THEN 'SEQUENCE'
                                       ELSE 'TABLE' END AS kind,
                        c.oid::regclass::text AS name, c.relowner AS owner
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = {space} AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
                   -- A column's own sequence goes with its table.
                   AND NOT (c.relkind = 'S' AND EXISTS (
                       SELECT FROM pg_depend d
                       WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                         AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0))
                 UNION ALL
                 SELECT 'TYPE', t.oid::regtype::text, t.typowner
                 FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
                 LEFT JOIN pg_class c ON c.oid = t.typrelid
                 WHERE n.nspname = {space}
                   AND (t.typtype IN ('e', 'd', 'r') OR t.typtype = 'c' AND c.relkind = 'c')
                 UNION ALL
                 SELECT 'ROUTINE', p.oid::regprocedure::text, p.proowner
                 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                 WHERE n.nspname = {space}
             LOOP
                 IF pg_has_role(thing.owner, 'USAGE') THEN
                     EXECUTE format('ALTER %s %s OWNER TO %I', thing.kind, thing.name, {role});
                 END IF;
             END LOOP;
         END $broker$;
         {rights}",
        database = escape_identifier(&service.database),
        space = escape_literal(&service.schema),
        role = escape_literal(role),
    )
}
