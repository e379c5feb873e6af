//! What is seen to be there, but not written: functions, triggers and the like.

use tokio_postgres::{Client, Error};

use super::{Noticed, Schema, rows};

/// One query for all: kind, name, definition, and the relation that it goes with.
const NOTICED: &str = "
, types AS (
    SELECT t.*, quote_ident(t.typname) AS name
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE n.nspname = $1
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass
                      AND d.objid = t.oid AND d.deptype = 'e')
), fields AS (
    SELECT a.attrelid, string_agg(
        quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
        || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
        || coalesce(CASE a.attgenerated WHEN '' THEN ' DEFAULT ' ELSE ' GENERATED AS ' END
                    || pg_get_expr(d.adbin, d.adrelid, true), '')
        || CASE WHEN a.attidentity = '' THEN '' ELSE ' IDENTITY' END,
        ', ' ORDER BY a.attname) AS fields
    FROM own
    JOIN pg_attribute a ON a.attrelid = own.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE NOT own.is_ordinary
    GROUP BY a.attrelid
)
SELECT CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate'
                      ELSE 'function' END,
       quote_ident(p.proname) || '(' || pg_get_function_identity_arguments(p.oid) || ')',
       CASE WHEN p.prokind <> 'a' THEN
            replace(pg_get_functiondef(p.oid),
                    ' ' || quote_ident(n.nspname) || '.' || quote_ident(p.proname) || '(',
                    ' ' || quote_ident(p.proname) || '(')
       ELSE (SELECT concat_ws(' ', pg_get_function_result(p.oid), g.aggtransfn,
                              g.aggfinalfn, g.aggcombinefn, format_type(g.aggtranstype, NULL),
                              g.agginitval, g.aggkind)
             FROM pg_aggregate g WHERE g.aggfnoid = p.oid) END,
       NULL
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = $1
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
                  AND d.objid = p.oid AND d.deptype IN ('e', 'i'))
UNION ALL
SELECT 'trigger', quote_ident(t.tgname) || ' on ' || quote_ident(own.name),
       pg_get_triggerdef(t.oid, true)
       || CASE t.tgenabled WHEN 'O' THEN '' ELSE ' enabled: ' || t.tgenabled::text END,
       own.name
FROM own JOIN pg_trigger t ON t.tgrelid = own.oid
WHERE NOT t.tgisinternal AND t.tgparentid = 0
UNION ALL
SELECT 'policy', quote_ident(p.polname) || ' on ' || quote_ident(own.name),
       concat_ws(' ', CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                 'FOR', p.polcmd::text, 'TO',
                 (SELECT string_agg(CASE o WHEN 0 THEN 'public' ELSE o::regrole::text END, ', '
                                    ORDER BY o = 0, o::regrole::text)
                  FROM unnest(p.polroles) AS u (o)),
                 'USING (' || pg_get_expr(p.polqual, p.polrelid, true) || ')',
                 'WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid, true) || ')'),
       own.name
FROM own JOIN pg_policy p ON p.polrelid = own.oid
UNION ALL
SELECT 'rule', quote_ident(r.rulename) || ' on ' || quote_ident(own.name),
       replace(pg_get_ruledef(r.oid, true), quote_ident($1) || '.', ''), own.name
FROM own JOIN pg_rewrite r ON r.ev_class = own.oid
WHERE r.rulename <> '_RETURN'
UNION ALL
SELECT 'domain', t.name,
       concat_ws(' ', format_type(t.typbasetype, t.typtypmod),
                 CASE WHEN t.typnotnull THEN 'NOT NULL' END, 'DEFAULT ' || t.typdefault,
                 (SELECT string_agg('CONSTRAINT ' || quote_ident(k.conname) || ' '
                                    || pg_get_constraintdef(k.oid, true), ' '
                                    ORDER BY k.conname)
                  FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c')),
       NULL
FROM types t WHERE t.typtype = 'd'
UNION ALL
SELECT 'range type', t.name,
       concat_ws(' ', format_type(r.rngsubtype, NULL), nullif(r.rngcanonical::oid, 0)::regproc,
                 nullif(r.rngsubdiff::oid, 0)::regproc),
       NULL
FROM types t JOIN pg_range r ON r.rngtypid = t.oid
UNION ALL
SELECT 'base type', t.name, concat_ws(' ', t.typinput, t.typoutput, t.typlen), NULL
FROM types t WHERE t.typtype = 'b' AND t.typcategory <> 'A'
UNION ALL
SELECT CASE own.relkind WHEN 'c' THEN 'composite type' WHEN 'p' THEN 'partitioned table'
                        WHEN 'f' THEN 'foreign table' ELSE 'partition or child' END,
       quote_ident(own.name),
       concat_ws(' ', '(' || fields.fields || ')',
                 (SELECT string_agg(quote_ident(k.conname) || ' '
                                    || pg_get_constraintdef(k.oid, true), ', '
                                    ORDER BY k.conname)
                  FROM pg_constraint k WHERE k.conrelid = own.oid
                       AND k.contype IN ('p', 'u', 'c', 'f', 'x')),
                 (SELECT string_agg(replace(pg_get_indexdef(i.indexrelid, 0, true),
                                            quote_ident($1) || '.', ''), ', '
                                    ORDER BY i.indexrelid::regclass::text)
                  FROM pg_index i WHERE i.indrelid = own.oid
                       AND NOT EXISTS (SELECT FROM pg_constraint k
                                       WHERE k.conindid = i.indexrelid
                                         AND k.contype IN ('p', 'u', 'x'))),
                 'PARTITION BY ' || CASE own.relkind WHEN 'p'
                                    THEN pg_get_partkeydef(own.oid) END,
                 (SELECT string_agg('OF ' || i.inhparent::regclass, ' '
                                    ORDER BY i.inhparent::regclass::text)
                  FROM pg_inherits i WHERE i.inhrelid = own.oid),
                 (SELECT pg_get_expr(c.relpartbound, c.oid, true)
                  FROM pg_class c WHERE c.oid = own.oid)),
       NULL
FROM own LEFT JOIN fields ON fields.attrelid = own.oid
WHERE own.relkind IN ('c', 'p', 'f') OR (own.relkind = 'r' AND NOT own.is_ordinary)
UNION ALL
SELECT 'options of table', quote_ident(own.name),
       (SELECT string_agg(o, ', ' ORDER BY o) FROM unnest(own.reloptions) AS u (o)), own.name
FROM own WHERE own.reloptions IS NOT NULL AND own.relkind IN ('r', 'p')
UNION ALL
SELECT 'invalid index', quote_ident(x.relname),
       replace(pg_get_indexdef(i.indexrelid, 0, true), quote_ident($1) || '.', ''), own.name
FROM own JOIN pg_index i ON i.indrelid = own.oid JOIN pg_class x ON x.oid = i.indexrelid
WHERE NOT i.indisvalid AND (own.is_ordinary OR own.relkind = 'm')
UNION ALL
SELECT 'statistics', quote_ident(s.stxname),
       replace(pg_get_statisticsobjdef(s.oid), quote_ident($1) || '.', ''), own.name
FROM own JOIN pg_statistic_ext s ON s.stxrelid = own.oid
";

pub(super) async fn read(client: &Client, schema: &str, into: &mut Schema) -> Result<(), Error> {
    for row in rows(client, NOTICED, schema).await? {
        let noticed = Noticed {
            definition: row.try_get::<_, Option<_>>(2)?.unwrap_or_default(),
            on: row.try_get(3)?,
        };
        let key = (row.try_get(0)?, row.try_get(1)?);
        into.noticed.insert(key, noticed);
    }
    Ok(())
}
