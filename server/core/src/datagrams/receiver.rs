//! The receiving side.

use std::{collections::HashMap, time::Duration};

use super::{
    acks::Acks,
    parts::{Joined, Parts},
};
use crate::{
    codec::binary::{Ack, Arrival, Content, Values},
    limits,
    name::Key,
    position::Offset,
};

/// Takes in what a [`Sender`](super::Sender) sends, and what comes on the streams beside.
///
/// Its driver tells it of `subscribed`, `reset` and `synced` in the order in which they come, asks it of every publication
/// off a stream of a state channel, and sends an acknowledgement when [`ack_due`](Self::ack_due) says so.
#[derive(Debug, Default)]
pub struct Receiver {
    channels: HashMap<u64, Channel>,
    parts: Parts,
    acks: Acks,
}

/// What is known of a channel. What lies at or below `settled` is known, or was replaced: if it comes again, it is void.
#[derive(Debug, Default)]
struct Channel {
    settled: Offset,
    /// Within a snapshot, where it began: what it does not bring of keys up to here was removed.
    base: Offset,
    /// What began on the stream is complete. Before, a low-water offset is an earlier subscription's.
    synced: bool,
    /// The newest of each key above that.
    above: HashMap<Key, Offset>,
    /// How many of them there were when it was last looked through.
    kept: usize,
}

/// What has become of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// What of it is new, with the alias of its channel; nothing, if it had come before.
    New(Vec<(u64, Arrival)>),
    /// As `New`, but it also names this alias, which is not known: it may be tried again, and is not acknowledged until then.
    Partly(Vec<(u64, Arrival)>, u64),
    /// There is no room for its parts. It is not acknowledged, so it will come again.
    NoRoom,
}

impl Channel {
    /// Whether a publication is newer than what is known of its key.
    fn admit(&mut self, key: &Key, offset: Offset) -> bool {
        if offset <= self.settled {
            return false;
        }
        match self.above.get_mut(key) {
            Some(held) if *held >= offset => return false,
            Some(held) => *held = offset,
            None => {
                self.above.insert(key.clone(), offset);
            }
        }
        true
    }

    fn in_sync(&mut self) {
        self.synced = true;
        self.base = Offset::ZERO;
    }

    fn settle(&mut self, low: Offset) {
        if !self.synced {
            return;
        }
        self.settled = self.settled.max(low);
        // In proportion to what came, not to what is held.
        if self.above.len() > 2 * self.kept + 16 {
            let settled = self.settled;
            self.above.retain(|_, offset| *offset > settled);
            self.above.shrink_to(2 * self.above.len());
            self.kept = self.above.len();
        }
    }
}

impl Receiver {
    /// A subscription begins: its receiver has everything up to `at`.
    pub fn subscribed(&mut self, alias: u64, at: Offset) {
        self.forget(alias);
        self.channels.insert(alias, Channel { settled: at, ..Channel::default() });
    }

    /// Everything up to `offset` is to be forgotten; a snapshot follows.
    pub fn reset(&mut self, alias: u64, offset: Offset) {
        let Some(channel) = self.channels.get_mut(&alias) else { return };
        channel.settled = Offset::ZERO;
        channel.base = offset;
        channel.synced = false;
        channel.above.retain(|_, held| *held > offset);
        self.parts.forget(alias, offset);
    }

    /// A snapshot is complete. A frame of values on the stream says the same.
    pub fn synced(&mut self, alias: u64, offset: Offset) {
        if let Some(channel) = self.channels.get_mut(&alias) {
            channel.in_sync();
            channel.settle(offset);
        }
    }

    /// A subscription has ended.
    pub fn forget(&mut self, alias: u64) {
        self.channels.remove(&alias);
        self.parts.forget(alias, Offset::MAX);
    }

    /// Whether a publication that came on a stream is newer than what is known of its key.
    pub fn publication(&mut self, alias: u64, key: &Key, offset: Offset) -> bool {
        let fresh = self.channels.get_mut(&alias).is_some_and(|channel| channel.admit(key, offset));
        if fresh {
            self.parts.supersede(alias, key, offset);
        }
        fresh
    }

    /// The low-water offset of a channel: the position from which it can be resumed. `None` within a snapshot.
    pub fn position(&self, alias: u64) -> Option<Offset> {
        self.channels.get(&alias).filter(|channel| channel.synced).map(|channel| channel.settled)
    }

