//! Makes packets of values, and chooses among values when not all have room.

use std::{
    collections::{BinaryHeap, HashSet},
    time::Duration,
};

use super::{
    Effects, Path, Source,
    few::Few,
    lane::{Lane, LaneId, Lanes, Pieces},
    record::{Packet, Record, Section, Sent},
};
use crate::{
    codec::binary::{Piece, ValuesWriter},
    position::Offset,
    publication::Publication,
};

/// What a packet's twin may be longer by, in bytes: its number may take the next form.
const TWIN_ROOM: usize = 4;

/// What has become of a value that was to be put into a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Sent,
    /// No more may be under way.
    NoRoom,
    /// It does not fit an empty packet.
    TooLarge,
}

/// Packets of one flush.
#[derive(Debug)]
pub(super) struct Packing<'a, 'p> {
    now: Duration,
    path: &'a Path<'p>,
    record: &'a mut Record,
    writer: Option<ValuesWriter>,
    values: Vec<Sent>,
    sections: Few<Section>,
    out: &'a mut Effects,
    /// Bytes that may yet be made.
    left: usize,
    /// Values that wait.
    pub(super) pending: usize,
    /// What is new need not stand in line with anything.
    pub(super) direct: bool,
    /// So many that a log was not read to its head.
    pub(super) full: bool,
    done: Done,
}

/// What a flush has come to.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) values: u64,
    pub(super) repaired: u64,
    /// There was more than may be under way.
    pub(super) blocked: bool,
    /// There was more than one flush makes.
    pub(super) more: bool,
}

impl<'a, 'p> Packing<'a, 'p> {
    pub(super) fn new(
        now: Duration,
        path: &'a Path<'p>,
        record: &'a mut Record,
        pending: usize,
        direct: bool,
        out: &'a mut Effects,
    ) -> Self {
        let (writer, values, sections, done) = Default::default();
        Self {
            now,
            path,
            record,
            writer,
            values,
            sections,
            out,
            left: path.burst,
            pending,
            direct,
            full: false,
            done,
        }
    }

    fn writer(&mut self) -> Option<&mut ValuesWriter> {
        if self.writer.is_none() {
            if !self.record.has_room(self.path.room, self.path.window) {
                self.done.blocked = true;
                return None;
            }
            if self.left == 0 {
                self.done.more = true;
                return None;
            }
            let number = self.record.next();
            let room = self.path.room.saturating_sub(TWIN_ROOM);
            let buffer = self.out.buffers.take();
            self.values = self.record.list();
            self.writer = Some(ValuesWriter::datagram(buffer, number, self.path.prefix, room));
        }
        self.writer.as_mut()
    }

    /// Whether nothing more has room in this flush.
    fn is_stopped(&self) -> bool {
        self.writer.is_none() && (self.done.blocked || self.done.more)
    }

    fn seal(&mut self) {
        let Some(writer) = self.writer.take().filter(|writer| !writer.is_empty()) else { return };
        let packet = writer.finish();
        self.out.buffers.keep(&packet);
        self.left = self.left.saturating_sub(packet.len());
        let (values, sections) = (std::mem::take(&mut self.values), std::mem::take(&mut self.sections));
        self.record.push(Packet { sent: self.now, bytes: packet.len(), values, sections, twin: None });
        self.out.packets.push(packet);
    }

    /// Puts a value, or a part of one, into the packet at hand or the next.
    pub(super) fn push(
        &mut self,
        lane: LaneId,
        alias: u64,
        low: Offset,
        publication: &Publication,
        piece: Piece,
        repair: bool,
    ) -> Fit {
        loop {
            let Some(writer) = self.writer() else { return Fit::NoRoom };
            if writer.push(alias, low, publication, piece) {
                break;
            }
            if writer.is_empty() {
                return Fit::TooLarge;
            }
            self.seal();
        }
        let (offset, removal) = (publication.offset, publication.is_removal());
        self.values.push(Sent { lane, piece, removal, repair, offset });
        Section::note(&mut self.sections, lane, low, offset);
        self.done.values += 1;
        self.done.repaired += u64::from(repair);
        Fit::Sent
    }

