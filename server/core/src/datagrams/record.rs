//! What is under way: packets, what each of them carried, and when they are taken for lost.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use super::{few::Few, lane::LaneId};
use crate::{
    codec::binary::{Ack, Piece},
    limits,
    position::Offset,
};

/// Packets after one that were acknowledged before it is taken for lost. RFC 9002, section 6.1.1.
const REORDERING: u64 = 3;
/// Bounds of what is waited for an acknowledgement.
const PATIENCE_MIN: Duration = Duration::from_millis(10);
const PATIENCE_MAX: Duration = Duration::from_secs(3);
/// How uncertain a latency is at least: timers and schedulers are.
const GRANULARITY: Duration = Duration::from_millis(5);
/// Times that everything under way may be taken for lost before the waiting is doubled.
const TIMEOUTS: u32 = 3;
/// How much later a packet is acknowledged for those that follow it.
const FOLLOWED: Duration = limits::ACK_DELAY.saturating_mul(limits::ACK_FRAMES - 1);
/// What a datagram costs the path besides its bytes.
const OVERHEAD: usize = 40;
/// Packets whose lists are kept for others: about what one flush makes.
const SPARES: usize = 12;
/// Values of a packet whose lists are kept.
const SPARE_VALUES: usize = 64;

/// One value, or a part of one, in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) lane: LaneId,
    pub(super) piece: Piece,
    pub(super) removal: bool,
    /// It had been lost before.
    pub(super) repair: bool,
    pub(super) offset: Offset,
}

/// What a packet says of one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) lane: LaneId,
    /// The low-water offset that it tells.
    pub(super) low: Offset,
    /// The least offset of its values; `None` when those have arrived in its twin.
    pub(super) least: Option<Offset>,
}

impl Section {
    /// Takes note of a value among a packet's sections.
    pub(super) fn note(sections: &mut Few<Self>, lane: LaneId, low: Offset, offset: Offset) {
        // Values of a channel mostly follow each other.
        match sections.iter_mut().rev().find(|section| section.lane == lane) {
            Some(section) => section.least = section.least.into_iter().chain([offset]).min(),
            None => sections.push(Self { lane, low, least: Some(offset) }),
        }
    }
}

/// A packet under way.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) sent: Duration,
    pub(super) bytes: usize,
    pub(super) values: Vec<Sent>,
    pub(super) sections: Few<Section>,
    /// Another with the same values, of which one suffices.
    pub(super) twin: Option<u64>,
}

/// How long it takes until the newest packet is acknowledged. RFC 6298.
#[derive(Debug, Default)]
struct Latency {
    smoothed: Option<Duration>,
    variation: Duration,
    /// The least of late, which slowly rises.
    least: Duration,
}

impl Latency {
    fn sample(&mut self, sample: Duration) {
        match &mut self.smoothed {
            None => (self.smoothed, self.variation, self.least) = (Some(sample), sample / 4, sample),
            Some(smoothed) => {
                self.least = sample.min(self.least + self.least / 64);
                // The receiver may have waited for others, which is waited for apart. As RFC 9002, section 5.3, has it.
                let waited = sample + GRANULARITY >= self.least + limits::ACK_DELAY;
                let sample =
                    if waited { sample.saturating_sub(limits::ACK_DELAY).max(self.least) } else { sample };
                self.variation = (self.variation * 3 + smoothed.abs_diff(sample)) / 4;
                *smoothed = (*smoothed * 7 + sample) / 8;
            }
        }
    }

    fn expected(&self, rtt: Duration) -> Duration {
        self.smoothed.unwrap_or(rtt)
    }

    /// How long to wait before a packet with none acknowledged after it is taken for lost.
    fn patience(&self, rtt: Duration) -> Duration {
        let variation = if self.smoothed.is_some() { self.variation } else { rtt / 4 };
        // The last packet for a while is not acknowledged before the receiver has waited for others.
        let patience = self.expected(rtt) + limits::ACK_DELAY + (variation * 2).max(GRANULARITY);
        patience.clamp(PATIENCE_MIN, PATIENCE_MAX)
    }
}

