//! Times at which requests may begin: a rate, and pauses that the server asks for.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::sync::lock;

pub(super) struct Pace {
    interval: Duration,
    slots: Mutex<Slots>,
}

struct Slots {
    next: Instant,
    paused_until: Instant,
}

impl Pace {
    pub(super) fn new(per_second: u32) -> Self {
        let now = Instant::now();
        let slots = Mutex::new(Slots { next: now, paused_until: now });
        Self { interval: Duration::from_secs(1) / per_second.max(1), slots }
    }

    /// Waits until a request may begin.
    pub(super) async fn acquire(&self) {
        loop {
            let slot = {
                let mut slots = lock(&self.slots);
                let slot = slots.next.max(slots.paused_until).max(Instant::now());
                slots.next = slot + self.interval;
                slot
            };
            tokio::time::sleep_until(slot).await;
            // A pause may have begun meanwhile.
            if lock(&self.slots).paused_until <= slot {
                return;
            }
        }
    }

    /// Lets no request begin for this time.
    pub(super) fn pause(&self, time: Duration) {
        let mut slots = lock(&self.slots);
        slots.paused_until = slots.paused_until.max(Instant::now() + time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_keep_the_rate_and_wait_for_the_end_of_a_pause() {
        let pace = Pace::new(10);
        let begun = Instant::now();
        for _ in 0..11 {
            pace.acquire().await;
        }
        assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
        let waiting = async {
            pace.acquire().await;
            begun.elapsed()
        };
        let pausing = async { pace.pause(Duration::from_secs(60)) };
        let (elapsed, ()) = tokio::join!(waiting, pausing);
        assert!(elapsed >= Duration::from_secs(61), "{elapsed:?}");
    }
}