    pub(super) fn finish(mut self) -> Done {
        self.seal();
        self.done
    }
}

/// Sends what is pending of the channels that are due. Where there is no room for all, those go first that have waited longest
/// by their priority, so that important keys stay fresh and none is forgotten.
pub(super) fn choose(
    lanes: &mut Lanes,
    due: &[(LaneId, Offset)],
    now: Duration,
    source: &mut impl Source,
    packing: &mut Packing<'_, '_>,
) {
    let waits = |id| lanes.get(id).is_some_and(|lane| !lane.pending.is_empty());
    if packing.is_stopped() || !due.iter().any(|(id, _)| waits(*id)) {
        return;
    }
    // Not sorted, since mostly few of many have room.
    let mut waiting = Vec::with_capacity(packing.pending);
    for (index, (id, _)) in due.iter().enumerate() {
        let Some(lane) = lanes.get(*id) else { continue };
        let pending = lane.pending.values().filter(|it| it.pieces != Pieces::Stream);
        waiting.extend(pending.map(|it| (it.weight(now), index, it.offset, it.removal)));
    }
    let mut waiting = BinaryHeap::from(waiting);
    let mut replaced = HashSet::new();
    while let Some((_, index, offset, removal)) = waiting.pop() {
        let Some((id, low)) = due.get(index).copied() else { continue };
        let Some(lane) = lanes.get_mut(id) else { continue };
        let mut fit = Fit::Sent;
        source.look(lane.tag, &mut |log| match log.newest_at(offset) {
            Some(publication) => fit = send(id, lane, low, publication, packing),
            None if removal && offset <= log.floor() => lane.known = false,
            None => _ = replaced.insert((id, offset)),
        });
        if fit == Fit::NoRoom {
            break;
        }
    }
    for (id, lane) in lanes.iter_mut().filter(|(_, lane)| lane.woken && !replaced.is_empty()) {
        // The newer one is read some time; it need not wait for this one's place. Where the log was read to its head, it has
        // come since, and takes the place.
        lane.pending.retain(|_, it| !replaced.contains(&(id, it.offset)));
    }
}

/// Sends a pending value as far as there is room for it.
fn send(
    id: LaneId,
    lane: &mut Lane,
    low: Offset,
    publication: &Publication,
    packing: &mut Packing<'_, '_>,
) -> Fit {
    let key = &publication.draft.key;
    let Some(pending) = lane.pending.get_mut(key) else { return Fit::Sent };
    // Where nothing is heard of parts, a receiver may be full of others, and would refuse one value after the other.
    let unheard = packing.record.is_unheard();
    if unheard && pending.pieces != Pieces::Whole {
        pending.pieces = Pieces::Stream;
    }
    if pending.pieces == Pieces::Whole {
        match packing.push(id, lane.alias, low, publication, Piece::Whole, pending.repair) {
            Fit::Sent => {
                lane.sent = true;
                lane.pending.remove(key);
                return Fit::Sent;
            }
            Fit::NoRoom => return Fit::NoRoom,
            Fit::TooLarge if unheard => pending.pieces = Pieces::Stream,
            Fit::TooLarge => pending.pieces = Pieces::beyond_a_packet(publication),
        }
    }
    while let Pieces::Parts(left) = pending.pieces {
        if left == 0 {
            lane.pending.remove(key);
            return Fit::Sent;
        }
        let part = left.trailing_zeros() as u8;
        match packing.push(id, lane.alias, low, publication, Piece::Part(part), pending.repair) {
            Fit::Sent => {
                lane.sent = true;
                pending.pieces = Pieces::Parts(left & (left - 1));
            }
            Fit::NoRoom => return Fit::NoRoom,
            Fit::TooLarge => pending.pieces = Pieces::Stream,
        }
    }
    Fit::Sent
}
