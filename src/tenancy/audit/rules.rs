//! The table of rules that an audit checks. The table in docs/tenancy.md is generated from it.

use serde::Serialize;

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Isolation is broken, or could not be verified. Findings of this severity give exit code 1.
    Finding,
    /// An operator should know about it.
    Notice,
}

impl Severity {
    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Finding => "finding",
            Self::Notice => "notice",
        }
    }
}

/// One rule.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Identifier. It never changes, so scripts may use it.
    pub id: &'static str,
    /// Severity of a violation. A single finding may be milder.
    pub severity: Severity,
    /// The statement that must be true.
    pub statement: &'static str,
    /// Whether an operator can accept a violation, because it may be there on purpose. The other rules
    /// concern what isolation rests on. `warden.acceptable_rules()` has the same list.
    pub is_acceptable: bool,
}

const fn finding(id: &'static str, statement: &'static str) -> Rule {
    Rule { id, severity: Severity::Finding, statement, is_acceptable: false }
}

const fn notice(id: &'static str, statement: &'static str) -> Rule {
    Rule { id, severity: Severity::Notice, statement, is_acceptable: false }
}

/// A rule whose findings an operator can accept.
const fn acceptable(rule: Rule) -> Rule {
    Rule { is_acceptable: true, ..rule }
}

/// The rule for other rules that could not be checked.
pub(super) const NOT_CHECKED: &str = "not-checked";

