//! Times of users, and passes for the users that were created during a run.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Passes after the first one, each for the users that were created during the pass before it.
pub(super) const LATE_PASSES_MAX: u32 = 10;

/// Difference between the time in `created_at` and the moment at which the user becomes visible.
pub(super) const CREATION_SLACK: time::Duration = time::Duration::minutes(5);

/// Parses a time as Supabase Auth writes it.
pub(super) fn parse_time(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}
