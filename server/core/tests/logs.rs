//! Logs against a simple model, for any interleaving of publishes, reads, trims and resumes.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use fulmar_core::{
    ChannelName, Class, Cursor, Draft, Epoch, Item, Key, Log, Now, Offset, Payload, Position, Publication,
    Reader, Resume, Start,
    cursor::CursorWriter,
    log::{Bounds, ReadEnd, ReadLimit},
};
use proptest::prelude::*;

const BOUNDS: Bounds = Bounds { count: 6, bytes: usize::MAX, age: Duration::from_millis(50) };
const READERS: usize = 3;

#[derive(Clone, Debug)]
enum Op {
    /// Publishes to a key (or removes it), leaving out some offsets before.
    Publish { key: u8, remove: bool, skip: u64 },
    /// Time passes.
    Pass { ms: u64 },
    /// A reader reads, and its client gets only the first items if the connection breaks. Then the client resumes from its
    /// cursor or, in doubt, the session goes on elsewhere without one.
    Read { reader: usize, bytes: usize, arrives: Option<usize>, doubt: bool },
    /// A reader begins anew, without a position.
    Begin { reader: usize },
    /// All history is lost: another epoch.
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let reader = 0..READERS;
    prop_oneof![
        6 => (0..5u8, prop::bool::weighted(0.3), 0..3u64)
            .prop_map(|(key, remove, skip)| Op::Publish { key, remove, skip }),
        2 => (0..40u64).prop_map(|ms| Op::Pass { ms }),
        6 => (reader.clone(), 1..1500usize, prop::option::of(0..4usize), any::<bool>())
            .prop_map(|(reader, bytes, arrives, doubt)| Op::Read { reader, bytes, arrives, doubt }),
        1 => reader.prop_map(|reader| Op::Begin { reader }),
        1 => Just(Op::Restart),
    ]
}

/// A log, and beside it everything that was ever published.
struct System {
    log: Log,
    class: Class,
    now: u64,
    epochs: u64,
    /// Of this epoch: what was published, and when.
    history: Vec<(Offset, u64)>,
    /// Of this epoch: the newest of every key; `None` once removed.
    newest: BTreeMap<Key, Option<Offset>>,
}

impl System {
    fn new(class: Class) -> Self {
        let log = Log::new(class, Epoch::from_entropy(0), BOUNDS);
        Self { log, class, now: 0, epochs: 0, history: Vec::new(), newest: BTreeMap::new() }
    }

    fn now(&self) -> Now {
        Now::from_millis(self.now)
    }

    fn publish(&mut self, key: u8, remove: bool, skip: u64) {
        let key = if key == 0 { Key::default() } else { Key::parse(&key.to_string()).expect("a key") };
        let remove = remove && self.class == Class::State;
        let payload = (!remove).then(|| Payload::text("x".repeat(100)));
        let draft = Draft { key: key.clone(), id: None, payload, ttl: None, priority: None };
        if self.log.admits(&draft).is_err() {
            return;
        }
        let offset = Offset::new(self.log.head().get() + 1 + skip).expect("small");
        let epoch = self.log.epoch().clone();
        let publication = Publication::new(name(), 1, epoch, offset, self.now(), draft);
        self.log.apply(Arc::new(publication), self.now());
        self.history.push((offset, self.now));
        self.newest.insert(key, (!remove).then_some(offset));
    }

    fn restart(&mut self) {
        self.epochs += 1;
        self.log = Log::new(self.class, Epoch::from_entropy(self.epochs), BOUNDS);
        self.history.clear();
        self.newest.clear();
    }

    /// What an event log holds by its bounds: the newest six, none older than 50 ms.
    fn held(&self) -> VecDeque<Offset> {
        let young = self.history.iter().filter(|(_, at)| self.now - at < 50);
        let mut held: VecDeque<_> = young.map(|(offset, _)| *offset).collect();
        while held.len() > BOUNDS.count {
            held.pop_front();
        }
        held
    }
}

fn name() -> ChannelName {
    ChannelName::parse("model").expect("a name")
}

