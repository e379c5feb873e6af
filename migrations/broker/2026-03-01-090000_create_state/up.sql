-- What outlives a broker. Brokers that share the database share all of it.
-- The schema broker is made by who migrates, before this runs.

-- One row. Every write raises `version` first: the row's lock puts the commits
-- of all brokers in one order, and each changed row carries the version that
-- changed it, so that others find what is new to them.
-- `epoch` goes up when another broker takes over the work in the background.
CREATE TABLE broker.head (
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    version bigint NOT NULL,
    epoch bigint NOT NULL
);
INSERT INTO broker.head (version, epoch) VALUES (0, 0);

-- A lease that has ended stays for a while, so that other brokers see its end. It
-- has a reason then, and `expire_time` is when.
CREATE TABLE broker.leases (
    id uuid PRIMARY KEY,
    version bigint NOT NULL,
    binding text NOT NULL,
    access text NOT NULL CHECK (access IN ('read_only', 'read_write')),
    pooled boolean NOT NULL,
    holder text NOT NULL,
    owner text,
    branch text NOT NULL,
    generation bigint NOT NULL,
    role text NOT NULL,
    key text NOT NULL,
    create_time timestamptz NOT NULL,
    expire_time timestamptz NOT NULL,
    renewals bigint NOT NULL,
    note_time timestamptz NOT NULL,
    end_reason text
);
CREATE INDEX leases_version ON broker.leases (version);

CREATE TABLE broker.generations (
    binding text PRIMARY KEY,
    version bigint NOT NULL,
    number bigint NOT NULL CHECK (number > 0),
    branch text NOT NULL,
    address text NOT NULL,
    revision text,
    reset_at timestamptz,
    since timestamptz NOT NULL,
    reason text NOT NULL
);
CREATE INDEX generations_version ON broker.generations (version);

-- Login roles that leases had, on each branch. One that no lease has any more is
-- closed, whichever broker gave the leases.
CREATE TABLE broker.roles (
    branch text NOT NULL,
    role text NOT NULL,
    version bigint NOT NULL,
    binding text NOT NULL,
    status text NOT NULL CHECK (status IN ('open', 'closing', 'closed')),
    closings bigint NOT NULL,
    PRIMARY KEY (branch, role)
);
CREATE INDEX roles_version ON broker.roles (version);

-- Requests that may come again: what each was answered with. The body is a hash.
CREATE TABLE broker.request_ids (
    caller text NOT NULL,
    method text NOT NULL,
    id uuid NOT NULL,
    version bigint NOT NULL,
    body bytea NOT NULL,
    resource text NOT NULL,
    expire_time timestamptz NOT NULL,
    PRIMARY KEY (caller, method, id)
);
CREATE INDEX request_ids_version ON broker.request_ids (version);

CREATE TABLE broker.audit_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_time timestamptz NOT NULL,
    action text NOT NULL,
    binding text,
    branch text,
    lease text,
    holder text NOT NULL,
    message text NOT NULL
);
CREATE INDEX audit_events_event_time ON broker.audit_events (event_time);

-- Work that calls wait for (google.longrunning): what was asked, how far it is, and
-- what came of it. The three blobs are protobuf messages.
CREATE TABLE broker.operations (
    id uuid PRIMARY KEY,
    version bigint NOT NULL,
    caller text NOT NULL,
    method text NOT NULL,
    request bytea NOT NULL,
    metadata bytea NOT NULL,
    result bytea,
    done boolean NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL
);
CREATE INDEX operations_version ON broker.operations (version);

-- Branches that are the broker's own, or are about to be: a row is written before
-- the call that makes, preserves or deletes one. `branch` is not known before the
-- answer.
CREATE TABLE broker.branches (
    name text PRIMARY KEY,
    version bigint NOT NULL,
    branch text,
    intent text NOT NULL CHECK (intent IN ('create', 'own', 'preserve', 'delete', 'gone')),
    update_time timestamptz NOT NULL
);
CREATE INDEX branches_version ON broker.branches (version);
