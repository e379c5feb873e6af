-- Ephemeral branches that are kept ready, for whoever asks next.

-- A branch of a warm pool: for which lease it is made, what all of it was made as,
-- when it was forked, when Neon deletes it by itself, and the login role that waits on
-- it. `making_until` is there while it is being made: without it, it is ready. With a
-- lease as well, it was handed out, and Neon has its name of before.
ALTER TABLE broker.branches
    ADD COLUMN pool text,
    ADD COLUMN warm uuid,
    ADD COLUMN made_as text,
    ADD COLUMN fork_time timestamptz,
    ADD COLUMN branch_expire_time timestamptz,
    ADD COLUMN role text;

-- A role that waits for its holder.
ALTER TABLE broker.roles
    DROP CONSTRAINT roles_status_check,
    ADD CONSTRAINT roles_status_check
        CHECK (status IN ('reserved', 'open', 'retired', 'revoked', 'closing', 'closed'));
