//! One channel of a sender.

use std::{collections::HashMap, time::Duration};

use super::Pace;
use crate::{
    codec::binary::{Piece, parts},
    limits,
    name::Key,
    payload::Payload,
    position::Offset,
    publication::Publication,
};

/// A channel of a sender. Never used twice in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub(super) u32);

/// What was lost and has to be looked up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    pub(super) offset: Offset,
    pub(super) piece: Piece,
    pub(super) removal: bool,
    /// It had been lost before.
    pub(super) again: bool,
    /// When it had been sent.
    pub(super) since: Duration,
}

/// The newest value of a key that has yet to be sent.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) offset: Offset,
    pub(super) removal: bool,
    /// Since when the receiver has not had the newest value of the key. Newer values keep it, so that a key which
    /// changes all the time is not forgotten.
    pub(super) since: Duration,
    pub(super) priority: u8,
    pub(super) pieces: Pieces,
    /// It was lost before.
    pub(super) repair: bool,
}

impl Pending {
    /// How urgent it is.
    pub(super) fn weight(&self, now: Duration) -> u64 {
        let waited = now.saturating_sub(self.since) + Duration::from_millis(1);
        u64::try_from(waited.as_micros()).unwrap_or(u64::MAX).saturating_mul(u64::from(self.priority))
    }
}

/// How a value goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pieces {
    /// In one entry, as far as is known.
    Whole,
    /// In parts, of which those of these bits have yet to be sent.
    Parts(u32),
    /// By stream.
    Stream,
}

impl Pieces {
    /// The way of a value that does not fit a packet.
    pub(super) fn beyond_a_packet(publication: &Publication) -> Self {
        let length = publication.draft.payload.as_ref().map_or(0, |payload: &Payload| payload.bytes().len());
        parts(length).map_or(Self::Stream, |count| Self::Parts((1 << count.get()) - 1))
    }
}

/// The channels of a sender, in the order of their ids. In one piece, since each flush looks at them.
#[derive(Debug, Default)]
pub(super) struct Lanes(Vec<(LaneId, Lane)>);

impl Lanes {
    /// Adds a channel, whose id is above those of all others.
    pub(super) fn push(&mut self, id: LaneId, lane: Lane) {
        self.0.push((id, lane));
    }

    pub(super) fn remove(&mut self, id: LaneId) {
        self.0.retain(|(of, _)| *of != id);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }

    fn index(&self, id: LaneId) -> Option<usize> {
        self.0.binary_search_by_key(&id, |(id, _)| *id).ok()
    }

    pub(super) fn get(&self, id: LaneId) -> Option<&Lane> {
        self.index(id).and_then(|index| self.0.get(index)).map(|(_, lane)| lane)
    }

