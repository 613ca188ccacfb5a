//! The rows that each role reads, changes and deletes, and the organisation of each row.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::postgres::PgConnection;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, Executor as _, Row as _};
use uuid::Uuid;

/// Tables and views outside the system schemas, and whether they have a column `id` or `org_id`.
const RELATIONS: &str = "
    select format('%I.%I', n.nspname, c.relname) as name,
      coalesce((select string_agg(quote_ident(a.attname), ', ' order by u.n)
                from pg_index i, unnest(i.indkey::int2[]) with ordinality u (attnum, n)
                join pg_attribute a on a.attrelid = c.oid and a.attnum = u.attnum
                where i.indrelid = c.oid and a.attrelid = i.indrelid and i.indisprimary), '') as key,
      exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'org_id'
                and a.atttypid = 'uuid'::regtype and not a.attisdropped) as has_org,
      c.relkind in ('r', 'p') as is_table
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm')
      and n.nspname not in ('warden', 'pg_catalog', 'information_schema') and n.nspname !~ '^pg_'
    order by 1";

/// Runs every command as the present role, and rolls each back. A command that fails reaches no rows.
const PROBE: &str = "
    do $probe$
    declare
      command record;
      found jsonb := '{}';
      reached jsonb;
    begin
      for command in select * from (values {commands}) v (name, sql) loop
        reached := '[]';
        begin
          execute format('with x as (%s) select coalesce(jsonb_agg(x.reached), ''[]'') from x', command.sql)
            into reached;
          raise exception 'undo';
        exception when others then
          if sqlerrm <> 'undo' then
            reached := '[]';
          end if;
        end;
        found := found || jsonb_build_object(command.name, reached);
      end loop;
      perform set_config('probe.found', found::text, true);
    end
    $probe$";

struct Relation {
    name: String,
    /// Columns of the primary key; empty if there is none.
    key: String,
    has_org: bool,
    is_table: bool,
}

async fn relations(connection: &mut PgConnection) -> Vec<Relation> {
    let rows = sqlx::query(RELATIONS).fetch_all(connection).await.expect("reads the catalogs");
    rows.iter()
        .map(|row| Relation {
            name: row.get("name"),
            key: row.get("key"),
            has_org: row.get("has_org"),
            is_table: row.get("is_table"),
        })
        .collect()
}

/// The organisation of each row, by table and primary key.
#[derive(Debug, PartialEq, Eq)]
pub struct Rows(BTreeMap<(String, String), String>);

impl Rows {
    /// Reads the rows that have an organisation.
    pub async fn read(connection: &mut PgConnection) -> Self {
        let mut found = BTreeMap::new();
        for relation in relations(connection).await {
            if !relation.is_table || !relation.has_org || relation.key.is_empty() {
                continue;
            }
            let sql = format!(
                "select row({})::text, org_id::text from {} where org_id is not null",
                relation.key, relation.name
            );
            let rows: Vec<(String, String)> =
                sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut *connection).await.expect("reads");
            found.extend(rows.into_iter().map(|(key, org)| ((relation.name.clone(), key), org)));
        }
        Self(found)
    }

    /// Asserts that each row that still exists is in the same organisation.
    pub fn assert_unmoved(&self, after: &Self) {
        for (row, org) in &self.0 {
            if let Some(present) = after.0.get(row) {
                assert_eq!(org, present, "{row:?} is in another organisation");
            }
        }
    }
}

/// Role and claims; relation and command; the rows that it reaches.
type Reach = BTreeMap<(String, String), BTreeSet<String>>;

/// Rows that the commands of each role reach.
#[derive(Debug)]
pub struct Access(Reach);

impl Access {
    /// Tries the commands of each role on each relation, and rolls them back.
    pub async fn read(connection: &mut PgConnection, orgs: &[Uuid; 2]) -> Self {
        let commands: Vec<String> = relations(connection)
            .await
            .iter()
            .flat_map(commands)
            .map(|(name, sql)| format!("({}, {})", literal(&name), literal(&sql)))
            .collect();
        let probe = PROBE.replace("{commands}", &commands.join(", "));
        let [first, second] = orgs.map(|org| format!("{{\"app_metadata\": {{\"org_id\": \"{org}\"}}}}"));
        let mut reach = Reach::new();
        for (role, claims) in [
            ("anon", ""),
            ("authenticated", ""),
            ("authenticated", &first),
            ("authenticated", &second),
            ("remedy_login", ""),
            ("remedy_login", &first),
        ] {
            let enter = format!(
                "begin; set local role {role}; set local statement_timeout = '60s';
                 select set_config('request.jwt.claims', '{claims}', true); {probe}"
            );
            connection.execute(sqlx::raw_sql(AssertSqlSafe(enter))).await.expect("tries the commands");
            let found: Json<BTreeMap<String, BTreeSet<String>>> =
                sqlx::query_scalar("select current_setting('probe.found')::jsonb")
                    .fetch_one(&mut *connection)
                    .await
                    .expect("reads the result");
            connection.execute("rollback").await.expect("rolls back");
            let actor = format!("{role} {claims}");
            reach.extend(found.0.into_iter().map(|(action, rows)| ((actor.clone(), action), rows)));
        }
        Self(reach)
    }

    /// Asserts that nothing is possible that was possible neither before nor in a sound database.
    pub fn assert_not_widened(&self, after: &Self, sound: &Self) {
        let empty = BTreeSet::new();
        for (action, rows) in &after.0 {
            let before = self.0.get(action).unwrap_or(&empty);
            let sound = sound.0.get(action).unwrap_or(&empty);
            let more: Vec<&String> =
                rows.iter().filter(|row| !before.contains(*row) && !sound.contains(*row)).collect();
            assert!(more.is_empty(), "{action:?} now reaches {more:?}");
        }
    }
}

/// The commands on a relation, each with a name. Each returns the rows that it reaches.
fn commands(relation: &Relation) -> Vec<(String, String)> {
    let name = &relation.name;
    let row = if relation.key.is_empty() { "md5(t::text)" } else { &format!("row({})::text", relation.key) };
    let mut commands = vec![("select", format!("select {row} as reached from {name} t"))];
    if relation.is_table {
        commands.push(("delete", format!("delete from {name} t returning {row} as reached")));
        if relation.has_org {
            commands
                .push(("update", format!("update {name} t set org_id = org_id returning {row} as reached")));
        }
        let has = |function: &str, right: &str| {
            format!("select 'may' as reached where {function}({}, '{right}')", literal(name))
        };
        commands.push(("insert", has("has_any_column_privilege", "insert")));
        commands.push(("truncate", has("has_table_privilege", "truncate")));
    }
    commands.into_iter().map(|(command, sql)| (format!("{command} {name}"), sql)).collect()
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
