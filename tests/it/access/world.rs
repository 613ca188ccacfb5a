//! Random databases of an application, before Warden: two tables with rows of two organisations, roles with
//! grants, memberships, policies, views and functions.

use fastrand::Rng;
use uuid::Uuid;

/// Ids of the rows. Each second one belongs to the second organisation.
pub const ROWS: std::ops::RangeInclusive<i32> = 1..=8;
/// Names of the tables.
pub const TABLES: [&str; 2] = ["tickets", "\"Order Lines\""];

/// Conditions of random policies.
const CONDITIONS: [&str; 6] = [
    "true",
    "v % 2 = 0",
    "v < 3",
    "owner_id::text = nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub'",
    "current_setting('request.jwt.claims', true) <> ''",
    "id in (1, 2, 3, 4)",
];

/// Conditions of policies of the second table that read the first one, whose rows with the same id or owner
/// belong to the same organisation.
const READING: [&str; 4] = [
    "exists (select from tickets t where t.id = \"Order Lines\".id and t.v > 0)",
    "not exists (select from tickets t where t.id = \"Order Lines\".id and t.v < 2)",
    "v <= (select count(*) from tickets t where t.owner_id = \"Order Lines\".owner_id)",
    "not has_ticket(id)",
];

/// A random database of an application.
pub struct World {
    /// Statements that create it.
    pub sql: String,
    /// Roles that try, with their short names.
    pub roles: Vec<String>,
    /// The users, one of each organisation.
    pub users: [Uuid; 2],
    pub orgs: [Uuid; 2],
    /// Views and functions of each table.
    pub views: [Vec<String>; 2],
    pub functions: [Vec<String>; 2],
    /// Objects that block the enforce phase until somebody decides: views and functions that show every
    /// organisation, because their owner is exempt from row-level security, and policies that read another
    /// table.
    pub exempt: Vec<Exempt>,
}

/// A view or function whose owner is exempt from row-level security, or a policy that reads another table.
pub struct Exempt {
    /// Name as warden reports it, with its schema.
    pub object: String,
    /// Rule of the audit that reports it.
    pub rule: &'static str,
    /// Attempts that reach rows through it.
    pub attempts: Vec<String>,
}

impl World {
    /// `prefix` keeps the names of roles apart, which belong to the whole cluster.
    pub fn random(random: &mut Rng, prefix: &str) -> Self {
        let role = |name: &str| format!("{prefix}_{name}");
        let mut world = Self {
            sql: String::new(),
            roles: ["anon", "authenticated", "service_role"].map(str::to_owned).to_vec(),
            users: [Uuid::from_u128(random.u128(..)), Uuid::from_u128(random.u128(..))],
            orgs: [Uuid::from_u128(random.u128(..)), Uuid::from_u128(random.u128(..))],
            views: [Vec::new(), Vec::new()],
            functions: [Vec::new(), Vec::new()],
            exempt: Vec::new(),
        };
        for name in ["owner", "heir", "stranger", "reader", "writer", "group", "member"] {
            let attributes = if name == "stranger" { " noinherit" } else { "" };
            world.sql +=
                &format!("create role {0}{attributes}; grant usage on schema public to {0};\n", role(name));
            world.roles.push(role(name));
        }
        // `heir` inherits the owner's exemption from policies; `stranger` only may become the owner.
        world.sql += &format!(
            "grant {owner} to {heir}, {stranger}; grant {group} to {member}, {stranger};\n",
            owner = role("owner"),
            heir = role("heir"),
            stranger = role("stranger"),
            group = role("group"),
            member = role("member")
        );
        for table in TABLES {
            world.sql += &format!(
                "create table {table} (id int primary key, owner_id uuid not null, v int not null);\n"
            );
        }
        world.sql += &format!(
            "create function has_ticket(int) returns boolean language sql stable security definer as
               'select exists (select from public.tickets where id = $1 and v > 1)';
             alter function has_ticket(int) owner to {};\n",
            role(["owner", "reader"][random.usize(..2)])
        );
        for n in 0..TABLES.len() {
            world.table(random, n, &role);
            world.exempt_objects(random, n, &role);
        }
        world
    }

