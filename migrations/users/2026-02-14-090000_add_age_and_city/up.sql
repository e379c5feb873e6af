-- Both may be unknown: v1's rows have neither.
ALTER TABLE users
    ADD COLUMN age integer CONSTRAINT users_age_check CHECK (age BETWEEN 0 AND 150),
    ADD COLUMN city text;