    /// Takes in a frame that came by datagram.
    pub fn datagram(&mut self, values: Values, now: Duration) -> Taken {
        let number = values.number;
        if self.acks.has(number) {
            // Our acknowledgement may have been lost.
            self.acks.note(number, now);
            return Taken::New(Vec::new());
        }
        let unknown = values.entries.iter().map(|it| it.alias).find(|it| !self.channels.contains_key(it));
        if !self.has_room(&values) {
            return Taken::NoRoom;
        }
        let new = self.take(values, false);
        if let Some(unknown) = unknown {
            return Taken::Partly(new, unknown);
        }
        self.acks.note(number, now);
        Taken::New(new)
    }

    /// Takes what is of use of a frame that came by datagram of which not all can be taken in, so that it is not acknowledged.
    /// `spare` says whose values are passed over.
    pub fn datagram_in_part(
        &mut self,
        mut values: Values,
        spare: impl Fn(u64) -> bool,
    ) -> Vec<(u64, Arrival)> {
        if self.acks.has(values.number) {
            return Vec::new();
        }
        values.entries.retain(|entry| !spare(entry.alias));
        if !self.has_room(&values) {
            values.entries.retain(|entry| !matches!(entry.content, Content::Part(_)));
        }
        self.take(values, false)
    }

    /// Whether there is room for its parts.
    fn has_room(&self, values: &Values) -> bool {
        self.parts.admits(values.entries.iter().filter_map(|entry| match &entry.content {
            Content::Part(part) if self.wants(entry.alias, &part.key, part.offset) => {
                Some((entry.alias, part))
            }
            _ => None,
        }))
    }

    /// Takes in a frame that came by stream, and is to be acknowledged there at once, by its number. What is new of it; what it
    /// holds of subscriptions that have ended is not.
    pub fn values(&mut self, mut values: Values) -> Vec<(u64, Arrival)> {
        // Parts never come by stream: what does not come again could not be refused for want of room.
        values.entries.retain(|entry| !matches!(entry.content, Content::Part(_)));
        self.take(values, true)
    }

    fn take(&mut self, values: Values, by_stream: bool) -> Vec<(u64, Arrival)> {
        let mut new = Vec::new();
        for entry in values.entries {
            let alias = entry.alias;
            if by_stream && let Some(channel) = self.channels.get_mut(&alias) {
                // It stands behind all that the stream brought before.
                channel.in_sync();
            }
            let arrival = match entry.content {
                Content::Position => None,
                Content::Whole(arrival) if self.wants(alias, &arrival.draft.key, arrival.offset) => {
                    Some(arrival)
                }
                Content::Part(part) if self.wants(alias, &part.key, part.offset) => {
                    match self.parts.join(alias, part) {
                        Joined::Kept => None,
                        Joined::Whole(arrival) => Some(arrival),
                    }
                }
                Content::Whole(_) | Content::Part(_) => None,
            };
            if let Some(arrival) = arrival
                && self.publication(alias, &arrival.draft.key, arrival.offset)
            {
                new.push((alias, arrival));
            }
            if let Some(channel) = self.channels.get_mut(&alias) {
                channel.settle(entry.low);
            }
        }
        new
    }

    /// Whether a value that came in a frame of values is of use. Up to where a snapshot began, only the snapshot is: what else
    /// comes of that was under way before.
    fn wants(&self, alias: u64, key: &Key, offset: Offset) -> bool {
        let Some(channel) = self.channels.get(&alias) else { return false };
        offset > channel.settled.max(channel.base) && channel.above.get(key).is_none_or(|held| *held < offset)
    }

    /// When an acknowledgement should be sent, if one is owed.
    pub fn ack_due(&self) -> Option<Duration> {
        self.acks.due()
    }

    /// The acknowledgement that is owed, whether it is due or not.
    pub fn take_ack(&mut self, now: Duration) -> Option<Ack> {
        self.acks.take(now)
    }

    /// What it holds at present, in bytes: parts, and what it remembers of keys.
    pub fn bytes(&self) -> usize {
        let keys = self.channels.values().flat_map(|channel| channel.above.keys());
        self.parts.bytes()
            + keys.map(|key| key.as_str().len() + limits::PUBLICATION_OVERHEAD / 4).sum::<usize>()
    }
}
