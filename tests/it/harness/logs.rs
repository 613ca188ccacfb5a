//! Everything that the process logs, at the level trace, while a test looks.
//!
//! What `tungstenite` logs through the crate `log` is not among it: the clients of the tests are
//! `tungstenite`, too, and log the tokens that they send. The test of the real binary covers it.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;

static LOOKING: AtomicUsize = AtomicUsize::new(0);
static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn lines() -> MutexGuard<'static, Vec<u8>> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Memory;

impl io::Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lines().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Collects logs for as long as it lives: those of all tests that run meanwhile.
pub struct LogCapture(());

impl LogCapture {
    /// Installs the process's one subscriber, the first time, and begins to collect.
    pub fn begin() -> Self {
        static INSTALLED: OnceLock<()> = OnceLock::new();
        INSTALLED.get_or_init(|| {
            let looking = dynamic_filter_fn(|_, _| LOOKING.load(Ordering::Relaxed) > 0);
            let layer =
                tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| Memory).with_filter(looking);
            tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))
                .expect("nobody else installs a subscriber");
        });
        LOOKING.fetch_add(1, Ordering::Relaxed);
        Self(())
    }

    /// What was logged so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&lines()).into_owned()
    }
}

impl Drop for LogCapture {
    fn drop(&mut self) {
        LOOKING.fetch_sub(1, Ordering::Relaxed);
    }
}
