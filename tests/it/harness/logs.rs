//! The log of the test process at level trace. Every line is checked for the tokens and secrets of the run.
//!
//! A test registers each token with [`keep_secret`] before it is used. Every gateway and database of a test
//! installs the check with [`capture_logs`]. A line that contains a piece of a secret ends the whole run
//! immediately, because neither the order of tests nor a task whose panic is ignored may hide it. (PostgreSQL
//! ends together with the process.)
//!
//! The check does not see the records of `tungstenite`, which uses the crate `log`: the clients of the tests
//! use `tungstenite` as well, and log the tokens that they send. The test of the real binary covers these
//! records.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, Once, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use tracing_subscriber::layer::SubscriberExt as _;

/// Length of the pieces of a secret. A secret is cut into consecutive pieces, so that any run of twice this
/// length contains a whole piece.
const PIECE_BYTES: usize = 12;
type Piece = [u8; PIECE_BYTES];

static CAPTURES: AtomicUsize = AtomicUsize::new(0);
static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static PIECES: LazyLock<RwLock<HashSet<Piece>>> = LazyLock::new(RwLock::default);

fn lines() -> MutexGuard<'static, Vec<u8>> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Registers a secret. From now on no log line may contain a piece of it, or of its hex or base64 form.
pub fn keep_secret(secret: &str) {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut pieces = PIECES.write().unwrap_or_else(PoisonError::into_inner);
    for form in [secret.to_owned(), hex, STANDARD_NO_PAD.encode(secret), URL_SAFE_NO_PAD.encode(secret)] {
        let lower = form.to_ascii_lowercase();
        let (steps, _) = lower.as_bytes().as_chunks::<PIECE_BYTES>();
        pieces.extend(steps);
    }
}

/// Whether a line contains a piece of a secret, or anything that looks like a JSON Web Token. The binary
/// itself signs some tokens, which are not registered.
pub fn contains_secret(line: &[u8]) -> bool {
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

/// Installs the log subscriber of the process, once.
pub fn capture_logs() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| CheckedWriter);
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))
            .expect("no other subscriber is installed");
    });
}

struct CheckedWriter;

impl io::Write for CheckedWriter {
    /// Receives one whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if contains_secret(line) {
            // Written directly, because the test runner hides the captured output of tests that pass.
            let text = format!("\nA LOG LINE CONTAINS A SECRET: {}\n", String::from_utf8_lossy(line));
            let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
            std::process::exit(70);
        }
        if CAPTURES.load(Ordering::Relaxed) > 0 {
            lines().extend_from_slice(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Collects log lines until it is dropped, including those of tests that run at the same time.
pub struct LogCapture {
    /// Number of bytes that were collected before.
    start: usize,
}

impl LogCapture {
    /// Begins to collect.
    pub fn begin() -> Self {
        capture_logs();
        let lines = lines();
        CAPTURES.fetch_add(1, Ordering::Relaxed);
        Self { start: lines.len() }
    }

    /// Log lines so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&lines()[self.start..]).into_owned()
    }

    /// Lines that contain all of these texts. A test finds its own lines by an id.
    pub fn lines_with(&self, texts: &[&str]) -> Vec<String> {
        let text = self.text();
        text.lines().filter(|line| texts.iter().all(|t| line.contains(t))).map(str::to_owned).collect()
    }
}

impl Drop for LogCapture {
    fn drop(&mut self) {
        let mut lines = lines();
        // Otherwise a search in the lines of all former tests takes longer than a test waits.
        if CAPTURES.fetch_sub(1, Ordering::Relaxed) == 1 {
            *lines = Vec::new();
        }
    }
}
