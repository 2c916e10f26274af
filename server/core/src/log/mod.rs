//! Logs and their readers: the one read path.
//!
//! Whoever drives a log applies publications with [`Log::apply`] in the order of their offsets, makes a [`Reader`] per
//! subscription with [`Log::reader`], and calls [`Log::read`] whenever the subscriber can take more. Nothing is queued
//! per reader; one that lags costs the few words of its position.

mod event;
mod state;

use std::{sync::Arc, time::Duration};

pub use self::{event::EventLog, state::StateLog};
use crate::{
    cursor::Resume,
    position::{Epoch, Offset, Position},
    problem::Problem,
    publication::{Draft, Publication},
    time::Now,
};

/// The delivery class of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Every publication, in order, or an explicit gap.
    Event,
    /// The newest of every key.
    State,
    /// Soon or not at all.
    Signal,
}

/// What a log may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Publications of an event or signal log; of a state log, its keys and, apart from those, its tombstones.
    pub count: usize,
    /// Bytes, by [`Draft::cost`].
    pub bytes: usize,
    /// Age of an event, and of a tombstone. Values have no age.
    pub age: Duration,
}

/// Where a new reader begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Events and signals from now on; state as a snapshot.
    Afresh,
    /// After what was read before.
    After(Resume),
    /// From a position that makes no sense here: as one that is not covered.
    Unusable,
}

/// A subscriber's place in a log. All that a slow subscriber costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    at: Offset,
    phase: Phase,
    /// Signals: how many of the log's lie at or before `at`. Offsets may have holes, so they cannot tell.
    seen: u64,
    /// State: how many of the log's it has been given or knows to be replaced, once it has read everything; `None` before, and
    /// again when it begins anew.
    caught_up: Option<u64>,
    dropped: Dropped,
    /// Whether all that follows the position from which it was asked to begin was held; `None`: it was asked from none.
    recovered: Option<bool>,
}

/// What a reader was not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Signals that had expired when they were read.
    pub expired: u64,
    /// Signals that the log had forgotten before they were read.
    pub forgotten: u64,
    /// State: publications that came when it had read everything, and that newer ones of their keys replaced before it read on.
    pub conflated: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Reads on after `at`.
    Live,
    /// Must be told of a gap or a reset first.
    Lost,
    /// Events: what was read may not have arrived, so a gap is told; reading goes on where it was.
    Uncertain,
    /// State: reads a snapshot that began when the head was this. What is dropped of the log up to there was never
    /// seen by this reader, so it does not miss it.
    Snapshot(Offset),
}

impl Reader {
    fn new(at: Offset, phase: Phase) -> Self {
        Self { at, phase, seen: 0, caught_up: None, dropped: Dropped::default(), recovered: None }
    }

    /// It goes on where it is, from no position of its subscriber's.
    pub fn forget_asked(&mut self) {
        self.recovered = None;
    }

    /// What it was not given since this was asked last.
    pub fn take_dropped(&mut self) -> Dropped {
        std::mem::take(&mut self.dropped)
    }

    /// What has been read.
    pub fn at(&self) -> Offset {
        self.at
    }

    /// The head at which the snapshot under way began, if one is.
    pub fn base(&self) -> Option<Offset> {
        match self.phase {
            Phase::Snapshot(base) => Some(base),
            Phase::Live | Phase::Lost | Phase::Uncertain => None,
        }
    }

    /// Whether a gap or a snapshot is still to be told, or a snapshot under way.
    pub fn is_catching_up(&self) -> bool {
        self.phase != Phase::Live
    }

    /// Whether it has no position that a cursor could tell: a gap or a reset comes first.
    pub fn is_lost(&self) -> bool {
        matches!(self.phase, Phase::Lost | Phase::Uncertain)
    }
}

