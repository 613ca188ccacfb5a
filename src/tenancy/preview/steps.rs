//! The steps of one table in a plan, and remarks about it.

use crate::tenancy::executor::{Goal, OtherSources, firing_note};
use crate::tenancy::plan::{ObjectKind, RequiredObject, TablePlan};
use crate::tenancy::registry::Scope;

/// Whether a run to this goal fills rows of the table.
pub(super) fn is_filled(plan: &TablePlan, goal: Goal) -> bool {
    goal != Goal::Relax && plan.table.scope == Scope::Org && plan.needs_fill()
}

/// The steps of a table.
pub(super) fn steps(plan: &TablePlan, sources: &OtherSources, goal: Goal, rows: &str) -> Vec<String> {
    let mut steps = Vec::new();
    if goal == Goal::Relax {
        if plan.is_partly_enforced() {
            steps.push("create the fill trigger, then remove the policies and NOT NULL".to_owned());
        }
        return steps;
    }
    if plan.table.scope == Scope::Org {
        expand_steps(plan, sources, goal, rows, &mut steps);
    }
    if goal == Goal::Enforce && !plan.is_enforced() {
        if !plan.has(ObjectKind::NotNull) {
            steps.push("check that no org_id is null (reads the table), then set NOT NULL".to_owned());
        }
        steps.push(
            "enable and force row-level security, create its policies, drop the fill trigger".to_owned(),
        );
    }
    steps
}

fn expand_steps(plan: &TablePlan, sources: &OtherSources, goal: Goal, rows: &str, steps: &mut Vec<String>) {
    let table = &plan.table;
    if !plan.has(ObjectKind::Column) {
        steps.push("add the column org_id, and the triggers that fill and protect it".to_owned());
    } else if plan.needs_fill() && !plan.has_throughout(ObjectKind::FillTrigger) {
        steps.push("add the triggers that fill org_id and protect it meanwhile".to_owned());
    }
    if plan.has(ObjectKind::Column) && !plan.has_throughout(ObjectKind::ImmutabilityTrigger) {
        steps.push("add the trigger that keeps org_id from changing".to_owned());
    }
    if plan.needs_fill()
        && !(plan.has(ObjectKind::Column) && table.has_org_index && plan.has(ObjectKind::OrgKey))
    {
        let mut from = Vec::new();
        if let Some(parent) = &table.parent {
            from.push(format!("the organisation of {} by {}", parent.name, parent.column));
        }
        from.extend(sources.required.iter().cloned());
        if let Some(user) = &table.user_column {
            from.push(format!("the membership of {user}"));
        }
        from.extend(sources.names.iter().cloned());
        if table.fills_with_default && sources.is_empty() {
            from.push("the default organisation".to_owned());
        } else if table.fills_with_default {
            from.push("the default organisation for rows that reference none of these".to_owned());
        }
        let how = if table.pauses_triggers { ", with its triggers disabled for each batch" } else { "" };
        steps.push(format!(
            "fill org_id in rows without it ({rows}), in batches{how}: {}",
            from.join(", else ")
        ));
    }
    let is_due =
        |o: &&RequiredObject| (!o.is_valid || o.lacks_constraint()) && (!o.is_late || goal == Goal::Enforce);
    steps.extend(plan.objects.iter().filter(is_due).filter_map(object_step));
    for member in &plan.members {
        let objects: Vec<String> = member.objects.iter().filter(is_due).filter_map(object_step).collect();
        // Usually the whole lacks these objects too.
        if !objects.is_empty() && !plan.objects.iter().any(|object| is_due(&object)) {
            steps.push(format!("{}: {}", member.table.title(), objects.join("; ")));
        }
    }
}

/// The step that creates an index or a key.
fn object_step(object: &RequiredObject) -> Option<String> {
    match object.kind {
        ObjectKind::Index => Some(format!(
            "create {}index concurrently {} ({})",
            if object.is_unique { "unique " } else { "" },
            object.name,
            object.definition
        )),
        ObjectKind::Unique => Some(format!(
            "add constraint {} {}, with an index that is built concurrently",
            object.name, object.definition
        )),
        ObjectKind::OrgKey | ObjectKind::ParentKey => {
            Some(format!("add foreign key {}, then validate it", object.name))
        }
        ObjectKind::Column
        | ObjectKind::FillTrigger
        | ObjectKind::ImmutabilityTrigger
        | ObjectKind::NotNull
        | ObjectKind::OrgDefault
        | ObjectKind::RequireTrigger
        | ObjectKind::Protection => None,
    }
}

/// Remarks about a table.
pub(super) fn notes(plan: &TablePlan, sources: &OtherSources, goal: Goal) -> Vec<String> {
    let table = &plan.table;
    let mut notes = Vec::new();
    if let (Some(first), Some(last)) = (table.members.first(), table.members.last()) {
        notes.push(format!(
            "each step includes its {} partitions or inheritance children ({} to {})",
            table.members.len(),
            first.title(),
            last.title()
        ));
    }
    if goal == Goal::Relax || table.scope != Scope::Org || !plan.needs_fill() || plan.has(ObjectKind::OrgKey)
    {
        return notes;
    }
    if !table.always_triggers.is_empty() && !table.pauses_triggers {
        notes.push(firing_note(&table.schema, &table.name, &table.always_triggers));
    } else if !table.update_triggers.is_empty() {
        notes.push(format!(
            "its triggers {} do not fire during the backfill if this role may set session_replication_role{}",
            table.update_triggers.join(", "),
            if table.pauses_triggers { " or disable them" } else { "; otherwise they fire" }
        ));
    }
    let has_no_source = table.user_column.is_none() && table.parent.is_none() && sources.is_empty();
    if has_no_source && table.fills_with_default && !table.is_never_filled {
        notes.push(
            "has neither parent nor user column: all its rows go to the default organisation".to_owned(),
        );
    }
    notes
}
