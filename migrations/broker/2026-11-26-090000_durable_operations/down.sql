DROP INDEX broker.leases_ended, broker.operations_done, broker.branches_gone, broker.request_ids_expire_time;
ALTER TABLE broker.operations
    DROP COLUMN note,
    DROP COLUMN committed,
    DROP COLUMN heartbeat_time,
    DROP COLUMN runner,
    DROP COLUMN branch,
    ALTER COLUMN metadata DROP DEFAULT;
