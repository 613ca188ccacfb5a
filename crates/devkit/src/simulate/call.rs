//! One simulated call: its next change, and the statement that makes this change. Each step is one statement
//! and one commit. The module knows no rate, retries or limits.

use sqlx::PgPool;
use uuid::Uuid;

use super::content::{STORIES, Story, chance, phone_number, pick, sid};

/// Twilio's error codes for failed calls.
const ERROR_CODES: [i32; 4] = [13224, 13225, 21217, 31005];
/// Price of a minute of telephony, in US dollars.
const CALL_PRICE: f64 = 0.0085;
/// Price of a minute of the assistant, in US dollars.
const ASSISTANT_PRICE: f64 = 0.05;
/// Size of a recording with 8 kHz, 16 bits and one channel.
const RECORDING_BYTES_PER_SECOND: i64 = 16_000;

/// Next change of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Queue,
    Ring,
    Answer,
    Record,
    Annotate,
    HangUp,
    ProcessRecording,
    StoreRecording,
    Log,
    /// Ends a call without a conversation, with this status and reason.
    End(&'static str, &'static str),
}

/// A call in progress.
#[derive(Debug)]
pub(super) struct Call {
    id: Uuid,
    org: Uuid,
    recording: Uuid,
    story: &'static Story,
    recorded: bool,
    step: Step,
}

impl Call {
    /// Creates a call that is not in the database yet.
    pub(super) fn new(org: Uuid) -> Self {
        Self {
            id: Uuid::new_v4(),
            org,
            recording: Uuid::new_v4(),
            story: pick(&STORIES),
            recorded: chance(0.8),
            step: Step::Queue,
        }
    }

    /// Makes the next change. Returns false if there was no row to change: then the call is over, because its
    /// row was deleted.
    pub(super) async fn advance(&self, pool: &PgPool) -> sqlx::Result<bool> {
        let rows = match self.step {
            Step::Queue => self.queue(pool).await?,
            Step::Ring => self.ring(pool).await?,
            Step::Answer => self.answer(pool).await?,
            Step::Record => self.record(pool).await?,
            Step::Annotate => self.annotate(pool).await?,
            Step::HangUp => self.hang_up(pool).await?,
            Step::ProcessRecording => self.process_recording(pool).await?,
            Step::StoreRecording => self.store_recording(pool).await?,
            Step::Log => self.log(pool).await?,
            Step::End(status, reason) => self.end(pool, status, reason).await?,
        };
        // If an insert finds its row, an earlier attempt had been committed although it seemed to fail.
        Ok(rows > 0 || matches!(self.step, Step::Queue | Step::Record))
    }

    /// Advances to the step after the last change; `None` if the call has ended.
    pub(super) fn next(mut self) -> Option<Self> {
        self.step = match self.step {
            Step::Queue if chance(0.03) => Step::End("canceled", "canceled-by-caller"),
            Step::Queue => Step::Ring,
            Step::Ring => match fastrand::u8(..100) {
                0..74 => Step::Answer,
                74..82 => Step::End("busy", "customer-busy"),
                82..93 => Step::End("no-answer", "customer-did-not-answer"),
                93..96 => Step::End("canceled", "canceled-by-caller"),
                _ => Step::End("failed", "twilio-failed-to-connect-call"),
            },
            Step::Answer if self.recorded => Step::Record,
            Step::Answer | Step::Record if chance(0.4) => Step::Annotate,
            Step::Answer | Step::Record | Step::Annotate => Step::HangUp,
            Step::HangUp if self.recorded => Step::ProcessRecording,
            Step::ProcessRecording => Step::StoreRecording,
            Step::HangUp | Step::StoreRecording => Step::Log,
            Step::Log | Step::End(..) => return None,
        };
        Some(self)
    }

    async fn queue(&self, pool: &PgPool) -> sqlx::Result<u64> {
        let direction = pick(&["inbound", "inbound", "outbound-api"]);
        let done = sqlx::query!(
            r#"insert into public.calls
               (id, org_id, twilio_call_sid, vapi_call_id, direction, from_number, to_number, status,
                assistant_id, metadata)
             values ($1, $2, $3, $4, $5, $6, $7, 'queued', $8, '{"simulated": true}')
             on conflict (id) do nothing"#,
            self.id,
            self.org,
            sid("CA"),
            self.vapi_id(),
            direction,
            phone_number(),
            phone_number(),
            self.story.assistant
        )
        .execute(pool)
        .await?;
        Ok(done.rows_affected())
    }

    async fn ring(&self, pool: &PgPool) -> sqlx::Result<u64> {
        let done = sqlx::query!(
            "update public.calls set status = 'ringing', started_at = now(), updated_at = now()
             where org_id = $1 and id = $2",
            self.org,
            self.id
        )
        .execute(pool)
        .await?;
        Ok(done.rows_affected())
    }

