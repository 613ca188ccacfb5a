//! Foreign keys. Each is added NOT VALID, which takes a moment, and then validated, which blocks no writer.
//!
//! The composite key (org_id, parent) exists beside the application's simple key, and has the same action on
//! deletion, so it does not matter which of the two acts first. Below PostgreSQL 15, ON DELETE SET NULL
//! cannot name one of two columns. There the composite key is deferred: it only checks, at commit, after the
//! simple key has acted. If the application has no simple key, a composite key could reject what the
//! application writes today, so it waits for the enforce phase.

use super::AdoptionRun;
use super::conflict::conflict;
use super::connection::StepError;
use super::tree::TreeLock;
use crate::tenancy::AdoptionIssue;
use crate::tenancy::issue::RUN_AGAIN;
use crate::tenancy::plan::{ObjectKind, RequiredObject, TablePlan};
use crate::tenancy::registry::{Parent, Table};
use crate::tenancy::sql::quoted;

/// First version in which ON DELETE SET NULL can name its columns.
const SET_NULL_COLUMNS_VERSION: i32 = 150_000;

/// The application's simple foreign key to the parent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SimpleKey {
    on_delete: String,
    on_update: String,
    is_deferrable: bool,
    is_deferred: bool,
}

impl AdoptionRun {
    /// Adds the foreign keys of the expand phase.
    pub(super) async fn keys(&mut self, plan: &TablePlan, server_version: i32) -> Result<(), StepError> {
        let issues = self.issues.len();
        for part in plan.storing() {
            self.org_key(part).await?;
            self.parent_key(part, server_version, false).await?;
        }
        // The keys of a partitioned table consist of those of its partitions.
        if plan.table.is_partitioned && self.issues.len() == issues {
            self.org_key(plan).await?;
            self.parent_key(plan, server_version, false).await?;
        }
        Ok(())
    }

    async fn org_key(&mut self, plan: &TablePlan) -> Result<(), StepError> {
        let table = &plan.table;
        for object in plan.of(ObjectKind::OrgKey).filter(|o| !o.is_valid) {
            let definition = "foreign key (org_id) references public.organizations (id) on delete cascade";
            let missing = format!(
                "{} t where t.org_id is not null and not exists (select from public.organizations o where o.id = t.org_id)",
                table.sql()
            );
            if object.found.is_none()
                && !table.is_partitioned
                && self.lacks_organizations(table, &missing).await?
            {
                continue;
            }
            let query = format!("select * from {missing};");
            let organizations: i64 = self
                .connection
                .scalar("select 'public.organizations'::regclass::oid::bigint".to_owned())
                .await?;
            self.key(plan, object, definition, organizations, &query).await?;
        }
        Ok(())
    }

    /// Whether rows belong to organisations that do not exist. Then a key, even NOT VALID, would reject what
    /// the application writes today.
    async fn lacks_organizations(&mut self, table: &Table, missing: &str) -> Result<bool, StepError> {
        if !self.connection.scalar::<bool>(format!("select exists (select from {missing})")).await? {
            return Ok(false);
        }
        let has_name: bool = self
            .connection
            .scalar(
                "select exists (select from pg_attribute where attrelid = 'public.organizations'::regclass
                                and attname = 'name' and not attisdropped)"
                    .to_owned(),
            )
            .await?;
        let (column, name) = if has_name { (", name", ", 'Restored'") } else { ("", "") };
        self.issues.push(AdoptionIssue::new(
            table.title(),
            "has rows of organisations that do not exist",
            format!(
                "Insert the organisations, or delete the rows, then run the command again:\n\
                 insert into public.organizations (id{column}) select distinct t.org_id{name} from {missing};\n\
                 delete from {missing};"
            ),
        ));
        Ok(true)
    }

    /// Adds the composite foreign keys of one phase.
    pub(super) async fn parent_keys(
        &mut self,
        plan: &TablePlan,
        server_version: i32,
        is_enforce_phase: bool,
    ) -> Result<(), StepError> {
        let issues = self.issues.len();
        for part in plan.storing() {
            self.parent_key(part, server_version, is_enforce_phase).await?;
        }
        if plan.table.is_partitioned && self.issues.len() == issues {
            self.parent_key(plan, server_version, is_enforce_phase).await?;
        }
        Ok(())
    }

    async fn parent_key(
        &mut self,
        plan: &TablePlan,
        server_version: i32,
        is_enforce_phase: bool,
    ) -> Result<(), StepError> {
        let Some(parent) = &plan.table.parent else { return Ok(()) };
        // An existing key that is not validated can be validated in either phase.
        let is_due =
            |o: &&RequiredObject| !o.is_valid && (o.is_late == is_enforce_phase || o.found.is_some());
        for object in plan.of(ObjectKind::ParentKey).filter(is_due) {
            let simple = self.simple_key(&plan.table, parent).await?;
            let definition = simple.map_or_else(
                || composite_of(parent, " on update cascade"),
                |simple| composite(parent, &simple, server_version),
            );
            self.key(plan, object, &definition, parent.oid, &mismatch_query(&plan.table, parent)).await?;
        }
        Ok(())
    }

    async fn key(
        &mut self,
        plan: &TablePlan,
        object: &RequiredObject,
        definition: &str,
        referenced: i64,
        query: &str,
    ) -> Result<(), StepError> {
        let step = self.begin(&plan.table.title(), "foreign keys");
        let result = self.add_key(plan, object, definition, referenced).await;
        let remedy = match &result {
            Err(error) if error.code() == "23503" => format!(
                "These rows reference nothing in their own organisation; change or delete them, then run the command again: {query}"
            ),
            _ => RUN_AGAIN.to_owned(),
        };
        self.end(&step, result, &remedy)?;
        Ok(())
    }

    async fn add_key(
        &mut self,
        plan: &TablePlan,
        object: &RequiredObject,
        definition: &str,
        referenced: i64,
    ) -> Result<(), StepError> {
        let table = &plan.table;
        let name = match (&object.found, object.problem.as_str()) {
            (Some(found), "is not validated") => found.clone(),
            (Some(found), problem) => {
                return Err(StepError::Conflict(Box::new(conflict(table, "constraint", found, problem))));
            }
            (None, _) => {
                // NOT VALID is rejected on partitioned tables before PostgreSQL 18. It is not needed there:
                // each partition has an equivalent key that is validated, and no row is read.
                let add = format!(
                    "alter table {} add constraint {} {definition}{}",
                    table.sql(),
                    quoted(&object.name),
                    if table.is_partitioned { "" } else { " not valid" }
                );
                let lock = TreeLock::ShareRowExclusive;
                if table.is_partitioned {
                    return self.connection.short_on(plan, lock, &[referenced], &[add]).await;
                }
                self.connection.short(&[table.oid, referenced], &[add]).await?;
                object.name.clone()
            }
        };
        let validate = format!("alter table {} validate constraint {}", table.sql(), quoted(&name));
        self.connection.long(&validate, None).await?;
        Ok(())
    }

    async fn simple_key(&mut self, table: &Table, parent: &Parent) -> Result<Option<SimpleKey>, StepError> {
        let key = sqlx::query_as!(
            SimpleKey,
            r#"select k.confdeltype::text as "on_delete!", k.confupdtype::text as "on_update!",
                    k.condeferrable as is_deferrable, k.condeferred as is_deferred
             from pg_constraint k
             where k.contype = 'f' and k.conrelid::bigint = $1 and k.confrelid::bigint = $2
               and k.conkey = array[(select attnum from pg_attribute where attrelid = k.conrelid and attname = $3::text)]
               and k.confkey = array[(select attnum from pg_attribute where attrelid = k.confrelid and attname = $4::text)]
             order by k.conname limit 1"#,
            table.oid,
            parent.oid,
            parent.column,
            parent.key
        )
        .fetch_optional(&mut self.connection.work)
        .await?;
        Ok(key)
    }
}

