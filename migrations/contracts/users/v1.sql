-- The queries of users.v1, as user-service/src/store.rs makes them, with names as revisions
-- have them. The examples are of the seeds' Alice and Bob, and run without them too.

-- GetUser; UpdateUser and DeleteUser with an etag.
-- example: 1
SELECT id, name, email FROM users WHERE id = $1;

-- BatchGetUsers; calls of GetUser that come together.
-- example: ARRAY[1, 2]
SELECT id, name, email FROM users WHERE id = ANY($1);

-- StreamUsers.
SELECT id, name, email FROM users;

-- ListUsers, sorted by each field up and down: the first page, and one after a place.

-- example: 101
SELECT id, name, email FROM users ORDER BY id LIMIT $1;
-- example: 1, 101
SELECT id, name, email FROM users WHERE id > $1 ORDER BY id LIMIT $2;
-- example: 101
SELECT id, name, email FROM users ORDER BY id DESC LIMIT $1;
-- example: 2, 101
SELECT id, name, email FROM users WHERE id < $1 ORDER BY id DESC LIMIT $2;
-- example: 101
SELECT id, name, email FROM users ORDER BY name, id LIMIT $1;
-- example: 'Alice', 1, 101
SELECT id, name, email FROM users WHERE (name, id) > ($1, $2) ORDER BY name, id LIMIT $3;
-- example: 101
SELECT id, name, email FROM users ORDER BY name DESC, id DESC LIMIT $1;
-- example: 'Bob', 2, 101
SELECT id, name, email FROM users WHERE (name, id) < ($1, $2) ORDER BY name DESC, id DESC LIMIT $3;
-- example: 101
SELECT id, name, email FROM users ORDER BY email LIMIT $1;
-- example: 'alice@example.com', 101
SELECT id, name, email FROM users WHERE email > $1 ORDER BY email LIMIT $2;
-- example: 101
SELECT id, name, email FROM users ORDER BY email DESC LIMIT $1;
-- example: 'bob@example.com', 101
SELECT id, name, email FROM users WHERE email < $1 ORDER BY email DESC LIMIT $2;

-- ListUsers with a filter: a text, what begins with one, and what begins with the last one
-- there is. Terms, orders and places combine as they like: here is each, and the longest.

-- example: 'Alice', 101
SELECT id, name, email FROM users WHERE name = $1 ORDER BY id LIMIT $2;
-- example: 'Al', 'Am', 101
SELECT id, name, email FROM users WHERE name >= $1 AND name < $2 ORDER BY id LIMIT $3;
-- example: E'\U0010FFFF', 101
SELECT id, name, email FROM users WHERE name >= $1 ORDER BY id LIMIT $2;
-- example: 'alice@example.com', 101
SELECT id, name, email FROM users WHERE email = $1 ORDER BY id LIMIT $2;
-- example: 'al', 'am', 101
SELECT id, name, email FROM users WHERE email >= $1 AND email < $2 ORDER BY id LIMIT $3;
-- example: E'\U0010FFFF', 101
SELECT id, name, email FROM users WHERE email >= $1 ORDER BY id LIMIT $2;
-- example: 'Al', 'Am', 'al', 'am', 'Al', 1, 101
SELECT id, name, email FROM users
WHERE name >= $1 AND name < $2 AND email >= $3 AND email < $4 AND (name, id) > ($5, $6)
ORDER BY name, id LIMIT $7;

-- CreateUser without a request_id.
-- example: 'Carol', 'carol@rehearsal.example'
INSERT INTO users (name, email) VALUES ($1, $2)
RETURNING id, name, email;

-- CreateUser with a request_id.
-- example: '00000000-0000-4000-8000-000000000001', '\x6b86b273', 'Carol', 'carol@rehearsal.example'
WITH next AS MATERIALIZED (
    SELECT nextval('users_id_seq')::integer AS user_id
), request AS (
    INSERT INTO requests (id, body, user_id) SELECT $1, $2, user_id FROM next
    ON CONFLICT (id) DO UPDATE SET id = excluded.id
    RETURNING body, user_id
), made AS (
    INSERT INTO users (id, name, email)
    SELECT user_id, $3, $4 FROM request JOIN next USING (user_id)
) SELECT body, user_id FROM request;

-- After some of these: requests of more than a day ago are forgotten.
DELETE FROM requests WHERE id = ANY (ARRAY(
    SELECT id FROM requests WHERE create_time < now() - interval '24 hours'
    ORDER BY create_time LIMIT 128 FOR UPDATE SKIP LOCKED));

-- UpdateUser, without an etag and with one.

-- example: 'Alicia', 1
UPDATE users SET name = $1 WHERE id = $2
RETURNING id, name, email;
-- example: 'Alicia', 1, 'Alice', 'alice@example.com'
UPDATE users SET name = $1
WHERE id = $2 AND name IS NOT DISTINCT FROM $3 AND email IS NOT DISTINCT FROM $4
RETURNING id, name, email;
-- example: 'alicia@rehearsal.example', 1
UPDATE users SET email = $1 WHERE id = $2
RETURNING id, name, email;
-- example: 'alicia@rehearsal.example', 1, 'Alice', 'alice@example.com'
UPDATE users SET email = $1
WHERE id = $2 AND name IS NOT DISTINCT FROM $3 AND email IS NOT DISTINCT FROM $4
RETURNING id, name, email;
-- example: 'Alicia', 'alicia@rehearsal.example', 1
UPDATE users SET name = $1, email = $2 WHERE id = $3
RETURNING id, name, email;
-- example: 'Alicia', 'alicia@rehearsal.example', 1, 'Alice', 'alice@example.com'
UPDATE users SET name = $1, email = $2
WHERE id = $3 AND name IS NOT DISTINCT FROM $4 AND email IS NOT DISTINCT FROM $5
RETURNING id, name, email;

-- DeleteUser, without an etag and with one.

-- example: 1
DELETE FROM users WHERE id = $1;
-- example: 1, 'Alice', 'alice@example.com'
DELETE FROM users
WHERE id = $1 AND name IS NOT DISTINCT FROM $2 AND email IS NOT DISTINCT FROM $3;
