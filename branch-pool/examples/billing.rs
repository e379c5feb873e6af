//! A second service, billing, on a schema of its own in the database that users v1 lives
//! in: it leases what `services/billing/versions/v1` leads to, writes an invoice, and
//! prints who owes what.
//!
//! With `cargo xtask up` in another terminal:
//!
//! ```sh
//! cargo run --package branch-pool --example billing
//! ```
//!
//! The broker's address is the first argument, else BROKER_URL, else where `up` has it.
//! Each run writes one more invoice.

#![allow(missing_docs, reason = "what diesel::table! makes has none")]

use branch_pool::{Binding, BranchPool, Connection, Options};
use diesel::prelude::*;
use diesel_async::{AsyncConnection, RunQueryDsl};

// Unqualified: the lease's role has the service's schema as its search_path. Only what is
// used here; the whole is in migrations/billing.
diesel::table! {
    invoices (id) { id -> BigInt, account_id -> BigInt, currency -> Text, }
}
diesel::table! {
    invoice_lines (invoice_id, position) {
        invoice_id -> BigInt,
        position -> Integer,
        description -> Text,
        quantity -> Integer,
        unit_cents -> BigInt,
    }
}
// A view.
diesel::table! {
    open_invoices (id) { id -> BigInt, account -> Text, currency -> Text, total_cents -> BigInt, }
}

#[derive(Insertable)]
#[diesel(table_name = invoice_lines)]
struct Line {
    invoice_id: i64,
    position: i32,
    description: &'static str,
    quantity: i32,
    unit_cents: i64,
}

/// Acme's id, and what it pays in.
const ACME: (i64, &str) = (1, "EUR");
/// What it is billed for, how many, and the price of one in cents.
const BILLED: [(&str, i32, i64); 2] = [("Team plan", 1, 4900), ("Seats", 5, 900)];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let billing = Binding::new("billing", "v1");
    let pool = BranchPool::connect(&broker(), billing, Options::default()).await?;

    let mut connection = pool.get().await?;
    let invoice = connection.transaction(bill).await?;
    println!("wrote invoice {invoice}");

    let open = open_invoices::table.order(open_invoices::id);
    let open: Vec<(i64, String, String, i64)> = open.load(&mut connection).await?;
    for (id, account, currency, cents) in open {
        println!("invoice {id}: {account} owes {} {currency}", amount(cents));
    }

    drop(connection);
    pool.close().await;
    Ok(())
}

/// Writes an invoice and its lines: in a transaction, all of it or nothing.
async fn bill(connection: &mut Connection) -> QueryResult<i64> {
    let (account_id, currency) = ACME;
    let invoice_id = diesel::insert_into(invoices::table)
        .values((
            invoices::account_id.eq(account_id),
            invoices::currency.eq(currency),
        ))
        .returning(invoices::id)
        .get_result(connection)
        .await?;
    let lines = (1..).zip(BILLED);
    let lines = lines.map(|(position, (description, quantity, unit_cents))| Line {
        invoice_id,
        position,
        description,
        quantity,
        unit_cents,
    });
    diesel::insert_into(invoice_lines::table)
        .values(lines.collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(invoice_id)
}

/// Whole units and hundredths.
fn amount(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

fn broker() -> String {
    let given = std::env::args().nth(1);
    let given = given.or_else(|| std::env::var("BROKER_URL").ok());
    given.unwrap_or_else(|| "http://127.0.0.1:7431".to_owned())
}
