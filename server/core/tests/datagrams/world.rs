//! A run: a sender, a receiver and the network between, under virtual time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use fulmar_core::{
    Encoding, Offset, ServerMessage,
    codec::{
        binary::{self, Ack, Content, ServerFrame},
        encode, framing,
    },
    datagrams::{Buffers, Counts, Effects, Path, Sender},
    limits,
};

use crate::{
    client::Client,
    faults::Fault,
    frames::{PREFIX, contents, told, values_of},
    network::{Datagrams, Stream, micros},
    rng::{Rng, Trace},
    scenario::Scenario,
    server::{Channel, Logs},
};

/// How long after the last publication everything has to be quiet. Waiting is doubled up to 3 s, and 40 % are lost both ways.
const QUIET_WITHIN: Duration = Duration::from_secs(120);
const STEPS: u64 = 400_000;

#[derive(Debug)]
enum Event {
    Publish(usize),
    Trim,
    Path,
    /// The sender is told of the path's room.
    Room,
    Down(Vec<u8>),
    Up(Vec<u8>),
    StreamDown {
        stream: usize,
        instance: u64,
        frame: Vec<u8>,
    },
    StreamUp {
        stream: usize,
        message: Upward,
    },
    /// A packet that was lost is acknowledged all the same.
    Forged(u64),
    End(usize),
    Begin(usize, Option<Offset>),
}

#[derive(Debug)]
enum Upward {
    Ack(u64),
    Subscribe { channel: usize, instance: u64, after: Option<Offset> },
    Unsubscribe { channel: usize },
}

/// What has come of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub trace: Trace,
    pub steps: u64,
    pub counts: Counts,
    pub packets: u64,
    pub resets: u64,
    pub streamed: u64,
    pub parts: u64,
    /// From the last publication until all was quiet.
    pub settled: Duration,
}

pub struct World {
    plan: Scenario,
    rng: Rng,
    now: Duration,
    sequence: u64,
    queue: BTreeMap<(Duration, u64), Event>,
    channels: Vec<Channel>,
    sender: Sender,
    buffers: Buffers,
    /// When it is to be flushed, as the last flush said.
    alarm: Option<Duration>,
    client: Client,
    down: Datagrams,
    up: Datagrams,
    /// Down and up of each stream.
    streams: Vec<[Stream; 2]>,
    /// Numbers of the frames of values on each stream.
    numbers: Vec<u64>,
    /// Streams that have something of [`Sender::stream`].
    wanted: BTreeSet<usize>,
    /// What the path takes, and what the sender thinks that it does.
    room: usize,
    told_room: usize,
    window: usize,
    /// The sender does nothing until then.
    busy: Duration,
    forced: bool,
    strikes: u32,
    ack_at: Option<Duration>,
    /// Values of packets, by number.
    sent: HashMap<u64, Vec<(u64, Offset, Option<usize>)>>,
    number: u64,
    fault: Option<Fault>,
    /// What happens is told.
    talks: bool,
    outcome: Outcome,
    wrong: Option<String>,
}

macro_rules! check {
    ($world:expr, $ok:expr, $($what:tt)*) => {
        if !$ok && $world.wrong.is_none() {
            $world.wrong = Some(format!($($what)*));
        }
    };
}

mod checks;

impl World {
    /// Runs a seed. What is wrong, if anything is.
    pub fn run(seed: u64, fault: Option<Fault>) -> Result<Outcome, String> {
        let mut rng = Rng::new(seed);
        let plan = Scenario::draw(&mut rng);
        let mut world = Self::new(plan, rng, fault);
        world.begin();
        while world.step() {}
        if world.wrong.is_none() {
            world.end();
        }
        let World { wrong, now, outcome, .. } = world;
        wrong.map_or(Ok(outcome), |wrong| Err(format!("at {now:?}: {wrong}")))
    }

