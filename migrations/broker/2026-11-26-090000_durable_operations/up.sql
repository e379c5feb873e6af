-- Operations outlive the broker that runs them. `branch` is the name of the branch
-- that is worked on, once there is one; it takes the place of `metadata`, which
-- stays for brokers of before. `runner` is the process that does the work, and
-- `heartbeat_time` when it last said so: one that says nothing is taken to be gone.
-- From `committed` on the world is changed and nobody cancels; `note` is what was
-- known of the world just before, as JSON.
ALTER TABLE broker.operations
    ALTER COLUMN metadata SET DEFAULT '',
    ADD COLUMN branch text NOT NULL DEFAULT '',
    ADD COLUMN runner uuid,
    ADD COLUMN heartbeat_time timestamptz,
    ADD COLUMN committed boolean NOT NULL DEFAULT false,
    ADD COLUMN note text;

-- What is old is removed some rows at a time, and is found by these.
CREATE INDEX leases_ended ON broker.leases (expire_time) WHERE end_reason IS NOT NULL;
CREATE INDEX operations_done ON broker.operations (update_time) WHERE done;
CREATE INDEX branches_gone ON broker.branches (update_time) WHERE intent = 'gone';
CREATE INDEX request_ids_expire_time ON broker.request_ids (expire_time);
