//! What the server does beside the sender: logs, and subscriptions that are read onto streams until datagrams take over.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use fulmar_core::{
    ChannelName, Class, Draft, Encoding, Epoch, Item, Key, Log, Now, Offset, Payload, Position, Publication,
    PublicationId, Reader, Resume, ServerMessage, Start, codec,
    datagrams::{LaneId, Sender, Source},
    log::{ReadEnd, ReadLimit},
    message::Mark,
};

use crate::{
    faults::Fault,
    rng::{Rng, mix},
    scenario::ChannelPlan,
};

/// Beyond 63 from the second on, so that they have different lengths.
pub fn alias_of(channel: usize) -> u64 {
    1 + 70 * channel as u64
}

pub fn channel_of(alias: u64) -> usize {
    (alias / 70) as usize
}

pub fn monotonic(now: Duration) -> Now {
    Now { monotonic: now, unix_ms: 1_764_000_000_000 + now.as_millis() as u64 }
}

/// A channel, and all that ever happened in it.
#[derive(Debug)]
pub struct Channel {
    pub plan: ChannelPlan,
    pub name: ChannelName,
    pub alias: u64,
    pub log: Log,
    /// The log, without the last publications.
    old: Log,
    late: Vec<Arc<Publication>>,
    pub history: HashMap<Offset, Arc<Publication>>,
    pub newest: BTreeMap<Key, Arc<Publication>>,
    /// Its subscription.
    pub active: Option<Active>,
}

/// A subscription on the server.
#[derive(Debug)]
pub struct Active {
    pub instance: u64,
    pub reader: Reader,
    pub lane: Option<LaneId>,
    pub low: Offset,
    pub parked: bool,
}

impl Channel {
    pub fn new(index: usize, plan: ChannelPlan) -> Self {
        let log = || Log::new(Class::State, Epoch::from_entropy(index as u64), plan.bounds);
        Self {
            name: ChannelName::parse(&format!("state:{index}")).expect("a name"),
            alias: alias_of(index),
            log: log(),
            old: log(),
            late: Vec::new(),
            history: HashMap::new(),
            newest: BTreeMap::new(),
            active: None,
            plan,
        }
    }

    /// Publishes something.
    pub fn publish(&mut self, rng: &mut Rng, now: Duration) -> Option<Arc<Publication>> {
        let plan = &self.plan;
        let key = match rng.range(0, plan.keys - 1) {
            0 => Key::default(),
            n if n % 7 == 0 => Key::parse(&format!("{}{n}", "long".repeat(40))).expect("a key"),
            n => Key::parse(&n.to_string()).expect("a key"),
        };
        let offset = self.log.head().get() + 1 + if plan.holes { rng.range(0, 3) } else { 0 };
        let (low, high) = rng.pick(&plan.sizes);
        let mut draft = if rng.chance(plan.removals) {
            Draft::removal(key)
        } else {
            Draft::value(key, content(offset, rng.range(low, high) as usize, rng.range(0, 1) == 0))
        };
        if plan.priorities {
            draft.priority = std::num::NonZeroU8::new(rng.pick(&[1, 16, 64, 255]));
        }
        if plan.ids {
            draft.id = PublicationId::parse(&offset.to_string()).ok();
        }
        self.log.admits(&draft).ok()?;
        let offset = Offset::new(offset).expect("small");
        let epoch = self.log.epoch().clone();
        let now = monotonic(now);
        let publication =
            Arc::new(Publication::new(self.name.clone(), self.alias, epoch, offset, now, draft));
        self.log.apply(publication.clone(), now);
        self.late.push(publication.clone());
        if self.late.len() > 3 {
            self.old.apply(self.late.remove(0), now);
        }
        self.history.insert(offset, publication.clone());
        self.newest.insert(publication.draft.key.clone(), publication.clone());
        Some(publication)
    }

    pub fn subscribe(&mut self, instance: u64, after: Option<Offset>) -> ServerMessage {
        let position = |offset| Position { epoch: self.log.epoch().clone(), offset };
        let start = after.map_or(Start::Afresh, |at| Start::After(Resume::from(position(at))));
        let reader = self.log.reader(&start);
        let mark = self.mark(self.log.begins(&reader));
        let (lane, low, parked) = (None, Offset::ZERO, false);
        self.active = Some(Active { instance, reader, lane, low, parked });
        ServerMessage::Subscribed { r#ref: None, mark, recovered: None }
    }

    fn mark(&self, position: Position) -> Mark {
        Mark { channel: self.name.clone(), alias: self.alias, position }
    }

    /// A removal was forgotten before it had arrived.
    pub fn reset(&mut self, sender: &mut Sender) {
        let Some(active) = &mut self.active else { return };
        if let Some(lane) = active.lane.take() {
            sender.close(lane);
        }
        self.log.doubt(&mut active.reader);
    }

    /// Reads on, onto the stream, until datagrams take over.
    pub fn read(&mut self, tag: usize, sender: &mut Sender, now: Duration) -> Vec<Vec<u8>> {
        let Some(mut active) = self.active.take().filter(|it| it.lane.is_none()) else { return Vec::new() };
        let mut items = Vec::new();
        let end = self.log.read(&mut active.reader, monotonic(now), ReadLimit { bytes: 1_500 }, &mut items);
        let mut messages = Vec::new();
        for item in items {
            messages.push(match item {
                Item::Publication(it, _) => ServerMessage::Publication(it),
                Item::Reset(position) => ServerMessage::Reset(self.mark(position)),
                Item::Synced(position) => ServerMessage::Synced(self.mark(position)),
                Item::Gap(..) => unreachable!("a log of state has no gaps"),
            });
        }
        if end == ReadEnd::CaughtUp && !active.reader.is_catching_up() {
            let at = active.reader.at();
            let (stream, pace) = (self.plan.stream, self.plan.pace);
            active.lane = Some(sender.open(tag, self.alias, stream, at, pace));
            (active.low, active.parked) = (Offset::ZERO, false);
        }
        self.active = Some(active);
        messages.iter().map(|message| codec::encode(Encoding::Binary, message).to_vec()).collect()
    }

    pub fn trim(&mut self, now: Duration) {
        self.log.trim(monotonic(now));
    }
}

/// A payload that no other publication has.
fn content(offset: u64, length: usize, text: bool) -> Payload {
    let byte = |at: usize| (mix((offset << 12) | (at as u64 / 8)) >> (at % 8 * 8)) as u8;
    if text {
        Payload::text((0..length).map(|at| char::from(byte(at) & 0x3f | 0x40)).collect::<String>())
    } else {
        Payload::Binary((0..length).map(byte).collect::<Vec<_>>().into())
    }
}

/// The logs as the sender sees them.
pub struct Logs<'a> {
    pub channels: &'a mut [Channel],
    pub fault: Option<Fault>,
}

impl Source for Logs<'_> {
    fn news(&mut self, tag: usize, read: &mut dyn FnMut(&Log) -> bool) {
        let channel = &mut self.channels[tag];
        let parked = read(&channel.log);
        if let Some(active) = &mut channel.active {
            active.parked = parked;
        }
    }

    fn look(&mut self, tag: usize, look: &mut dyn FnMut(&Log)) {
        let channel = &self.channels[tag];
        look(if self.fault == Some(Fault::OldLog) { &channel.old } else { &channel.log });
    }
}
