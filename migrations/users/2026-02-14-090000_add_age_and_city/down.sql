ALTER TABLE users
    DROP COLUMN city,
    DROP COLUMN age;