    fn table(&mut self, random: &mut Rng, n: usize, role: &dyn Fn(&str) -> String) {
        let table = TABLES[n];
        let owner = role("owner");
        for id in ROWS {
            let user = self.users[usize::from(id % 2 == 0)];
            self.sql += &format!("insert into {table} values ({id}, '{user}', {});\n", random.i32(0..4));
        }
        self.sql += &format!("alter table {table} owner to {owner}; grant all on {table} to service_role;\n");
        let grantees: Vec<String> = ["anon", "authenticated", "public"]
            .map(str::to_owned)
            .into_iter()
            .chain(["reader", "writer", "group", "stranger"].map(role))
            .collect();
        for grantee in &grantees {
            let what = match random.u8(0..8) {
                0 | 1 => "select",
                2 => "select, insert, update, delete",
                3 => "all",
                4 => "select (id, v), update (v), insert (id, owner_id, v)",
                5 => "insert, update, delete",
                6 => "select (id), delete",
                _ => continue,
            };
            self.sql += &format!("grant {what} on {table} to {grantee};\n");
        }
        let is_enabled = random.u8(0..3) > 0;
        let is_forced = random.u8(0..4) == 0;
        if is_forced {
            self.sql += &format!("alter table {table} force row level security;\n");
        }
        for policy in 0..random.usize(0..5) {
            let to = &grantees[random.usize(..grantees.len())];
            // A restrictive policy without effect, or from which only the owner is exempt, is a question for
            // the operator.
            let may_restrict = is_enabled && (is_forced || to != "public");
            let kind = if may_restrict && random.u8(0..3) == 0 { "restrictive" } else { "permissive" };
            let command = ["all", "select", "insert", "update", "delete"][random.usize(..5)];
            let mut choose = || match random.usize(..if n == 1 { 10 } else { 6 }) {
                k if k < CONDITIONS.len() => CONDITIONS[k],
                k => READING[k - CONDITIONS.len()],
            };
            let (condition, check) = (choose(), choose());
            let using = if command == "insert" { String::new() } else { format!(" using ({condition})") };
            let check = match command {
                "select" | "delete" => String::new(),
                _ if command != "insert" && random.bool() => String::new(),
                _ => format!(" with check ({check})"),
            };
            if is_enabled && READING.iter().any(|c| using.contains(c) || check.contains(c)) {
                self.exempt.push(Exempt {
                    object: format!("public.{table}.policy {policy}"),
                    rule: "policy-condition",
                    attempts: Vec::new(),
                });
            }
            self.sql += &format!(
                "create policy \"policy {policy}\" on {table} as {kind} for {command} to {to}{using}{check};\n"
            );
        }
        if is_enabled {
            self.sql += &format!("alter table {table} enable row level security;\n");
        }
        self.views_and_functions(n, role);
    }

    /// Views and functions of the table's owner, and of a role that is subject to policies.
    fn views_and_functions(&mut self, n: usize, role: &dyn Fn(&str) -> String) {
        let table = TABLES[n];
        for (view, by) in [("shown", "owner"), ("listed", "reader")] {
            let name = format!("{view}_{n}");
            self.sql += &format!(
                "create view {name} as select id from {table}; alter view {name} owner to {}; grant select on {name} to public;
                 create function f_{name}() returns setof int language sql security definer as 'select id from {table}';
                 alter function f_{name}() owner to {};\n",
                role(by),
                role(by)
            );
            self.views[n].push(name.clone());
            self.functions[n].push(format!("f_{name}"));
        }
        self.sql += &format!(
            "create function plain_{n}() returns setof int language sql security invoker as 'select id from {table}';\n"
        );
        self.functions[n].push(format!("plain_{n}"));
    }

    /// Views, materialized views and functions of a superuser, and of a role with BYPASSRLS. The owner of a
    /// table is exempt today, and will not be: only a copy of its rows shows every organisation.
    fn exempt_objects(&mut self, random: &mut Rng, n: usize, role: &dyn Fn(&str) -> String) {
        let table = TABLES[n];
        let (reader, owner) = (role("reader"), role("owner"));
        for (kind, by) in [
            ("view", "current_user"),
            ("view", "service_role"),
            ("copy", "current_user"),
            ("copy", &owner),
            ("function", "current_user"),
            ("function", "service_role"),
            ("function of a view", "service_role"),
        ] {
            if random.u8(0..4) > 0 {
                continue;
            }
            let name = format!("exempt_{n}_{}", self.exempt.len());
            let (view, function) = (format!("view {name}"), format!("function {name}"));
            let (sql, rule, attempt) = match kind {
                // A view of an ordinary owner above it shows the same rows.
                "view" => (
                    format!(
                        "create view {name} as select id from {table}; alter view {name} owner to {by};
                         grant select on {name} to public; create view above_{name} as select id from {name};
                         alter view above_{name} owner to {reader}; grant select on above_{name} to public;"
                    ),
                    "bypassing-view",
                    view,
                ),
                "copy" => (
                    format!(
                        "create materialized view {name} as select id from {table};
                         alter materialized view {name} owner to {by}; grant select on {name} to public;"
                    ),
                    "bypassing-view",
                    view,
                ),
                "function" => (
                    format!(
                        "create function {name}() returns setof int language sql security definer
                           as 'select id from {table}';
                         alter function {name}() owner to {by};"
                    ),
                    "definer-function",
                    function,
                ),
                // It does not name the table. Only its owner may read the view.
                _ => (
                    format!(
                        "create view of_{name} as select id from {table}; grant select on of_{name} to service_role;
                         create function {name}() returns setof int language sql security definer
                           as 'select id from of_{name}';
                         alter function {name}() owner to {by};"
                    ),
                    "definer-function",
                    function,
                ),
            };
            self.sql += &format!("{sql}\n");
            let is_view = rule == "bypassing-view";
            let mut attempts = vec![attempt];
            if kind == "view" {
                attempts.push(format!("view above_{name}"));
                self.views[n].push(format!("above_{name}"));
            }
            let names = if is_view { &mut self.views[n] } else { &mut self.functions[n] };
            names.push(name.clone());
            let object = if is_view { format!("public.{name}") } else { format!("public.{name}()") };
            self.exempt.push(Exempt { object, rule, attempts });
        }
    }
}
