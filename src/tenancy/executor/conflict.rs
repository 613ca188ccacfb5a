//! Conflicts between objects of the application and objects that a table needs.

use crate::tenancy::AdoptionIssue;
use crate::tenancy::registry::Table;
use crate::tenancy::sql::quoted;

/// The issue for an index or constraint that the table needs, and that one of the application blocks.
/// `problem` comes from `warden.tenant_objects`.
pub(super) fn conflict(table: &Table, kind: &str, name: &str, problem: &str) -> AdoptionIssue {
    if problem == "does not cascade" {
        return AdoptionIssue::new(
            table.title(),
            format!(
                "{kind} {name} does not cascade: deleting an organisation would leave its rows behind, or fail"
            ),
            format!(
                "Drop it, then run the command again, which creates one that cascades: alter table {} drop \
                 constraint {};",
                table.sql(),
                quoted(name)
            ),
        );
    }
    let former = quoted(&format!("{name}_former"));
    let rename = match kind {
        "index" => {
            format!("alter index {}.{} rename to {former};", quoted(&table.schema), quoted(name))
        }
        _ => format!("alter table {} rename constraint {} to {former};", table.sql(), quoted(name)),
    };
    AdoptionIssue::new(
        table.title(),
        format!("{kind} {name} {problem}"),
        format!("Rename it, then run the command again: {rename}"),
    )
}
