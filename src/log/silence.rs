//! The reader's side of the doorbell's lock: silencing it under load, and giving it back.

use super::reader::{LogError, LogReader};

/// The advisory lock of the doorbell, as in `warden.ring()`.
const BELL_LOCK: i64 = 1_463_898_692;
/// The channel on which `warden.ring()` notifies.
pub(super) const BELL_CHANNEL: &str = "warden";
/// What a reader notifies when it silences the bell.
pub(super) const BELL_SILENCED: &str = "silenced";

impl LogReader {
    /// Silences the doorbell: while readers hold its lock, shared, no writer gets it, so none rings. The
    /// other readers are told to look by themselves. False where a writer has the lock just now, or where the session
    /// is not the reader's own.
    ///
    /// # Errors
    /// When the database can't be asked.
    pub async fn silence_bell(&mut self) -> Result<bool, LogError> {
        // In a session that is shared the lock would stay behind for ever, and nobody would ring again.
        if !self.owns_session() {
            return Ok(false);
        }
        // In one statement, so that no connection breaks between the lock and the word.
        Ok(sqlx::query_scalar!(
            r#"select case when pg_try_advisory_lock_shared($1) then pg_notify($2, $3) is not null else false end as "got!""#,
            BELL_LOCK,
            BELL_CHANNEL,
            BELL_SILENCED
        )
        .fetch_one(&mut self.connection)
        .await?)
    }

    /// Gives the bell back; it rings again unless another reader silences it.
    ///
    /// # Errors
    /// When the database can't be asked.
    pub async fn release_bell(&mut self) -> Result<(), LogError> {
        sqlx::query!("select pg_advisory_unlock_shared($1)", BELL_LOCK)
            .fetch_one(&mut self.connection)
            .await?;
        Ok(())
    }

    /// Whether the bell rings: not while a reader silences it (nor, for a moment, while a writer has the
    /// lock to ring).
    ///
    /// # Errors
    /// When the database can't be asked.
    pub async fn bell_rings(&mut self) -> Result<bool, LogError> {
        // As a writer does it, ring included: a writer who commits in that moment does not get the lock, and
        // a reader that is waiting for its ring hears this one. Lock and ring end with the statement.
        self.enter().await?;
        let rings = sqlx::query_scalar!(
            r#"select case when pg_try_advisory_xact_lock($1) then pg_notify($2, '') is not null else false end as "got!""#,
            BELL_LOCK,
            BELL_CHANNEL
        )
        .fetch_one(&mut self.connection)
        .await?;
        self.leave().await?;
        Ok(rings)
    }
}
