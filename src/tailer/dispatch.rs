//! Dispatch: hands the events of the log to the hub and the sockets, and updates the node's own state from
//! them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::control::{CursorKeys, Directory, FilteredTables, Reconciler, Revocations};
use crate::cursor::{Cursor, CursorPrefix};
use crate::hub::{Batch, FanoutSender, Hub, OrgEvents};
use crate::log::{LogPage, LoggedEvent};
use crate::metrics::Metrics;
use crate::org::OrgId;
use crate::replay::RecentEvents;
use crate::wire::{
    CURSOR_EVENT, CloseCode, Event, RESYNC_EVENT, REVOKED_EVENT, TOPICS_EVENT, Topic, UNREVOKED_EVENT,
};

/// The receivers of the log's events within this node. Nothing here awaits.
pub struct Dispatcher {
    /// Learns of each batch before the fan-out receives it.
    pub hub: Arc<Hub>,
    /// Sends batches to the sockets.
    pub fanout: FanoutSender,
    /// Topics and organisations, which events of the log keep current.
    pub directory: Arc<Directory>,
    /// Revocations. They are loaded on each connection, and again when the log announces a change.
    pub revocations: Arc<Revocations>,
    /// Keys of cursors, which are loaded on each connection.
    pub cursor_keys: Arc<CursorKeys>,
    /// Closes the sessions with filters whose table has changed.
    pub filtered_tables: Arc<FilteredTables>,
    /// Finds deleted organisations if the log cannot name them.
    pub reconciler: Arc<Reconciler>,
    /// Recent events, kept for reconnecting clients.
    pub recent: Arc<RecentEvents>,
    /// Counters of reads and events.
    pub metrics: Arc<Metrics>,
}

/// A reason why clients may have missed events that this node can no longer deliver.
#[derive(Clone, Copy, Debug)]
pub(super) enum ContinuityLoss {
    /// The database was restored or failed over: its log has another history.
    Epoch,
    /// Retention deleted events before this node read them.
    TooOld,
}

/// The events of one page, grouped by organisation.
pub(super) struct SortedEvents {
    pub(super) orgs: Vec<OrgEvents>,
    /// Number of all events of the page.
    pub(super) count: u64,
    /// Whether a topic was declared or removed, or its visibility changed.
    pub(super) topics_changed: bool,
    /// Events that need a claim: the first of each topic and kind of entity.
    pub(super) needing_claim: Vec<Arc<Event>>,
}

/// The effect of an event on the node itself.
enum NodeEffect {
    None,
    ForgetOrg(OrgId),
    ForgetAllOrgs,
    LoadTopics,
    LoadChangedRevocations,
    LoadRevocations,
}

impl Dispatcher {
    /// Takes the events out of a page, applies their effects on the node, and groups the others by
    /// organisation.
    pub(super) fn sort(&self, page: &mut LogPage) -> SortedEvents {
        let count = page.events.len() as u64;
        self.recent.push(&page.to.point, &page.events);
        let mut groups = OrgGroups::default();
        let mut topics_changed = false;
        let mut needing_claim: Vec<Arc<Event>> = Vec::new();
        for LoggedEvent { org, event, .. } in page.events.drain(..) {
            if event.needs_claim && !needing_claim.iter().any(|other| needs_same_claim(other, &event)) {
                needing_claim.push(Arc::clone(&event));
            }
            match NodeEffect::of(org, &event) {
                NodeEffect::LoadTopics => {
                    topics_changed = true;
                    continue;
                }
                NodeEffect::LoadChangedRevocations => {
                    self.revocations.wake();
                    continue;
                }
                NodeEffect::LoadRevocations => {
                    self.revocations.wake_for_all();
                    continue;
                }
                NodeEffect::ForgetOrg(org) => self.directory.forget_org(org),
                NodeEffect::ForgetAllOrgs => {
                    self.directory.forget_all();
                    self.reconciler.wake();
                }
                NodeEffect::None => {}
            }
            groups.push(org, event);
        }
        SortedEvents { orgs: groups.orgs, count, topics_changed, needing_claim }
    }

    /// Makes sure that the next batch reaches no session without the claim that one of these events needs.
    /// Returns whether the node did not know about a claim.
    ///
    /// A join is checked against the directory after its session was registered. So if the directory knows
    /// the claim, all subscriptions were checked. Otherwise the directory learns of the claim here, and every
    /// session without the claim is closed. A session that is registered later finds the claim in the
    /// directory.
    pub(super) fn require_claims(&self, events: &[Arc<Event>]) -> bool {
        let new: Vec<_> = events.iter().filter(|event| self.directory.require_claim(event)).collect();
        if new.is_empty() {
            return false;
        }
        let topics: Vec<Arc<str>> = new.iter().map(|event| event.topic.as_str().into()).collect();
        tracing::warn!(?topics, "events need a claim: sessions without it are closed");
        self.hub.close_sessions_without(&topics, CloseCode::TOPIC_RESTRICTED);
        true
    }

    /// Closes the sessions without a claim, after the directory has learned of topics that need it.
    pub(super) fn close_sessions_without_claims(&self) {
        let topics = self.directory.topics_needing_claim(&Topic::Org);
        tracing::info!(?topics, "topics need a claim: sessions without it are closed");
        self.hub.close_sessions_without(&topics, CloseCode::TOPIC_RESTRICTED);
    }

