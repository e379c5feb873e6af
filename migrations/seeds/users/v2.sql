-- The rows are v1's, through the fork; this adds what v1 did not know.
UPDATE users SET age = 25, city = 'New York' WHERE email = 'alice@example.com';
UPDATE users SET age = 30, city = 'San Francisco' WHERE email = 'bob@example.com';
