//! Who goes first, how often, and what is sent twice: one sender on a path that loses nothing.

use std::{collections::BTreeMap, num::NonZeroU8, sync::Arc, time::Duration};

use fulmar_core::{
    ChannelName, Class, Draft, Epoch, Key, Log, Offset, Payload, Publication,
    codec::{
        binary::{self, Ack, Content, ServerFrame, Values},
        framing,
    },
    datagrams::{Effects, LaneId, Pace, Path, Sender, Source},
    limits,
    log::Bounds,
};

use crate::server::monotonic;

/// And how often one was read.
struct Logs(Vec<Log>, usize);

impl Source for Logs {
    fn news(&mut self, tag: usize, read: &mut dyn FnMut(&Log) -> bool) {
        self.1 += 1;
        read(&self.0[tag]);
    }

    fn look(&mut self, tag: usize, look: &mut dyn FnMut(&Log)) {
        look(&self.0[tag]);
    }
}

/// A sender of channels 0, 1, ..., each on a stream of its own.
pub struct Bench {
    sender: Sender,
    lanes: Vec<LaneId>,
    logs: Logs,
    pub now: Duration,
    window: usize,
    room: usize,
    burst: usize,
    newest: u64,
    /// Packets of the last flush, and what it counted.
    last: Effects,
}

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Bench {
    pub fn new(channels: usize, pace: Pace, window: usize) -> Self {
        // Tombstones last for 100 ms.
        let bounds = Bounds { count: 100_000, bytes: usize::MAX, age: ms(100) };
        let logs = (0..channels as u64).map(|it| Log::new(Class::State, Epoch::from_entropy(it), bounds));
        let mut logs = Logs(logs.collect(), 0);
        let mut sender = Sender::default();
        let lanes: Vec<_> =
            (0..channels).map(|it| sender.open(it, it as u64, it, Offset::ZERO, pace)).collect();
        for stream in 0..channels {
            let (_, values) = sender.stream(stream, 1_000, ms(0), &mut logs).expect("it is in sync");
            assert_eq!(values, 0);
            sender.acknowledge_stream(stream, 1);
        }
        let last = Effects::default();
        let (now, room, burst) = (ms(1_000), 1_200, usize::MAX);
        Self { sender, lanes, logs, now, window, room, burst, newest: 0, last }
    }

    pub fn publish(&mut self, channel: usize, key: u64, bytes: usize, priority: u8) {
        let key = Key::parse(&key.to_string()).expect("a key");
        let draft = Draft::value(key, Payload::Binary(vec![7; bytes].into()));
        self.apply(channel, Draft { priority: NonZeroU8::new(priority), ..draft });
    }

    fn remove(&mut self, channel: usize, key: u64) {
        self.apply(channel, Draft::removal(Key::parse(&key.to_string()).expect("a key")));
    }

    fn apply(&mut self, channel: usize, draft: Draft) {
        let log = &mut self.logs.0[channel];
        let (offset, epoch) = (log.head().next().expect("small"), log.epoch().clone());
        let (name, now) = (ChannelName::parse("state:a").expect("a name"), monotonic(self.now));
        log.apply(Arc::new(Publication::new(name, channel as u64, epoch, offset, now, draft)), now);
        self.sender.wake(self.lanes[channel]);
    }

    /// So much time passes that tombstones are forgotten.
    fn forget(&mut self) {
        self.now += ms(101);
        self.logs.0.iter_mut().for_each(|log| log.trim(monotonic(self.now)));
    }

    pub fn flush(&mut self) -> Vec<Values> {
        let path =
            Path { prefix: &[0], room: self.room, window: self.window, burst: self.burst, rtt: ms(20) };
        self.last = Effects::default();
        self.sender.flush(self.now, &path, &mut self.logs, &mut self.last);
        self.newest += self.last.packets.len() as u64;
        self.last.packets.iter().map(|packet| values_of(packet)).collect()
    }

    /// Everything that was sent has arrived.
    fn acknowledge(&mut self) {
        let mut newest = self.newest;
        while newest > 0 && self.sender.under_way()[0] > 0 {
            self.sender.acknowledge(Ack { newest, bitmap: u64::MAX >> 2 }, self.now);
            newest = newest.saturating_sub(63);
        }
    }
}

fn values_of(packet: &[u8]) -> Values {
    let frames = framing::split_datagram(&packet[1..]).expect("whole frames");
    let Ok(ServerFrame::Values(values)) = binary::decode_server(frames[0]) else { panic!("no values") };
    values
}

