//! The log of a state channel: compacted, for each key only the newest publication.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use super::{Bounds, Reader};
use crate::{
    name::Key,
    position::Offset,
    problem::{Code, Problem},
    publication::{Draft, Publication},
    time::Now,
};

/// The newest publication of every key, and tombstones of removed ones for a bounded time. Keys are read in the order of
/// their offsets, so each prefix of a read is a position.
#[derive(Debug)]
pub struct StateLog {
    newest: HashMap<Key, Offset>,
    entries: BTreeMap<Offset, Arc<Publication>>,
    /// Offsets of tombstones, oldest first; one whose key came back since has no entry any more.
    tombstones: VecDeque<Offset>,
    /// How many publications there were.
    taken: u64,
    /// The newest tombstone that was dropped. A reader from before it cannot know what was removed.
    floor: Offset,
    values: usize,
    bytes: usize,
    /// Of those bytes, the tombstones'. They give way when room is needed.
    tombstone_bytes: usize,
    bounds: Bounds,
}

impl StateLog {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            newest: HashMap::new(),
            entries: BTreeMap::new(),
            tombstones: VecDeque::new(),
            taken: 0,
            floor: Offset::ZERO,
            values: 0,
            bytes: 0,
            tombstone_bytes: 0,
            bounds,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a reader that holds all up to `at` misses nothing by reading on.
    pub(super) fn covers(&self, at: Offset) -> bool {
        at >= self.floor
    }

    /// Tells `reader`, which has read everything, how many were replaced since it last had, before it came to read them.
    pub(super) fn conflate(&self, reader: &mut Reader) {
        if let Some(seen) = reader.caught_up.replace(self.taken) {
            reader.dropped.conflated += self.taken.saturating_sub(seen);
        }
    }

    pub(super) fn floor(&self) -> Offset {
        self.floor
    }

    pub(super) fn at(&self, offset: Offset) -> Option<&Arc<Publication>> {
        self.entries.get(&offset)
    }

    pub(super) fn after(&self, at: Offset) -> impl Iterator<Item = &Arc<Publication>> {
        self.entries.range((Bound::Excluded(at), Bound::Unbounded)).map(|(_, publication)| publication)
    }

    pub(super) fn admits(&self, draft: &Draft) -> Result<(), Problem> {
        if draft.payload.is_none() {
            // A removal makes room; its tombstone is bounded on its own.
            return Ok(());
        }
        let replaced = self.newest.get(&draft.key).and_then(|offset| self.entries.get(offset));
        let is_value = replaced.is_some_and(|it| !it.is_removal());
        let values = self.bytes - self.tombstone_bytes;
        let bytes = values - replaced.filter(|_| is_value).map_or(0, |it| it.draft.cost()) + draft.cost();
        if !is_value && self.values >= self.bounds.count {
            return Err(Problem::new(
                Code::TooManyKeys,
                format!("the channel holds its {} keys; remove one first", self.bounds.count),
            ));
        }
        if bytes > self.bounds.bytes {
            return Err(Problem::new(
                Code::TooManyKeys,
                format!("the channel holds its {} bytes; remove a key first", self.bounds.bytes),
            ));
        }
        Ok(())
    }

    pub(super) fn put(&mut self, publication: Arc<Publication>) {
        let offset = publication.offset;
        self.taken += 1;
        if let Some(replaced) = self.newest.insert(publication.draft.key.clone(), offset) {
            self.drop_entry(replaced);
        }
        if publication.is_removal() {
            self.tombstones.push_back(offset);
            self.tombstone_bytes += publication.draft.cost();
        } else {
            self.values += 1;
        }
        self.bytes += publication.draft.cost();
        self.entries.insert(offset, publication);
    }

    pub(super) fn trim(&mut self, now: Now) {
        while let Some(oldest) = self.tombstones.front() {
            if let Some(entry) = self.entries.get(oldest) {
                let keep = self.tombstones.len() <= self.bounds.count
                    && self.bytes <= self.bounds.bytes
                    && now.since(entry.accepted) < self.bounds.age;
                if keep {
                    break;
                }
                let key = entry.draft.key.clone();
                self.floor = *oldest;
                self.drop_entry(*oldest);
                self.newest.remove(&key);
            }
            self.tombstones.pop_front();
        }
    }

    fn drop_entry(&mut self, offset: Offset) {
        if let Some(entry) = self.entries.remove(&offset) {
            self.bytes -= entry.draft.cost();
            if entry.is_removal() {
                self.tombstone_bytes -= entry.draft.cost();
            } else {
                self.values -= 1;
            }
        }
    }
}
