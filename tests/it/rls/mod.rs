//! Row-level security, keys and guards of every registered table. The checks are generated from the registry:
//! the tests name only the tables that a sample application adopts, to show that adopted tables are covered
//! too.
//!
//! - `actors`: roles with claims of every shape.
//! - `check`: checks one table and lists its failures. `constraints` covers keys and guards; `attempts` runs
//!   the statements.
//! - `mutations`: breaks every isolating object once and expects a check to fail.
//! - `service`: back-end roles.
//! - `plans`: query plans of the product's queries.
//!
//! Each test has its own database, a copy of one that is prepared once. Its tables belong to a role that is
//! not a superuser, as in production, because row-level security that is not forced does not apply to the
//! table's owner.

mod actors;
mod attempts;
mod check;
mod constraints;
mod mutations;
mod plans;
mod service;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tokio::sync::OnceCell;
use uuid::Uuid;

use self::actors::Actor;
use self::check::Check;
use crate::harness::TestDb;
use crate::harness::tenancy::Schema;

/// Two tenants that must not reach each other.
#[derive(Clone, Copy, Debug)]
struct Tenants {
    own: Tenant,
    other: Tenant,
}

/// An organisation and one of its users.
#[derive(Clone, Copy, Debug)]
struct Tenant {
    org: Uuid,
    user: Uuid,
}

/// A database with the platform's tables, an application's adopted tables, the grants that requests have, and
/// two tenants.
struct Suite {
    connection: PgConnection,
    schema: Schema,
    tenants: Tenants,
}

/// Application tables with features that the platform's tables lack: partitions, other key types, enums,
/// domains, arrays, checks over several columns, look-up tables without an organisation, and names that need
/// quotes.
const APPLICATION: &str = "
    create type urgency as enum ('low', 'high');
    create domain ticket_code as text check (value ~ '^v[0-9a-f]{8}$');
    create domain positive as integer check (value > 0);
    create table countries (code text primary key check (length(code) = 3), name text not null);
    create table \"Support Tickets\" (
      number bigint generated always as identity primary key, code ticket_code not null, weight positive not null,
      urgency urgency not null, country text not null references countries, opened date not null, closed date not null,
      tags text[] not null, window_of tstzrange not null, author uuid, reply_to inet not null, doc json not null,
      price numeric(6, 2) not null check (price between 10 and 20), is_open boolean not null, short varchar(9) not null,
      check (closed > opened), check (urgency = 'low' or weight < 10));
    create table visits (id uuid not null default gen_random_uuid(), seen date not null, page text, visitor uuid,
      primary key (id, seen)) partition by range (seen);
    create table visits_all partition of visits for values from (minvalue) to (maxvalue) partition by hash (id);
    create table visits_all_0 partition of visits_all for values with (modulus 1, remainder 0);
    select warden.adopt_table('visits', 'visitor');
    create table ticket_notes (ticket bigint not null, position int not null, body text not null, primary key (ticket, position));
    select warden.adopt_table('\"Support Tickets\"', 'author', parent_key => 'number');
    select warden.adopt_table('ticket_notes', null, '\"Support Tickets\"', 'ticket', 'number', is_immutable => false);";

/// Owner of the tables.
const OWNER: &str = "owner_of_rls";
/// A role of back ends that does not inherit BYPASSRLS.
const SERVICE: &str = "service_of_rls";

/// Name of the database that each test copies.
async fn template() -> &'static str {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    TEMPLATE
        .get_or_init(async || {
            let db = TestDb::create().await;
            let mut connection = PgConnection::connect(db.url()).await.expect("connects");
            let setup = format!(
                "{APPLICATION}
                 create role {OWNER} nologin; grant usage on schema public to {OWNER};
                 create role {SERVICE} nologin in role service_role;
                 grant select, insert, update, delete on all tables in schema public to authenticated, service_role;
                 do $$ declare t regclass; begin
                   for t in select warden.tree(format('%I.%I', schema_name, table_name)::regclass) from warden.tenant_tables loop
                     execute format('alter table %s owner to {OWNER}', t);
                   end loop;
                 end $$"
            );
            connection.execute(sqlx::raw_sql(AssertSqlSafe(setup))).await.expect("sets up");
            connection.close().await.expect("closes");
            db.name
        })
        .await
}

impl Suite {
    async fn start() -> Self {
        let db = TestDb::create_from(template().await).await;
        let mut connection = PgConnection::connect(db.url()).await.expect("connects");
        connection.execute(attempts::ATTEMPTS).await.expect("creates");
        let schema = Schema::load(&mut connection).await;
        let tenants = Tenants {
            own: Tenant { org: db.create_org().await, user: Uuid::new_v4() },
            other: Tenant { org: db.create_org().await, user: Uuid::new_v4() },
        };
        Self { connection, schema, tenants }
    }

    /// Failures of all tables. Each table is checked in a transaction that is rolled back.
    async fn failures(&mut self, rogue: bool, actors: &[Actor]) -> Vec<String> {
        let mut failures = Vec::new();
        for table in self.schema.registered() {
            self.connection.execute("begin").await.expect("begins");
            let mut check = Check::new(&mut self.connection, &self.schema, table, self.tenants);
            if rogue {
                check.go_rogue().await;
            }
            match check.prepare().await {
                Ok(()) => check.run(actors).await,
                Err(error) => check.failures.push(error),
            }
            failures.append(&mut check.failures);
            self.connection.execute("rollback").await.expect("rolls back");
        }
        failures
    }
}

#[tokio::test]
async fn the_registry_covers_every_table_of_the_platform() {
    let mut suite = Suite::start().await;
    let counts: (i64, i64, i64) = sqlx::query_as(
        "select count(*) filter (where scope = 'org' and origin = 'platform'), count(*) filter (where scope = 'user'),
                count(*) filter (where origin = 'core') from warden.tenant_tables",
    )
    .fetch_one(&mut suite.connection)
    .await
    .expect("counts");
    assert_eq!(counts, (42, 3, 2));
    assert_eq!(suite.schema.registered().count(), 42 + 3 + 2 + 2 + 3, "including the adopted tables");
    let immutable = suite.schema.registered().filter(|t| t.is_immutable).count();
    assert_eq!(immutable, 17 + 1 + 1 + 3, "the list of 17, recordings, and adopted tables");
    let problems: Vec<String> = sqlx::query_scalar(
        "select format('%s: %s %s %s', table_name, kind, name, problem) from warden.tenant_objects
         where problem is not null",
    )
    .fetch_all(&mut suite.connection)
    .await
    .expect("reads");
    assert_eq!(problems, Vec::<String>::new());
}

#[tokio::test]
async fn rows_of_another_organisation_cannot_be_read_or_written() {
    let mut suite = Suite::start().await;
    let mut actors = actors::everybody(suite.tenants, OWNER);
    actors.extend(actors::without_policy(suite.tenants, OWNER));
    assert_eq!(suite.failures(false, &actors).await, Vec::<String>::new());
}

/// An older policy of the application may grant everything, and still grants nothing of another organisation.
#[tokio::test]
async fn a_policy_that_grants_everything_grants_nothing_of_others() {
    let mut suite = Suite::start().await;
    let actors = actors::everybody(suite.tenants, OWNER);
    assert_eq!(suite.failures(true, &actors).await, Vec::<String>::new());
}
