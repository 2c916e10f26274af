//! The sending side.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;

use super::{
    Effects, Pace, Path, Source,
    few::Few,
    lane::{Lane, LaneId, Lanes, Lost, Pending, Pieces},
    packing::{Fit, Packing, choose},
    record::{Packet, Record, Section},
    streamed::Streamed,
};
use crate::{
    codec::binary::{Ack, Piece, ValuesWriter},
    limits,
    log::Log,
    position::Offset,
};

/// Sends the newest values of a session's channels.
#[derive(Debug, Default)]
pub struct Sender {
    lanes: Lanes,
    opened: u32,
    record: Record,
    /// Packets that are to be sent once more, and when.
    twins: BTreeSet<(Duration, u64)>,
    streamed: Streamed,
    /// There is more to send than may be under way.
    blocked: bool,
    /// There is more to send than one flush makes.
    more: bool,
    /// As many values wait as may, so that no log is read on.
    full: bool,
    /// When the first of what is under way will be lost: what only a flush and an acknowledgement change.
    losses: Option<Duration>,
    /// The round-trip time that the last flush was told.
    rtt: Duration,
    /// The channels of a flush and their low-water offsets, in memory that the next has again.
    due: Vec<(LaneId, Offset)>,
}

impl Sender {
    /// Begins to send a channel, whose receiver has everything up to `at`. `tag` names its log to the [`Source`], `stream` the
    /// stream beside it.
    pub fn open(&mut self, tag: usize, alias: u64, stream: usize, at: Offset, pace: Pace) -> LaneId {
        self.opened += 1;
        let lane = LaneId(self.opened);
        self.lanes.push(lane, Lane::new(tag, alias, stream, at, pace));
        lane
    }

    /// Ends a channel. What is under way of it is forgotten.
    pub fn close(&mut self, lane: LaneId) {
        self.lanes.remove(lane);
        self.streamed.forget(lane);
        // What it kept waiting gives room to others.
        self.full = false;
    }

    /// A stream has ended, and its channels were closed. Another may have its name from now on.
    pub fn end_stream(&mut self, stream: usize) {
        self.streamed.end(stream);
    }

