-- Its check goes with it.
ALTER TABLE invoices DROP COLUMN paid_at;
