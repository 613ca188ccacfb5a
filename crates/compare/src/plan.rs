//! The publishing plan: which events are published, to which group, and when. It is the same for the
//! baseline, the gateway and every other server.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Mark that every event contains exactly once, and that nothing else from a server contains. Clients count
/// it, so they count events without parsing frames, even if several events share a frame. It has two
/// characters, because any single byte may occur as the length in a frame's header.
pub(crate) const MARK: [u8; 2] = *b"^!";

/// Events on a schedule that does not wait for the server.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PublishPlan {
    /// Number of bursts.
    pub(crate) bursts: u64,
    /// Events of a burst: they are published at once, in one transaction or one request.
    pub(crate) burst: u32,
    /// Bursts per second.
    pub(crate) bursts_per_second: f64,
    /// Groups of sockets (organisations, channels), which get bursts in round-robin order. 0: no socket
    /// subscribes to the events.
    pub(crate) groups: usize,
    /// Length of the padding. On the wire the server's envelope is around it.
    pub(crate) pad_bytes: usize,
}

impl PublishPlan {
    /// When burst number `n` is due, from the beginning.
    pub(crate) fn due(&self, n: u64) -> Duration {
        Duration::from_secs_f64(n as f64 / self.bursts_per_second)
    }

    /// The group that gets burst number `n`; `None` if no socket subscribes.
    pub(crate) fn group(&self, n: u64) -> Option<usize> {
        let groups = u64::try_from(self.groups).ok().filter(|groups| *groups > 0)?;
        usize::try_from(n % groups).ok()
    }

    /// Number of events.
    pub(crate) fn events(&self) -> u64 {
        self.bursts * u64::from(self.burst)
    }

    /// The variable part of an event: the mark, and padding.
    pub(crate) fn body(&self) -> String {
        let mut body: String = MARK.map(char::from).iter().collect();
        body.extend(std::iter::repeat_n('x', self.pad_bytes));
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: PublishPlan =
        PublishPlan { bursts: 7, burst: 50, bursts_per_second: 10.0, groups: 3, pad_bytes: 4 };

    #[test]
    fn groups_get_bursts_in_round_robin_order() {
        let groups: Vec<_> = (0..PLAN.bursts).map(|n| PLAN.group(n)).collect();
        assert_eq!(groups, [0, 1, 2, 0, 1, 2, 0].map(Some));
        assert_eq!(PublishPlan { groups: 0, ..PLAN }.group(5), None);
    }

    #[test]
    fn the_schedule_is_even_and_a_body_contains_the_mark_once() {
        assert_eq!((PLAN.due(0), PLAN.due(7)), (Duration::ZERO, Duration::from_millis(700)));
        assert_eq!((PLAN.events(), PLAN.body().as_str()), (350, "^!xxxx"));
    }
}