/// Packets that are neither acknowledged nor lost.
#[derive(Debug)]
pub(super) struct Record {
    /// By number, from `first`; those in between that are done with are `None`.
    packets: VecDeque<Option<Packet>>,
    first: u64,
    bytes: usize,
    values: usize,
    /// The newest that was acknowledged; 0 before the first.
    newest: u64,
    latency: Latency,
    /// How often in a row all that had been sent since the time before was taken for lost for want of any acknowledgement.
    timeouts: u32,
    timed_out: Duration,
    /// When the latest was sent.
    sent: Duration,
    spares: Spares,
}

/// Lists of values of packets that are done with, empty, for later ones.
#[derive(Debug, Default)]
struct Spares(Vec<Vec<Sent>>);

impl Spares {
    fn keep(&mut self, packet: Packet) {
        let mut values = packet.values;
        if self.0.len() < SPARES && values.capacity() <= SPARE_VALUES {
            values.clear();
            self.0.push(values);
        }
    }
}

impl Default for Record {
    fn default() -> Self {
        let (packets, latency, spares) = Default::default();
        Self {
            packets,
            first: 1,
            bytes: 0,
            values: 0,
            newest: 0,
            latency,
            timeouts: 0,
            timed_out: Duration::ZERO,
            sent: Duration::ZERO,
            spares,
        }
    }
}

impl Record {
    /// The number of the next packet.
    pub(super) fn next(&self) -> u64 {
        self.first + self.packets.len() as u64
    }

    /// Whether another packet of at most `bytes` may be under way. One always may.
    pub(super) fn has_room(&self, bytes: usize, window: usize) -> bool {
        self.bytes == 0
            || self.bytes + bytes + OVERHEAD <= window
                && self.packets.len() < limits::PACKETS_IN_FLIGHT
                && self.values < limits::VALUES_IN_FLIGHT
    }

    /// What is under way, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Packets that are under way, their bytes, and their values.
    pub(super) fn under_way(&self) -> [usize; 3] {
        [self.packets.iter().flatten().count(), self.bytes, self.values]
    }

    pub(super) fn push(&mut self, mut packet: Packet) {
        packet.bytes += OVERHEAD;
        self.sent = packet.sent;
        self.bytes += packet.bytes;
        self.values += packet.values.len();
        self.packets.push_back(Some(packet));
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Packet> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.packets.get_mut(index)?.as_mut()
    }

    /// Whether nothing has been acknowledged in a while, though all was sent anew.
    pub(super) fn is_unheard(&self) -> bool {
        self.timeouts >= TIMEOUTS
    }

    /// The least offset under way, of every channel that has any.
    pub(super) fn leasts(&self) -> HashMap<LaneId, Offset> {
        let mut leasts = HashMap::new();
        for section in self.packets.iter().flatten().flat_map(|packet| packet.sections.iter()) {
            if let Some(offset) = section.least {
                leasts
                    .entry(section.lane)
                    .and_modify(|least: &mut Offset| *least = offset.min(*least))
                    .or_insert(offset);
            }
        }
        leasts
    }

    /// The least offset of a channel's values that are under way.
    pub(super) fn least(&self, lane: LaneId) -> Option<Offset> {
        let sections = self.packets.iter().flatten().flat_map(|packet| packet.sections.iter());
        sections.filter(|section| section.lane == lane).filter_map(|section| section.least).min()
    }