/// A query for rows whose parent does not exist, or belongs to another organisation.
pub(super) fn mismatch_query(table: &Table, parent: &Parent) -> String {
    if parent.names_organization() && parent.key == "id" {
        let column = quoted(&parent.column);
        return format!("select c.* from {} c where c.{column} <> c.org_id;", table.sql());
    }
    format!(
        "select c.* from {} c left join {} p on p.{key} = c.{column} and p.{org} = c.org_id \
         where c.org_id is not null and c.{column} is not null and p.{key} is null;",
        table.sql(),
        parent.sql(),
        key = quoted(&parent.key),
        column = quoted(&parent.column),
        org = parent.org_column()
    )
}

fn composite_of(parent: &Parent, actions: &str) -> String {
    format!(
        "foreign key (org_id, {}) references {} (org_id, {}){actions}",
        quoted(&parent.column),
        parent.sql(),
        quoted(&parent.key)
    )
}

/// The definition of a composite key with the same action on deletion as the simple one.
fn composite(parent: &Parent, simple: &SimpleKey, server_version: i32) -> String {
    let column = quoted(&parent.column);
    let can_name_columns = server_version >= SET_NULL_COLUMNS_VERSION;
    let (on_delete, delete_must_wait) = match simple.on_delete.as_str() {
        "c" => (" on delete cascade".to_owned(), false),
        "n" if can_name_columns => (format!(" on delete set null ({column})"), false),
        "d" if can_name_columns => (format!(" on delete set default ({column})"), false),
        "n" | "d" => (String::new(), true),
        _ => (String::new(), false),
    };
    // ON UPDATE SET NULL cannot name its columns in any version. Otherwise rows follow a parent that gets
    // another organisation. A simple key without an action still rejects another key of the parent: its
    // trigger is older, so it is fired first.
    let (on_update, update_must_wait) = match simple.on_update.as_str() {
        "n" | "d" => ("", true),
        _ => (" on update cascade", false),
    };
    let timing = if delete_must_wait || update_must_wait || simple.is_deferred {
        " deferrable initially deferred"
    } else if simple.is_deferrable {
        " deferrable"
    } else {
        ""
    };
    composite_of(parent, &format!("{on_delete}{on_update}{timing}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clause(on_delete: &str, on_update: &str, is_deferrable: bool, version: i32) -> String {
        let parent = Parent {
            schema: "public".into(),
            name: "calls".into(),
            column: "call_id".into(),
            key: "id".into(),
            oid: 1,
        };
        let simple = SimpleKey {
            on_delete: on_delete.into(),
            on_update: on_update.into(),
            is_deferrable,
            is_deferred: false,
        };
        let whole = composite(&parent, &simple, version);
        let head = r#"foreign key (org_id, "call_id") references "public"."calls" (org_id, "id")"#;
        whole.strip_prefix(head).expect(&whole).to_owned()
    }

    #[test]
    fn a_composite_key_deletes_as_the_simple_key_does() {
        assert_eq!(clause("c", "a", false, 140_000), " on delete cascade on update cascade");
        assert_eq!(clause("a", "c", true, 140_000), " on update cascade deferrable");
        assert_eq!(clause("n", "a", false, 150_000), r#" on delete set null ("call_id") on update cascade"#);
        assert_eq!(clause("n", "a", false, 140_000), " on update cascade deferrable initially deferred");
        assert_eq!(clause("r", "a", false, 150_000), " on update cascade");
        assert_eq!(clause("a", "n", false, 150_000), " deferrable initially deferred");
    }
}