/// What a client makes of what it gets, as PROTOCOL.md tells it to.
#[derive(Clone, Debug, Default)]
struct Client {
    epoch: Option<Epoch>,
    /// Events: everything up to here was seen or told lost.
    at: Offset,
    /// State: what is held.
    values: BTreeMap<Key, Offset>,
    synced: bool,
    resume: Option<Resume>,
    /// Something may have been lost on the way, which nobody can tell.
    doubt: bool,
}

impl Client {
    fn begin_events(position: Position) -> Self {
        let (epoch, at) = (Some(position.epoch.clone()), position.offset);
        Self { epoch, at, resume: Some(position.into()), ..Self::default() }
    }

    fn apply(&mut self, system: &System, item: &Item) {
        let (offset, base) = item.resume();
        self.resume = Some(Resume { position: Position { epoch: system.log.epoch().clone(), offset }, base });
        match (system.class, item) {
            (Class::Event, Item::Publication(it, _)) => {
                assert_eq!(self.epoch.as_ref(), Some(&it.epoch), "a change of epoch is told");
                let next = system.history.iter().map(|(offset, _)| *offset).find(|offset| *offset > self.at);
                assert_eq!(Some(it.offset), next, "after {} comes what was published next", self.at);
                self.at = it.offset;
            }
            (Class::Event, Item::Gap(position, _)) => {
                let known = self.epoch.as_ref() == Some(&position.epoch);
                if known && !std::mem::take(&mut self.doubt) {
                    let next =
                        system.history.iter().map(|(offset, _)| *offset).find(|offset| *offset > self.at);
                    let lost = next.is_some_and(|next| !system.held().contains(&next));
                    assert!(lost, "a gap after {} although {next:?} is held", self.at);
                    assert!(position.offset > self.at);
                }
                self.epoch = Some(position.epoch.clone());
                self.at = position.offset;
            }
            (_, Item::Reset(position)) => {
                if self.epoch.as_ref() != Some(&position.epoch) {
                    self.values.clear();
                }
                self.values.retain(|_, offset| *offset > position.offset);
                self.epoch = Some(position.epoch.clone());
                self.synced = false;
            }
            (_, Item::Synced(_)) => self.synced = true,
            (_, Item::Publication(it, _)) => {
                assert_eq!(self.epoch.as_ref(), Some(&it.epoch), "a change of epoch is told");
                let held = self.values.get(&it.draft.key).copied().unwrap_or_default();
                assert!(it.offset > held, "key {:?} goes back from {held} to {}", it.draft.key, it.offset);
                if it.is_removal() {
                    self.values.remove(&it.draft.key);
                } else {
                    self.values.insert(it.draft.key.clone(), it.offset);
                }
            }
            (_, Item::Gap(..)) => panic!("only events have gaps"),
        }
    }
}

struct Subscriber {
    reader: Reader,
    client: Client,
}

fn begin(system: &System) -> Subscriber {
    let reader = system.log.reader(&Start::Afresh);
    let client = match system.class {
        Class::State => Client::default(),
        _ => Client::begin_events(system.log.begins(&reader)),
    };
    Subscriber { reader, client }
}

/// What a reconnect does: the client's cursor, through its text, makes a new reader.
fn resume(system: &System, client: &Client) -> Reader {
    let Some(Resume { position, base }) = &client.resume else { return system.log.reader(&Start::Afresh) };
    let mut writer = CursorWriter::default();
    writer.push(&name(), &position.epoch, position.offset, *base);
    let cursor = Cursor::parse(&writer.finish()).expect("its own writing");
    system.log.reader(&Start::After(cursor.get(&name()).expect("the channel").clone()))
}

