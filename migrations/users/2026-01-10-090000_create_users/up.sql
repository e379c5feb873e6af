-- Names are unqualified: the service's own schema comes from the search_path
-- of the role that migrates.
CREATE TABLE users (
    id serial PRIMARY KEY,
    name text NOT NULL,
    email text NOT NULL,
    CONSTRAINT users_email_key UNIQUE (email)
);
