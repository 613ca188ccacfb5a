//! Memberships and revocations in the database.

use std::collections::HashMap;

use anyhow::Context as _;
use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};
use uuid::Uuid;

/// Role that may call Warden's functions if the login role may not.
const BECOME_OWNER: &str = "set local role warden_owner";

/// Reason in the revocations of the command.
const REVOCATION_REASON: &str = "organisation changed by warden claims sync";

/// Access to memberships.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memberships {
    default_org: Uuid,
    /// Whether the login role must become the owner of the functions to call them.
    becomes_owner: bool,
    /// Whether the login role may delete the sessions of Supabase Auth.
    deletes_sessions: bool,
}

/// Name of the database that differs between clusters and between databases.
pub(super) async fn database_identity(connection: &mut PgConnection) -> anyhow::Result<String> {
    sqlx::query_scalar(
        "select system_identifier::text || '/' || current_database() from pg_catalog.pg_control_system()",
    )
    .fetch_one(connection)
    .await
    .context("cannot read the identity of the database")
}

impl Memberships {
    pub(super) async fn open(connection: &mut PgConnection) -> anyhow::Result<Self> {
        let exists: bool = sqlx::query_scalar(
            "select to_regprocedure('warden.default_org_for(uuid)') is not null
               and to_regprocedure('warden.default_organization()') is not null",
        )
        .fetch_one(&mut *connection)
        .await?;
        anyhow::ensure!(exists, "the database has no Warden schema: run warden migrate first");
        let may_call: bool = sqlx::query_scalar(
            "select has_function_privilege('warden.default_org_for(uuid)', 'execute')
               and has_function_privilege('warden.default_organization()', 'execute')
               and has_function_privilege('warden.revoke(text, text, uuid, text, interval, text)', 'execute')",
        )
        .fetch_one(&mut *connection)
        .await?;
        let deletes_sessions: bool = sqlx::query_scalar(
            "select coalesce(has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'delete')
                             and has_table_privilege(c.oid, 'select'), false)
             from (select 1) one
             left join pg_catalog.pg_namespace n on n.nspname = 'auth'
             left join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = 'sessions'",
        )
        .fetch_one(&mut *connection)
        .await?;
        let mut this = Self { default_org: Uuid::nil(), becomes_owner: !may_call, deletes_sessions };
        let mut transaction = connection.begin().await?;
        this.become_owner(&mut transaction).await.context(
            "the role in DATABASE_URL may not read memberships: use the role that runs warden migrate",
        )?;
        this.default_org =
            sqlx::query_scalar("select warden.default_organization()").fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(this)
    }

    async fn become_owner(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        if self.becomes_owner {
            connection.execute(BECOME_OWNER).await?;
        }
        Ok(())
    }

    /// Organisations of these users, by the function that the token hook calls.
    pub(super) async fn organizations(
        &self,
        connection: &mut PgConnection,
        users: &[Uuid],
    ) -> sqlx::Result<HashMap<Uuid, Uuid>> {
        // A savepoint if the caller is in a transaction.
        let mut transaction = connection.begin().await?;
        self.become_owner(&mut transaction).await?;
        let rows: Vec<(Uuid, Option<Uuid>)> =
            sqlx::query_as("select u.id, warden.default_org_for(u.id) from unnest($1::uuid[]) u (id)")
                .bind(users)
                .fetch_all(&mut *transaction)
                .await?;
        if self.becomes_owner {
            transaction.execute("set local role none").await?;
        }
        transaction.commit().await?;
        Ok(rows.into_iter().filter_map(|(user, org)| Some((user, org?))).collect())
    }

    /// Inserts a membership of the default organisation, unless the user has one. Returns the user's
    /// organisation, and whether a membership was inserted.
    pub(super) async fn join_default(
        &self,
        connection: &mut PgConnection,
        user: Uuid,
    ) -> sqlx::Result<(Option<Uuid>, bool)> {
        let mut transaction = connection.begin().await?;
        let inserted = sqlx::query(
            "insert into public.organization_members (org_id, user_id)
             select $1, $2 where not exists (select from public.organization_members m where m.user_id = $2)
             on conflict do nothing",
        )
        .bind(self.default_org)
        .bind(user)
        .execute(&mut *transaction)
        .await?;
        let org = self.organizations(&mut transaction, &[user]).await?.remove(&user);
        transaction.commit().await?;
        Ok((org, inserted.rows_affected() > 0))
    }

    /// Ends the user's sockets, and the sessions of Supabase Auth if the role may delete them. The admin API
    /// cannot end the sessions of another user.
    pub(super) async fn revoke(
        &self,
        connection: &mut PgConnection,
        user: Uuid,
        replaced: Option<&Value>,
    ) -> sqlx::Result<()> {
        let org: Option<Uuid> = replaced.and_then(Value::as_str).and_then(|text| text.parse().ok());
        let org = org.filter(|org| !org.is_nil());
        let mut transaction = connection.begin().await?;
        if self.deletes_sessions {
            sqlx::query("delete from auth.sessions where user_id = $1")
                .bind(user)
                .execute(&mut *transaction)
                .await?;
        }
        self.become_owner(&mut transaction).await?;
        sqlx::query("select warden.revoke(user_id => $1, org_id => $2, reason => $3)")
            .bind(user.to_string())
            .bind(org)
            .bind(REVOCATION_REASON)
            .execute(&mut *transaction)
            .await?;
        if self.becomes_owner {
            transaction.execute("set local role none").await?;
        }
        transaction.commit().await
    }
}

/// Message of a database error, without values of rows.
pub(super) fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => format!("database: {}", error.message()),
        other => format!("database: {other}"),
    }
}
