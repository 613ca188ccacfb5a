//! Status of the tailer, for the parts of a node that depend on it. It is defined here because those parts
//! must not import the tailer itself.

/// Progress of the tailer, for tasks that wait until it has read further.
#[derive(Clone, Copy, Debug, Default)]
pub struct TailerProgress {
    /// Completed reads. Each leads to a point.
    pub reads: u64,
    /// Pages of completed reads and of the read in progress.
    pub pages: u64,
}

/// State of the tailer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TailerState {
    /// Not yet connected for the first time.
    Starting,
    /// Connected, and following the log.
    Following,
    /// Disconnected, with the reason. Sessions stay open and receive missed events after the next connection.
    Lost(String),
}