    async fn answer(&self, pool: &PgPool) -> sqlx::Result<u64> {
        let done = sqlx::query!(
            "update public.calls
             set status = 'in-progress', answered_at = now(), answered_by = $3, updated_at = now()
             where org_id = $1 and id = $2",
            self.org,
            self.id,
            pick(&["human", "human", "human", "human", "machine_start", "unknown"])
        )
        .execute(pool)
        .await?;
        Ok(done.rows_affected())
    }

    async fn annotate(&self, pool: &PgPool) -> sqlx::Result<u64> {
        let done = sqlx::query!(
            "update public.calls
             set metadata = metadata || jsonb_build_object('topic', $3::text), updated_at = now()
             where org_id = $1 and id = $2",
            self.org,
            self.id,
            self.story.topic
        )
        .execute(pool)
        .await?;
        Ok(done.rows_affected())
    }

    async fn hang_up(&self, pool: &PgPool) -> sqlx::Result<u64> {
        // Twilio reports prices as negative numbers, and charges started minutes in full.
        let done = sqlx::query!(
            "update public.calls
             set status = 'completed', ended_at = now(), ended_reason = $3, updated_at = now(),
                 duration_seconds = extract(epoch from now() - answered_at)::integer,
                 price = (-$4::float8 * greatest(1, ceil(extract(epoch from now() - answered_at) / 60)))::numeric(12, 5),
                 price_unit = 'USD'
             where org_id = $1 and id = $2", self.org, self.id, self.story.ended_reason, CALL_PRICE)
        .execute(pool)
        .await?;
        Ok(done.rows_affected())
    }

    async fn end(&self, pool: &PgPool, status: &str, reason: &str) -> sqlx::Result<u64> {
        let done = sqlx::query!(
            "update public.calls
             set status = $3, ended_at = now(), ended_reason = $4, error_code = $5,
                 duration_seconds = 0, updated_at = now()
             where org_id = $1 and id = $2",
            self.org,
            self.id,
            status,
            reason,
            (status == "failed").then(|| *pick(&ERROR_CODES))
        )
        .execute(pool)
        .await?;
        Ok(done.rows_affected())
    }

    async fn record(&self, pool: &PgPool) -> sqlx::Result<u64> {
        let done = sqlx::query!(
            "insert into public.recordings (id, org_id, call_id, twilio_recording_sid, status, channels)
             values ($1, $2, $3, $4, 'in-progress', $5)
             on conflict (id) do nothing",
            self.recording,
            self.org,
            self.id,
            sid("RE"),
            *pick(&[1_i16, 2])
        )
        .execute(pool)
        .await?;
        Ok(done.rows_affected())
    }

    async fn process_recording(&self, pool: &PgPool) -> sqlx::Result<u64> {
        let done = sqlx::query!(
            "update public.recordings r
             set status = 'processing', duration_seconds = c.duration_seconds, updated_at = now()
             from public.calls c
             where r.org_id = $1 and r.id = $2 and c.org_id = r.org_id and c.id = r.call_id",
            self.org,
            self.recording
        )
        .execute(pool)
        .await?;
        Ok(done.rows_affected())
    }

    async fn store_recording(&self, pool: &PgPool) -> sqlx::Result<u64> {
        let done = sqlx::query!(
            "update public.recordings
             set status = 'completed', updated_at = now(),
                 storage_path = format('%s/recordings/%s.wav', org_id, id),
                 size_bytes = 44 + $3::bigint * channels * coalesce(duration_seconds, 0)
             where org_id = $1 and id = $2",
            self.org,
            self.recording,
            RECORDING_BYTES_PER_SECOND
        )
        .execute(pool)
        .await?;
        Ok(done.rows_affected())
    }

    async fn log(&self, pool: &PgPool) -> sqlx::Result<u64> {
        let done = sqlx::query!(
            "insert into public.call_logs
               (org_id, call_id, vapi_call_id, summary, transcript, sentiment, success, cost,
                duration_seconds)
             select c.org_id, c.id, c.vapi_call_id, $3, $4, $5, $6,
                    ($7::float8 * c.duration_seconds / 60)::numeric(12, 5), c.duration_seconds
             from public.calls c where c.org_id = $1 and c.id = $2",
            self.org,
            self.id,
            self.story.summary,
            self.story.transcript(),
            self.story.sentiment,
            self.story.success,
            ASSISTANT_PRICE
        )
        .execute(pool)
        .await?;
        Ok(done.rows_affected())
    }

    fn vapi_id(&self) -> String {
        // Vapi has UUIDs of its own. This one is derived from the call's id, so that a repeated insert is
        // identical.
        Uuid::from_u128(!self.id.as_u128()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_ends_within_nine_steps() {
        const STEPS_MAX: usize = 9;
        for _ in 0..1000 {
            let mut steps = vec![];
            let mut call = Some(Call::new(Uuid::nil()));
            while let Some(current) = call {
                steps.push(current.step);
                call = current.next();
            }
            assert!(steps.len() <= STEPS_MAX, "{steps:?}");
            let last = steps.last().unwrap();
            assert!(matches!(last, Step::Log | Step::End(..)), "{steps:?}");
        }
    }
}