    fn new(plan: Scenario, mut rng: Rng, fault: Option<Fault>) -> Self {
        let channels: Vec<_> =
            plan.channels.iter().enumerate().map(|(index, it)| Channel::new(index, it.clone())).collect();
        Self {
            now: Duration::from_secs(1),
            sequence: 0,
            queue: BTreeMap::new(),
            sender: Sender::default(),
            buffers: Buffers::default(),
            alarm: None,
            client: Client::new(channels.len(), plan.keeps, fault),
            down: Datagrams::new(plan.down.clone(), rng.split()),
            up: Datagrams::new(plan.up.clone(), rng.split()),
            streams: (0..plan.streams).map(|_| [Stream::new(), Stream::new()]).collect(),
            numbers: vec![0; plan.streams],
            wanted: BTreeSet::new(),
            room: plan.rooms[0],
            told_room: plan.rooms[0],
            window: plan.windows[0],
            busy: Duration::ZERO,
            forced: false,
            strikes: 0,
            ack_at: None,
            sent: HashMap::new(),
            number: 0,
            fault,
            talks: std::env::var_os("FULMAR_SIM_LOG").is_some(),
            outcome: Outcome::default(),
            wrong: None,
            channels,
            plan,
            rng,
        }
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.talks {
            eprintln!("{:?} {:.400}", self.now, what());
        }
    }

    fn at(&mut self, when: Duration, event: Event) {
        self.sequence += 1;
        self.queue.insert((when, self.sequence), event);
    }

    fn after(&mut self, low: u64, high: u64, event: Event) {
        let when = self.now + micros(self.rng.range(low, high));
        self.at(when, event);
    }

    fn last_publication(&self) -> Duration {
        Duration::from_secs(1) + micros(self.plan.lasts)
    }

    fn begin(&mut self) {
        for channel in 0..self.channels.len() {
            self.after(0, 100_000, Event::Publish(channel));
            self.after(0, 300_000, Event::Begin(channel, None));
        }
        self.after(0, 20_000, Event::Trim);
        self.after(0, self.plan.path_lasts, Event::Path);
    }

