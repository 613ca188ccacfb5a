//! Foreign keys: added without looking at rows, which takes a moment, then validated, which blocks nobody.
//!
//! The composite key (org_id, parent) stands beside the simple one that the application has, and does on
//! deletion what that does; which of the two acts first then makes no difference. Where the server can't say
//! so (below 15 it can't set one column of two to null) the composite key only looks, at commit, when the
//! simple one has acted. Where the application has no key at all, a new one could refuse what it does today,
//! so that one waits for the second phase.

use super::expand::is_taken;
use super::session::StepError;
use super::{RUN_AGAIN, Run};
use crate::tenancy::plan::{Kind, Object, TablePlan};
use crate::tenancy::registry::{Parent, Table};
use crate::tenancy::{literal, quoted};

/// From here on ON DELETE SET NULL can name its columns.
const SET_NULL_OF_COLUMNS: i32 = 150_000;

/// The simple key that the application has: what it does on deletion and update, whether it is deferrable,
/// and deferred.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SimpleKey {
    on_delete: String,
    on_update: String,
    is_deferrable: bool,
    is_deferred: bool,
}

impl Run {
    /// The keys of the first phase.
    pub(super) async fn keys(&mut self, plan: &TablePlan, server_version: i32) -> Result<(), StepError> {
        let table = &plan.table;
        for object in plan.of(Kind::OrgKey).filter(|o| !o.is_valid) {
            let definition = "foreign key (org_id) references public.organizations (id) on delete cascade";
            let query = format!(
                "select * from {} t where org_id is not null and not exists (select from public.organizations o where o.id = t.org_id);",
                table.sql()
            );
            let organizations: i64 = self
                .session
                .scalar("select 'public.organizations'::regclass::oid::bigint".to_owned())
                .await?;
            self.key(table, object, definition, organizations, &query).await?;
        }
        self.parent_keys(plan, server_version, false).await
    }

    /// The composite keys of one phase.
    pub(super) async fn parent_keys(
        &mut self,
        plan: &TablePlan,
        server_version: i32,
        is_second_phase: bool,
    ) -> Result<(), StepError> {
        let Some(parent) = &plan.table.parent else { return Ok(()) };
        // One that is there already, and is not validated, can be validated in any phase.
        let is_due = |o: &&Object| !o.is_valid && (o.is_late == is_second_phase || o.found.is_some());
        for object in plan.of(Kind::ParentKey).filter(is_due) {
            let simple = self.simple_key(&plan.table, parent).await?;
            let definition = simple.map_or_else(
                || composite_of(parent, ""),
                |simple| composite(parent, &simple, server_version),
            );
            self.key(&plan.table, object, &definition, parent.oid, &strangers_query(&plan.table, parent))
                .await?;
        }
        Ok(())
    }

    async fn key(
        &mut self,
        table: &Table,
        object: &Object,
        definition: &str,
        other: i64,
        query: &str,
    ) -> Result<(), StepError> {
        let step = self.begin(&table.title(), "foreign keys");
        let result = self.make_key(table, object, definition, other).await;
        let remedy = match &result {
            Err(error) if error.code() == "23503" => {
                format!(
                    "These rows point to nothing in their organisation; change or delete them, then run this again: {query}"
                )
            }
            _ => RUN_AGAIN.to_owned(),
        };
        self.ended(&step, result, &remedy)?;
        Ok(())
    }

    async fn make_key(
        &mut self,
        table: &Table,
        object: &Object,
        definition: &str,
        other: i64,
    ) -> Result<(), StepError> {
        let name = match (&object.found, object.problem.as_str()) {
            (Some(found), "is not validated") => found.clone(),
            (Some(found), problem) => {
                return Err(StepError::Conflict(Box::new(is_taken(table, "constraint", found, problem))));
            }
            (None, _) => {
                let add = format!(
                    "alter table {} add constraint {} {definition} not valid",
                    table.sql(),
                    quoted(&object.name)
                );
                self.session.short(&[table.oid, other], &[add]).await?;
                object.name.clone()
            }
        };
        let validate = format!("alter table {} validate constraint {}", table.sql(), quoted(&name));
        self.session.long(&validate, None).await?;
        Ok(())
    }

    /// The application's own key to the parent.
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
        .fetch_optional(&mut self.session.work)
        .await?;
        Ok(key)
    }
}

/// Rows whose parent is not there, or is another organisation's.
pub(super) fn strangers_query(table: &Table, parent: &Parent) -> String {
    format!(
        "select c.* from {} c left join {} p on p.{key} = c.{column} and p.org_id = c.org_id \
         where c.{column} is not null and p.{key} is null;",
        table.sql(),
        parent.sql(),
        key = quoted(&parent.key),
        column = quoted(&parent.column)
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

fn composite(parent: &Parent, simple: &SimpleKey, server_version: i32) -> String {
    let column = quoted(&parent.column);
    let can_name = server_version >= SET_NULL_OF_COLUMNS;
    let (on_delete, delete_must_wait) = match simple.on_delete.as_str() {
        "c" => (" on delete cascade".to_owned(), false),
        "n" if can_name => (format!(" on delete set null ({column})"), false),
        "d" if can_name => (format!(" on delete set default ({column})"), false),
        "n" | "d" => (String::new(), true),
        _ => (String::new(), false),
    };
    // An update that sets to null can't name columns at any version.
    let (on_update, update_must_wait) = match simple.on_update.as_str() {
        "c" => (" on update cascade", false),
        "n" | "d" => ("", true),
        _ => ("", false),
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

/// The check that makes NOT NULL need no look at the rows.
pub(super) fn not_null_check(table: &Table) -> String {
    format!("warden.object_name({}, 'org_id_not_null')", literal(&table.name))
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
    fn a_composite_key_does_what_the_simple_one_does() {
        assert_eq!(clause("c", "a", false, 140_000), " on delete cascade");
        assert_eq!(clause("a", "c", true, 140_000), " on update cascade deferrable");
        assert_eq!(clause("n", "a", false, 150_000), r#" on delete set null ("call_id")"#);
        assert_eq!(clause("n", "a", false, 140_000), " deferrable initially deferred");
        assert_eq!(clause("r", "a", false, 150_000), "");
        assert_eq!(clause("a", "n", false, 150_000), " deferrable initially deferred");
    }
}
