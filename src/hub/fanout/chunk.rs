//! A chunk: frames of one channel that are written together, from one batch or from several that were queued.
//!
//! A subscription gets only the batches after the one at which it was created. A chunk therefore records
//! where each batch begins in it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::hub::filtered::{ChannelId, FilterChannel};
use crate::hub::memory::OrgFrames;
use crate::hub::org::OrgChannel;
use crate::hub::segments::Segment;
use crate::wire::{Event, Topic, append_event_frame};

/// A chunk gets no more frames when it has this many bytes. Larger chunks would gain little, because the
/// system call is a small part of such a write. They would make slices longer, and fill a slow client's queue
/// in larger steps.
pub(crate) const CHUNK_BYTES: usize = 4 * 1024;

/// A frame of this many bytes is a chunk of its own in each channel with a filter, so that channels share it.
const SHARED_FRAME_BYTES_MIN: usize = 1024;

/// The subscribers that get the same bytes.
#[derive(Clone, Debug)]
pub(super) enum Recipients {
    /// Those of a topic without a filter.
    Topic(Topic),
    /// Those of a topic with the same filter.
    Filter(Arc<FilterChannel>),
}

/// Encoded frames of one channel.
#[derive(Debug)]
pub(super) struct Chunk {
    recipients: Recipients,
    frames: Bytes,
    /// The batches in `frames`, ascending; at least one.
    parts: Vec<Part>,
    read_at: Instant,
}

/// One batch's frames in a chunk.
#[derive(Clone, Copy, Debug)]
struct Part {
    batch: u64,
    /// Position of the first byte.
    offset: usize,
    /// Number of frames.
    frame_count: u64,
}

impl Recipients {
    fn topic(&self) -> &Topic {
        match self {
            Self::Topic(topic) => topic,
            Self::Filter(channel) => &channel.topic,
        }
    }

    /// The segments that they have now.
    pub(super) fn segments(&self, org: &OrgChannel) -> Vec<Arc<Segment>> {
        match self {
            Self::Topic(topic) => org.segments(topic),
            Self::Filter(channel) => channel.segments(),
        }
    }
}

impl Chunk {
    pub(super) fn recipients(&self) -> &Recipients {
        &self.recipients
    }

    /// The time at which the first of its events was read.
    pub(super) fn read_at(&self) -> Instant {
        self.read_at
    }

    #[cfg(test)]
    pub(super) fn frames(&self) -> &Bytes {
        &self.frames
    }

    /// Bytes of all frames.
    pub(super) fn bytes(&self) -> usize {
        self.frames.len()
    }

    /// The frames of the batches after this one, and their number. None if there are none.
    pub(super) fn after(&self, batch: u64) -> Option<(Cow<'_, Bytes>, u64)> {
        let first = self.parts.iter().position(|part| part.batch > batch)?;
        let frame_count = self.parts[first..].iter().map(|part| part.frame_count).sum();
        // In the usual case the whole chunk is shared. A part is sliced only for a subscription that began in
        // between.
        let frames = if first == 0 {
            Cow::Borrowed(&self.frames)
        } else {
            Cow::Owned(self.frames.slice(self.parts[first].offset..))
        };
        Some((frames, frame_count))
    }
}

/// Chunks that are being filled, in the order in which they were started.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    chunks: Vec<Filling>,
    /// The index of each topic's latest chunk.
    by_topic: HashMap<Topic, usize>,
    /// The index of the latest chunk of each channel with a filter.
    by_filter: HashMap<ChannelId, usize>,
    /// Bytes of all chunks. Those of a frame that chunks share count once.
    bytes: usize,
}

#[derive(Debug)]
struct Filling {
    recipients: Recipients,
    frames: Frames,
    parts: Vec<Part>,
    read_at: Instant,
}

/// Frames of a chunk that is being filled.
#[derive(Debug)]
enum Frames {
    Own(BytesMut),
    /// One frame, which other chunks have too.
    Shared(Bytes),
}

