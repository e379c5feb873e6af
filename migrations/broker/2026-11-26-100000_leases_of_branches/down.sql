ALTER TABLE broker.audit_events DROP COLUMN service;

ALTER TABLE broker.branches
    DROP COLUMN lease,
    DROP COLUMN holder,
    DROP COLUMN making_until;

DELETE FROM broker.roles;
ALTER TABLE broker.roles
    DROP CONSTRAINT roles_status_check,
    ADD CONSTRAINT roles_status_check CHECK (status IN ('open', 'closing', 'closed')),
    DROP COLUMN service,
    DROP COLUMN database,
    DROP COLUMN access,
    DROP COLUMN holder,
    DROP COLUMN generation,
    DROP COLUMN key,
    DROP COLUMN valid_until,
    DROP COLUMN reserved_until,
    DROP COLUMN failures,
    DROP COLUMN failure,
    DROP COLUMN update_time,
    ADD COLUMN binding text NOT NULL,
    ADD COLUMN closings bigint NOT NULL;

-- What the tables of before have no place for.
DELETE FROM broker.leases WHERE binding IS NULL OR access = 'ddl' OR revoke_time IS NOT NULL;
ALTER TABLE broker.leases
    DROP CONSTRAINT leases_access_check,
    ADD CONSTRAINT leases_access_check CHECK (access IN ('read_only', 'read_write')),
    ALTER COLUMN binding SET NOT NULL,
    DROP COLUMN service,
    DROP COLUMN parent,
    DROP COLUMN branch_expire_time,
    DROP COLUMN revoke_time,
    DROP COLUMN revoke_reason;
