//! Action of the session's loop after an event, as the event's handler chooses it.

use crate::wire::CloseCode;

/// Action of the loop after an event.
pub(super) enum LoopAction {
    /// Waits for the next event.
    Continue,
    /// Sets the timer again, because the session's end may have moved.
    ResetTimer,
    /// Ends the session.
    Close(CloseCode),
}
