-- When an invoice was paid. Of those that are paid already it is known that they were
-- not before they were issued.
ALTER TABLE invoices ADD COLUMN paid_at timestamptz;
UPDATE invoices SET paid_at = issued_at WHERE status = 'paid';
ALTER TABLE invoices
    ADD CONSTRAINT invoices_paid_at_check CHECK ((status = 'paid') = (paid_at IS NOT NULL));