fn run(class: Class, ops: Vec<Op>) {
    let mut system = System::new(class);
    let mut subscribers: Vec<_> = (0..READERS).map(|_| begin(&system)).collect();
    for op in ops {
        match op {
            Op::Publish { key, remove, skip } => system.publish(key, remove, skip),
            Op::Pass { ms } => {
                system.now += ms;
                system.log.trim(system.now());
            }
            Op::Read { reader, bytes, arrives, doubt } => {
                let Subscriber { reader, client } = &mut subscribers[reader];
                let mut items = Vec::new();
                read(&system, reader, bytes, &mut items);
                let arrives = arrives.unwrap_or(items.len()).min(items.len());
                for item in &items[..arrives] {
                    client.apply(&system, item);
                }
                if arrives < items.len() && doubt {
                    system.log.doubt(reader);
                    client.doubt = true;
                } else if arrives < items.len() {
                    *reader = resume(&system, client);
                }
            }
            Op::Begin { reader } => subscribers[reader] = begin(&system),
            Op::Restart => {
                system.restart();
                for Subscriber { reader, client } in &mut subscribers {
                    *reader = resume(&system, client);
                }
            }
        }
    }
    for mut subscriber in subscribers {
        drain(&system, &mut subscriber);
        match class {
            Class::State => {
                let newest = system.newest.iter().filter_map(|(key, offset)| Some((key.clone(), (*offset)?)));
                assert_eq!(
                    subscriber.client.values,
                    newest.collect(),
                    "a reader ends with the newest of every key"
                );
                assert!(subscriber.client.synced);
            }
            _ => {
                let last = system.history.last().map_or(subscriber.client.at, |(offset, _)| *offset);
                assert_eq!(subscriber.client.at, last, "a reader ends at the head");
            }
        }
    }
}

/// Reads on, and sees what the log says beforehand of the position that was asked from come true.
fn read(system: &System, reader: &mut Reader, bytes: usize, items: &mut Vec<Item>) -> ReadEnd {
    let recovered = system.log.recovered(reader);
    let end = system.log.read(reader, system.now(), ReadLimit { bytes }, items);
    let lost = matches!(items.first(), Some(Item::Gap(..) | Item::Reset(_)));
    assert!(recovered.is_none_or(|recovered| recovered != lost), "{recovered:?}, then {:?}", items.first());
    end
}

fn drain(system: &System, Subscriber { reader, client }: &mut Subscriber) {
    let mut items = Vec::new();
    loop {
        let end = read(system, reader, 300, &mut items);
        for item in items.drain(..) {
            client.apply(system, &item);
        }
        match end {
            ReadEnd::CaughtUp => break,
            ReadEnd::More => {}
        }
    }
    assert!(system.log.is_caught_up(reader));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn an_event_reader_sees_every_publication_once_and_in_order_or_a_gap(
        ops in prop::collection::vec(op(), 0..80)
    ) {
        run(Class::Event, ops);
    }

    #[test]
    fn a_state_reader_ends_with_the_newest_of_every_key(ops in prop::collection::vec(op(), 0..80)) {
        run(Class::State, ops);
    }
}

#[test]
fn a_log_says_whether_a_position_is_recovered() {
    let position = |log: &Log, offset| Position {
        epoch: log.epoch().clone(),
        offset: Offset::new(offset).expect("small"),
    };
    for class in [Class::Event, Class::State, Class::Signal] {
        let mut system = System::new(class);
        for _ in 0..10 {
            system.publish(1, false, 0);
        }
        let log = &system.log;
        let after = |position: Position| Start::After(position.into());
        // The newest six are held; of state, the newest of the one key, and nothing was removed.
        let oldest = if class == Class::State { 0 } else { 4 };
        let other = Position { epoch: Epoch::from_entropy(9), offset: Offset::ZERO };
        let cases = [
            (Start::Afresh, None),
            (Start::Unusable, Some(false)),
            (after(position(log, 10)), Some(true)),
            (after(position(log, oldest)), Some(true)),
            (after(position(log, 3)), Some(class == Class::State)),
            (after(position(log, 11)), Some(false)),
            (after(other), Some(false)),
        ];
        for (start, expected) in cases {
            assert_eq!(log.recovered(&log.reader(&start)), expected, "{class:?} {start:?}");
        }
        let mut reader = log.reader(&after(position(log, 10)));
        reader.forget_asked();
        assert_eq!(log.recovered(&reader), None);
        let mut reader = log.reader(&after(position(log, 5)));
        log.doubt(&mut reader);
        assert_eq!(log.recovered(&reader), Some(class == Class::Signal), "{class:?}, in doubt");
        let reader = log.reader(&after(position(log, 5)));
        system.publish(1, false, 10);
        system.publish(1, false, 0);
        assert_eq!(
            system.log.recovered(&reader),
            Some(class == Class::State),
            "{class:?}, and what was held went"
        );
    }
}