    /// Whether it has no channel.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// The log of a channel has something new.
    pub fn wake(&mut self, lane: LaneId) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.woken = true;
        }
    }

    /// Takes in an acknowledgement that came by datagram. Whether [`flush`](Self::flush) has something to do because of it.
    pub fn acknowledge(&mut self, ack: Ack, now: Duration) -> bool {
        let before = self.losses;
        let (lanes, mut arrived) = (&mut self.lanes, false);
        self.record.acknowledge(ack, now, |packet| {
            arrived = true;
            for section in packet.sections.iter() {
                if let Some(lane) = lanes.get_mut(section.lane) {
                    lane.arrived(section.low);
                    lane.settle();
                }
            }
        });
        self.losses = self.record.deadline(self.rtt);
        // One packet that has arrived can make others late.
        let sooner = |deadline| before.is_none_or(|before| deadline < before);
        arrived && (self.blocked || self.losses.is_some_and(sooner))
    }

    /// Takes in an acknowledgement that came on a stream: its frames up to `number` have arrived. The tags of channels that
    /// have more for it.
    pub fn acknowledge_stream(&mut self, stream: usize, number: u64) -> Vec<usize> {
        for (lane, low) in self.streamed.acknowledge(stream, number) {
            if let Some(lane) = self.lanes.get_mut(lane) {
                lane.arrived(low);
                lane.confirmed = true;
            }
        }
        let waiting = self
            .lanes
            .iter()
            .map(|(_, lane)| lane)
            .filter(|lane| lane.stream == stream && lane.has_stream_work());
        waiting.map(|lane| lane.tag).collect()
    }

    /// The low-water offset of a channel: of every key whose newest publication does not lie above it, the receiver is known
    /// to have that publication. 0 until it is known that what the stream brought before the channel was opened has arrived, and
    /// once a removal was forgotten before it had.
    pub fn low(&self, id: LaneId) -> Offset {
        self.low_with(id, |lane| self.record.least(lane))
    }

    /// As [`low`](Self::low), where `least` knows the least offset of a channel that is under way.
    fn low_with(&self, id: LaneId, least: impl FnOnce(LaneId) -> Option<Offset>) -> Offset {
        match self.lanes.get(id) {
            Some(lane) if lane.confirmed && lane.known => self.low_by_stream(id, lane, least(id)),
            _ => Offset::ZERO,
        }
    }

    /// As [`low`](Self::low), of a receiver that has all that came on the stream.
    fn low_by_stream(&self, id: LaneId, lane: &Lane, under_way: Option<Offset>) -> Offset {
        let open = [lane.least(), under_way, self.streamed.least(id)];
        open.into_iter().flatten().map(Offset::before).min().unwrap_or(lane.at).min(lane.at)
    }

    /// Channels that have been quiet for a while tell their low-water offsets, by stream.
    fn tell_positions(&mut self, now: Duration, out: &mut Effects) {
        let due = self.lanes.iter().filter(|(_, lane)| lane.position_due.is_some_and(|due| due <= now));
        let due: Vec<_> = due.map(|(id, _)| (id, self.low(id))).collect();
        for (id, low) in due {
            let Some(lane) = self.lanes.get_mut(id) else { continue };
            if lane.woken || low != lane.at {
                lane.position_due = Some(now + limits::POSITION_DELAY);
                continue;
            }
            lane.position_due = None;
            self.record.settle();
            self.due = Vec::new();
            if lane.told < low {
                lane.tell = true;
                out.streams.push(lane.tag);
            }
        }
    }

    /// What is under way by datagram, in bytes.
    pub fn bytes_under_way(&self) -> usize {
        self.record.bytes()
    }

    /// What is under way by datagram: packets, their bytes, and values in them.
    pub fn under_way(&self) -> [usize; 3] {
        self.record.under_way()
    }

    /// Values that have changed and wait for room.
    pub fn pending(&self) -> usize {
        self.lanes.iter().map(|(_, lane)| lane.pending.len()).sum()
    }

    /// Makes the packets that are due and have room on the path.
    pub fn flush(&mut self, now: Duration, path: &Path<'_>, source: &mut impl Source, out: &mut Effects) {
        self.rtt = path.rtt;
        if self.losses.is_some_and(|losses| losses <= now) {
            self.lose(now, out);
        }
        self.tell_positions(now, out);
        if self.record.has_room(path.room, path.window) {
            self.pack(now, path, source, out);
        } else {
            // What is new stays in the logs, which wake nobody meanwhile, and what waits need not be chosen among.
            self.blocked = self.lanes.iter().any(|(_, lane)| lane.has_work(true));
            self.more = false;
        }
        self.send_twins(now, path, source, out);
        self.losses = self.record.deadline(self.rtt);
    }

    /// Makes packets of what is due, as far as there is room.
    fn pack(&mut self, now: Duration, path: &Path<'_>, source: &mut impl Source, out: &mut Effects) {
        let mut due = std::mem::take(&mut self.due);
        let lanes = self.lanes.iter().filter(|(_, lane)| lane.ready <= now && lane.has_work(true));
        // Looked through once, however many channels there are, and only for those of which something has arrived.
        let mut leasts = None;
        let mut least = |lane| match self.lanes.len() {
            1 => self.record.least(lane),
            _ => leasts.get_or_insert_with(|| self.record.leasts()).get(&lane).copied(),
        };
        due.extend(lanes.map(|(id, lane)| {
            let known = lane.low.filter(|_| lane.known);
            (id, known.unwrap_or_else(|| self.low_with(id, &mut least)))
        }));
        let pending = self.pending();
        let Self { lanes, record, .. } = self;
        let first = record.next();
        // What came while there was no room is chosen among, as what was read before.
        let direct = !self.blocked;
        let mut packing = Packing::new(now, path, record, pending, direct, out);
        for (id, low) in &due {
            let Some(lane) = lanes.get_mut(*id) else { continue };
            take(*id, lane, *low, now, source, &mut packing);
        }
        self.full = packing.full;
        choose(lanes, &due, now, source, &mut packing);
        let done = packing.finish();
        (self.blocked, self.more) = (done.blocked, done.more);
        out.counts.values += done.values;
        out.counts.repaired += done.repaired;
        for (id, low) in due.drain(..) {
            let Some(lane) = self.lanes.get_mut(id) else { continue };
            lane.low = Some(low);
            // What had to stop goes on as soon as there is room.
            if std::mem::take(&mut lane.sent) {
                lane.position_due = Some(now + limits::POSITION_DELAY);
                if !(done.blocked || done.more) {
                    lane.flushed(now);
                }
            }
            if !lane.known {
                out.resets.push(lane.tag);
            }
            if lane.has_stream_work() {
                out.streams.push(lane.tag);
            }
            lane.settle();
        }
        self.due = due;
        for number in first..self.record.next() {
            self.plan_twin(number, now);
        }
    }

    /// When [`flush`](Self::flush) has something to do if nothing happens before.
    pub fn next(&self) -> Option<Duration> {
        if self.more {
            return Some(Duration::ZERO);
        }
        let twins = self.twins.first().map(|(due, _)| *due);
        let lanes = self.lanes.iter().map(|(_, lane)| lane);
        // What is blocked goes on when something arrives or is lost.
        let positions = lanes.clone().filter_map(|lane| lane.position_due);
        let work = lanes.filter(|lane| !self.blocked && lane.has_work(!self.full)).map(|lane| lane.ready);
        self.losses.into_iter().chain(twins).chain(positions).chain(work).min()
    }

    /// The next frame for a stream, of low-water offsets and of values of its channels that fit no datagram: of about `budget`
    /// bytes, or one value; and how many values it has. `None`: there is nothing, or too much is under way. What [`next`](Self::next) says may be sooner
    /// from then on.
    pub fn stream(
        &mut self,
        stream: usize,
        budget: usize,
        now: Duration,
        source: &mut impl Source,
    ) -> Option<(Bytes, usize)> {
        if self.streamed.under_way(stream) >= limits::STREAM_VALUES_IN_FLIGHT {
            return None;
        }
        let mut frame = self.streamed.begin(stream);
        let mut writer = ValuesWriter::stream(frame.number(), budget.min(4096));
        let lanes: Vec<_> =
            self.lanes.iter().filter(|(_, lane)| lane.stream == stream).map(|(id, _)| id).collect();
        for id in lanes {
            let waits = self.lanes.get(id).filter(|lane| lane.known && lane.has_stream_work());
            let Some(lane) = waits else { continue };
            let low = self.low_by_stream(id, lane, self.record.least(id));
            let Some(lane) = self.lanes.get_mut(id) else { continue };
            let mut told = std::mem::take(&mut lane.tell);
            if told {
                writer.position(lane.alias, low);
                frame.tell(id, low);
            }
            let waiting = lane.pending.values().filter(|it| it.pieces == Pieces::Stream);
            let mut offsets: Vec<_> = waiting.map(|it| it.offset).collect();
            offsets.sort_unstable();
            for offset in offsets {
                if frame.bytes() >= budget {
                    break;
                }
                // One that was replaced meanwhile waits here until the lane has read on, and then goes as the newer one does.
                source.look(lane.tag, &mut |log| match log.newest_at(offset) {
                    Some(publication) => {
                        if !told {
                            // Before any value: what is read as one entry's low-water offset counts for those that follow.
                            writer.position(lane.alias, low);
                            frame.tell(id, low);
                            told = true;
                        }
                        // On a stream there is always room.
                        writer.push(lane.alias, low, publication, Piece::Whole);
                        frame.add(id, offset, publication.draft.cost());
                        lane.pending.remove(&publication.draft.key);
                        lane.position_due = Some(now + limits::POSITION_DELAY);
                        self.full = false;
                    }
                    // If it was a forgotten removal, the next flush says so.
                    None if offset <= log.floor() => lane.woken = true,
                    None => {}
                });
            }
        }
        if writer.is_empty() {
            return None;
        }
        let values = frame.values();
        self.streamed.push(frame);
        Some((writer.finish(), values))
    }

    /// Takes what is lost by now out of the record, so that it is looked up again.
    fn lose(&mut self, now: Duration, out: &mut Effects) {
        let Self { record, lanes, rtt, .. } = self;
        record.lose(now, *rtt, |packet| {
            out.counts.lost += 1;
            for value in &packet.values {
                if let Some(lane) = lanes.get_mut(value.lane) {
                    let (offset, piece, removal) = (value.offset, value.piece, value.removal);
                    lane.lost.push(Lost { offset, piece, removal, again: value.repair, since: packet.sent });
                }
            }
        });
    }

    /// A packet with values of channels that want it is sent once more in a while.
    fn plan_twin(&mut self, number: u64, now: Duration) {
        let Some(packet) = self.record.get_mut(number) else { return };
        let wanted =
            packet.sections.iter().filter_map(|section| self.lanes.get(section.lane)?.pace.duplicate);
        // What was lost once has waited long enough: it is not left to one packet again.
        let repairs = packet.values.iter().any(|value| value.repair);
        if let Some(after) = wanted.chain(repairs.then_some(limits::REPAIR_AGAIN)).min() {
            self.twins.insert((now + after, number));
        }
    }

    /// Sends packets once more whose time has come: what of them is still the newest.
    fn send_twins(&mut self, now: Duration, path: &Path<'_>, source: &mut impl Source, out: &mut Effects) {
        while let Some((due, number)) = self.twins.first().copied()
            && due <= now
        {
            self.twins.pop_first();
            let first = self.record.get_mut(number).map(|it| (it.values.clone(), it.sections.clone()));
            let Some((values, told)) = first else { continue };
            if values.is_empty() || !self.record.has_room(path.room, path.window) {
                continue;
            }
            let next = self.record.next();
            let mut writer = ValuesWriter::datagram(Vec::new(), next, path.prefix, path.room);
            let (mut sent, mut sections) = (self.record.list(), Few::default());
            // Of what is still the newest, all has to be in it: one of the two suffices.
            let mut whole = true;
            for value in values {
                let Some(lane) = self.lanes.get(value.lane) else { continue };
                // As it was told first, so that it takes no more room.
                let section = told.iter().find(|section| section.lane == value.lane);
                let low = section.map_or(Offset::ZERO, |section| section.low);
                source.look(lane.tag, &mut |log| {
                    let Some(publication) = log.newest_at(value.offset) else {
                        // A removal that was forgotten has to be missed when the first is lost.
                        whole &= !(value.removal && value.offset <= log.floor());
                        return;
                    };
                    whole &= writer.push(lane.alias, low, publication, value.piece);
                    sent.push(value);
                    Section::note(&mut sections, value.lane, low, value.offset);
                });
            }
            if sent.is_empty() || !whole {
                continue;
            }
            let packet = writer.finish();
            out.counts.duplicated += packet.len() as u64;
            let bytes = packet.len();
            out.packets.push(packet);
            self.record.push(Packet { sent: now, bytes, values: sent, sections, twin: Some(number) });
            if let Some(first) = self.record.get_mut(number) {
                first.twin = Some(next);
            }
        }
        if self.twins.is_empty() {
            return;
        }
        // Those whose packets are done with.
        let record = &mut self.record;
        self.twins.retain(|(_, number)| record.get_mut(*number).is_some());
    }
}