/// All rules, in the order of a report.
pub const RULES: &[Rule] = &[
    finding(
        NOT_CHECKED,
        "every rule can be checked: the role has the rights, and no query takes longer than `--timeout`",
    ),
    finding("schema", "schema `warden` exists, with exactly the migrations of this version"),
    finding("default-organization", "the default organisation exists"),
    finding(
        "table-kind",
        "policies can protect a registered table and its members: none is a view or a foreign table, or belongs to \
         another tree",
    ),
    acceptable(finding(
        "unregistered-table",
        "a table is registered if a foreign key, or a column such as `org_id`, `tenant_id`, `user_id` or `owner_id`, leads \
         to an organisation, a user, or another such table",
    )),
    finding(
        "parent-link",
        "the columns through which rows inherit their organisation exist and have the same type, and the parent's \
         is unique (a missing parent is a notice)",
    ),
    finding("org-column", "`org_id` exists and is a plain uuid"),
    finding("null-rows", "no row has a null `org_id`"),
    finding("unknown-organizations", "every `org_id` belongs to an existing organisation"),
    finding("parent-rows", "every row belongs to its parent's organisation, and its parent exists"),
    finding(
        "fill-trigger",
        "the triggers that fill `org_id` are enabled and follow this version's rule until the table is enforced, and do \
         not exist afterwards",
    ),
    finding("not-enforced", "`warden migrate --enforce` has been run"),
    finding("not-null", "`org_id` is NOT NULL"),
    finding(
        "org-default",
        "`org_id` has the organisation of the claims as its default, unless the application has another default; a \
         trigger explains a row without an organisation",
    ),
    finding(
        "organization-key",
        "`org_id` references `organizations` with ON DELETE CASCADE, and is validated",
    ),
    finding("parent-key", "a parent has a unique constraint on (`org_id`, key)"),
    finding(
        "parent-foreign-key",
        "a child references its parent by (`org_id`, parent), and is validated; a column that names the organisation equals `org_id`",
    ),
    finding(
        "org-index",
        "the indexes of `warden.tenant_indexes`, and those on (`org_id`, parent), exist and are valid",
    ),
    finding(
        "unique-index",
        "the unique indexes of `warden.tenant_indexes` exist and are valid, such as (`org_id`, `vapi_call_id`) of \
         `call_logs`",
    ),
    finding("org-plan", "the planner finds the rows of one organisation by an index"),
    acceptable(notice(
        "loose-key",
        "a foreign key between two tables of organisations includes `org_id`, or another one beside it does",
    )),
    finding(
        "immutability",
        "the trigger that keeps `org_id` from changing exists, is unmodified, and is enabled",
    ),
    finding("row-security", "row-level security is enabled, and forced for the table's owner"),
    finding(
        "policy",
        "each of Warden's policies exists, for its command and roles, with the organisation of the claims as its \
         condition; none is left that grants more than the application does",
    ),
    finding(
        "truncate-right",
        "no role to which policies apply has TRUNCATE, REFERENCES or TRIGGER on a protected table, because no policy \
         limits these rights",
    ),
    acceptable(finding(
        "other-policy",
        "no permissive policy of the application lies on a table that Warden created, or has no effect (a notice, \
         unless the policy is newer than the enforcement)",
    )),
    acceptable(finding(
        "policy-condition",
        "before the enforce phase, no condition of the application's policies reads a table that will be isolated",
    )),
    acceptable(finding("open-user-table", "a table of users does not show every user's rows to requests")),
    acceptable(finding(
        "bypassing-role",
        "no role bypasses row-level security (superusers, `service_role` and table owners are notices)",
    )),
    acceptable(finding(
        "bypassing-view",
        "no view lets requests read or write the rows that its owner sees without row-level security",
    )),
    finding(
        "owner-member",
        "no request role, and no role of Warden, owns the database or a registered table, or is a member of such an owner",
    ),
    acceptable(notice(
        "table-owner",
        "registered tables belong to superusers, to the database's owner, or to a role that may migrate; the notice names \
         the roles that can act as another owner",
    )),
    acceptable(finding(
        "organization-owner",
        "organisations and memberships belong to a superuser, the database's owner, a role that may migrate, or the owner \
         of another registered table",
    )),
    finding(
        "request-role",
        "no request role can become a superuser, or a role that bypasses row-level security, reads all data or the \
         statements of others, replicates, uses the server's files or programs, ends sessions, or creates roles",
    ),
    acceptable(finding(
        "all-data-role",
        "no role has REPLICATION, or is a member of `pg_read_all_data`, `pg_write_all_data`, `pg_read_server_files`, \
         `pg_write_server_files` or `pg_execute_server_program`, because all of these include the event log",
    )),
    acceptable(notice("role-creator", "only owners of tables have CREATEROLE")),
    finding(
        "schema-right",
        "neither PUBLIC nor a request role may create schemas, or objects in schema `public`, and no ordinary role owns it",
    ),
    finding(
        "warden-owner",
        "schema `warden` and what it contains belong to `warden_owner`, and the view `warden.tenant_objects` is \
         unmodified",
    ),
    finding(
        "warden-trigger",
        "no trigger of others is on tables of schema `warden`, and none of an ordinary role's functions on organisations \
         and memberships",
    ),
    finding(
        "session-default",
        "no role or database has default claims, or a search_path in which another schema precedes `pg_catalog`; no \
         request role has a default role that bypasses row-level security",
    ),
    acceptable(finding(
        "definer-function",
        "no SECURITY DEFINER function lets requests reach registered tables without row-level security: itself, through \
         views or other functions, by statements that they build, or as a trigger of a table or view to which requests may write",
    )),
    acceptable(finding(
        "claim-setter",
        "no function lets an ordinary role set the claims or the role of its transaction, or runs a statement into which \
         its caller may write another one",
    )),
    acceptable(finding(
        "rewrite-rule",
        "no rule (CREATE RULE) acts on a registered table, neither from it nor from another table to which requests may \
         write (DO INSTEAD NOTHING does not act)",
    )),
    acceptable(notice("sequence-right", "requests have no rights on a sequence that organisations share")),
    acceptable(finding(
        "foreign-data",
        "requests have no foreign table, no view or SECURITY DEFINER function that uses another database, and no user \
         mapping of another server",
    )),
    acceptable(finding(
        "server-function",
        "requests may execute no function that PostgreSQL grants to no ordinary role (such as `pg_read_file`), none of \
         `dblink`, and none in an untrusted language",
    )),
    acceptable(finding(
        "queue-table",
        "requests may not use the tables of queues, schedulers, sessions and tokens of libraries, such as `pgmq`",
    )),
    acceptable(notice(
        "publication",
        "no publication replicates rows of every organisation without a row filter",
    )),
    acceptable(notice(
        "event-trigger",
        "event triggers and their functions belong to superusers, or to owners of registered tables",
    )),
    acceptable(notice("large-object", "requests may read no large objects, and own none")),
    acceptable(notice("storage-policy", "policies of storage name the organisation")),
    finding(
        "silent-triggers",
        "triggers, Warden's event triggers and foreign keys are not disabled, neither by `session_replication_role` nor \
         one by one",
    ),
    finding("function", "Warden's functions exist, exactly as this version creates them"),
    finding("function-search-path", "the search_path of Warden's functions is `pg_catalog, pg_temp`"),
    finding("function-owner", "Warden's functions belong to `warden_owner`, or to the owner of the tables"),
    finding(
        "function-marks",
        "Warden's functions have the volatility, parallel safety, settings and marks (such as SECURITY DEFINER) with \
         which they were created",
    ),
    finding(
        "function-rights",
        "neither PUBLIC nor a request role may execute functions of schema `warden`, or the token hook",
    ),
    finding(
        "function-callers",
        "request roles, and Warden's own, may execute `auth_org_id()` and `auth_user_id()`",
    ),
    finding(
        "claims",
        "`auth_org_id()` reads `app_metadata` only, and returns null for every malformed claim",
    ),
    finding(
        "token-hook",
        "the token hook sets `org_id` to the organisation of the user's membership, and removes any other",
    ),
    finding("token-hook-caller", "if `supabase_auth_admin` exists, it may execute the token hook"),
    finding(
        "log-rights",
        "PUBLIC and request roles have no rights in schema `warden`, and the gateway's role may only read",
    ),
    acceptable(notice("several-memberships", "of a user's several memberships, one is primary")),
    finding("watch-table", "a watched table exists"),
    finding("watch-columns", "a watched table has the columns that `warden.watch()` was called with"),
    finding(
        "watch-shape",
        "a watched table has the columns and members for which its log function was generated",
    ),
    finding("watch-triggers", "the triggers of a watched table exist and are enabled"),
    acceptable(notice(
        "watch-replication",
        "a watched table to which a subscription of logical replication writes is watched with `replicated => true`",
    )),
    finding(
        "watch-visibility",
        "clients may SELECT what a watched table sends them, or its watch says who receives it",
    ),
];

impl Rule {
    /// The rule with this id.
    #[must_use]
    pub fn by_id(id: &str) -> Option<&'static Self> {
        RULES.iter().find(|rule| rule.id == id)
    }

    /// The table of rules for the documentation.
    #[must_use]
    pub fn markdown() -> String {
        let mut text =
            String::from("| rule | severity | must be true | can be accepted |\n|---|---|---|---|\n");
        for rule in RULES {
            let acceptance = if rule.is_acceptable { "yes " } else { "" };
            text +=
                &format!("| `{}` | {} | {} | {acceptance}|\n", rule.id, rule.severity.name(), rule.statement);
        }
        text
    }
}
