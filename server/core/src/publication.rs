//! Publications: what a log holds.

use std::{num::NonZeroU8, sync::OnceLock, time::Duration};

use bytes::Bytes;

use crate::{
    encoding::Encoding,
    limits,
    name::{ChannelName, Key, PublicationId},
    payload::Payload,
    position::{Epoch, Offset},
};

/// What a publisher asks for, checked but without a place in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// State channels: which value this is.
    pub key: Key,
    /// The publisher's id, for idempotency.
    pub id: Option<PublicationId>,
    /// `None` removes the key.
    pub payload: Option<Payload>,
    /// Signals: how long it is worth sending.
    pub ttl: Option<Duration>,
    /// State: how often its key is sent where a path does not take all that changes, if the publisher says.
    pub priority: Option<NonZeroU8>,
}

impl Draft {
    /// A publication of `payload`.
    pub fn new(payload: Payload) -> Self {
        Self { key: Key::default(), id: None, payload: Some(payload), ttl: None, priority: None }
    }

    /// The new value of a key of a state channel.
    pub fn value(key: Key, payload: Payload) -> Self {
        Self { key, ..Self::new(payload) }
    }

    /// The removal of a key of a state channel.
    pub fn removal(key: Key) -> Self {
        Self { key, id: None, payload: None, ttl: None, priority: None }
    }

    /// Its priority, given or not.
    pub fn priority(&self) -> u8 {
        self.priority.unwrap_or(limits::PRIORITY).get()
    }

    /// What it is taken to occupy while it is held, in bytes.
    pub fn cost(&self) -> usize {
        limits::PUBLICATION_OVERHEAD
            + self.key.as_str().len()
            + self.id.as_ref().map_or(0, |id| id.as_str().len())
            + self.payload.as_ref().map_or(0, |payload| payload.bytes().len())
    }
}

/// One entry of a log. Immutable; encoded at most once per encoding, by whoever reads it first.
#[derive(Debug)]
pub struct Publication {
    /// The channel.
    pub channel: ChannelName,
    /// What stands for (channel, epoch) in the binary encoding, on this node.
    pub alias: u64,
    /// The history it belongs to.
    pub epoch: Epoch,
    /// Its place in that history.
    pub offset: Offset,
    /// When it was accepted, in milliseconds since 1970; for clients to show.
    pub time: u64,
    /// When it was accepted, on the monotonic clock; what ages are computed on.
    pub accepted: Duration,
    /// What was asked for.
    pub draft: Draft,
    encoded: [OnceLock<Bytes>; Encoding::COUNT],
}

impl Publication {
    /// A publication with its place.
    pub fn new(
        channel: ChannelName,
        alias: u64,
        epoch: Epoch,
        offset: Offset,
        now: crate::Now,
        draft: Draft,
    ) -> Self {
        let (time, accepted) = (now.unix_ms, now.monotonic);
        Self { channel, alias, epoch, offset, time, accepted, draft, encoded: Default::default() }
    }

    /// Whether this removes its key.
    pub fn is_removal(&self) -> bool {
        self.draft.payload.is_none()
    }

    /// When it is no longer worth sending, on the monotonic clock. `None`: always is.
    pub fn expires(&self) -> Option<Duration> {
        self.draft.ttl.map(|ttl| self.accepted + ttl)
    }

    /// An encoding: made by the first who asks, and the same for all others if it is kept.
    pub(crate) fn encoded(
        &self,
        encoding: Encoding,
        keep: impl FnOnce(Bytes) -> Option<Bytes>,
        make: impl Fn(&Self) -> Bytes,
    ) -> Bytes {
        // What is not kept is kept as nothing: a frame has always a byte.
        let (mut made, cache) = (None, &self.encoded[encoding as usize]);
        let kept = cache.get_or_init(|| {
            let frame = make(self);
            made = Some(frame.clone());
            keep(frame).unwrap_or_default()
        });
        match made {
            Some(frame) => frame,
            None if kept.is_empty() => make(self),
            None => kept.clone(),
        }
    }
}