#[test]
fn a_signal_that_has_expired_is_never_given() {
    let mut log = Log::new(Class::Signal, Epoch::from_entropy(0), BOUNDS);
    let mut reader = log.reader(&Start::Afresh);
    for (offset, ttl) in [(1, 10), (2, 30)] {
        let draft = Draft {
            key: Key::default(),
            id: None,
            payload: Some(Payload::text("x")),
            ttl: Some(Duration::from_millis(ttl)),
            priority: None,
        };
        let offset = Offset::new(offset).expect("small");
        let publication =
            Publication::new(name(), 1, log.epoch().clone(), offset, Now::from_millis(0), draft);
        log.apply(Arc::new(publication), Now::from_millis(0));
    }
    let mut items = Vec::new();
    let limit = ReadLimit { bytes: usize::MAX };
    let end = log.read(&mut reader, Now::from_millis(10), limit, &mut items);
    let offsets: Vec<_> = items.iter().map(|item| item.resume().0.get()).collect();
    assert_eq!((end, offsets), (ReadEnd::CaughtUp, vec![2]));
}

#[test]
fn what_is_replaced_before_a_reader_who_had_caught_up_takes_it_is_counted() {
    let mut system = System::new(Class::State);
    // With holes between the offsets, which are nobody's loss.
    let publish = |system: &mut System, keys: &[u8]| {
        for key in keys {
            system.publish(*key, false, 3);
        }
    };
    // How many are given, and how many were replaced.
    let read = |system: &System, reader: &mut Reader, bytes| {
        let mut items = Vec::new();
        system.log.read(reader, system.now(), ReadLimit { bytes }, &mut items);
        let given = items.iter().filter(|item| matches!(item, Item::Publication(..))).count();
        (given, reader.take_dropped().conflated)
    };
    publish(&mut system, &[1, 1, 1, 2]);
    let mut reader = system.log.reader(&Start::Afresh);
    assert_eq!(read(&system, &mut reader, usize::MAX), (2, 0), "a snapshot is what there is");
    publish(&mut system, &[1, 2, 1, 1]);
    assert_eq!(read(&system, &mut reader, usize::MAX), (2, 2));
    assert_eq!(read(&system, &mut reader, usize::MAX), (0, 0), "once");
    publish(&mut system, &[1, 2, 3]);
    assert_eq!(read(&system, &mut reader, 1), (1, 0), "not before all has been read");
    publish(&mut system, &[1, 2]);
    assert_eq!(read(&system, &mut reader, usize::MAX), (3, 1), "the second key's first");
    publish(&mut system, &[1]);
    system.publish(1, true, 0);
    assert_eq!(read(&system, &mut reader, usize::MAX), (1, 1), "the removal is what is new");

    publish(&mut system, &[2, 2]);
    let first = Position { epoch: system.log.epoch().clone(), offset: Offset::ZERO };
    let mut late = system.log.reader(&Start::After(first.into()));
    assert_eq!(read(&system, &mut late, usize::MAX).1, 0, "it had not caught up");
    system.log.doubt(&mut reader);
    assert_eq!(read(&system, &mut reader, usize::MAX), (2, 0), "it begins anew");
}

#[test]
fn removals_make_room_for_values() {
    let bounds = Bounds { count: 100, bytes: 10 * 400, age: Duration::from_secs(300) };
    let mut log = Log::new(Class::State, Epoch::from_entropy(0), bounds);
    let key = |n: u64| Key::parse(&n.to_string()).expect("a key");
    let mut offset = 0;
    let mut put = |log: &mut Log, draft: Draft| {
        log.admits(&draft)?;
        offset += 1;
        let place = Offset::new(offset).expect("small");
        let epoch = log.epoch().clone();
        let publication = Publication::new(name(), 1, epoch, place, Now::from_millis(0), draft);
        log.apply(Arc::new(publication), Now::from_millis(0));
        Ok::<_, fulmar_core::Problem>(())
    };
    let value = |n| Draft::value(key(n), Payload::text("x".repeat(140)));
    let held = (0..).take_while(|n| put(&mut log, value(*n)).is_ok()).count() as u64;
    assert!(held >= 9, "{held} values fit");
    for n in 0..held {
        put(&mut log, Draft::removal(key(n))).expect("a removal is always taken");
    }
    for n in 0..held {
        put(&mut log, value(100 + n)).expect("tombstones give way");
    }
    assert!(log.bytes() <= bounds.bytes, "{} bytes", log.bytes());
}
