//! The share of an organisation in the threads that serve sessions.
//!
//! Every message costs its organisation units. Beyond its rate, a session is not read for a while, and TCP
//! slows its client down. Nothing is rejected or lost, and sessions of other organisations are served
//! meanwhile. This module does not know what messages contain.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::org::OrgId;
use crate::rate::{Bucket, Rate};
use crate::sparse::shrink;
use crate::sync::lock;

/// Units of one message.
pub(super) const MESSAGE_UNITS: u32 = 1;

/// Bytes of messages that cost one more unit.
pub(super) const UNIT_BYTES: usize = 1024;

/// Units of a fresh token in addition, because its signature is verified.
pub(super) const TOKEN_UNITS: u32 = 20;

/// Number of organisations from which on those without sessions are forgotten.
const ORGS_MIN: usize = 1024;

/// The message rates of all organisations.
#[derive(Debug, Default)]
pub struct OrgRates {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    orgs: HashMap<OrgId, Arc<OrgRate>>,
    /// Number of organisations at which idle ones are forgotten next.
    sweep_at: usize,
}

/// The message rate of one organisation, which its sessions share.
#[derive(Debug)]
pub(super) struct OrgRate(Mutex<Bucket>);

impl OrgRates {
    /// The rate of an organisation. It outlives the sessions of the organisation until it is unused, so that
    /// new connections give no new burst.
    pub(super) fn of(&self, org: OrgId, now: Instant) -> Arc<OrgRate> {
        let mut state = lock(&self.state);
        let State { orgs, sweep_at } = &mut *state;
        if orgs.len() >= (*sweep_at).max(ORGS_MIN) {
            orgs.retain(|_, rate| Arc::strong_count(rate) > 1 || !lock(&rate.0).is_full(now));
            shrink(orgs);
            *sweep_at = orgs.len() * 2;
        }
        let new = || Arc::new(OrgRate(Mutex::new(Bucket::full(now))));
        Arc::clone(orgs.entry(org).or_insert_with(new))
    }
}

impl OrgRate {
    /// Takes units, and returns the time for which the session that caused them must not be read.
    pub(super) fn take(&self, rate: Rate, units: u32, now: Instant) -> Duration {
        lock(&self.0).take_on_credit(rate, units, now)
    }
}

/// Units of these bytes.
pub(super) fn units_of(bytes: usize) -> u32 {
    u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate::new(100, 1000);

    #[test]
    fn sessions_of_an_organisation_share_its_rate_and_leave_that_of_others() {
        let (rates, now) = (OrgRates::default(), Instant::now());
        let (flood, other) = (OrgId::for_tests(1), OrgId::for_tests(2));
        for _ in 0..1000 {
            assert_eq!(rates.of(flood, now).take(RATE, 1, now), Duration::ZERO);
        }
        // Each further message of any session waits behind those before it.
        for n in 1..=50 {
            let wait = rates.of(flood, now).take(RATE, 1, now);
            assert_eq!(wait, Duration::from_millis(10 * n));
        }
        assert_eq!(rates.of(other, now).take(RATE, 1000, now), Duration::ZERO);
        // The rate is kept while the time passes, and a pause gives the burst back.
        let later = now + Duration::from_millis(500);
        assert_eq!(rates.of(flood, later).take(RATE, 10, later), Duration::from_millis(100));
        let rested = later + Duration::from_secs(20);
        assert_eq!(rates.of(flood, rested).take(RATE, 1000, rested), Duration::ZERO);
    }

    #[test]
    fn a_rate_is_forgotten_once_it_is_unused_and_full() {
        let (rates, now) = (OrgRates::default(), Instant::now());
        let (spent, open) = (OrgId::for_tests(1), OrgId::for_tests(2));
        let _ = rates.of(spent, now).take(RATE, 2000, now);
        let session = rates.of(open, now);
        for n in 3..=u128::try_from(ORGS_MIN).expect("few") {
            rates.of(OrgId::for_tests(n), now);
        }
        rates.of(OrgId::for_tests(0), now);
        assert_eq!(lock(&rates.state).orgs.len(), 3, "the spent one, the open one and the new one");
        assert!(Arc::ptr_eq(&session, &rates.of(open, now)));
        assert!(!rates.of(spent, now).take(RATE, 1, now).is_zero());
    }
}
