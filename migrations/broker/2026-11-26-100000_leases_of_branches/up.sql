-- Leases on any branch, leases that own their branch, and a login role for each
-- holder in place of one for each binding.

-- Leases of before shared the role of their binding, which nobody has any more.
-- They end; a holder that renews one is told so and acquires another.
UPDATE broker.leases SET end_reason = 'expired' WHERE end_reason IS NULL;
DELETE FROM broker.roles;

ALTER TABLE broker.leases
    DROP CONSTRAINT leases_access_check,
    ADD CONSTRAINT leases_access_check CHECK (access IN ('read_only', 'read_write', 'ddl')),
    ALTER COLUMN binding DROP NOT NULL,
    ADD COLUMN service text,
    -- Of a lease that owns its branch: what that was forked from, and when Neon
    -- deletes it whatever becomes of the lease.
    ADD COLUMN parent text,
    ADD COLUMN branch_expire_time timestamptz,
    -- One that was revoked stays until its role is closed.
    ADD COLUMN revoke_time timestamptz,
    ADD COLUMN revoke_reason text;
UPDATE broker.leases SET service = split_part(binding, '/', 2);
ALTER TABLE broker.leases ALTER COLUMN service SET NOT NULL;

-- A role is of one holder, service and access on a branch. `generation` is in its
-- name, so that no role ever has the name, and with it the password, of one before.
-- It is written down before it is made: until then it has no `valid_until`.
-- `failures` counts the tries to close it that came to nothing, `failure` says why.
ALTER TABLE broker.roles
    DROP CONSTRAINT roles_status_check,
    ADD CONSTRAINT roles_status_check
        CHECK (status IN ('open', 'retired', 'revoked', 'closing', 'closed')),
    DROP COLUMN binding,
    DROP COLUMN closings,
    ADD COLUMN service text NOT NULL,
    ADD COLUMN database text NOT NULL,
    ADD COLUMN access text NOT NULL CHECK (access IN ('read_only', 'read_write', 'ddl')),
    ADD COLUMN holder text NOT NULL,
    ADD COLUMN generation bigint NOT NULL,
    ADD COLUMN key text NOT NULL,
    ADD COLUMN valid_until timestamptz,
    ADD COLUMN reserved_until timestamptz NOT NULL,
    ADD COLUMN failures integer NOT NULL,
    ADD COLUMN failure text NOT NULL,
    ADD COLUMN update_time timestamptz NOT NULL;

-- A branch that goes with a lease: whose, and until when it is being made for it.
ALTER TABLE broker.branches
    ADD COLUMN lease uuid,
    ADD COLUMN holder text,
    ADD COLUMN making_until timestamptz;

-- What is told of a service is not always told of a binding.
ALTER TABLE broker.audit_events ADD COLUMN service text;
UPDATE broker.audit_events SET service = split_part(binding, '/', 2) WHERE binding IS NOT NULL;
