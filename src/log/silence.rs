//! The tailer's side of the doorbell lock: silencing the doorbell under load, and releasing it.

use super::connection::{LogError, LogReader};

/// Key of the doorbell's advisory lock, as in `warden.ring()`.
const DOORBELL_LOCK: i64 = 1_463_898_692;
/// Channel on which `warden.ring()` notifies.
pub(super) const DOORBELL_CHANNEL: &str = "warden";
/// Payload of the notification that a tailer sends when it silences the doorbell.
pub(super) const SILENCED_PAYLOAD: &str = "silenced";

impl LogReader {
    /// Silences the doorbell. While tailers hold its lock in shared mode, no writer gets the lock, so no
    /// writer rings. The other tailers are notified that they must poll. Returns false if a writer holds the
    /// lock at this moment, or if the backend session is not dedicated to this connection.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn silence_doorbell(&mut self) -> Result<bool, LogError> {
        // In a pooled session the lock would outlive this client, and the doorbell would never ring again.
        if !self.has_dedicated_session() {
            return Ok(false);
        }
        // One statement takes the lock and notifies, so that a broken connection cannot separate the two.
        Ok(sqlx::query_scalar!(
            r#"
            select case when pg_try_advisory_lock_shared($1) then pg_notify($2, $3) is not null
                        else false end as "silenced!"
            "#,
            DOORBELL_LOCK,
            DOORBELL_CHANNEL,
            SILENCED_PAYLOAD
        )
        .fetch_one(&mut self.connection)
        .await?)
    }

    /// Releases the doorbell. It rings again unless another tailer silences it.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn release_doorbell(&mut self) -> Result<(), LogError> {
        sqlx::query!("select pg_advisory_unlock_shared($1)", DOORBELL_LOCK)
            .fetch_one(&mut self.connection)
            .await?;
        Ok(())
    }

    /// Rings the doorbell once, if no tailer silences it. Returns whether it rang. The answer is also false
    /// for the moment in which a writer holds the lock to ring.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn try_ring_doorbell(&mut self) -> Result<bool, LogError> {
        // This takes the exclusive lock and notifies, exactly as a writer does. A writer that commits at this
        // moment does not get the lock and stays silent. A tailer that waits for its ring receives this one
        // instead. Lock and notification end with the statement.
        self.begin_read().await?;
        let rang = sqlx::query_scalar!(
            r#"
            select case when pg_try_advisory_xact_lock($1) then pg_notify($2, '') is not null
                        else false end as "rang!"
            "#,
            DOORBELL_LOCK,
            DOORBELL_CHANNEL
        )
        .fetch_one(&mut self.connection)
        .await?;
        self.end_read().await?;
        Ok(rang)
    }
}
