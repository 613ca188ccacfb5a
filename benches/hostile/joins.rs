//! Joins of one organisation that cost the node more than others: with many different filters, with marks,
//! with questions, and with tokens whose filters change. Its back ends change rows meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::attacks::{Target, Tasks, count_sent, push_from};
use crate::tokens::{claims, header, hs256};

/// Sockets of one attack.
const SOCKETS: usize = 300;
/// Interval of the messages of one socket.
const INTERVAL: Duration = Duration::from_millis(100);
/// Interval of the changes.
const CHANGE_INTERVAL: Duration = Duration::from_millis(10);
/// Entity topics of each socket, which are joined with marks.
const ENTITIES: u64 = 30;
/// Rows that change.
const ROWS: u64 = 5000;

/// Begins the attack with this name. Returns whether there is one.
pub(crate) async fn begin(name: &str, target: &Target, tasks: &mut Tasks) -> anyhow::Result<bool> {
    match name {
        "filters" => filters(target, tasks),
        "marks" => marks(target, tasks).await?,
        _ => return Ok(false),
    }
    write(target, tasks).await?;
    Ok(true)
}

/// A back end that changes rows which some of the filters select. Its server process has the usual priority,
/// because a process at a low one would hold locks of commits for longer.
async fn write(target: &Target, tasks: &mut Tasks) -> anyhow::Result<()> {
    let mut backend = PgConnection::connect(&target.url).await?;
    // More than the gateway keeps of the recent events of one organisation, so that its memory does not grow
    // later.
    let insert = "insert into calls (org_id, from_number, metadata)
                  select $1, n::text, jsonb_build_object('x', repeat('x', 1000)) from generate_series(1, $2) n
                  returning id";
    let insert = sqlx::query_scalar(insert).bind(target.org).bind(i64::try_from(ROWS)?);
    let ids: Vec<Uuid> = insert.fetch_all(&mut backend).await?;
    tasks.spawn(async move {
        let mut ticks = tokio::time::interval(CHANGE_INTERVAL);
        for n in 0.. {
            ticks.tick().await;
            let update = sqlx::query("update calls set to_number = $1 where id = $2").bind(n.to_string());
            update.bind(ids[n % ids.len()]).execute(&mut backend).await?;
            count_sent(n == 0);
        }
        Ok(())
    });
    Ok(())
}

/// Every socket joins with another compound filter at each interval. For every second filter there is a value
/// by which an index finds it.
fn filters(target: &Target, tasks: &mut Tasks) {
    let next = Arc::new(AtomicU64::new(0));
    push_from(target, SOCKETS, INTERVAL, tasks, move |_| {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let filter = if n.is_multiple_of(2) {
            format!("from_number=eq.{}&or=(to_number.gt.{n},status.eq.ringing)", n % ROWS)
        } else {
            format!("or=(from_number.eq.{n},and(to_number.gt.{n},from_number.like.*{n}*))&status=neq.x{n}")
        };
        ("calls".into(), "phx_join", json!({"filter": filter}))
    });
}

/// Every socket joins many topics with marks. Then it asks for a transaction, and sends tokens with other
/// filters, in turn.
async fn marks(target: &Target, tasks: &mut Tasks) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(&target.url).await?;
    let tx = "select warden.current_tx($1) from warden.publish($1, 'calls', 'first', '{}')";
    let tx: String = sqlx::query_scalar(tx).bind(target.org).fetch_one(&mut connection).await?;
    let tokens = ["inbound", "outbound-api"].map(|direction| with_filter(target.org, direction));
    push_from(target, SOCKETS, INTERVAL, tasks, move |n| match n {
        0 => ("calls".into(), "phx_join", json!({"marks": true})),
        1..=ENTITIES => {
            (format!("call:{}", Uuid::from_u128(n.into())).into(), "phx_join", json!({"marks": true}))
        }
        _ if n.is_multiple_of(2) => ("calls".into(), "warden.covers", json!({"tx": tx})),
        _ => {
            let token = &tokens[usize::from(n % 4 == 1)];
            ("calls".into(), "access_token", json!({"access_token": token}))
        }
    });
    Ok(())
}

/// A token for the calls of one direction.
fn with_filter(org: Uuid, direction: &str) -> String {
    let mut claims = claims(org);
    claims["app_metadata"]["warden_filters"] = json!({"calls": format!("direction=eq.{direction}")});
    hs256(&header(), &claims)
}
