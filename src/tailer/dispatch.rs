//! What the reader passes on: batches to the hub and the sockets, and what the log tells the node itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::LogTailer;
use crate::hub::{Batch, OrgEvents};
use crate::log::LoggedEvent;
use crate::log::Read;
use crate::wire::{CURSOR_EVENT, Event, RESYNC_EVENT, REVOKED_EVENT, TOPICS_EVENT};

impl LogTailer {
    pub(super) async fn pass_on(&mut self, read: &mut Read, cursor: Arc<str>) {
        let read_at = Instant::now();
        self.metrics.events.inc_by(read.events.len() as u64);
        let mut orgs: Vec<OrgEvents> = Vec::new();
        let mut at: HashMap<_, usize> = HashMap::new();
        let mut topics_changed = false;
        self.recent.push(&read.to, &read.events);
        for LoggedEvent { org, event, .. } in read.events.drain(..) {
            // Only the trigger on organizations writes these: warden.publish() refuses the names.
            let is_of_org = event.topic.is_org() && event.name.starts_with("org.");
            let is_gone = is_of_org && &*event.name == "org.deleted";
            match org {
                Some(org) if is_of_org => self.directory.forget_org(org),
                None if &*event.name == TOPICS_EVENT => {
                    topics_changed = true;
                    continue;
                }
                None if &*event.name == REVOKED_EVENT => {
                    self.revocations.changed();
                    continue;
                }
                None if event.topic.is_org() => {
                    self.directory.forget_all();
                    self.sweep.now();
                }
                _ => {}
            }
            // A control event ends the runs of all, so that every organisation keeps its order.
            if org.is_none() {
                at.clear();
            }
            let n = *at.entry(org).or_insert_with(|| {
                orgs.push(OrgEvents { org, events: Vec::new(), is_gone: false });
                orgs.len() - 1
            });
            orgs[n].is_gone |= is_gone;
            orgs[n].events.push(event);
            if org.is_none() {
                at.clear();
            }
        }
        if topics_changed && let Err(error) = self.load_topics().await {
            tracing::warn!(%error, "the names of topics could not be loaded; those known stay");
        }
        let number = self.hub.advance(Arc::clone(&cursor));
        self.feed.push(&Batch { number, cursor, read_at, orgs });
    }

    /// Continuity is lost for everyone, and everyone is told, on every topic. The log may have told this node of
    /// organisations and revocations, too: what is known of them is asked for anew.
    pub(super) fn announce_loss(&mut self, reason: &str, cursor: Arc<str>) {
        tracing::warn!(
            reason,
            "continuity with the event log is lost (failover, restore, or away for too long): all topics resync"
        );
        self.directory.forget_all();
        self.sweep.now();
        self.revocations.changed();
        let data = format!(r#"{{"reason":"{reason}"}}"#);
        self.tell_everybody(RESYNC_EVENT, &data, cursor);
    }

    /// On topics where nothing happens too, so that a cursor that a client keeps stays young.
    pub(super) fn hand_out_cursor(&mut self) {
        self.tell_everybody(CURSOR_EVENT, "{}", self.hub.cursor());
    }

    /// A control event of this node's own, on every topic of every organisation.
    fn tell_everybody(&mut self, name: &str, data: &str, cursor: Arc<str>) {
        let number = self.hub.advance(Arc::clone(&cursor));
        let event = Event::control(name, data, Arc::clone(&cursor));
        let everybody = OrgEvents { org: None, events: vec![Arc::new(event)], is_gone: false };
        self.feed.push(&Batch { number, cursor, read_at: Instant::now(), orgs: vec![everybody] });
    }
}
