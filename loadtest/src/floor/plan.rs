//! What is sent, to whom and when: the same for the floor, the gateway and every peer. It sends nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Stands in every event exactly once and in nothing else that a server sends, so that whoever counts it counts
/// events, wherever frames begin and end, and however many of them share a frame. Two characters, because any one
/// byte may be the length in a frame's header.
pub(crate) const MARK: [u8; 2] = *b"^!";

/// Events on a schedule that waits for nobody.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// How often something is published.
    pub(crate) bursts: u64,
    /// Events that are published at once, in one transaction or one request.
    pub(crate) burst: u32,
    /// Bursts a second.
    pub(crate) bursts_per_second: f64,
    /// Groups of sockets (organisations, channels) that take turns, a burst each; 0: nobody listens to what is
    /// published.
    pub(crate) groups: usize,
    /// Of the payload's variable part; on the wire an event has the server's envelope around it.
    pub(crate) pad_bytes: usize,
}

impl Plan {
    /// When burst number `n` is due, from the beginning.
    pub(crate) fn due(&self, n: u64) -> Duration {
        Duration::from_secs_f64(n as f64 / self.bursts_per_second)
    }

    /// The group that gets burst number `n`; none where nobody listens.
    pub(crate) fn group(&self, n: u64) -> Option<usize> {
        let groups = u64::try_from(self.groups).ok().filter(|groups| *groups > 0)?;
        usize::try_from(n % groups).ok()
    }

    /// All events.
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

    const PLAN: Plan = Plan { bursts: 7, burst: 50, bursts_per_second: 10.0, groups: 3, pad_bytes: 4 };

    #[test]
    fn groups_take_turns() {
        let groups: Vec<_> = (0..PLAN.bursts).map(|n| PLAN.group(n)).collect();
        assert_eq!(groups, [0, 1, 2, 0, 1, 2, 0].map(Some));
        assert_eq!(Plan { groups: 0, ..PLAN }.group(5), None);
    }

    #[test]
    fn the_schedule_is_even_and_the_mark_stands_once() {
        assert_eq!((PLAN.due(0), PLAN.due(7)), (Duration::ZERO, Duration::from_millis(700)));
        assert_eq!((PLAN.events(), PLAN.body().as_str()), (350, "^!xxxx"));
    }
}
