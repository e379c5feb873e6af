//! Sequences and enums.

use tokio_postgres::{Client, Error};

use super::{Schema, Sequence, rows, tables};

const SEQUENCES: &str = "
    SELECT own.name, t.relname::text, a.attname::text,
           format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmin, s.seqmax,
           s.seqcache, s.seqcycle
    FROM own
    JOIN pg_sequence s ON s.seqrelid = own.oid
    LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = own.oid
         AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
         AND d.deptype IN ('a', 'i')
    LEFT JOIN pg_class t ON t.oid = d.refobjid
    LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE d.deptype IS DISTINCT FROM 'i'
      AND coalesce(t.relname, '') NOT IN
          ('__diesel_schema_migrations', '__branch_broker_revisions',
           '__branch_broker_batches')";

const ENUMS: &str = "
    SELECT t.typname::text,
           ARRAY(SELECT e.enumlabel::text FROM pg_enum e
                 WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder)
    FROM pg_type t
    JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE n.nspname = $1 AND t.typtype = 'e'
      AND NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid
                        AND d.deptype = 'e')";

pub(super) async fn read(client: &Client, schema: &str, into: &mut Schema) -> Result<(), Error> {
    for row in rows(client, SEQUENCES, schema).await? {
        let owner: (Option<String>, Option<String>) = (row.try_get(1)?, row.try_get(2)?);
        let sequence = Sequence {
            options: tables::options(&row, 3)?,
            owner: owner.0.zip(owner.1),
        };
        into.sequences.insert(row.try_get(0)?, sequence);
    }
    for row in rows(client, ENUMS, schema).await? {
        into.enums.insert(row.try_get(0)?, row.try_get(1)?);
    }
    Ok(())
}
