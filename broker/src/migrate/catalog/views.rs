//! Views, and what they are built upon.

use tokio_postgres::{Client, Error};

use super::{Schema, Use, View, rows};

const VIEWS: &str = "
    SELECT own.name, own.relkind = 'm', pg_get_viewdef(own.oid, true),
           coalesce(own.reloptions, '{}'),
           ARRAY(SELECT a.attname::text FROM pg_attribute a
                 WHERE a.attrelid = own.oid AND a.attnum > 0 ORDER BY a.attnum),
           ARRAY(SELECT format_type(a.atttypid, a.atttypmod)
                        || coalesce(' ' || nullif(a.attcollation, 0)::regcollation, '')
                 FROM pg_attribute a
                 WHERE a.attrelid = own.oid AND a.attnum > 0 ORDER BY a.attnum)
    FROM own WHERE own.relkind IN ('v', 'm')";

/// An array's type is used where its elements' is.
const USES: &str = "
    SELECT DISTINCT own.name, c.relname::text, a.attname::text, t.typname::text,
           kc.relname::text, k.conname::text
    FROM own
    JOIN pg_rewrite r ON r.ev_class = own.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
    LEFT JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid
         AND c.relnamespace = own.relnamespace AND c.oid <> own.oid
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND d.refobjsubid > 0
         AND a.attnum = d.refobjsubid
    LEFT JOIN pg_type u ON d.refclassid = 'pg_type'::regclass AND u.oid = d.refobjid
    LEFT JOIN pg_type t ON t.oid = CASE WHEN u.typcategory = 'A' THEN u.typelem ELSE u.oid END
         AND t.typnamespace = own.relnamespace
    LEFT JOIN pg_constraint k ON d.refclassid = 'pg_constraint'::regclass
         AND k.oid = d.refobjid
    LEFT JOIN pg_class kc ON kc.oid = k.conrelid AND kc.relnamespace = own.relnamespace
    WHERE own.relkind IN ('v', 'm')
      AND (c.oid IS NOT NULL OR t.oid IS NOT NULL OR kc.oid IS NOT NULL)
    ORDER BY 1, 2, 3, 4, 5, 6";

pub(super) async fn read(client: &Client, schema: &str, into: &mut Schema) -> Result<(), Error> {
    for row in rows(client, VIEWS, schema).await? {
        let (names, types): (Vec<String>, Vec<String>) = (row.try_get(4)?, row.try_get(5)?);
        let definition: String = row.try_get(2)?;
        let view = View {
            is_materialized: row.try_get(1)?,
            definition: definition.trim().trim_end_matches(';').to_owned(),
            options: row.try_get(3)?,
            columns: names.into_iter().zip(types).collect(),
            uses: Vec::new(),
        };
        into.views.insert(row.try_get(0)?, view);
    }
    for row in rows(client, USES, schema).await? {
        let Some(view) = into.views.get_mut(row.try_get::<_, &str>(0)?) else {
            continue;
        };
        if let Some(name) = row.try_get(1)? {
            let column = row.try_get(2)?;
            view.uses.push(Use::Relation { name, column });
        }
        if let Some(name) = row.try_get(3)? {
            view.uses.push(Use::Type(name));
        }
        if let Some((table, name)) = Option::zip(row.try_get(4)?, row.try_get(5)?) {
            view.uses.push(Use::Constraint { table, name });
        }
    }
    Ok(())
}
