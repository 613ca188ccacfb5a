//! The share of each session and organisation in the log: lines that clients cause are limited, and what is
//! left out is counted.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::time::Instant;

use crate::org::OrgId;
use crate::rate::{Bucket, Rate};
use crate::sync::lock;

/// Lines that one session causes while it is open: refreshes, and resumes that end with a resync.
pub const SESSION_LINES: Rate = Rate::new(1, 20);

/// Such lines of all sessions of one organisation.
pub const ORG_LINES: Rate = Rate::new(20, 500);

/// Lines about the begin and the end of the sessions of one organisation. All sessions of an organisation may
/// reconnect at once, and each then causes two lines.
pub const ORG_SESSION_LINES: Rate = Rate::new(100, 20_000);

/// Number of organisations from which on those that have been quiet are forgotten.
const ORGS_MIN: usize = 1024;

/// The lines that organisations may still log.
#[derive(Debug, Default)]
pub struct LogShares {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    orgs: HashMap<OrgId, OrgShare>,
    /// Number of organisations at which quiet ones are forgotten next.
    sweep_at: usize,
}

#[derive(Debug)]
struct OrgShare {
    lines: Bucket,
    session_lines: Bucket,
    /// Lines that were left out since the last one that was logged.
    unlogged: u64,
}

/// The lines that one session may still log while it is open.
#[derive(Debug)]
pub struct SessionShare(Bucket);

/// Permission to log one line, with the number of lines of the organisation that were left out before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineAllowed {
    /// Lines that were left out since the last one that was logged.
    pub unlogged: u64,
}

impl SessionShare {
    /// The share of a session that begins.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self(Bucket::full(now))
    }
}

impl LogShares {
    /// Takes a line that this session causes while it is open. Returns none, and counts the line as left out,
    /// if the session or its organisation has caused too many.
    #[must_use]
    pub fn take(&self, org: OrgId, session: &mut SessionShare, now: Instant) -> Option<LineAllowed> {
        let is_allowed = session.0.take(SESSION_LINES, 1, now).is_ok();
        self.decide(org, now, |share| is_allowed && share.lines.take(ORG_LINES, 1, now).is_ok())
    }

    /// Takes a line about the begin or the end of a session. Returns none, and counts the line as left out,
    /// if the organisation has caused too many.
    #[must_use]
    pub fn take_for_session(&self, org: OrgId, now: Instant) -> Option<LineAllowed> {
        self.decide(org, now, |share| share.session_lines.take(ORG_SESSION_LINES, 1, now).is_ok())
    }

    fn decide(
        &self,
        org: OrgId,
        now: Instant,
        is_allowed: impl FnOnce(&mut OrgShare) -> bool,
    ) -> Option<LineAllowed> {
        let mut state = lock(&self.state);
        if !state.orgs.contains_key(&org) {
            state.forget_quiet(now);
        }
        let share = state.orgs.entry(org).or_insert_with(|| OrgShare {
            lines: Bucket::full(now),
            session_lines: Bucket::full(now),
            unlogged: 0,
        });
        if is_allowed(share) {
            return Some(LineAllowed { unlogged: std::mem::take(&mut share.unlogged) });
        }
        share.unlogged += 1;
        None
    }
}

impl State {
    /// Forgets organisations with full buckets and nothing left to report, whenever their number has doubled.
    fn forget_quiet(&mut self, now: Instant) {
        if self.orgs.len() < self.sweep_at.max(ORGS_MIN) {
            return;
        }
        self.orgs.retain(|_, share| {
            share.unlogged > 0 || !share.lines.is_full(now) || !share.session_lines.is_full(now)
        });
        self.orgs.shrink_to(2 * self.orgs.len());
        self.sweep_at = 2 * self.orgs.len();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_lines_of_a_session_and_of_its_organisation_are_limited_and_counted() {
        let (shares, now) = (LogShares::default(), Instant::now());
        let (org, other) = (OrgId::for_tests(1), OrgId::for_tests(2));
        let mut first = SessionShare::new(now);
        let logged = (0..1000).filter(|_| shares.take(org, &mut first, now).is_some()).count();
        assert_eq!(logged, 20);
        // Another session of the organisation logs, and reports what was left out.
        let mut second = SessionShare::new(now);
        assert_eq!(shares.take(org, &mut second, now), Some(LineAllowed { unlogged: 980 }));
        assert_eq!(shares.take(org, &mut second, now), Some(LineAllowed { unlogged: 0 }));
        // However many sessions it has.
        let many = (0..1000).filter(|_| shares.take(org, &mut SessionShare::new(now), now).is_some()).count();
        assert_eq!(many, 500 - 22);
        // Begins and ends of sessions, and other organisations, have their own shares.
        assert_eq!(shares.take_for_session(org, now), Some(LineAllowed { unlogged: 1000 - 478 }));
        assert!(shares.take(other, &mut SessionShare::new(now), now).is_some());
        let begins = (0..30_000).filter(|_| shares.take_for_session(org, now).is_some()).count();
        assert_eq!(begins, 20_000 - 1);
        let later = now + Duration::from_secs(1);
        assert_eq!(shares.take_for_session(org, later), Some(LineAllowed { unlogged: 10_001 }));
        assert!(shares.take(org, &mut first, later).is_some());
    }

    #[test]
    fn quiet_organisations_are_forgotten() {
        let (shares, start) = (LogShares::default(), Instant::now());
        for n in 0..100_000 {
            let now = start + Duration::from_millis(n);
            assert!(shares.take_for_session(OrgId::for_tests(n.into()), now).is_some());
        }
        assert!(lock(&shares.state).orgs.len() <= 2 * ORGS_MIN, "{}", lock(&shares.state).orgs.len());
    }
}
