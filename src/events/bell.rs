//! The reader's side of the doorbell's lock: silencing it under load, and giving it back.

use super::log::{LogError, LogReader};

/// The advisory lock of the doorbell, as in `warden.ring()`.
const BELL_LOCK: i64 = 1_463_898_692;
/// The channel on which `warden.ring()` notifies.
pub(super) const BELL_CHANNEL: &str = "warden";
/// What a reader notifies when it silences the bell.
pub(super) const BELL_SILENCED: &str = "silenced";

impl LogReader {
    /// Silences the doorbell: while readers hold its lock, shared, no writer gets it, so none rings. The
    /// other readers are told to look by themselves. False where a writer has the lock just now.
    ///
    /// # Errors
    /// When the database can't be asked.
    pub async fn silence_bell(&mut self) -> Result<bool, LogError> {
        let got = sqlx::query_scalar!(r#"select pg_try_advisory_lock_shared($1) as "got!""#, BELL_LOCK)
            .fetch_one(&mut self.connection)
            .await?;
        if got {
            sqlx::query!("select pg_notify($1, $2)", BELL_CHANNEL, BELL_SILENCED)
                .fetch_one(&mut self.connection)
                .await?;
        }
        Ok(got)
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
        // Taken and given back within the statement: a writer who commits meanwhile does not ring, and a
        // reader that is not looking would wait for its next poll.
        Ok(sqlx::query_scalar!(r#"select pg_try_advisory_xact_lock($1) as "got!""#, BELL_LOCK)
            .fetch_one(&mut self.connection)
            .await?)
    }
}
