UPDATE broker.roles SET status = 'closing' WHERE status = 'reserved';
ALTER TABLE broker.roles
    DROP CONSTRAINT roles_status_check,
    ADD CONSTRAINT roles_status_check
        CHECK (status IN ('open', 'retired', 'revoked', 'closing', 'closed'));

-- What a broker of before takes for its own, and deletes: a branch whose lease was
-- never given.
UPDATE broker.branches SET lease = warm, holder = '', making_until = update_time
WHERE lease IS NULL AND warm IS NOT NULL;
ALTER TABLE broker.branches
    DROP COLUMN pool,
    DROP COLUMN warm,
    DROP COLUMN made_as,
    DROP COLUMN fork_time,
    DROP COLUMN branch_expire_time,
    DROP COLUMN role;
