//! The receiver's application: what it shows, and what is wrong with that.

use std::{collections::BTreeMap, time::Duration};

use fulmar_core::{
    Draft, Key, Offset,
    codec::binary::{Arrival, Content, ServerFrame, Values},
    datagrams::{Receiver, Taken},
};

use crate::{
    faults::Fault,
    server::{Channel, channel_of},
};

/// A subscription as the client sees it.
#[derive(Debug, Default)]
pub struct Sub {
    /// It was asked for, and its end was not.
    pub wanted: bool,
    /// How often it was asked for.
    pub instance: u64,
    /// What the application has: removals too.
    pub view: BTreeMap<Key, (Offset, Option<Draft>)>,
    /// The newest that it ever had of a key in this subscription and those that it goes on from.
    seen: BTreeMap<Key, Offset>,
    /// The base of a snapshot under way.
    snapshot: Option<Offset>,
    /// The last position that was seen.
    position: Option<Offset>,
}

#[derive(Debug, Default)]
pub struct Client {
    pub receiver: Receiver,
    pub subs: Vec<Sub>,
    /// Datagrams that came before the `subscribed` that they need.
    kept: Vec<Values>,
    keeps: usize,
    fault: Option<Fault>,
    /// What is wrong.
    pub wrong: Option<String>,
}

impl Client {
    pub fn new(channels: usize, keeps: usize, fault: Option<Fault>) -> Self {
        let subs = (0..channels).map(|_| Sub::default()).collect();
        Self { subs, keeps, fault, ..Self::default() }
    }

    fn check(&mut self, ok: bool, what: impl FnOnce() -> String) {
        if !ok && self.wrong.is_none() {
            self.wrong = Some(what());
        }
    }

    /// Takes in a frame of a stream. The number to be acknowledged there, if it has one.
    pub fn frame(
        &mut self,
        frame: ServerFrame,
        instance: u64,
        channels: &[Channel],
        now: Duration,
    ) -> Option<u64> {
        match frame {
            ServerFrame::Subscribed { mark, .. } => {
                let index = channel_of(mark.alias);
                let sub = &mut self.subs[index];
                // Of a subscription that the client has ended since, nothing is wanted.
                if sub.wanted && sub.instance == instance {
                    self.receiver.subscribed(mark.alias, mark.position.offset);
                    // What a reset took away since may come for a moment before the next does again.
                    sub.seen = sub.view.iter().map(|(key, (offset, _))| (key.clone(), *offset)).collect();
                    // It has what it had, and some of that may be newer than the position.
                    for (key, (offset, _)) in &sub.view {
                        self.receiver.publication(mark.alias, key, *offset);
                    }
                    for values in std::mem::take(&mut self.kept) {
                        self.datagram(values, channels, now);
                    }
                }
            }
            ServerFrame::Reset(mark) => {
                let index = channel_of(mark.alias);
                if self.is_of(index, instance) {
                    self.receiver.reset(mark.alias, mark.position.offset);
                    let sub = &mut self.subs[index];
                    sub.snapshot = Some(mark.position.offset);
                    sub.view.retain(|_, (offset, _)| *offset > mark.position.offset);
                }
            }
            ServerFrame::Publication { alias, offset, time, draft } => {
                let index = channel_of(alias);
                if self.is_of(index, instance) && self.receiver.publication(alias, &draft.key, offset) {
                    self.apply(index, Arrival { offset, time, draft }, channels);
                }
            }
            ServerFrame::Synced { alias, offset } => {
                let index = channel_of(alias);
                if self.is_of(index, instance) {
                    self.receiver.synced(alias, offset);
                    self.subs[index].snapshot = None;
                }
            }
            ServerFrame::Values(values) => {
                let number = values.number;
                self.blindly(&values, channels);
                let new = self.receiver.values(self.bent(values));
                self.take(new, channels);
                self.positions(channels);
                return Some(number);
            }
            ServerFrame::Unsubscribed { .. } => {}
            other => self.check(false, || format!("nobody sent {other:?}")),
        }
        self.positions(channels);
        None
    }

    fn is_of(&self, index: usize, instance: u64) -> bool {
        self.subs[index].wanted && self.subs[index].instance == instance
    }

