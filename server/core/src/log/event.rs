//! The log of an event or signal channel: the last publications, in order.

use std::{collections::VecDeque, sync::Arc};

use super::{Bounds, Item, ReadEnd, ReadLimit, Reader};
use crate::{position::Offset, publication::Publication, time::Now};

/// Publications in the order of their offsets. It knows where it starts, so a gap never follows from arithmetic.
#[derive(Debug)]
pub struct EventLog {
    entries: VecDeque<Arc<Publication>>,
    /// The newest publication that was forgotten; every later one is held.
    start: Offset,
    /// How many were forgotten.
    forgotten: u64,
    bytes: usize,
    bounds: Bounds,
}

impl EventLog {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { entries: VecDeque::new(), start: Offset::ZERO, forgotten: 0, bytes: 0, bounds }
    }

    pub(super) fn start(&self) -> Offset {
        self.start
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether all that follows `at` is held.
    pub(super) fn covers(&self, at: Offset) -> bool {
        at >= self.start
    }

    pub(super) fn push(&mut self, publication: Arc<Publication>) {
        self.bytes += publication.draft.cost();
        self.entries.push_back(publication);
    }

    pub(super) fn trim(&mut self, now: Now) {
        let Bounds { count, bytes, age } = self.bounds;
        // The newest stays within any bound but its age, or nobody would ever get it.
        while self.entries.front().is_some_and(|oldest| {
            let full = self.entries.len() > count || self.bytes > bytes;
            (full && self.entries.len() > 1) || now.since(oldest.accepted) >= age
        }) {
            self.forget_oldest();
        }
    }

    pub(super) fn shrink(&mut self, bytes: usize) {
        while self.bytes > bytes && !self.entries.is_empty() {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.entries.pop_front() {
            self.start = oldest.offset;
            self.forgotten += 1;
            self.bytes -= oldest.draft.cost();
        }
    }

    /// How many there were up to `at`. Of those before the start of the log nobody knows, so they count as read.
    pub(super) fn count_through(&self, at: Offset) -> u64 {
        self.forgotten + self.entries.partition_point(|it| it.offset <= at) as u64
    }

    /// Tells `reader` how many were forgotten before it came to read them.
    pub(super) fn miss(&self, reader: &mut Reader) {
        let missed = self.forgotten.saturating_sub(reader.seen);
        reader.dropped.forgotten += missed;
        reader.seen += missed;
    }

    pub(super) fn read(
        &self,
        reader: &mut Reader,
        limit: ReadLimit,
        worth: impl Fn(&Publication) -> bool,
        out: &mut Vec<Item>,
    ) -> ReadEnd {
        let first = self.entries.partition_point(|it| it.offset <= reader.at);
        let mut spent = 0;
        for publication in self.entries.range(first..) {
            if spent >= limit.bytes && spent > 0 {
                return ReadEnd::More;
            }
            reader.at = publication.offset;
            reader.seen += 1;
            if worth(publication) {
                let item = Item::Publication(publication.clone(), None);
                spent += item.cost();
                out.push(item);
            } else {
                reader.dropped.expired += 1;
            }
        }
        ReadEnd::CaughtUp
    }
}