fn keys(sent: &[Values]) -> Vec<(u64, u64)> {
    let entries = sent.iter().flat_map(|values| &values.entries);
    let keys = entries.map(|entry| match &entry.content {
        Content::Whole(it) => (entry.alias, it.draft.key.as_str().parse().expect("a number")),
        other => panic!("{other:?} is not whole"),
    });
    keys.collect()
}

const AT_ONCE: Pace = Pace { interval: Duration::ZERO, duplicate: None };

/// 200 keys of four priorities change all the time, and the path takes some nine of them at a time.
#[test]
fn keys_are_sent_in_proportion_to_their_priorities_and_none_is_forgotten() {
    const PRIORITIES: [u8; 4] = [8, 16, 32, 64];
    const TURNS: u64 = 1_500;
    let mut bench = Bench::new(2, AT_ONCE, 1_300);
    let (mut counts, mut last, mut longest) = (BTreeMap::<u8, u64>::new(), BTreeMap::new(), 0);
    for turn in 0..TURNS {
        for key in 0..200 {
            bench.publish(key as usize % 2, key, 120, PRIORITIES[key as usize / 50]);
        }
        let sent = bench.flush();
        bench.acknowledge();
        for (_, key) in keys(&sent) {
            *counts.entry(PRIORITIES[key as usize / 50]).or_default() += 1;
            longest = longest.max(turn - last.insert(key, turn).unwrap_or(0));
        }
        bench.now += ms(10);
    }
    assert_eq!(last.len(), 200, "each was sent");
    let all: u64 = counts.values().sum();
    let sum: u64 = PRIORITIES.iter().map(|it| u64::from(*it)).sum();
    for priority in PRIORITIES {
        let expected = all * u64::from(priority) / sum;
        let within = expected * 88 / 100..=expected * 112 / 100;
        assert!(within.contains(&counts[&priority]), "{priority}: {expected} of {all} expected; {counts:?}");
    }
    // One of priority 8 has its turn once in `all / TURNS` times its share: no key waits much longer.
    let turns = 50 * sum * TURNS / (8 * all);
    assert!(longest < turns * 5 / 4, "one waited {longest} turns, {turns} were expected; {counts:?}");
}

/// What one channel has waiting goes before what is new of another.
#[test]
fn a_channel_that_changes_all_the_time_does_not_hold_up_another() {
    let mut bench = Bench::new(2, AT_ONCE, 1_300);
    // The first channel alone fills what may be under way, in every turn.
    let mut waited = None;
    for turn in 0..50_u64 {
        for key in 0..8 {
            bench.publish(0, key, 120, 16);
        }
        if turn == 10 {
            bench.publish(1, 99, 120, 16);
        }
        let sent = bench.flush();
        bench.acknowledge();
        if keys(&sent).contains(&(1, 99)) {
            waited = waited.or(Some(turn - 10));
        }
        bench.now += ms(10);
    }
    assert!(waited.is_some_and(|turns| turns <= 2), "it waited {waited:?} turns");
}

/// What changes meanwhile costs nothing, and is chosen among as if it had been read when it came.
#[test]
fn while_there_is_no_room_no_log_is_read() {
    let mut bench = Bench::new(1, AT_ONCE, 1_300);
    bench.publish(0, 0, 1_000, 16);
    assert_eq!(keys(&bench.flush()), [(0, 0)]);
    let read = bench.logs.1;
    for key in 1..=20 {
        // The last of them waits for as long as others, and is urgent.
        bench.publish(0, key, 1_000, if key == 20 { 64 } else { 16 });
        bench.now += ms(if key == 19 { 0 } else { 1 });
        assert_eq!(bench.flush(), []);
    }
    assert_eq!((bench.logs.1, bench.sender.pending()), (read, 0));
    assert!(bench.sender.next().is_some_and(|next| next > bench.now), "only a loss is waited for");
    bench.now += ms(20);
    let mut sent = Vec::new();
    for _ in 0..20 {
        assert!(bench.sender.acknowledge(Ack { newest: bench.newest, bitmap: 0 }, bench.now));
        sent.extend(keys(&bench.flush()).iter().map(|(_, key)| *key));
    }
    assert_eq!(sent[0], 20, "the urgent one");
    assert!(sent[1..].is_sorted(), "then as long as they have waited: {sent:?}");
    assert_eq!(sent.len(), 20);
}

