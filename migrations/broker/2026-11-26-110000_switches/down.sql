DROP TABLE broker.brokers;
DROP TABLE broker.watches;
DROP TABLE broker.moves;
ALTER TABLE broker.generations
    DROP COLUMN switched_to,
    DROP COLUMN declared;
UPDATE broker.branches SET intent = 'own' WHERE intent = 'retired';
ALTER TABLE broker.branches
    DROP CONSTRAINT branches_intent_check,
    ADD CONSTRAINT branches_intent_check
        CHECK (intent IN ('create', 'own', 'preserve', 'delete', 'gone'));