    /// Announces a batch to the hub, and sends it to the sockets. Its events were `count` rows of the log.
    /// They are counted once the node's position covers them, and before a client receives one.
    pub(super) fn send(
        &mut self,
        orgs: Vec<OrgEvents>,
        count: u64,
        points: Arc<CursorPrefix>,
        cursor: Cursor,
        read_at: Instant,
    ) {
        let number = self.hub.advance(cursor.clone());
        self.metrics.events.inc_by(count);
        self.fanout.send(&Batch { number, cursor, points, read_at, orgs });
        self.fanout.answer_questions();
    }

    /// Moves the position after a read that found no new events.
    pub(super) fn update_cursor(&mut self, cursor: Cursor) {
        self.hub.update_cursor(cursor);
        self.fanout.answer_questions();
    }

    /// Sends a resync to every client on every topic, because continuity is lost. Deletions of organisations
    /// and revocations may be among the lost events, so the node reloads both.
    pub(super) fn broadcast_resync(&mut self, loss: ContinuityLoss) {
        let reason = loss.reason();
        tracing::warn!(reason, "continuity with the event log lost: all topics resync");
        self.directory.forget_all();
        let data = format!(r#"{{"reason":"{reason}"}}"#);
        self.send_control_event(&[None], RESYNC_EVENT, &data);
        // Afterwards, because the reconciler closes sessions, and they should have received the resync.
        self.reconciler.wake();
        self.revocations.wake_for_all();
    }

    /// Sends a resync on every topic of organisations that have lost events, because they had taken more than
    /// their share of the log. The deletion of such an organisation may be among the lost events.
    pub(super) fn resync_orgs_beyond_share(&mut self, orgs: &[OrgId]) {
        tracing::warn!(
            ?orgs,
            "events of organisations beyond their share of the log lost: their topics resync"
        );
        for org in orgs {
            self.directory.forget_org(*org);
        }
        let orgs: Vec<_> = orgs.iter().copied().map(Some).collect();
        self.send_control_event(&orgs, RESYNC_EVENT, r#"{"reason":"log_share"}"#);
        self.reconciler.wake();
    }

    /// Sends the current cursor on every topic, even without events, so that a stored cursor never becomes
    /// too old.
    pub(super) fn broadcast_cursor(&mut self) {
        self.send_control_event(&[None], CURSOR_EVENT, "{}");
    }

    /// Sends a control event of this node on every topic of these organisations; `None` stands for all.
    fn send_control_event(&mut self, orgs: &[Option<OrgId>], name: &str, data: &str) {
        // Without a position there is no session yet that could receive it.
        let Some(cursor) = self.hub.cursor() else { return };
        let event = Arc::new(Event::control(name, data, cursor.id));
        let to_org =
            |org: &Option<OrgId>| OrgEvents { org: *org, events: vec![Arc::clone(&event)], is_gone: false };
        let points = Arc::new(CursorPrefix::of(&cursor));
        self.send(orgs.iter().map(to_org).collect(), 0, points, cursor, Instant::now());
    }
}

impl ContinuityLoss {
    /// The reason as clients receive it in `warden.resync`.
    fn reason(self) -> &'static str {
        match self {
            Self::Epoch => "epoch",
            Self::TooOld => "too_old",
        }
    }
}

impl NodeEffect {
    fn of(org: Option<OrgId>, event: &Event) -> Self {
        match org {
            Some(org) if is_about_org(event) => Self::ForgetOrg(org),
            None if &*event.name == TOPICS_EVENT => Self::LoadTopics,
            None if &*event.name == REVOKED_EVENT => Self::LoadChangedRevocations,
            None if &*event.name == UNREVOKED_EVENT => Self::LoadRevocations,
            // A resync of the topic `org`, after a TRUNCATE of organizations: the log names none of those
            // deleted.
            None if event.topic.is_org() => Self::ForgetAllOrgs,
            _ => Self::None,
        }
    }
}

/// Whether two events that need a claim reach the same topics, apart from the entity's id.
fn needs_same_claim(a: &Event, b: &Event) -> bool {
    let kind = |event: &Event| {
        event.entity_topic.as_ref().and_then(|topic| topic.entity().map(|(kind, _)| kind.to_owned()))
    };
    a.topic == b.topic && kind(a) == kind(b)
}

/// Whether the event reports a change of the organisation itself. Only the trigger on organizations writes
/// such events, because `warden.publish()` rejects their names.
fn is_about_org(event: &Event) -> bool {
    event.topic.is_org() && event.name.starts_with("org.")
}

/// Events grouped by organisation, each group in the order of the log.
#[derive(Default)]
struct OrgGroups {
    orgs: Vec<OrgEvents>,
    /// Index of each organisation's current group.
    current: HashMap<OrgId, usize>,
}

impl OrgGroups {
    fn push(&mut self, org: Option<OrgId>, event: Arc<Event>) {
        let is_gone = is_about_org(&event) && &*event.name == "org.deleted";
        let index = match org {
            Some(org) => *self.current.entry(org).or_insert(self.orgs.len()),
            // A control event to all organisations ends every group, so that each organisation keeps its
            // order.
            None => {
                self.current.clear();
                self.orgs.len()
            }
        };
        if index == self.orgs.len() {
            self.orgs.push(OrgEvents { org, events: Vec::new(), is_gone: false });
        }
        let group = &mut self.orgs[index];
        group.is_gone |= is_gone;
        group.events.push(event);
    }
}
