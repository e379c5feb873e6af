DROP VIEW open_invoices;
DROP TABLE invoice_lines, invoices, accounts;