/// What a reader is given.
#[derive(Clone, Debug)]
pub enum Item {
    /// A publication, and the base of the snapshot it is part of.
    Publication(Arc<Publication>, Option<Offset>),
    /// Publications were missed; reading goes on after this position. `true`: by one that had been reading, and was
    /// too slow.
    Gap(Position, bool),
    /// Forget the keys up to this position, at which a snapshot begins.
    Reset(Position),
    /// The snapshot is complete.
    Synced(Position),
}

impl Item {
    /// What it counts against a budget of bytes.
    pub fn cost(&self) -> usize {
        match self {
            Self::Publication(publication, _) => publication.draft.cost(),
            Self::Gap(..) | Self::Reset(_) | Self::Synced(_) => 64,
        }
    }

    /// Where to read on after this item: the offset, and the base of a snapshot under way.
    pub fn resume(&self) -> (Offset, Option<Offset>) {
        match self {
            Self::Publication(publication, base) => (publication.offset, *base),
            Self::Gap(position, _) | Self::Synced(position) => (position.offset, None),
            Self::Reset(position) => (Offset::ZERO, Some(position.offset)),
        }
    }
}

/// How far one call of [`Log::read`] goes.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimit {
    /// Stops once the items' costs reach this. At least one item is given.
    pub bytes: usize,
}

/// Why reading stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// The reader has everything.
    CaughtUp,
    /// The limit was reached.
    More,
}

/// The history of a channel, of one of the classes.
#[derive(Debug)]
pub struct Log {
    epoch: Epoch,
    head: Offset,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Event(EventLog),
    State(StateLog),
    /// An event log that forgets without saying so.
    Signal(EventLog),
}

impl Log {
    /// An empty log. Its epoch is new, so no position of an earlier log of the channel is taken for one of this.
    pub fn new(class: Class, epoch: Epoch, bounds: Bounds) -> Self {
        let kind = match class {
            Class::Event => Kind::Event(EventLog::new(bounds)),
            Class::State => Kind::State(StateLog::new(bounds)),
            Class::Signal => Kind::Signal(EventLog::new(bounds)),
        };
        Self { epoch, head: Offset::ZERO, kind }
    }

    /// The delivery class.
    pub fn class(&self) -> Class {
        match self.kind {
            Kind::Event(_) => Class::Event,
            Kind::State(_) => Class::State,
            Kind::Signal(_) => Class::Signal,
        }
    }

    /// The history's name.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// The offset of the newest publication.
    pub fn head(&self) -> Offset {
        self.head
    }

    /// What it holds, in bytes by [`Draft::cost`].
    pub fn bytes(&self) -> usize {
        match &self.kind {
            Kind::Event(log) | Kind::Signal(log) => log.bytes(),
            Kind::State(log) => log.bytes(),
        }
    }

    /// Whether `draft` can be applied within the bounds.
    ///
    /// # Errors
    /// `too_many_keys` for a state log that would hold too many keys or bytes. The others make room by forgetting.
    pub fn admits(&self, draft: &Draft) -> Result<(), Problem> {
        match &self.kind {
            Kind::State(log) => log.admits(draft),
            Kind::Event(_) | Kind::Signal(_) => Ok(()),
        }
    }

    /// Takes in a publication that has its place. Whoever gave the place (this node or a backplane) sees to it that
    /// offsets only grow; one that does not is ignored, so that a backplane may repeat itself.
    pub fn apply(&mut self, publication: Arc<Publication>, now: Now) {
        if publication.epoch != self.epoch || publication.offset <= self.head {
            return;
        }
        self.head = publication.offset;
        match &mut self.kind {
            Kind::Event(log) | Kind::Signal(log) => log.push(publication),
            Kind::State(log) => log.put(publication),
        }
        self.trim(now);
    }

    /// Forgets what is beyond the bounds by now.
    pub fn trim(&mut self, now: Now) {
        match &mut self.kind {
            Kind::Event(log) | Kind::Signal(log) => log.trim(now),
            Kind::State(log) => log.trim(now),
        }
    }

