-- The ids are given, not drawn, as in users/v1.sql.
INSERT INTO accounts (id, name, currency) VALUES
    (1, 'Acme', 'EUR'),
    (2, 'Globex', 'USD');
INSERT INTO invoices (id, account_id, currency, status, issued_at, paid_at) VALUES
    (1, 1, 'EUR', 'paid', '2026-10-01 09:00+00', '2026-10-12 14:30+00'),
    (2, 1, 'EUR', 'open', '2026-11-01 09:00+00', NULL),
    (3, 2, 'USD', 'open', '2026-11-01 09:00+00', NULL);
INSERT INTO invoice_lines (invoice_id, position, description, quantity, unit_cents) VALUES
    (1, 1, 'Team plan, October', 1, 4900),
    (2, 1, 'Team plan, November', 1, 4900),
    (2, 2, 'Seats', 3, 900),
    (3, 1, 'Support, hours', 8, 15000);
SELECT setval(pg_get_serial_sequence('accounts', 'id'), (SELECT max(id) FROM accounts));
SELECT setval(pg_get_serial_sequence('invoices', 'id'), (SELECT max(id) FROM invoices));