impl Chunks {
    /// Bytes of all chunks. Those of a frame that chunks share count once.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts the frames that chunks share, once for all of these chunks.
    pub(super) fn count_shared(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Adds an event's frame with this payload for the subscribers of a topic without a filter. Batches must
    /// be appended in ascending order.
    pub(super) fn append(
        &mut self,
        topic: Topic,
        event: &Event,
        payload: &str,
        batch: u64,
        read_at: Instant,
    ) {
        let latest = self.by_topic.get(&topic).copied();
        let at = self.with_room(latest).unwrap_or_else(|| {
            let frames = Frames::Own(BytesMut::with_capacity(payload.len() + 128));
            self.begin(Recipients::Topic(topic), frames, read_at)
        });
        let Filling { recipients, frames: Frames::Own(frames), parts, .. } = &mut self.chunks[at] else {
            unreachable!("chunks without a filter are not shared")
        };
        let offset = frames.len();
        append_event_frame(frames, recipients.topic(), event, payload);
        self.bytes += frames.len() - offset;
        count_frame(parts, batch, offset);
    }

    /// Adds a frame for a channel with a filter. The caller counts the bytes of a frame that is shared.
    pub(super) fn append_frame(
        &mut self,
        channel: &Arc<FilterChannel>,
        frame: &Bytes,
        batch: u64,
        read_at: Instant,
    ) {
        let recipients = || Recipients::Filter(Arc::clone(channel));
        if is_shared(frame) {
            let at = self.begin(recipients(), Frames::Shared(frame.clone()), read_at);
            count_frame(&mut self.chunks[at].parts, batch, 0);
            return;
        }
        let latest = self.by_filter.get(&channel.id).copied();
        let at = self.with_room(latest).unwrap_or_else(|| {
            self.begin(recipients(), Frames::Own(BytesMut::with_capacity(frame.len())), read_at)
        });
        let Filling { frames: Frames::Own(frames), parts, .. } = &mut self.chunks[at] else { return };
        count_frame(parts, batch, frames.len());
        frames.extend_from_slice(frame);
        self.bytes += frame.len();
    }

    /// The chunk of this index, if it gets another frame.
    fn with_room(&self, latest: Option<usize>) -> Option<usize> {
        let has_room =
            |at: &usize| matches!(&self.chunks[*at].frames, Frames::Own(own) if own.len() < CHUNK_BYTES);
        latest.filter(has_room)
    }

    /// Starts a chunk, and returns its index.
    fn begin(&mut self, recipients: Recipients, frames: Frames, read_at: Instant) -> usize {
        let at = self.chunks.len();
        match &recipients {
            Recipients::Topic(topic) => self.by_topic.insert(topic.clone(), at),
            Recipients::Filter(channel) => self.by_filter.insert(channel.id, at),
        };
        self.chunks.push(Filling { recipients, frames, parts: Vec::new(), read_at });
        at
    }

    /// The filled chunks, in the order in which they were started. Their memory is the organisation's.
    pub(super) fn finish(self, memory: &Arc<OrgFrames>) -> impl Iterator<Item = Chunk> {
        self.chunks.into_iter().map(|Filling { recipients, frames, parts, read_at }| Chunk {
            recipients,
            frames: match frames {
                Frames::Own(frames) => {
                    let capacity = frames.capacity();
                    memory.count(frames.freeze(), capacity)
                }
                Frames::Shared(frame) => frame,
            },
            parts,
            read_at,
        })
    }
}

/// Whether channels share the memory of a frame. Each channel has a copy of others.
pub(super) fn is_shared(frame: &Bytes) -> bool {
    frame.len() >= SHARED_FRAME_BYTES_MIN
}

/// Counts a frame of a batch at this position.
fn count_frame(parts: &mut Vec<Part>, batch: u64, offset: usize) {
    match parts.last_mut() {
        Some(part) if part.batch == batch => part.frame_count += 1,
        _ => parts.push(Part { batch, offset, frame_count: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::memory::NodeFrames;

    fn event(data: &str) -> Event {
        let mut event = Event::control("call.created", data, 0);
        event.topic = Topic::parse("calls").expect("a topic");
        event
    }

    fn memory() -> Arc<OrgFrames> {
        OrgFrames::new(&NodeFrames::new(1 << 20))
    }

    #[test]
    fn a_subscription_gets_only_the_batches_after_its_own() {
        let calls = Topic::parse("calls").expect("a topic");
        let mut chunks = Chunks::default();
        let now = Instant::now();
        for (batch, data) in [(4, "1"), (4, "2"), (7, "3")] {
            chunks.append(calls.clone(), &event(data), data, batch, now);
        }
        let chunks: Vec<_> = chunks.finish(&memory()).collect();
        let [chunk] = &chunks[..] else { panic!("one chunk") };
        let text = |batch| {
            chunk.after(batch).map(|(frames, count)| (String::from_utf8_lossy(&frames).into_owned(), count))
        };
        let (all, count) = text(3).expect("all");
        assert_eq!(count, 3);
        assert_eq!(all.matches("call.created").count(), 3);
        for between in 4..7 {
            let (last, count) = text(between).expect("the last batch");
            assert_eq!(count, 1);
            assert!(all.ends_with(&last) && last.matches("call.created").count() == 1, "{last:?}");
        }
        assert!(text(7).is_none());
    }

    #[test]
    fn a_full_chunk_gets_no_more_frames() {
        let calls = Topic::parse("calls").expect("a topic");
        let mut chunks = Chunks::default();
        let large = format!("\"{}\"", "x".repeat(CHUNK_BYTES / 2));
        for batch in 0..6 {
            for topic in [calls.clone(), Topic::Org] {
                chunks.append(topic, &event("{}"), &large, batch, Instant::now());
            }
        }
        let topics: Vec<_> =
            chunks.finish(&memory()).map(|chunk| chunk.recipients().topic().to_string()).collect();
        assert_eq!(topics, ["calls", "org", "calls", "org", "calls", "org"]);
    }
}