    /// Forgets the oldest events until it holds at most `bytes`; a state log forgets nothing.
    pub fn shrink(&mut self, bytes: usize) {
        match &mut self.kind {
            Kind::Event(log) | Kind::Signal(log) => log.shrink(bytes),
            Kind::State(_) => {}
        }
    }

    /// A reader that begins at `start`.
    pub fn reader(&self, start: &Start) -> Reader {
        let recovered = match start {
            Start::Afresh => None,
            Start::After(resume) => {
                Some(self.knows(resume) && self.holds_after(resume.position.offset, resume.base))
            }
            Start::Unusable => Some(false),
        };
        Reader { recovered, ..self.reader_at(start, recovered == Some(true)) }
    }

    /// Whether a position can be one of this log.
    fn knows(&self, Resume { position: Position { epoch, offset }, base }: &Resume) -> bool {
        *epoch == self.epoch && (*offset).max(base.unwrap_or_default()) <= self.head
    }

    /// Whether all that follows `at` is held, for one who is in a snapshot that began at `base` or in none.
    fn holds_after(&self, at: Offset, base: Option<Offset>) -> bool {
        match &self.kind {
            Kind::Event(log) | Kind::Signal(log) => log.covers(at),
            Kind::State(log) => log.covers(base.unwrap_or(at)),
        }
    }

    fn reader_at(&self, start: &Start, held: bool) -> Reader {
        let lost = Reader::new(Offset::ZERO, Phase::Lost);
        let live = |at| Reader::new(at, Phase::Live);
        let signals = |log: &EventLog, at| Reader { seen: log.count_through(at), ..live(at) };
        match (&self.kind, start) {
            (Kind::Event(_), Start::Afresh) => live(self.head),
            (Kind::Signal(log), Start::Afresh | Start::Unusable) => signals(log, self.head),
            (Kind::State(_), Start::Afresh) | (Kind::Event(_) | Kind::State(_), Start::Unusable) => lost,
            (kind, Start::After(resume)) => {
                let offset = resume.position.offset;
                match kind {
                    Kind::Signal(log) => signals(log, if self.knows(resume) { offset } else { self.head }),
                    Kind::Event(_) if held => live(offset),
                    Kind::State(_) if held => {
                        Reader::new(offset, resume.base.map_or(Phase::Live, Phase::Snapshot))
                    }
                    Kind::Event(_) | Kind::State(_) => lost,
                }
            }
        }
    }

    /// What was read by `reader` may not have reached its subscriber, who cannot tell: events go on with a gap, state
    /// with a new snapshot.
    pub fn doubt(&self, reader: &mut Reader) {
        reader.phase = match (&self.kind, reader.phase) {
            (Kind::Event(_), Phase::Live) => Phase::Uncertain,
            (Kind::State(_), _) => Phase::Lost,
            (_, phase) => phase,
        };
    }

    /// The position at which `reader` will begin, as its subscriber is told. One that is lost will hear of another in
    /// its `gap` or `reset`.
    pub fn begins(&self, reader: &Reader) -> Position {
        let offset = match (&self.kind, reader.phase) {
            (Kind::Event(log), Phase::Lost) => log.start(),
            _ => reader.at,
        };
        Position { epoch: self.epoch.clone(), offset }
    }

    /// Whether everything after the position from which `reader` was asked to begin follows; else a gap or a reset comes
    /// first. `None` where it was asked from none.
    pub fn recovered(&self, reader: &Reader) -> Option<bool> {
        let held = !reader.is_lost() && self.holds_after(reader.at, reader.base());
        reader.recovered.map(|recovered| recovered && held)
    }

    /// Whether there is nothing for `reader` at present.
    pub fn is_caught_up(&self, reader: &Reader) -> bool {
        reader.phase == Phase::Live && reader.at >= self.head
    }

    /// State: the publication at `offset`, while it is the newest of its key.
    pub fn newest_at(&self, offset: Offset) -> Option<&Arc<Publication>> {
        match &self.kind {
            Kind::State(log) => log.at(offset),
            Kind::Event(_) | Kind::Signal(_) => None,
        }
    }