#[test]
fn a_channel_keeps_to_its_rate_but_for_a_burst() {
    let pace = Pace { interval: ms(100), duplicate: None };
    let mut bench = Bench::new(1, pace, 100_000);
    let mut times = Vec::new();
    for _ in 0..3_000 {
        bench.publish(0, 1, 10, 16);
        if bench.sender.next().is_some_and(|due| due <= bench.now) {
            if !bench.flush().is_empty() {
                times.push(bench.now);
            }
            bench.acknowledge();
        }
        bench.now += ms(1);
    }
    let burst = limits::FLUSH_BURST as usize;
    assert!((30..=30 + burst).contains(&times.len()), "{} flushes in 3 s", times.len());
    assert!(times[burst - 1] - times[0] < ms(10), "the first go at once: {:?}", &times[..burst + 1]);
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= limits::FLUSH_GAP));
    assert!(times[burst] - times[0] >= ms(99), "then the rate holds: {:?}", &times[..burst + 1]);
}

#[test]
fn what_is_sent_twice_is_counted_and_one_of_the_two_suffices() {
    let pace = Pace { interval: Duration::ZERO, duplicate: Some(ms(5)) };
    for arrives in [1, 2] {
        let mut bench = Bench::new(1, pace, 100_000);
        bench.publish(0, 1, 100, 16);
        bench.publish(0, 2, 100, 16);
        let first = bench.flush();
        assert_eq!((first.len(), bench.last.counts.duplicated), (1, 0));
        bench.publish(0, 2, 100, 16);
        bench.now += ms(2);
        assert_eq!(keys(&bench.flush()), [(0, 2)]);
        assert_eq!(bench.sender.next(), Some(ms(1_005)));
        bench.now = ms(1_005);
        let twin = bench.flush();
        assert_eq!(keys(&twin), [(0, 1)], "the other was replaced");
        assert_eq!(bench.last.counts.duplicated, bench.last.packets[0].len() as u64);
        assert_eq!(bench.last.counts.values, 0);
        // Packets: 1 the first, 2 the replacement, 3 the twin of the first, and then 4 that of the second.
        let number = if arrives == 1 { 1 } else { 3 };
        bench.sender.acknowledge(Ack { newest: number, bitmap: 0 }, bench.now);
        bench.sender.acknowledge(Ack { newest: 2, bitmap: 0 }, bench.now);
        assert_eq!(bench.sender.low(bench.lanes[0]), Offset::new(3).expect("small"), "all has arrived");
        bench.now = ms(1_007);
        assert_eq!(bench.flush(), [], "nothing is left to be sent twice");
        bench.now = ms(10_000);
        bench.flush();
        assert_eq!(bench.last.counts.repaired, 0, "nothing is repaired");
        assert_eq!(bench.sender.under_way(), [0; 3]);
    }
}

/// The first is lost, but what went twice may still arrive, and does.
#[test]
fn nothing_is_repaired_while_one_of_two_may_arrive() {
    let pace = Pace { interval: Duration::ZERO, duplicate: Some(ms(1)) };
    let mut bench = Bench::new(1, pace, 100_000);
    let mut sent = Vec::new();
    for key in 1..=3 {
        bench.publish(0, key, 100, 16);
        sent.extend(bench.flush().iter().map(|values| keys(std::slice::from_ref(values))[0].1));
        bench.now += ms(1);
    }
    assert_eq!(sent, [1, 2, 1, 3, 2], "keys of packets 1 to 5");
    bench.now += ms(19);
    bench.sender.acknowledge(Ack { newest: 4, bitmap: 0 }, bench.now);
    let more = keys(&bench.flush());
    assert_eq!((bench.last.counts.lost, bench.last.counts.repaired), (1, 0), "packet 1 is lost");
    assert!(!more.contains(&(0, 1)), "packet 3 may arrive");
    bench.sender.acknowledge(Ack { newest: 5, bitmap: 0b11 }, bench.now);
    assert_eq!(bench.sender.low(bench.lanes[0]).get(), 3);
}

#[test]
fn when_both_of_two_are_lost_the_values_are_sent_anew_once() {
    let pace = Pace { interval: Duration::ZERO, duplicate: Some(ms(5)) };
    let mut bench = Bench::new(1, pace, 100_000);
    bench.publish(0, 1, 100, 16);
    let (mut repaired, mut packets) = (0, 0);
    for _ in 0..40 {
        packets += bench.flush().len();
        repaired += bench.last.counts.repaired;
        if repaired > 0 {
            break;
        }
        bench.now += ms(5);
    }
    assert_eq!((packets, repaired), (3, 1));
}