/// Looks up what was lost of a channel, and reads what is new: into packets while there is room, else into what is pending.
fn take(
    id: LaneId,
    lane: &mut Lane,
    low: Offset,
    now: Duration,
    source: &mut impl Source,
    packing: &mut Packing<'_, '_>,
) {
    let (woken, tag) = (lane.woken, lane.tag);
    let lost = std::mem::take(&mut lane.lost);
    let mut read = |log: &Log| {
        // What is forgotten above what was read may be a removal that nobody will tell the receiver any more.
        lane.known &= lane.at >= log.floor();
        let forgotten =
            |it: &Pending| it.removal && it.offset <= log.floor() && log.newest_at(it.offset).is_none();
        lane.known &= !lane.pending.values().any(forgotten);
        for it in &lost {
            match log.newest_at(it.offset) {
                Some(publication) => lane.repair(publication, it),
                None => lane.known &= !(it.removal && it.offset <= log.floor()),
            }
        }
        if !lane.known || !woken {
            return false;
        }
        // Where something waits already, what is new has to stand in line with it.
        let mut direct = packing.direct && packing.pending == 0;
        for publication in log.newest_after(lane.at) {
            if direct {
                match packing.push(id, lane.alias, low, publication, Piece::Whole, false) {
                    Fit::Sent => {
                        lane.sent = true;
                        continue;
                    }
                    Fit::NoRoom => direct = false,
                    Fit::TooLarge => {}
                }
            }
            // Each channel has its share, whatever the others want.
            let share = limits::PENDING_VALUES / limits::SUBSCRIPTIONS;
            if packing.pending >= limits::PENDING_VALUES && lane.pending.len() >= share {
                // The rest stays where it is.
                lane.at = publication.offset.before();
                packing.full = true;
                return false;
            }
            packing.pending += 1;
            lane.pend(publication, Piece::Whole, publication.accepted.min(now), false);
        }
        lane.at = log.head();
        lane.woken = false;
        true
    };
    if woken {
        source.news(tag, &mut read);
    } else {
        source.look(tag, &mut |log| _ = read(log));
    }
}
