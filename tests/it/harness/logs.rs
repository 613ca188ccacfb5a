//! Everything that the process logs, at the level trace: held against every token and secret of the run, and
//! shown to a test that looks.
//!
//! Whoever signs a token [`keep_secret`]s it before it is used, and every gateway and database of a test
//! [`watch`]es. A line that holds a piece of a secret ends the whole run at once, whichever test it is of:
//! nothing could hide it, neither the order of tests nor a task whose panic nobody awaits. (What `exit` leaves
//! behind ends by itself: PostgreSQL with its owner.)
//!
//! What `tungstenite` logs through the crate `log` is not among it: the clients of the tests are
//! `tungstenite`, too, and log the tokens that they send. The test of the real binary covers it.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, Once, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use tracing_subscriber::layer::SubscriberExt as _;

/// A run of so many bytes of a secret gives it away. Pieces are kept at every such step, so that any run of
/// twice as many holds one, wherever it begins and ends.
const PIECE_BYTES: usize = 12;
type Piece = [u8; PIECE_BYTES];

static LOOKING: AtomicUsize = AtomicUsize::new(0);
static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static PIECES: LazyLock<RwLock<HashSet<Piece>>> = LazyLock::new(RwLock::default);

fn lines() -> MutexGuard<'static, Vec<u8>> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on no log line may hold a piece of it, nor of its hex or base64 form.
pub fn keep_secret(secret: &str) {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut pieces = PIECES.write().unwrap_or_else(PoisonError::into_inner);
    for form in [secret.to_owned(), hex, STANDARD_NO_PAD.encode(secret), URL_SAFE_NO_PAD.encode(secret)] {
        let lower = form.to_ascii_lowercase();
        let (steps, _) = lower.as_bytes().as_chunks::<PIECE_BYTES>();
        pieces.extend(steps);
    }
}

/// Whether a line holds a piece of a secret, or anything of the form of a JSON Web Token: some are signed by
/// the binary itself.
pub fn gives_away(line: &[u8]) -> bool {
    let is_of_token = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let has_token = line.split(|byte| !is_of_token(byte)).any(|run| {
        let at = run.windows(3).position(|start| start == b"eyJ");
        at.is_some_and(|at| run[at..].split(|byte| *byte == b'.').filter(|part| part.len() >= 8).count() >= 2)
    });
    if has_token {
        return true;
    }
    let pieces = PIECES.read().unwrap_or_else(PoisonError::into_inner);
    let lower = line.to_ascii_lowercase();
    lower.windows(PIECE_BYTES).any(|run| Piece::try_from(run).is_ok_and(|run| pieces.contains(&run)))
}

/// Installs the process's one subscriber, the first time.
pub fn watch() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| Watching);
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))
            .expect("nobody else installs a subscriber");
    });
}

struct Watching;

impl io::Write for Watching {
    /// One line, whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if gives_away(line) {
            // Past the capture of output: a test that passes would swallow it.
            let text = format!("\nA LOG LINE GIVES A SECRET AWAY: {}\n", String::from_utf8_lossy(line));
            let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
            std::process::exit(70);
        }
        if LOOKING.load(Ordering::Relaxed) > 0 {
            lines().extend_from_slice(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Collects logs for as long as it lives: those of all tests that run meanwhile.
pub struct LogCapture(());

impl LogCapture {
    /// Begins to collect.
    pub fn begin() -> Self {
        watch();
        LOOKING.fetch_add(1, Ordering::Relaxed);
        Self(())
    }

    /// What was logged so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&lines()).into_owned()
    }

    /// The lines that hold all of these, for tests that know an id of their own.
    pub fn lines_with(&self, texts: &[&str]) -> Vec<String> {
        let text = self.text();
        text.lines().filter(|line| texts.iter().all(|t| line.contains(t))).map(str::to_owned).collect()
    }
}

impl Drop for LogCapture {
    fn drop(&mut self) {
        LOOKING.fetch_sub(1, Ordering::Relaxed);
    }
}
