//! Rotations of the log that a test makes, beside the attempts of its gateways' own jobs.

use sqlx::postgres::PgConnection;

use super::eventually;

/// Rotates the log several times, each time as soon as no reader or writer of the log blocks it.
pub async fn rotate_log(connection: &mut PgConnection, times: usize) {
    for _ in 0..times {
        eventually("the log rotates", async || match rotate_once(connection, "'0', 0").await.as_str() {
            "rotated" => true,
            "blocked" => false,
            other => panic!("{other}"),
        })
        .await;
    }
}

/// Calls `warden.rotate_events` with these arguments and returns its result. The first attempt of a gateway's
/// job follows its start, so the call is repeated while another rotation is under way.
pub async fn rotate_once(connection: &mut PgConnection, arguments: &str) -> String {
    let sql = format!("select warden.rotate_events({arguments})");
    let mut result = String::new();
    eventually("no other rotation is under way", async || {
        let rotation = sqlx::query_scalar(sqlx::AssertSqlSafe(sql.clone()));
        result = rotation.fetch_one(&mut *connection).await.expect("rotates");
        result != "busy"
    })
    .await;
    result
}