    fn remove(&mut self, number: u64) -> Option<Packet> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let packet = self.packets.get_mut(index)?.take()?;
        self.bytes -= packet.bytes;
        self.values -= packet.values.len();
        while let Some(None) = self.packets.front() {
            self.packets.pop_front();
            self.first += 1;
        }
        Some(packet)
    }

    /// Lets go of memory that is not needed.
    pub(super) fn settle(&mut self) {
        if self.packets.is_empty() {
            self.packets = VecDeque::new();
            self.spares = Spares::default();
        }
    }

    /// An empty list for the values of a packet.
    pub(super) fn list(&mut self) -> Vec<Sent> {
        self.spares.0.pop().unwrap_or_default()
    }

    /// Takes an acknowledgement in. `arrived` is given what it newly acknowledges.
    pub(super) fn acknowledge(&mut self, ack: Ack, now: Duration, mut arrived: impl FnMut(&Packet)) {
        if ack.newest >= self.next() {
            // Never sent. Nothing of it can be believed.
            return;
        }
        // They fall.
        let first = self.first;
        for number in ack.numbers().take_while(|number| *number >= first) {
            let Some(packet) = self.remove(number) else { continue };
            if number == ack.newest && number > self.newest {
                self.latency.sample(now.saturating_sub(packet.sent));
            }
            self.timeouts = 0;
            if let Some(twin) = packet.twin.and_then(|twin| self.get_mut(twin)) {
                twin.twin = None;
                let values = twin.values.len();
                twin.values.clear();
                twin.sections.iter_mut().for_each(|section| section.least = None);
                self.values -= values;
            }
            arrived(&packet);
            self.spares.keep(packet);
        }
        self.newest = self.newest.max(ack.newest);
    }

    /// Takes out what is lost by now. `lost` is given each packet whose values have to be sent anew.
    pub(super) fn lose(&mut self, now: Duration, rtt: Duration, mut lost: impl FnMut(&Packet)) {
        let mut timed_out = false;
        for number in self.first..self.next() {
            let Some(deadline) = self.deadline_of(number, rtt) else { continue };
            if deadline > now {
                // Later ones were sent later; but of those after the newest acknowledged, more is waited for.
                if number > self.newest {
                    break;
                }
                continue;
            }
            let Some(mut packet) = self.remove(number) else { continue };
            timed_out |= number > self.newest && packet.sent >= self.timed_out;
            if let Some(twin) = packet.twin.and_then(|twin| self.get_mut(twin)) {
                // The other may still arrive.
                twin.twin = None;
                packet.values.clear();
            }
            lost(&packet);
            self.spares.keep(packet);
        }
        if timed_out {
            self.timeouts = self.timeouts.saturating_add(1);
            self.timed_out = now;
        }
    }

    /// When something of what is under way will be lost.
    pub(super) fn deadline(&self, rtt: Duration) -> Option<Duration> {
        let overdue = (self.first..self.next()).take_while(|number| *number < self.newest);
        let overdue = overdue.filter_map(|number| self.deadline_of(number, rtt)).min();
        let tail = (self.first.max(self.newest + 1)..self.next()).find_map(|it| self.deadline_of(it, rtt));
        overdue.into_iter().chain(tail).min()
    }

    fn deadline_of(&self, number: u64, rtt: Duration) -> Option<Duration> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let packet = self.packets.get(index)?.as_ref()?;
        if number + REORDERING <= self.newest {
            return Some(Duration::ZERO);
        }
        if number < self.newest {
            // RFC 9002, section 6.1.2.
            return Some(packet.sent + self.latency.expected(rtt) * 9 / 8);
        }
        let doublings = self.timeouts.saturating_sub(TIMEOUTS - 1).min(8);
        let patience = self.latency.patience(rtt);
        // While others follow, the receiver waits for them.
        let followed = self.sent.saturating_sub(packet.sent).min(FOLLOWED);
        let patience =
            if doublings == 0 { patience } else { (patience * (1 << doublings)).min(PATIENCE_MAX) };
        Some(packet.sent + followed + patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(40);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn packet(sent: Duration) -> Packet {
        Packet { sent, bytes: 100, values: Vec::new(), sections: Few::None, twin: None }
    }

    fn lost(record: &mut Record, now: Duration) -> usize {
        let mut lost = 0;
        record.lose(now, RTT, |_| lost += 1);
        lost
    }

    #[test]
    fn three_later_ones_tell_that_a_packet_is_lost() {
        let mut record = Record::default();
        for n in 0..5 {
            record.push(packet(ms(n)));
        }
        record.acknowledge(Ack { newest: 3, bitmap: 0 }, ms(42), |_| {});
        assert_eq!(lost(&mut record, ms(42)), 0);
        record.acknowledge(Ack { newest: 4, bitmap: 1 }, ms(43), |_| {});
        assert_eq!(lost(&mut record, ms(43)), 1, "the first; the second has only two after it");
        assert_eq!(record.deadline(RTT), Some(ms(1) + record.latency.expected(RTT) * 9 / 8));
    }

    #[test]
    fn waiting_is_doubled_when_nothing_is_ever_acknowledged() {
        let mut record = Record::default();
        let (mut now, mut waits) = (ms(0), Vec::new());
        for _ in 0..12 {
            record.push(packet(now));
            let deadline = record.deadline(RTT).expect("something is under way");
            waits.push(deadline - now);
            now = deadline;
            assert_eq!(lost(&mut record, now - ms(1)), 0);
            assert_eq!(lost(&mut record, now), 1);
        }
        assert_eq!((waits[0], waits[2]), (waits[1], waits[0]));
        assert_eq!(waits[3], waits[0] * 2);
        assert_eq!(waits[11], PATIENCE_MAX);
        assert_eq!(record.deadline(RTT), None);
    }

    #[test]
    fn an_acknowledgement_ends_the_doubling() {
        let mut record = Record::default();
        let mut now = ms(0);
        for _ in 0..6 {
            record.push(packet(now));
            now = record.deadline(RTT).expect("something is under way");
            assert_eq!(lost(&mut record, now), 1);
        }
        record.push(packet(now));
        assert!(record.deadline(RTT).is_some_and(|deadline| deadline - now > record.latency.patience(RTT)));
        record.acknowledge(Ack { newest: 7, bitmap: 0 }, now + RTT, |_| {});
        record.push(packet(now));
        assert_eq!(record.deadline(RTT), Some(now + record.latency.patience(RTT)));
    }

    #[test]
    fn what_the_receiver_waited_makes_no_latency() {
        let mut latency = Latency::default();
        for n in 0..100 {
            latency.sample(if n % 4 == 3 { RTT + limits::ACK_DELAY } else { RTT });
        }
        assert!(latency.expected(ms(0)) < RTT + ms(1));
        assert!(latency.patience(ms(0)) < RTT + limits::ACK_DELAY + GRANULARITY + ms(1));
        // A longer path is known as such in a while.
        for _ in 0..100 {
            latency.sample(RTT * 2);
        }
        assert!(latency.expected(ms(0)) > RTT * 2 - ms(1));
    }

    #[test]
    fn packets_of_one_flight_are_one_timeout() {
        let mut record = Record::default();
        for n in [0, 40, 80, 120] {
            record.push(packet(ms(n)));
        }
        let patience = record.latency.patience(RTT);
        // Each is waited for as long as others follow it, up to a bound.
        for (n, count) in [(59, 0), (60, 1), (100, 1), (119, 0), (120, 2)] {
            assert_eq!(lost(&mut record, patience + ms(n)), count, "after {n} ms");
        }
        record.push(packet(ms(500)));
        assert_eq!(record.deadline(RTT), Some(ms(500) + patience), "not doubled yet");
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_is_nothing() {
        let mut record = Record::default();
        record.push(packet(ms(0)));
        record.acknowledge(Ack { newest: 2, bitmap: 1 }, ms(1), |_| panic!("nothing arrived"));
        record.acknowledge(Ack { newest: u64::MAX, bitmap: u64::MAX }, ms(1), |_| panic!("nothing arrived"));
        assert!(record.deadline(RTT).is_some());
    }
}
