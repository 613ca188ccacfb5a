//! Streams of a random world: the watched tables send what the same claims may SELECT, unless their
//! visibility says otherwise.
//!
//! Each step changes every row. For each organisation, a token that names the topics and one that does not
//! receive the events live, by a replay from memory, and by a replay from the log. The rows and columns that
//! arrived are compared with those that the claims may SELECT at that time.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use warden::app::Gateway;

use super::world::{TABLES, World};
use crate::harness::{Client, TestDb, TestGateway, token};

/// Topics of the tables.
const TOPICS: [&str; 2] = ["tickets", "order_lines"];
/// Columns of the tables.
const COLUMNS: [&str; 4] = ["id", "owner_id", "v", "org_id"];
/// Published after the changes of a step.
const MARKER: &str = "step.done";

/// Values by id and column.
type Cells = BTreeMap<(i64, String), Value>;

/// Receivers of the events of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visibility {
    /// The watch needed no decision: clients may SELECT what it sends.
    Undecided,
    Organisation,
    Claim,
}

/// The watched tables of a world, and two gateways: the second has no events in memory.
pub struct Streams {
    visibilities: [Visibility; 2],
    nodes: [Gateway; 2],
}

/// A token of a member.
struct Member {
    org: usize,
    /// Whether its claims name the topics.
    is_named: bool,
    token: String,
    claims: String,
}

impl Streams {
    /// Watches the tables. A table that needs a decision gets one by `decide`.
    pub async fn start(db: &TestDb, mut decide: impl FnMut() -> bool) -> Self {
        // Without any right of `authenticated`, the calls of warden.watch would be the decisions.
        db.run("create table used (id int); grant select on used to authenticated").await;
        let mut visibilities = [Visibility::Undecided; 2];
        for ((table, topic), visibility) in TABLES.iter().zip(TOPICS).zip(&mut visibilities) {
            let watch = |argument: &str| {
                format!(
                    "select warden.watch('{table}', '{topic}', '{topic}', entity_topic => '{topic}'{argument})"
                )
            };
            if sqlx::query(AssertSqlSafe(watch(""))).execute(&db.pool).await.is_err() {
                let (name, decided) = if decide() {
                    ("organisation", Visibility::Organisation)
                } else {
                    ("claim", Visibility::Claim)
                };
                db.run(watch(&format!(", visibility => '{name}'"))).await;
                *visibility = decided;
            }
        }
        let nodes = [
            TestGateway::gateway(db, |_| {}).await,
            TestGateway::gateway(db, |config| config.limits.recent.bytes_max = 0).await,
        ];
        Self { visibilities, nodes }
    }

    pub async fn stop(self) {
        for node in self.nodes {
            node.stop().await;
        }
    }

    /// Differences between what arrives and what the claims may SELECT. The rows are finally as before.
    pub async fn check(&self, db: &TestDb, world: &World, phase: &str) -> Vec<String> {
        let mut failures = Vec::new();
        for change in ["v + 4", "v - 4"] {
            let mut live = Vec::new();
            for member in members(world) {
                let mut client = Client::connect(self.nodes[0].public_addr(), &member.token).await;
                let cursors = self.join(&mut client, &member, |_| json!({})).await;
                live.push((member, client, cursors));
            }
            for table in TABLES {
                db.run(format!("update {table} set v = {change}")).await;
            }
            for (org, topic) in world.orgs.iter().flat_map(|org| TOPICS.map(|topic| (*org, topic))) {
                db.publish(org, topic, MARKER).await;
            }
            for (member, mut client, cursors) in live {
                let selected = selectable(db, &member).await;
                let mut arrived = vec![("live", receive(&mut client, cursors.len()).await)];
                for (what, node) in ["from memory", "from the log"].into_iter().zip(&self.nodes) {
                    let mut client = Client::connect(node.public_addr(), &member.token).await;
                    self.join(&mut client, &member, |topic| json!({"since": cursors[topic]})).await;
                    arrived.push((what, receive(&mut client, cursors.len()).await));
                }
                for (how, cells) in arrived {
                    failures.extend(
                        self.differences(&member, &cells, &selected)
                            .into_iter()
                            .map(|text| format!("{phase}, {change}, {how}: {text}")),
                    );
                }
            }
        }
        failures
    }

