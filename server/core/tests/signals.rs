//! Logs of signals against a simple model: what a reader is given, and what is counted in its place.

use std::{sync::Arc, time::Duration};

use fulmar_core::{
    ChannelName, Class, Draft, Epoch, Log, Now, Offset, Payload, Position, Publication, Reader, Start,
    log::{Bounds, Dropped, ReadEnd, ReadLimit},
};
use proptest::prelude::*;

const BOUNDS: Bounds = Bounds { count: 6, bytes: usize::MAX, age: Duration::from_millis(50) };
const READERS: usize = 3;

#[derive(Clone, Debug)]
enum Op {
    /// Publishes, leaving out some offsets before.
    Publish { ttl: u64, skip: u64 },
    /// Time passes.
    Pass { ms: u64 },
    /// A reader reads.
    Read { reader: usize, bytes: usize },
    /// A reader begins anew: where it stands, or from now on.
    Begin { reader: usize, resume: bool },
}

fn op() -> impl Strategy<Value = Op> {
    let reader = 0..READERS;
    prop_oneof![
        6 => (1..40u64, 0..3u64).prop_map(|(ttl, skip)| Op::Publish { ttl, skip }),
        2 => (0..40u64).prop_map(|ms| Op::Pass { ms }),
        4 => (reader.clone(), 1..1500usize).prop_map(|(reader, bytes)| Op::Read { reader, bytes }),
        1 => (reader, any::<bool>()).prop_map(|(reader, resume)| Op::Begin { reader, resume }),
    ]
}

/// Offset, when it was published, and when it expires.
type Entry = (Offset, u64, u64);

struct System {
    log: Log,
    now: u64,
    published: Vec<Entry>,
    /// How many of those the log has forgotten.
    forgotten: usize,
}

impl System {
    fn publish(&mut self, ttl: u64, skip: u64) {
        let offset = Offset::new(self.log.head().get() + 1 + skip).expect("small");
        let draft = Draft { ttl: Some(Duration::from_millis(ttl)), ..Draft::new(Payload::text("x")) };
        let name = ChannelName::parse("model").expect("a name");
        let (epoch, now) = (self.log.epoch().clone(), Now::from_millis(self.now));
        self.log.apply(Arc::new(Publication::new(name, 1, epoch, offset, now, draft)), now);
        self.published.push((offset, self.now, self.now + ttl));
        while self.published.len() - self.forgotten > BOUNDS.count
            || self.now - self.published[self.forgotten].1 >= 50
        {
            self.forgotten += 1;
        }
    }

    /// Reads, and checks what came of each signal that was passed.
    fn read(&self, reader: &mut Reader, bytes: usize) -> ReadEnd {
        let through = |at: Offset| self.published.iter().filter(|(offset, ..)| *offset <= at).count();
        let (before, mut items) = (through(reader.at()), Vec::new());
        let limit = ReadLimit { bytes };
        let end = self.log.read(reader, Now::from_millis(self.now), limit, &mut items);
        let after = through(reader.at()).max(if end == ReadEnd::CaughtUp { self.published.len() } else { 0 });
        let held = before.max(self.forgotten).min(after);
        let (live, late): (Vec<Entry>, Vec<Entry>) =
            self.published[held..after].iter().copied().partition(|(.., expires)| *expires > self.now);
        let given: Vec<_> = items.iter().map(|item| item.resume().0).collect();
        assert_eq!(given, live.iter().map(|(offset, ..)| *offset).collect::<Vec<_>>());
        let dropped = Dropped { expired: late.len() as u64, forgotten: (held - before) as u64, conflated: 0 };
        assert_eq!(reader.take_dropped(), dropped);
        assert_eq!(reader.take_dropped(), Dropped::default(), "once");
        end
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_signal_is_given_in_time_or_counted(ops in prop::collection::vec(op(), 0..80)) {
        let log = Log::new(Class::Signal, Epoch::from_entropy(0), BOUNDS);
        let mut system = System { log, now: 0, published: Vec::new(), forgotten: 0 };
        let mut readers = vec![system.log.reader(&Start::Afresh); READERS];
        for op in ops {
            match op {
                Op::Publish { ttl, skip } => system.publish(ttl, skip),
                Op::Pass { ms } => system.now += ms,
                Op::Read { reader, bytes } => {
                    system.read(&mut readers[reader], bytes);
                }
                Op::Begin { reader, resume } => {
                    let position = Position { epoch: system.log.epoch().clone(), offset: readers[reader].at() };
                    // Of what was forgotten while it was away nobody knows how much it was, so it goes on behind that.
                    let covered = system.forgotten == 0
                        || position.offset >= system.published[system.forgotten - 1].0;
                    let start = if resume && covered { Start::After(position.into()) } else { Start::Afresh };
                    readers[reader] = system.log.reader(&start);
                }
            }
        }
        for reader in &mut readers {
            while system.read(reader, 300) != ReadEnd::CaughtUp {}
            prop_assert!(system.log.is_caught_up(reader));
        }
    }
}
