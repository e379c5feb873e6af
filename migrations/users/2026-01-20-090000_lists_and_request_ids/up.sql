-- Texts are compared byte by byte: pages are sorted the same on every machine, and
-- one index serves equality, order and what begins with a text. No row is rewritten,
-- users_email_key is built again.
ALTER TABLE users
    ALTER COLUMN name TYPE text COLLATE "C",
    ALTER COLUMN email TYPE text COLLATE "C";

-- Names repeat: the id tells the place among equal ones. Emails do not.
CREATE INDEX users_name_id_index ON users (name, id);

-- What was created under an id of the caller's own: written with the user, in one
-- statement. Rows older than a day are deleted now and then, by later ones.
CREATE TABLE requests (
    id uuid PRIMARY KEY,
    -- A hash of the user as it was asked for.
    body bytea NOT NULL,
    -- No reference: the first answer stays the answer when the user is gone.
    user_id integer NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX requests_create_time_index ON requests (create_time);
