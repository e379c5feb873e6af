-- Bindings that move to another branch, or are held back while theirs gets other data.

-- What a switch or a retirement made of a binding. It holds for as long as broker.toml
-- declares the branch `declared`: the binding lives on `switched_to` (its name then;
-- `branch` is what counts), or without one it is retired.
ALTER TABLE broker.generations
    ADD COLUMN declared text,
    ADD COLUMN switched_to text;

-- A branch that is to go with the last of its children.
ALTER TABLE broker.branches
    DROP CONSTRAINT branches_intent_check,
    ADD CONSTRAINT branches_intent_check
        CHECK (intent IN ('create', 'own', 'preserve', 'retired', 'delete', 'gone'));

-- The newest move of each binding, with the generation that it announced and who votes
-- on it. `deadline`: until when they may acknowledge, hold back or drain, as the phase
-- has it. `operation`: whose work it is; a pause has none.
CREATE TABLE broker.moves (
    binding text PRIMARY KEY,
    version bigint NOT NULL,
    operation uuid,
    generation bigint NOT NULL,
    source text NOT NULL,
    target text NOT NULL,
    phase text NOT NULL CHECK (phase IN
        ('announced', 'fencing', 'committed', 'done', 'reverted', 'paused')),
    fence boolean NOT NULL,
    voters uuid[] NOT NULL,
    deadline timestamptz NOT NULL,
    message text NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL
);
CREATE INDEX moves_version ON broker.moves (version);

-- Leases whose watch acknowledges: through which streams, each with the broker that it
-- leads to, and what it has said: the highest generation that was taken over, refused,
-- drained. `gone_time`: since when there is no stream.
CREATE TABLE broker.watches (
    lease uuid PRIMARY KEY REFERENCES broker.leases ON DELETE CASCADE,
    version bigint NOT NULL,
    streams uuid[] NOT NULL,
    stream_brokers uuid[] NOT NULL,
    acked bigint NOT NULL,
    refused bigint NOT NULL,
    refusal text NOT NULL,
    drained bigint NOT NULL,
    gone_time timestamptz
);
CREATE INDEX watches_version ON broker.watches (version);

-- Brokers that hold such streams, and when they last said so. They say it while a
-- binding moves: the streams of one that does not are gone.
CREATE TABLE broker.brokers (
    id uuid PRIMARY KEY,
    version bigint NOT NULL,
    seen_time timestamptz NOT NULL
);
CREATE INDEX brokers_version ON broker.brokers (version);