    /// State: what is the newest of its key and lies after `at`, in the order of offsets.
    pub fn newest_after(&self, at: Offset) -> impl Iterator<Item = &Arc<Publication>> {
        let log = match &self.kind {
            Kind::State(log) => Some(log),
            Kind::Event(_) | Kind::Signal(_) => None,
        };
        log.into_iter().flat_map(move |log| log.after(at))
    }

    /// State: the newest removal that was forgotten. Who has not heard of it has to begin anew.
    pub fn floor(&self) -> Offset {
        match &self.kind {
            Kind::State(log) => log.floor(),
            Kind::Event(_) | Kind::Signal(_) => Offset::ZERO,
        }
    }

    /// Gives `reader` what comes next, in order, and moves it on.
    pub fn read(&self, reader: &mut Reader, now: Now, limit: ReadLimit, out: &mut Vec<Item>) -> ReadEnd {
        let end = match &self.kind {
            Kind::Event(log) => {
                // A reader that was told nothing yet begins; one that falls behind later was too slow.
                let slow = reader.phase == Phase::Live && !log.covers(reader.at);
                let mut limit = limit;
                if slow || reader.is_lost() {
                    let at =
                        if reader.phase == Phase::Lost { log.start() } else { reader.at.max(log.start()) };
                    *reader = Reader::new(at, Phase::Live);
                    let gap = Item::Gap(self.position(reader.at), slow);
                    limit.bytes = limit.bytes.saturating_sub(gap.cost());
                    out.push(gap);
                }
                log.read(reader, limit, |_| true, out)
            }
            Kind::Signal(log) => {
                log.miss(reader);
                let worth = |it: &Publication| it.expires().is_none_or(|at| at > now.monotonic);
                log.read(reader, limit, worth, out)
            }
            Kind::State(log) => self.read_state(log, reader, limit, out),
        };
        if end == ReadEnd::CaughtUp {
            // What lies between the last item and the head was replaced, dropped or expired.
            reader.at = self.head;
        }
        end
    }

    fn read_state(
        &self,
        log: &StateLog,
        reader: &mut Reader,
        limit: ReadLimit,
        out: &mut Vec<Item>,
    ) -> ReadEnd {
        let covered = match reader.phase {
            Phase::Live => log.covers(reader.at),
            Phase::Snapshot(base) => log.covers(base),
            Phase::Lost | Phase::Uncertain => false,
        };
        let mut spent = 0;
        if !covered {
            *reader = Reader::new(Offset::ZERO, Phase::Snapshot(self.head));
            let reset = Item::Reset(self.position(self.head));
            spent += reset.cost();
            out.push(reset);
        }
        for publication in log.after(reader.at) {
            if reader.base().is_some_and(|base| publication.offset > base) {
                self.finish_snapshot(reader, out);
            }
            let base = reader.base();
            // What was removed before the snapshot began was never given in it.
            if publication.is_removal() && base.is_some() {
                reader.at = publication.offset;
                continue;
            }
            if spent >= limit.bytes && spent > 0 {
                return ReadEnd::More;
            }
            reader.at = publication.offset;
            reader.caught_up = reader.caught_up.map(|seen| seen + 1);
            let item = Item::Publication(publication.clone(), base);
            spent += item.cost();
            out.push(item);
        }
        self.finish_snapshot(reader, out);
        log.conflate(reader);
        ReadEnd::CaughtUp
    }

    fn finish_snapshot(&self, reader: &mut Reader, out: &mut Vec<Item>) {
        if let Phase::Snapshot(base) = reader.phase {
            *reader = Reader::new(reader.at.max(base), Phase::Live);
            out.push(Item::Synced(self.position(reader.at)));
        }
    }

    fn position(&self, offset: Offset) -> Position {
        Position { epoch: self.epoch.clone(), offset }
    }
}