    /// Takes in a frame of a datagram.
    pub fn datagram(&mut self, values: Values, channels: &[Channel], now: Duration) {
        self.blindly(&values, channels);
        let kept = values.clone();
        match self.receiver.datagram(self.bent(values), now) {
            Taken::New(new) => self.take(new, channels),
            Taken::Partly(new, _) => {
                self.take(new, channels);
                if self.kept.len() < self.keeps {
                    self.kept.push(kept);
                }
            }
            Taken::NoRoom => {}
        }
        self.positions(channels);
    }

    fn bent(&self, mut values: Values) -> Values {
        if self.fault == Some(Fault::LowRaised) {
            for entry in &mut values.entries {
                entry.low = entry.low.next().unwrap_or(entry.low);
            }
        }
        values
    }

    fn blindly(&mut self, values: &Values, channels: &[Channel]) {
        if self.fault == Some(Fault::AppliesBlindly) {
            for entry in &values.entries {
                if let Content::Whole(arrival) = &entry.content {
                    self.apply(channel_of(entry.alias), arrival.clone(), channels);
                }
            }
        }
    }

    fn take(&mut self, new: Vec<(u64, Arrival)>, channels: &[Channel]) {
        for (alias, arrival) in new {
            self.apply(channel_of(alias), arrival, channels);
        }
    }

    /// The application is given a publication.
    fn apply(&mut self, index: usize, arrival: Arrival, channels: &[Channel]) {
        let Arrival { offset, time, draft } = arrival;
        let known = channels[index].history.get(&offset);
        let same = known.is_some_and(|it| {
            let of = &it.draft;
            it.time == time && of.key == draft.key && of.id == draft.id && of.payload == draft.payload
        });
        self.check(same, || format!("channel {index}: {offset} is not what was published"));
        let sub = &mut self.subs[index];
        let seen = sub.seen.get(&draft.key).copied().unwrap_or_default();
        let again = seen == offset && sub.snapshot.is_some_and(|base| offset <= base);
        sub.seen.insert(draft.key.clone(), offset);
        let key = draft.key.clone();
        sub.view.insert(key.clone(), (offset, draft.payload.is_some().then_some(draft)));
        self.check(seen < offset || again, || {
            format!("channel {index}: {key:?} went back from {seen} to {offset}")
        });
    }

    /// Looks at the positions that are claimed.
    fn positions(&mut self, channels: &[Channel]) {
        for (index, channel) in channels.iter().enumerate().take(self.subs.len()) {
            let position = self.receiver.position(channel.alias);
            let before = self.subs[index].position;
            if position == before {
                continue;
            }
            self.subs[index].position = position;
            let Some(position) = position else { continue };
            self.check(before.is_none_or(|before| before < position), || {
                format!("channel {index}: the position fell from {before:?} to {position}")
            });
            let missing = self.missing(index, channel, position);
            self.check(missing.is_none(), || {
                format!(
                    "channel {index}: at position {position} the receiver lacks {}",
                    missing.unwrap_or_default()
                )
            });
        }
    }

    /// What the application lacks of keys whose newest publication does not lie after `through`.
    pub fn missing(&self, index: usize, channel: &Channel, through: Offset) -> Option<String> {
        let view = &self.subs[index].view;
        let concerned = channel.newest.iter().filter(|(_, it)| it.offset <= through);
        for (key, newest) in concerned {
            let held = view.get(key);
            let equal = match (held, newest.is_removal()) {
                (None | Some((_, None)), true) => true,
                (Some((offset, Some(_))), false) => *offset == newest.offset,
                _ => false,
            };
            if !equal {
                let held = held.map(|(offset, value)| (offset.get(), value.is_some()));
                let of = if newest.is_removal() { "the removal" } else { "the value" };
                return Some(format!("{of} of {key:?} at {}; it has {held:?}", newest.offset));
            }
        }
        None
    }

    /// The client ends a subscription. Where it could go on.
    pub fn end(&mut self, index: usize, alias: u64) -> Option<Offset> {
        let position = self.receiver.position(alias);
        self.receiver.forget(alias);
        let sub = &mut self.subs[index];
        (sub.wanted, sub.position, sub.snapshot) = (false, None, None);
        position
    }

    /// The client subscribes, with what it has or afresh.
    pub fn begin(&mut self, index: usize, resumed: bool) -> u64 {
        let sub = &mut self.subs[index];
        sub.wanted = true;
        sub.instance += 1;
        if !resumed {
            sub.view.clear();
            sub.seen.clear();
        }
        sub.instance
    }
}
