-- The ids are given, not drawn: a sequence does not go back with a transaction,
-- so a seed that is cut off and run again would draw others.
INSERT INTO users (id, name, email) VALUES
    (1, 'Alice', 'alice@example.com'),
    (2, 'Bob', 'bob@example.com');
SELECT setval(pg_get_serial_sequence('users', 'id'), (SELECT max(id) FROM users));