/// More has changed than is kept, and nothing of it fits a datagram.
#[test]
fn a_sender_that_can_read_no_more_waits() {
    let mut bench = Bench::new(1, AT_ONCE, 100_000);
    bench.room = 0;
    let keys = limits::PENDING_VALUES as u64 + 500;
    for key in 0..keys {
        bench.publish(0, key, 10, 16);
    }
    for _ in 0..3 {
        assert_eq!(bench.flush(), []);
        bench.now += ms(10);
    }
    assert_eq!(bench.sender.pending(), limits::PENDING_VALUES);
    assert!(bench.sender.next().is_none_or(|next| next > bench.now), "there is nothing to flush");
    let (mut values, mut acknowledged) = (0, 1);
    for _ in 0..10_000 {
        let mut under_way = 0;
        while let Some((_, more)) = bench.sender.stream(0, 8_000, bench.now, &mut bench.logs) {
            under_way += more;
            acknowledged += 1;
        }
        values += under_way as u64;
        // One frame may go beyond it.
        let most = (limits::STREAM_VALUES_IN_FLIGHT + 8_000) / limits::PUBLICATION_OVERHEAD + 1;
        assert!(under_way <= most, "{under_way} values are under way on the stream");
        bench.sender.acknowledge_stream(0, acknowledged);
        if values == keys {
            break;
        }
        bench.flush();
        bench.now += ms(10);
    }
    assert_eq!((values, bench.sender.pending()), (keys, 0), "all went by stream");
}

/// A receiver may have no room for its parts, and will not take them however often they come.
#[test]
fn a_value_of_which_a_part_is_lost_twice_goes_by_stream() {
    let mut bench = Bench::new(1, AT_ONCE, 100_000);
    bench.publish(0, 1, 4_500, 16);
    let mut packets = Vec::new();
    for _ in 0..100 {
        packets.push(bench.flush().len());
        if !bench.last.streams.is_empty() {
            break;
        }
        bench.now += ms(5);
    }
    packets.retain(|packets| *packets > 0);
    assert_eq!(packets, [5, 5, 5], "five parts, and when they are lost twice at once");
    let (frame, values) = bench.sender.stream(0, 8_000, bench.now, &mut bench.logs).expect("the value");
    assert_eq!((values, frame.len() > 4_500), (1, true));
    assert_eq!((bench.sender.under_way(), bench.sender.pending()), ([0; 3], 0));
    bench.sender.acknowledge_stream(0, 2);
    assert_eq!(bench.sender.low(bench.lanes[0]).get(), 1);
}

#[test]
fn where_nothing_is_heard_no_parts_are_sent() {
    let mut bench = Bench::new(1, AT_ONCE, 1_000_000);
    bench.publish(0, 1, 10, 16);
    let mut lost = 0;
    for _ in 0..1_000 {
        bench.flush();
        lost += bench.last.counts.lost;
        bench.now += ms(5);
    }
    assert!(lost > 3, "{lost} packets are lost");
    bench.publish(0, 2, 4_500, 16);
    assert!(bench.flush().len() < 2, "but for what is small");
    assert_eq!(bench.last.streams, [0]);
    // It is heard of again.
    bench.acknowledge();
    bench.publish(0, 3, 4_500, 16);
    bench.now += ms(5);
    assert!(bench.flush().len() >= 5);
}

/// It was replaced, and its channel has not read on yet.
#[test]
fn a_stream_says_nothing_while_what_waits_for_it_is_out_of_date() {
    let mut bench = Bench::new(1, AT_ONCE, 100_000);
    bench.room = 0;
    bench.publish(0, 1, 10, 16);
    bench.flush();
    assert_eq!((bench.sender.pending(), &bench.last.streams), (1, &vec![0]));
    bench.publish(0, 1, 10, 16);
    for _ in 0..3 {
        let frame = bench.sender.stream(0, 8_000, bench.now, &mut bench.logs);
        assert_eq!(frame, None, "there is nothing that is the newest of its key");
    }
    bench.now += ms(10);
    bench.flush();
    let frame = bench.sender.stream(0, 8_000, bench.now, &mut bench.logs);
    assert_eq!(frame.map(|(_, values)| values), Some(1));
}

