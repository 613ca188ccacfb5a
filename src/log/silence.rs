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
    /// lock at this moment, if the notification queue is full, or if the backend session is not dedicated to
    /// this connection.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn silence_doorbell(&mut self) -> Result<bool, LogError> {
        // In a pooled session the lock would outlive this client, and the doorbell would never ring again.
        if !self.has_dedicated_session() {
            return Ok(false);
        }
        // One statement takes the lock and notifies, so that a broken connection cannot separate the two.
        let silenced = sqlx::query_scalar!(
            r#"
            select case when pg_try_advisory_lock_shared($1) then pg_notify($2, $3) is not null
                        else false end as "silenced!"
            "#,
            DOORBELL_LOCK,
            DOORBELL_CHANNEL,
            SILENCED_PAYLOAD
        )
        .fetch_one(&mut self.connection)
        .await;
        match silenced {
            Err(error) if is_queue_full(&error) => {
                // The lock belongs to the session, so the failed statement has kept it.
                self.release_doorbell().await?;
                Ok(false)
            }
            silenced => Ok(silenced?),
        }
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
    /// for the moment in which a writer holds the lock to ring, and while the notification queue is full.
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
        .await;
        // The notification enters the queue at commit, which is that of the statement or that of the read.
        let ended = match rang {
            Ok(rang) => self.end_read().await.map(|()| rang),
            Err(error) => Err(error.into()),
        };
        match ended {
            Err(LogError::Database(error)) if is_queue_full(&error) => Ok(false),
            ended => ended,
        }
    }
}

/// Whether a notification failed because the queue of the server is full. Any role of the server can fill it:
/// with a transaction that listens and stays open, and notifications.
fn is_queue_full(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() == Some("54000")
}
