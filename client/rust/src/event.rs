//! What a subscription gives.

use fulmar_core::{Draft, Epoch, Key, Offset, Payload, Position, PublicationId};

use crate::limits;

/// Which way a publication came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// By the subscription's stream: in order, and part of its position; of state that is in sync, what fits no datagram.
    Stream,
    /// By datagram: it may have overtaken others.
    Datagram,
}

/// A publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The history it belongs to.
    pub epoch: Epoch,
    /// Its place there.
    pub offset: Offset,
    /// When the server accepted it, in ms since 1970.
    pub time: u64,
    /// State channels: which value this is.
    pub key: Key,
    /// The publisher's id.
    pub id: Option<PublicationId>,
    /// `None` removes the key.
    pub payload: Option<Payload>,
    /// Which way it came.
    pub lane: Lane,
}

impl Publication {
    pub(crate) fn new(epoch: Epoch, offset: Offset, time: u64, draft: Draft, lane: Lane) -> Self {
        let Draft { key, id, payload, .. } = draft;
        Self { epoch, offset, time, key, id, payload, lane }
    }
}

/// One thing that happened in a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something was published.
    Publication(Publication),
    /// Publications were missed; reading goes on after this position.
    Gap(Position),
    /// State: forget every key, except those of this same epoch whose offset is above this position's.
    Reset(Position),
    /// State: the snapshot is complete.
    Synced(Position),
}

impl Event {
    /// What it is taken to occupy while it waits, in bytes.
    pub(crate) fn cost(&self) -> usize {
        limits::EVENT_OVERHEAD
            + match self {
                Self::Publication(Publication { key, id, payload, .. }) => {
                    key.as_str().len()
                        + id.as_ref().map_or(0, |id| id.as_str().len())
                        + payload.as_ref().map_or(0, |payload| payload.bytes().len())
                }
                Self::Gap(_) | Self::Reset(_) | Self::Synced(_) => 0,
            }
    }
}