    /// Goes on to what is next. `false`: nothing is.
    fn step(&mut self) -> bool {
        let event = self.queue.first_key_value().map(|((when, _), _)| *when);
        let due = if self.forced { Some(self.now) } else { self.alarm };
        let flush = due.map(|due| due.max(self.busy));
        let Some(next) = [event, flush, self.ack_at].into_iter().flatten().min() else { return false };
        self.now = self.now.max(next);
        self.outcome.steps += 1;
        let late = self.now.saturating_sub(self.last_publication());
        check!(self, late < QUIET_WITHIN && self.outcome.steps < STEPS, "it does not become quiet");
        if event == Some(next) {
            let (_, event) = self.queue.pop_first().expect("it is there");
            self.happen(event);
        }
        if self.ack_at.is_some_and(|at| at <= self.now) {
            self.acknowledge();
        }
        if self.ack_at.is_none()
            && let Some(due) = self.client.receiver.ack_due()
        {
            let slow = self.rng.range(0, self.plan.slow_acks);
            self.ack_at = Some(due.max(self.now) + micros(slow));
        }
        self.serve();
        if self.wrong.is_none() {
            self.wrong = self.client.wrong.take();
        }
        self.wrong.is_none()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Publish(channel) => self.publish(channel),
            Event::Trim => {
                let now = self.now;
                self.channels.iter_mut().for_each(|channel| channel.trim(now));
                if now < self.last_publication() + Duration::from_secs(1) {
                    self.after(1_000, 40_000, Event::Trim);
                }
            }
            Event::Path => self.change_path(),
            Event::Room => self.told_room = self.room,
            Event::Down(datagram) => {
                self.outcome.trace.bytes(&datagram);
                let frames = framing::split_datagram(&datagram[PREFIX.len()..]).expect("whole frames");
                for frame in frames {
                    if let Ok(ServerFrame::Values(values)) = binary::decode_server(frame) {
                        self.say(|| format!("came {}", values.number));
                        self.client.datagram(values, &self.channels, self.now);
                    }
                }
                let bytes = self.client.receiver.bytes();
                let keys: usize = self.channels.iter().map(|it| it.newest.len()).sum();
                let bound = limits::PARTIAL_BYTES + (2 * keys + 16 * self.channels.len()) * 320;
                check!(self, bytes <= bound, "the receiver holds {bytes} bytes");
            }
            Event::Up(frame) => {
                self.outcome.trace.bytes(&frame);
                let ack = binary::decode_ack(&frame).expect("an acknowledgement");
                self.say(|| format!("acknowledged {:?}", ack.numbers().collect::<Vec<_>>()));
                self.forced |= self.sender.acknowledge(ack, self.now);
            }
            Event::Forged(number) => {
                self.forced |= self.sender.acknowledge(Ack { newest: number, bitmap: 0 }, self.now);
            }
            Event::StreamDown { stream, instance, frame } => {
                self.outcome.trace.bytes(&frame);
                self.streams[stream][0].backlog -= frame.len();
                let decoded = binary::decode_server(&frame).expect("a frame");
                self.say(|| match &decoded {
                    ServerFrame::Values(values) => format!("stream {stream}: {}", told(values)),
                    ServerFrame::Publication { alias, offset, draft, .. } => {
                        let kind = if draft.payload.is_some() { "" } else { "-" };
                        format!("stream {stream}: {alias}:{kind}{}@{offset}", draft.key.as_str())
                    }
                    other => format!("stream {stream}: {other:?}"),
                });
                if let ServerFrame::Values(values) = &decoded {
                    self.numbers[stream] += 1;
                    let expected = self.numbers[stream];
                    check!(
                        self,
                        values.number == expected,
                        "stream {stream}: {} is no {expected}",
                        values.number
                    );
                }
                if let Some(number) = self.client.frame(decoded, instance, &self.channels, self.now) {
                    self.send_up(stream, Upward::Ack(number));
                }
            }
            Event::StreamUp { stream, message } => self.hear(stream, message),
            Event::End(channel) => self.end_subscription(channel),
            Event::Begin(channel, after) => {
                let instance = self.client.begin(channel, after.is_some());
                self.send_up(
                    self.plan.channels[channel].stream,
                    Upward::Subscribe { channel, instance, after },
                );
                if self.plan.churn > 0 {
                    self.after(self.plan.churn / 2, self.plan.churn * 2, Event::End(channel));
                }
            }
        }
    }

    fn publish(&mut self, index: usize) {
        if self.now >= self.last_publication() {
            return;
        }
        let plan = self.plan.channels[index].clone();
        for _ in 0..self.rng.range(1, plan.batch) {
            let channel = &mut self.channels[index];
            let Some(publication) = channel.publish(&mut self.rng, self.now) else { continue };
            if self.talks {
                let (key, offset, removal) =
                    (publication.draft.key.as_str(), publication.offset, publication.is_removal());
                eprintln!("{:?} published {}:{key}@{offset}, a removal: {removal}", self.now, channel.alias);
            }
            let forgotten = self.fault == Some(Fault::NotWoken) && self.rng.chance(100);
            if let Some(active) = &mut channel.active
                && let Some(lane) = active.lane
                && std::mem::take(&mut active.parked)
                && !forgotten
            {
                self.sender.wake(lane);
                self.forced = true;
            }
        }
        let pause = if self.rng.chance(plan.pause.0) { plan.pause.1 } else { 0 };
        self.after(plan.every / 2 + pause, plan.every * 3 / 2 + pause, Event::Publish(index));
    }

    fn change_path(&mut self) {
        if self.now >= self.last_publication() {
            // With one packet under way at a time it would take long.
            self.window = self.window.max(12_000);
            return;
        }
        self.room = self.rng.pick(&self.plan.rooms);
        self.window = self.rng.pick(&self.plan.windows);
        self.after(0, 400_000, Event::Room);
        self.after(self.plan.path_lasts / 2, self.plan.path_lasts * 2, Event::Path);
    }

    fn end_subscription(&mut self, channel: usize) {
        if self.now >= self.last_publication() || !self.client.subs[channel].wanted {
            return;
        }
        let position = self.client.end(channel, self.channels[channel].alias);
        self.send_up(self.plan.channels[channel].stream, Upward::Unsubscribe { channel });
        let again = position.filter(|_| self.rng.chance(600));
        let pause = self.rng.pick(&[0, 1_000, 300_000]);
        self.after(0, pause, Event::Begin(channel, again));
    }

    fn acknowledge(&mut self) {
        self.ack_at = None;
        let Some(ack) = self.client.receiver.take_ack(self.now) else { return };
        let frame = binary::encode_ack(ack);
        for when in self.up.send(self.now) {
            self.at(when, Event::Up(frame.to_vec()));
        }
    }

    fn send_up(&mut self, stream: usize, message: Upward) {
        let (delay, stall) = (self.plan.stream_delay, self.plan.stall);
        let when = self.streams[stream][1].send(0, self.now, delay, stall, &mut self.rng);
        self.at(when, Event::StreamUp { stream, message });
    }

    fn send_down(&mut self, stream: usize, instance: u64, frame: Vec<u8>) {
        let (delay, stall) = (self.plan.stream_delay, self.plan.stall);
        let when = self.streams[stream][0].send(frame.len(), self.now, delay, stall, &mut self.rng);
        self.at(when, Event::StreamDown { stream, instance, frame });
    }

    /// The server hears something on a stream.
    fn hear(&mut self, stream: usize, message: Upward) {
        match message {
            Upward::Ack(number) => {
                for tag in self.sender.acknowledge_stream(stream, number) {
                    self.wanted.insert(self.plan.channels[tag].stream);
                }
            }
            Upward::Subscribe { channel, instance, after } => {
                let subscribed = self.channels[channel].subscribe(instance, after);
                self.send_down(stream, instance, encode(Encoding::Binary, &subscribed).to_vec());
            }
            Upward::Unsubscribe { channel } => {
                let active = self.channels[channel].active.take().expect("it was subscribed");
                if let Some(lane) = active.lane {
                    self.sender.close(lane);
                    self.forced = true;
                }
                let name = self.channels[channel].name.clone();
                let unsubscribed = ServerMessage::Unsubscribed { r#ref: None, channel: name };
                self.send_down(stream, active.instance, encode(Encoding::Binary, &unsubscribed).to_vec());
            }
        }
    }

    /// What the server does whenever something has happened.
    fn serve(&mut self) {
        for index in 0..self.channels.len() {
            let stream = self.plan.channels[index].stream;
            loop {
                let reads = self.channels[index].active.as_ref().is_some_and(|it| it.lane.is_none());
                if !reads || self.streams[stream][0].backlog >= self.plan.stream_window {
                    break;
                }
                let frames = self.channels[index].read(index, &mut self.sender, self.now);
                self.forced |= self.channels[index].active.as_ref().is_some_and(|it| it.lane.is_some());
                // The first frame says that the channel is in sync.
                self.wanted.insert(stream);
                let instance = self.channels[index].active.as_ref().map_or(0, |it| it.instance);
                for frame in frames {
                    self.send_down(stream, instance, frame);
                }
            }
        }
        if self.busy <= self.now && (self.forced || self.alarm.is_some_and(|due| due <= self.now)) {
            self.flush();
        }
        self.write_streams();
        let sooner = |next| self.alarm.is_none_or(|alarm| next < alarm);
        let unheard = !self.forced && self.sender.next().is_some_and(sooner);
        check!(self, !unheard, "it is due before it was said to be, and nobody is told");
        self.check_lows();
    }

    fn write_streams(&mut self) {
        for stream in self.wanted.clone() {
            while self.streams[stream][0].backlog < self.plan.stream_window {
                let mut logs = Logs { channels: &mut self.channels, fault: self.fault };
                let before = self.sender.next();
                let made = self.sender.stream(stream, 8_000, self.now, &mut logs);
                self.forced |= self.sender.next() != before;
                let Some((frame, values)) = made else {
                    self.wanted.remove(&stream);
                    break;
                };
                let Ok(ServerFrame::Values(made)) = binary::decode_server(&frame) else {
                    check!(self, false, "stream {stream}: no frame of values");
                    return;
                };
                let found = contents(&made).len();
                check!(self, found == values, "stream {stream}: {found} values are counted as {values}");
                self.outcome.streamed += values as u64;
                self.check_newest(&made);
                self.send_down(stream, 0, frame.to_vec());
            }
        }
    }

    fn flush(&mut self) {
        self.forced = false;
        let (room, window, rtt) = (self.told_room, self.window, micros(2 * self.plan.down.delay));
        let path = Path { prefix: PREFIX, room, window, burst: self.plan.burst, rtt };
        let under_way = self.sender.under_way();
        let mut effects = Effects { buffers: std::mem::take(&mut self.buffers), ..Effects::default() };
        let mut logs = Logs { channels: &mut self.channels, fault: self.fault };
        self.sender.flush(self.now, &path, &mut logs, &mut effects);
        if self.plan.slow_flushes > 0 {
            self.busy = self.now + micros(self.rng.range(0, self.plan.slow_flushes));
        }
        let Effects { packets, buffers, streams, resets, counts } = effects;
        self.buffers = buffers;
        let moved = !packets.is_empty() || !resets.is_empty() || counts.lost > 0;
        self.alarm = self.sender.next();
        let again = self.alarm.is_some_and(|next| next <= self.now);
        self.strikes = if again && !moved { self.strikes + 1 } else { 0 };
        check!(self, self.strikes < 2, "it is to be flushed again and again, for nothing");
        self.check_bounds(under_way, window, packets.len());
        self.check_twins(&packets, counts.duplicated);
        self.wanted.extend(streams.into_iter().map(|tag| self.plan.channels[tag].stream));
        for tag in resets {
            self.outcome.resets += 1;
            self.say(|| format!("reset of channel {tag}"));
            if self.fault != Some(Fault::NoReset) {
                self.channels[tag].reset(&mut self.sender);
                self.forced = true;
            }
        }
        add(&mut self.outcome.counts, counts);
        for packet in packets {
            self.send(packet.to_vec());
        }
    }

    /// A packet goes out.
    fn send(&mut self, packet: Vec<u8>) {
        self.outcome.packets += 1;
        let room = self.told_room;
        check!(self, packet.len() <= room, "{} bytes on a path that takes {room}", packet.len());
        check!(self, packet.starts_with(PREFIX), "a packet without its prefix");
        let values = values_of(&packet);
        self.say(|| format!("sent {}: {}", values.number, told(&values)));
        self.number += 1;
        let number = self.number;
        check!(self, values.number == number, "packet {} should be {number}", values.number);
        self.check_newest(&values);
        self.outcome.parts +=
            values.entries.iter().filter(|it| matches!(it.content, Content::Part(_))).count() as u64;
        self.sent.insert(number, contents(&values));
        let arrive = if packet.len() > self.room { Vec::new() } else { self.down.send(self.now) };
        if arrive.is_empty() && self.fault == Some(Fault::ForgedAcks) && self.rng.chance(300) {
            self.after(1_000, 50_000, Event::Forged(number));
        }
        for when in arrive {
            self.at(when, Event::Down(packet.clone()));
        }
    }
}

fn add(sum: &mut Counts, more: Counts) {
    sum.values += more.values;
    sum.lost += more.lost;
    sum.repaired += more.repaired;
    sum.duplicated += more.duplicated;
}
