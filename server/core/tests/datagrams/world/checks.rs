//! What must hold of what is sent, while it is under way, and when all is quiet.

use fulmar_core::{
    codec::binary::{Content, Values},
    limits,
};

use super::World;
use crate::{
    frames::{contents, values_of},
    server::channel_of,
};

impl World {
    /// What is sent is the newest of its key.
    pub(super) fn check_newest(&mut self, values: &Values) {
        for entry in &values.entries {
            let (key, offset) = match &entry.content {
                Content::Position => continue,
                Content::Whole(it) => (&it.draft.key, it.offset),
                Content::Part(it) => (&it.key, it.offset),
            };
            let newest = self.channels[channel_of(entry.alias)].newest.get(key).map(|it| it.offset);
            check!(self, newest == Some(offset), "{key:?} was sent at {offset}; the newest is {newest:?}");
        }
    }

    pub(super) fn check_bounds(&mut self, before: [usize; 3], window: usize, made: usize) {
        let [packets, bytes, values] = self.sender.under_way();
        // One may always be under way; those sent twice are counted in too.
        let bound = window.max(before[1]);
        check!(
            self,
            bytes <= bound || made == 1 && packets == 1,
            "{bytes} bytes under way, {bound} is the most"
        );
        check!(self, packets <= limits::PACKETS_IN_FLIGHT, "{packets} packets under way");
        check!(self, values <= limits::VALUES_IN_FLIGHT + 200, "{values} values under way");
        let (keys, pending) = (self.channels.iter().map(|it| it.newest.len()).sum(), self.sender.pending());
        check!(self, pending <= limits::PENDING_VALUES.min(keys), "{pending} values wait, of {keys} keys");
    }

    /// What is counted as sent twice was sent twice.
    pub(super) fn check_twins(&mut self, packets: &[impl AsRef<[u8]>], duplicated: u64) {
        let mut left = duplicated;
        for packet in packets.iter().rev() {
            let packet = packet.as_ref();
            if left == 0 {
                break;
            }
            let twin = contents(&values_of(packet));
            let first = self.sent.values().any(|sent| twin.iter().all(|it| sent.contains(it)));
            check!(self, first, "a packet is counted as sent twice, but was not sent before");
            left = left.saturating_sub(packet.len() as u64);
        }
        check!(self, left == 0, "{duplicated} bytes are counted as sent twice");
        let wanted = self.plan.channels.iter().any(|it| it.pace.duplicate.is_some());
        // What was lost once is sent twice, whoever wants what.
        let wanted = wanted || self.outcome.counts.repaired > 0;
        check!(self, wanted || duplicated == 0, "nobody wanted {duplicated} bytes to be sent twice");
    }

    /// What the sender takes for received has been.
    pub(super) fn check_lows(&mut self) {
        for index in 0..self.channels.len() {
            let channel = &mut self.channels[index];
            let Some(active) = &mut channel.active else { continue };
            let Some(lane) = active.lane else { continue };
            let (before, low) = (active.low, self.sender.low(lane));
            if low == before {
                continue;
            }
            active.low = low;
            let instance = active.instance;
            check!(self, before < low, "channel {index}: low fell from {before} to {low}");
            let sub = &self.client.subs[index];
            if !sub.wanted || sub.instance != instance {
                continue;
            }
            if let Some(missing) = self.client.missing(index, &self.channels[index], low) {
                check!(self, false, "channel {index}: low is {low}, but the receiver lacks {missing}");
            }
        }
    }

    /// Everything is quiet: everything has arrived, and is known to have.
    pub(super) fn end(&mut self) {
        self.outcome.settled = self.now.saturating_sub(self.last_publication());
        for index in 0..self.channels.len() {
            let head = self.channels[index].log.head();
            let missing = self.client.missing(index, &self.channels[index], head);
            if let Some(missing) = missing {
                check!(self, false, "channel {index}: it is quiet, but the receiver lacks {missing}");
            }
            let lane = self.channels[index].active.as_ref().and_then(|it| it.lane);
            let low = lane.map(|lane| self.sender.low(lane));
            check!(self, low == Some(head), "channel {index}: it is quiet; low is {low:?}, the head {head}");
            let position = self.client.receiver.position(self.channels[index].alias);
            check!(
                self,
                position == Some(head),
                "channel {index}: it is quiet at {position:?}, the head is {head}"
            );
        }
        let rest = (self.sender.under_way(), self.sender.pending());
        check!(self, rest == ([0; 3], 0), "it is quiet, but {rest:?} is left");
        let partial = self.client.receiver.bytes();
        let keys: usize = self.channels.iter().map(|it| it.newest.len()).sum();
        let bound = (2 * keys + 16 * self.channels.len()) * 320;
        check!(self, partial <= bound, "it is quiet, but the receiver holds {partial} bytes");
    }
}
