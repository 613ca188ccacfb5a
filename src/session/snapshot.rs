//! A join with a snapshot: the rows of the table in pages, then the stream from the first page's cursor.
//!
//! The pages are sent before the session subscribes, so no live event waits for them. After the last page
//! the join continues as a resume from the first page's cursor, which delivers every later change once. A
//! later page may contain a change that the resume sends again.
//!
//! The next page is read when the client has accepted the former one. While a page is being sent, the
//! snapshot has no connection to the database.

use bytes::Bytes;
use serde_json::json;

use super::Session;
use super::joined_topics::JoinState;
use super::pending::ResumeEnd;
use super::pending_join::PendingJoin;
use crate::cursor::Cursor;
use crate::hub::SendOutcome;
use crate::reading::{Page, PageMemory, ReadError, SnapshotRequest, TableSnapshot};
use crate::replay::ReplayError;
use crate::wire::{ClientMessage, CloseCode, PageEnd, Status, Topic, snapshot_frame};

/// How the pages ended.
enum PagesEnd {
    /// The client has accepted all of them. The last one was read at this cursor.
    Sent(Cursor),
    /// The client did not accept a page in time, so its session was closed; or it was closed before.
    Closed,
    /// A page could not be read.
    Failed(ReplayError),
}

/// The frame of a page, whose memory is free again when the last reference is dropped: after the join ended,
/// if the client left the topic while the frame waited.
struct PageFrame {
    frame: Bytes,
    _memory: Option<PageMemory>,
}

impl Session {
    /// Checks that a topic carries the events of one table at most. Returns reason and hint of an error.
    pub(super) fn check_one_table(&self, topic: &Topic) -> Result<(), (&'static str, String)> {
        if topic.is_org() || topic.is_entity() {
            let hint = format!("{topic} carries the events of several tables: join the topic of one table");
            return Err((ReadError::UnknownTopic.code(), hint));
        }
        Ok(())
    }

    /// Checks whether the session may join this topic with a snapshot. Returns reason and hint of an error.
    pub(super) fn check_snapshot(&self, topic: &Topic) -> Result<(), (&'static str, String)> {
        self.check_one_table(topic)?;
        let max = self.context.limits.snapshots_max;
        if self.joined.snapshots_besides(topic) >= max {
            self.context.metrics.limit_reached("snapshots");
            let hint = format!(
                "a socket may receive {max} snapshots at a time, with the events that follow: wait for one"
            );
            return Err(("too many snapshots", hint));
        }
        Ok(())
    }

    /// Starts to read the rows. The join is answered when the first page has been read.
    pub(super) fn join_with_snapshot(
        &mut self,
        topic: Topic,
        message: &ClientMessage,
        request: SnapshotRequest,
        marks: bool,
    ) {
        let join = self.pending_join(&topic, message, marks);
        let join_request = join.request();
        self.start_join(topic, join_request, JoinState::Reading, join.run_snapshot(request));
    }
}

impl PendingJoin {
    /// Sends the rows, and then the events that the client missed meanwhile.
    pub(super) async fn run_snapshot(self, request: SnapshotRequest) -> ResumeEnd {
        let (mut snapshot, page) = match self.begin(request).await {
            Ok(begun) => begun,
            Err(error) => return self.rejected_read(&error),
        };
        let since = page.position.clone();
        self.outbox.send(&self.reply(Status::Ok, json!({})));
        let timeout = self.context.reader.limits().snapshot_timeout;
        let pages = tokio::time::timeout(timeout, self.send_pages(&mut snapshot, page)).await;
        // The permit is free while the missed events are sent.
        drop(snapshot);
        let too_late = || PagesEnd::Failed(failed(&format!("it took longer than {timeout:?}")));
        let (seen, error) = match pages.unwrap_or_else(|_| too_late()) {
            PagesEnd::Sent(until) => (Some(until), None),
            PagesEnd::Failed(error) => (None, Some(error)),
            PagesEnd::Closed => return ResumeEnd::default(),
        };
        let resume = self.into_resume(since, seen);
        let subscribed = match &error {
            None => resume.run().await,
            Some(error) => resume.join_with_resync(error),
        };
        ResumeEnd { subscribed: Some(subscribed), resync: resume.resync.into_inner(), rejected: None }
    }

    /// Takes a permit of the organisation, and reads the first page.
    async fn begin(&self, request: SnapshotRequest) -> Result<(TableSnapshot, Page), ReadError> {
        let snapshot = self.context.reader.begin_snapshot(self.org, &self.topic_name, request).await?;
        let page = snapshot.first_page(self.caller()).await?;
        Ok((snapshot, page))
    }

    /// Sends all pages, from the first one on.
    async fn send_pages(&self, snapshot: &mut TableSnapshot, mut page: Page) -> PagesEnd {
        let cursor = std::mem::take(&mut page.cursor);
        loop {
            let (next, position) = (page.next.take(), page.position.clone());
            if !self.send_page(page, next.is_none().then_some(&cursor)).await {
                return PagesEnd::Closed;
            }
            let Some(next) = next else { return PagesEnd::Sent(position) };
            page = match snapshot.page_at(&next, || self.caller()).await {
                Ok(page) => page,
                Err(error) => return PagesEnd::Failed(failed(&error.to_string())),
            };
        }
    }

    /// Sends a page, and waits until the client has accepted it. The last page has the cursor. Returns false
    /// if the session is closed, also because the client was too slow.
    async fn send_page(&self, page: Page, cursor: Option<&String>) -> bool {
        let end = PageEnd {
            truncated: &page.truncated,
            last: cursor.is_some(),
            cursor: cursor.map(String::as_str),
        };
        let frame = snapshot_frame(self.reply.refs.join_ref(), &self.topic_name, &page.json, end);
        // The memory stays reserved until the page is no longer in the outbox, for one copy.
        let Page { json, memory, .. } = page;
        drop(json);
        let frame = Bytes::from_owner(PageFrame { frame, _memory: memory });
        let accepted = async {
            self.outbox.drained().await;
            match self.outbox.send_counted(&frame) {
                SendOutcome::Written => true,
                SendOutcome::Queued => {
                    self.outbox.drained().await;
                    true
                }
                SendOutcome::Closed => false,
            }
        };
        let timeout = self.context.reader.limits().snapshot_page_timeout;
        tokio::time::timeout(timeout, accepted).await.unwrap_or_else(|_| {
            self.outbox.close(CloseCode::SLOW);
            false
        })
    }
}

impl AsRef<[u8]> for PageFrame {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}

fn failed(reason: &str) -> ReplayError {
    ReplayError::Snapshot(reason.into())
}
