//! Values that have come in part.

use std::collections::HashMap;

use crate::{
    codec::binary::{Arrival, Part},
    limits,
    name::Key,
    position::Offset,
};

/// Values of a session that are not whole.
#[derive(Debug, Default)]
pub(super) struct Parts {
    partial: HashMap<(u64, Key), Partial>,
    bytes: usize,
}

#[derive(Debug)]
struct Partial {
    offset: Offset,
    payload: Vec<u8>,
    /// Which parts are there.
    have: u32,
}

/// What has become of a part.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// It is kept, or was there already, or is of no use.
    Kept,
    /// With it the value is whole.
    Whole(Arrival),
}

impl Parts {
    /// Whether there is room for these parts. Parts of a value that has begun always have it.
    pub(super) fn admits<'a>(&self, parts: impl Iterator<Item = (u64, &'a Part)>) -> bool {
        let mut more = 0;
        let mut seen: Vec<(u64, &Key)> = Vec::new();
        for (alias, part) in parts {
            let begun = self.partial.get(&(alias, part.key.clone()));
            if begun.is_some_and(|it| it.offset >= part.offset) || seen.contains(&(alias, &part.key)) {
                continue;
            }
            more += part.length;
            more -= begun.map_or(0, |it| it.payload.len()).min(more);
            seen.push((alias, &part.key));
        }
        self.bytes + more <= limits::PARTIAL_BYTES
    }

    /// Takes in a part.
    pub(super) fn join(&mut self, alias: u64, part: Part) -> Joined {
        let (count, bit) = (part.count(), 1_u32 << part.index);
        let slot = (alias, part.key.clone());
        if let Some(begun) = self.partial.get(&slot) {
            let other = begun.payload.len() != part.length;
            if begun.offset > part.offset || begun.offset == part.offset && (begun.have & bit != 0 || other) {
                return Joined::Kept;
            }
            if begun.offset < part.offset {
                self.remove(&slot);
            }
        }
        let bytes = &mut self.bytes;
        let it = self.partial.entry(slot.clone()).or_insert_with(|| {
            *bytes += part.length;
            Partial { offset: part.offset, payload: vec![0; part.length], have: 0 }
        });
        let start = part.index * limits::PART_BYTES;
        if let Some(place) = it.payload.get_mut(start..start + part.bytes.len()) {
            place.copy_from_slice(&part.bytes);
            it.have |= bit;
        }
        if it.have.count_ones() as usize != count {
            return Joined::Kept;
        }
        let payload = std::mem::take(&mut it.payload);
        self.bytes -= payload.len();
        self.partial.remove(&slot);
        // What is not of its kind is nothing; a server that sends it is broken.
        part.complete(&payload).map_or(Joined::Kept, Joined::Whole)
    }

    /// A key has a value of this offset, so parts of older ones, and of this, are of no use.
    pub(super) fn supersede(&mut self, alias: u64, key: &Key, offset: Offset) {
        if self.partial.is_empty() {
            return;
        }
        let slot = (alias, key.clone());
        if self.partial.get(&slot).is_some_and(|it| it.offset <= offset) {
            self.remove(&slot);
        }
    }

    /// Forgets parts of a channel that lie at or below an offset.
    pub(super) fn forget(&mut self, alias: u64, through: Offset) {
        let bytes = &mut self.bytes;
        self.partial.retain(|(of, _), it| {
            let keep = *of != alias || it.offset > through;
            if !keep {
                *bytes -= it.payload.len();
            }
            keep
        });
    }

    fn remove(&mut self, slot: &(u64, Key)) {
        if let Some(partial) = self.partial.remove(slot) {
            self.bytes -= partial.payload.len();
        }
    }

    /// What it holds, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
