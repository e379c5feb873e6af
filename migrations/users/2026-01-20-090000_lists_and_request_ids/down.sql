DROP TABLE requests;
DROP INDEX users_name_id_index;
ALTER TABLE users
    ALTER COLUMN name TYPE text COLLATE "default",
    ALTER COLUMN email TYPE text COLLATE "default";