    pub(super) fn get_mut(&mut self, id: LaneId) -> Option<&mut Lane> {
        self.index(id).and_then(|index| self.0.get_mut(index)).map(|(_, lane)| lane)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (LaneId, &Lane)> + Clone {
        self.0.iter().map(|(id, lane)| (*id, lane))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (LaneId, &mut Lane)> {
        self.0.iter_mut().map(|(id, lane)| (*id, lane))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) tag: usize,
    pub(super) alias: u64,
    /// Names the stream beside it.
    pub(super) stream: usize,
    pub(super) pace: Pace,
    /// Everything up to here was read off the log.
    pub(super) at: Offset,
    /// The log has more.
    pub(super) woken: bool,
    /// Every removal that the receiver has yet to hear of is still known.
    pub(super) known: bool,
    /// When its next flush would be due if it had kept to its rate.
    due: Duration,
    /// When it may be flushed.
    pub(super) ready: Duration,
    /// Values of it were sent in the flush at hand.
    pub(super) sent: bool,
    pub(super) pending: HashMap<Key, Pending>,
    pub(super) lost: Vec<Lost>,
    /// The low-water offset that its packets tell until one of them arrives: it rises then, mostly, and a lower one is as true.
    pub(super) low: Option<Offset>,
    /// The low-water offset that the receiver is known to know.
    pub(super) told: Offset,
    /// When to see whether the low-water offset is to be told by itself.
    pub(super) position_due: Option<Duration>,
    /// The low-water offset is to be told by stream.
    pub(super) tell: bool,
    /// The receiver has all that came on the stream before the lane was opened.
    pub(super) confirmed: bool,
}

impl Lane {
    pub(super) fn new(tag: usize, alias: u64, stream: usize, at: Offset, pace: Pace) -> Self {
        Self {
            tag,
            alias,
            stream,
            pace,
            at,
            woken: true,
            known: true,
            due: Duration::ZERO,
            ready: Duration::ZERO,
            sent: false,
            pending: HashMap::new(),
            lost: Vec::new(),
            low: None,
            told: Offset::ZERO,
            position_due: None,
            // The receiver acknowledges it, and so what came before it.
            tell: true,
            confirmed: false,
        }
    }

    /// Whether there is something to look for in its log, where that `may_read` on, or to send by datagram.
    pub(super) fn has_work(&self, may_read: bool) -> bool {
        self.woken && may_read
            || !self.lost.is_empty()
            || self.pending.values().any(|it| it.pieces != Pieces::Stream)
    }

    /// Whether something waits for its stream.
    pub(super) fn has_stream_work(&self) -> bool {
        self.tell || self.pending.values().any(|it| it.pieces == Pieces::Stream)
    }

    /// Takes note that values were sent.
    pub(super) fn flushed(&mut self, now: Duration) {
        self.due = self.due.max(now) + self.pace.interval;
        let ahead = self.pace.interval * (limits::FLUSH_BURST - 1);
        self.ready = self.due.saturating_sub(ahead).max(now + limits::FLUSH_GAP);
    }

    /// Something has to be sent: the whole of a publication, or a part of it that was lost.
    pub(super) fn pend(&mut self, publication: &Publication, piece: Piece, since: Duration, repair: bool) {
        let (offset, priority) = (publication.offset, publication.draft.priority());
        let removal = publication.is_removal();
        let pieces = match piece {
            Piece::Whole => Pieces::Whole,
            Piece::Part(index) => Pieces::Parts(1 << index),
        };
        let key = &publication.draft.key;
        match self.pending.get_mut(key) {
            None => {
                self.pending
                    .insert(key.clone(), Pending { offset, removal, since, priority, pieces, repair });
            }
            Some(it) if it.offset < offset => {
                *it = Pending { offset, removal, since: it.since.min(since), priority, pieces, repair };
            }
            Some(it) if it.offset == offset => {
                it.since = it.since.min(since);
                it.repair |= repair;
                it.pieces = match (it.pieces, pieces) {
                    (Pieces::Parts(some), Pieces::Parts(others)) => Pieces::Parts(some | others),
                    (Pieces::Stream, _) => Pieces::Stream,
                    _ => Pieces::Whole,
                };
            }
            Some(_) => {}
        }
    }

    /// What was lost has to be sent again, if it is still the newest of its key.
    pub(super) fn repair(&mut self, publication: &Publication, lost: &Lost) {
        self.pend(publication, lost.piece, lost.since, true);
        // A receiver without room for more values that are not whole takes no part of this one, however often it is sent.
        if lost.again
            && lost.piece != Piece::Whole
            && let Some(pending) = self.pending.get_mut(&publication.draft.key)
        {
            pending.pieces = Pieces::Stream;
        }
    }

    /// The least offset that has yet to be sent.
    pub(super) fn least(&self) -> Option<Offset> {
        let lost = self.lost.iter().map(|it| it.offset);
        self.pending.values().map(|it| it.offset).chain(lost).min()
    }

    /// Takes note that what told the receiver this low-water offset has arrived.
    pub(super) fn arrived(&mut self, low: Offset) {
        self.told = self.told.max(low);
        self.low = None;
    }

    /// Lets go of memory that is not needed.
    pub(super) fn settle(&mut self) {
        if self.pending.is_empty() && self.pending.capacity() > 0 {
            self.pending = HashMap::new();
        }
        if self.lost.is_empty() && self.lost.capacity() > 0 {
            self.lost = Vec::new();
        }
    }
}
