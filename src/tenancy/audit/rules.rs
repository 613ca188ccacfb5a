//! The table of rules: what an audit looks at. The documentation's table is made from it.

use super::report::Severity;

/// One rule.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Stable: scripts may name it.
    pub id: &'static str,
    /// What breaking it means; single findings may be milder.
    pub severity: Severity,
    /// What must be true.
    pub holds: &'static str,
}

const fn finding(id: &'static str, holds: &'static str) -> Rule {
    Rule { id, severity: Severity::Finding, holds }
}

const fn notice(id: &'static str, holds: &'static str) -> Rule {
    Rule { id, severity: Severity::Notice, holds }
}

/// What a rule that could not be judged is reported as.
pub(super) const NOT_JUDGED: &str = "not-judged";

/// All of them, in the order in which they are reported.
pub const RULES: &[Rule] = &[
    finding(
        NOT_JUDGED,
        "every rule can be judged: the role has the rights, and nothing takes longer than --timeout",
    ),
    finding("schema", "schema `warden` is there, with exactly the migrations of this version"),
    finding("default-organization", "the default organisation exists"),
    finding(
        "table-kind",
        "a registered table is an ordinary one: no view, foreign, partitioned or inherited table",
    ),
    finding(
        "unregistered-table",
        "a table with `org_id`, `user_id` or a foreign key to an organisation's rows is registered",
    ),
    finding(
        "parent-link",
        "the columns by which rows inherit their organisation exist, with one type (parent missing: notice)",
    ),
    finding("org-column", "`org_id` is there, and is a plain uuid"),
    finding("null-rows", "no row has a null `org_id`"),
    finding("unknown-organizations", "every `org_id` names an organisation that exists"),
    finding("parent-rows", "every row is in its parent's organisation, and its parent exists"),
    finding(
        "filling",
        "the trigger that fills `org_id` is awake until the table is enforced, and gone from then on",
    ),
    finding("not-enforced", "`warden migrate --enforce` has been run"),
    finding("not-null", "`org_id` is NOT NULL"),
    finding("organization-key", "`org_id` references organizations, validated, with ON DELETE CASCADE"),
    finding("parent-key", "a parent is unique by (`org_id`, key)"),
    finding("parent-foreign-key", "a child references its parent by (`org_id`, parent), validated"),
    finding("org-index", "the indexes of `warden.tenant_indexes`, and along parents, are there and valid"),
    finding("unique-index", "so are the unique ones, such as (`org_id`, `vapi_call_id`) of call_logs"),
    finding("org-plan", "the planner finds one organisation's rows by an index"),
    notice(
        "loose-key",
        "no foreign key between organisations' rows leaves `org_id` out, unless another holds it",
    ),
    finding(
        "immutability",
        "the trigger that keeps `org_id` from changing is there, as it was made, and awake",
    ),
    finding("row-security", "row-level security is enabled, and forced for the owner"),
    finding(
        "policy",
        "each policy is there, for its command and roles, through `(select public.auth_org_id())`",
    ),
    finding(
        "truncate-right",
        "PUBLIC and roles of requests may not TRUNCATE a protected table, which asks no policy",
    ),
    notice(
        "other-policy",
        "no other permissive policy: without `warden_org` it would reach beyond the organisation",
    ),
    finding("open-user-table", "a table that stays the user's is not open to every user"),
    finding(
        "bypassing-role",
        "no role passes over row-level security (superusers, service_role, owners: notice)",
    ),
    finding("bypassing-view", "no view shows requests what its owner sees past row-level security"),
    finding("owner-member", "no role of requests, nor Warden's own, may become a table's owner"),
    finding(
        "silent-triggers",
        "triggers and foreign keys are not silenced, by `session_replication_role` or one by one",
    ),
    finding("function", "Warden's functions are there, as this version makes them"),
    finding("function-search-path", "their search_path is empty"),
    finding("function-owner", "they belong to `warden_owner`, or to who owns the tables"),
    finding("function-marks", "they are volatile, parallel safe, definer as they were made"),
    finding(
        "function-rights",
        "neither PUBLIC nor a role of requests may execute those of schema warden, or the token hook",
    ),
    finding(
        "function-callers",
        "roles of requests, and Warden's own, may execute `auth_org_id()` and `auth_user_id()`",
    ),
    finding(
        "claims",
        "`auth_org_id()` answers from `app_metadata` alone, and with null to whatever is malformed",
    ),
    finding(
        "token-hook",
        "the token hook gives each user his membership's organisation, and takes away any other",
    ),
    finding("token-hook-caller", "where `supabase_auth_admin` exists, it may execute the token hook"),
    finding(
        "log-rights",
        "PUBLIC and roles of requests have no right in schema warden; the gateway reads only",
    ),
    notice("several-memberships", "of several memberships of a user one is primary"),
    finding("watch-table", "a watched table exists"),
    finding("watch-columns", "it has the columns that `warden.watch()` was told of"),
    finding("watch-triggers", "its triggers are there and awake"),
];

impl Rule {
    /// The rule of this id.
    #[must_use]
    pub fn by_id(id: &str) -> Option<&'static Self> {
        RULES.iter().find(|rule| rule.id == id)
    }

    /// The documentation's table.
    #[must_use]
    pub fn markdown() -> String {
        let mut text = String::from("| rule | severity | what must be true |\n|---|---|---|\n");
        for rule in RULES {
            text += &format!("| `{}` | {} | {} |\n", rule.id, rule.severity.name(), rule.holds);
        }
        text
    }
}