    /// Joins every topic that the token may join. Returns the cursors by topic.
    async fn join(
        &self,
        client: &mut Client,
        member: &Member,
        payload: impl Fn(&str) -> Value,
    ) -> BTreeMap<&'static str, Value> {
        let mut cursors = BTreeMap::new();
        for (topic, visibility) in TOPICS.into_iter().zip(self.visibilities) {
            if visibility == Visibility::Claim && !member.is_named {
                let reply = client.push(topic, "phx_join", json!({})).await;
                assert_eq!(reply.response["reason"], "forbidden topic", "{topic}");
            } else {
                cursors.insert(topic, client.join_with(topic, payload(topic)).await["cursor"].clone());
            }
        }
        cursors
    }

    /// All rows of the organisation arrive, and nothing else. If nobody decided about the table, these are
    /// exactly the rows and columns that the claims may SELECT.
    fn differences(&self, member: &Member, arrived: &[Cells; 2], selected: &[Cells; 2]) -> Vec<String> {
        let mut found = Vec::new();
        for (n, visibility) in self.visibilities.into_iter().enumerate() {
            let context = format!("{}, {visibility:?}, organisation {}", TABLES[n], member.org);
            let is_own = |id: i64| id % 2 == i64::from(member.org == 0);
            let arrived = &arrived[n];
            let mut may = selected[n].clone();
            may.retain(|(id, _), _| is_own(*id));
            if arrived.keys().any(|(id, _)| !is_own(*id)) {
                found.push(format!("{context}: rows of another organisation arrived: {arrived:?}"));
            }
            if visibility == Visibility::Undecided && *arrived != may {
                found.push(format!("{context}: arrived {arrived:?}, but may SELECT {may:?}"));
            }
            let is_joined = visibility != Visibility::Claim || member.is_named;
            if is_joined == arrived.is_empty() {
                found.push(format!("{context}, named: {}: arrived {arrived:?}", member.is_named));
            }
        }
        found
    }
}

fn members(world: &World) -> Vec<Member> {
    let mut members = Vec::new();
    for org in 0..2 {
        for is_named in [false, true] {
            let mut metadata = json!({"org_id": world.orgs[org]});
            if is_named {
                metadata["warden_topics"] = json!(["*"]);
            }
            let changes = json!({"sub": world.users[org], "app_metadata": metadata});
            let token = token(world.orgs[org], &changes);
            members.push(Member { org, is_named, token, claims: changes.to_string() });
        }
    }
    members
}

/// The rows that arrive on each topic before its marker.
async fn receive(client: &mut Client, topics: usize) -> [Cells; 2] {
    let mut arrived = [Cells::new(), Cells::new()];
    let mut done = 0;
    while done < topics {
        let event = client.next_event().await;
        if event.name == MARKER {
            done += 1;
            continue;
        }
        let n = TOPICS.iter().position(|topic| event.topic == *topic).expect("a topic of a table");
        assert_eq!(event.name, format!("{}.updated", TOPICS[n]), "{event:?}");
        let id = event.data("id").as_i64().expect("an id");
        for (column, value) in event.payload["data"].as_object().expect("a row") {
            arrived[n].insert((id, column.clone()), value.clone());
        }
    }
    arrived
}

/// Values that the claims may SELECT from each table.
async fn selectable(db: &TestDb, member: &Member) -> [Cells; 2] {
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    let mut found = [Cells::new(), Cells::new()];
    for (table, cells) in TABLES.iter().zip(&mut found) {
        for column in COLUMNS {
            let mut transaction = connection.begin().await.expect("begins");
            sqlx::query(
                "select set_config('request.jwt.claims', $1, true), set_config('role', 'authenticated', true)",
            )
            .bind(&member.claims)
            .execute(&mut *transaction)
            .await
            .expect("sets");
            let sql = format!("select id, to_jsonb({column}) from {table}");
            let rows: Result<Vec<(i32, Value)>, _> =
                sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut *transaction).await;
            for (id, value) in rows.unwrap_or_default() {
                cells.insert((i64::from(id), column.to_owned()), value);
            }
            transaction.rollback().await.expect("rolls back");
        }
    }
    found
}