/// Wherever a removal is when its log forgets it, its channel has to begin anew, and claims nothing any more.
#[test]
fn a_removal_that_is_forgotten_before_it_arrived_resets_its_channel() {
    let all = ["unread", "waiting for room", "waiting for its stream", "lost", "lost with what went twice"];
    for place in all {
        let duplicate = (place == "lost with what went twice").then_some(ms(50));
        let mut bench = Bench::new(1, Pace { interval: Duration::ZERO, duplicate }, 1_300);
        bench.publish(0, 1, 10, 16);
        bench.publish(0, 2, 10, 16);
        bench.flush();
        bench.acknowledge();
        let before = bench.sender.low(bench.lanes[0]);
        bench.now += ms(10);
        match place {
            "waiting for room" => {
                bench.publish(0, 3, 1_000, 16);
                assert_eq!(bench.flush().len(), 1);
                bench.now += ms(3);
                bench.remove(0, 1);
                assert_eq!(bench.flush().len(), 0, "there is no room");
            }
            "waiting for its stream" => {
                bench.room = 0;
                bench.remove(0, 1);
                assert_eq!(bench.flush(), []);
                assert_eq!(bench.last.streams, [0]);
            }
            "unread" => bench.remove(0, 1),
            _ => {
                bench.remove(0, 1);
                bench.publish(0, 2, 10, 16);
                assert_eq!(bench.flush().len(), 1);
            }
        }
        assert_eq!(bench.last.resets, [0; 0], "{place}: it is known");
        bench.forget();
        assert!(bench.sender.low(bench.lanes[0]) <= before, "{place}");
        if place == "waiting for its stream" {
            assert_eq!(bench.sender.stream(0, 1_000, bench.now, &mut bench.logs), None);
            assert!(bench.sender.next().is_some_and(|due| due <= bench.now), "the next flush says so");
        }
        // What is under way is lost by and by.
        let mut resets = Vec::new();
        for _ in 0..20 {
            bench.flush();
            resets.append(&mut bench.last.resets);
            if !resets.is_empty() {
                break;
            }
            bench.now += ms(20);
        }
        assert_eq!(resets, [0], "{place}");
        assert_eq!(bench.sender.low(bench.lanes[0]), Offset::ZERO, "{place}");
    }
}

/// Values that wait and have been replaced give way where the log is not read to its head.
#[test]
fn more_changes_than_are_kept_and_then_again() {
    let mut bench = Bench::new(1, AT_ONCE, 1_300);
    let keys = limits::PENDING_VALUES as u64 + 500;
    for _ in 0..3 {
        for key in 0..keys {
            bench.publish(0, key, 10, 16);
        }
        bench.flush();
        assert!(bench.sender.pending() <= limits::PENDING_VALUES);
        bench.now += ms(10);
    }
    bench.acknowledge();
    bench.window = 100_000;
    for _ in 0..20 {
        bench.flush();
        bench.acknowledge();
        bench.now += ms(10);
    }
    assert_eq!(bench.sender.pending(), 0);
    assert_eq!(bench.sender.low(bench.lanes[0]).get(), 3 * keys, "all have arrived");
}

#[test]
fn a_flush_makes_no_more_than_it_is_told() {
    let mut bench = Bench::new(1, AT_ONCE, 1_000_000);
    bench.burst = 3_000;
    for key in 0..200 {
        bench.publish(0, key, 100, 16);
    }
    let (mut flushes, mut values) = (0, 0);
    while values < 200 {
        assert!(bench.sender.next().is_some_and(|due| due <= bench.now), "there is more");
        values += keys(&bench.flush()).len();
        let bytes: usize = bench.last.packets.iter().map(|packet| packet.len()).sum();
        assert!((1..3_000 + bench.room).contains(&bytes), "{bytes} bytes at once");
        flushes += 1;
    }
    assert!(flushes > 5, "in {flushes} flushes");
}

/// Several channels and one, of which something changes all the time.
#[test]
fn packets_tell_how_far_what_was_sent_has_arrived() {
    for channels in [1, 3] {
        let mut bench = Bench::new(channels, AT_ONCE, usize::MAX);
        for turn in 0..20 {
            let before = bench.logs.0[0].head();
            for channel in 0..channels {
                bench.publish(channel, turn, 10, 1);
            }
            bench.now += ms(20);
            let lows = |sent: Vec<Values>| -> Vec<_> {
                sent.iter().flat_map(|values| &values.entries).map(|entry| entry.low).collect()
            };
            assert_eq!(
                lows(bench.flush()),
                vec![before; channels],
                "in turn {turn}, what came before has arrived"
            );
            (0..channels).for_each(|channel| bench.publish(channel, 100 + turn, 10, 1));
            bench.now += ms(20);
            assert_eq!(
                lows(bench.flush()),
                vec![before; channels],
                "in turn {turn}, what is under way has not"
            );
            bench.acknowledge();
        }
    }
}
