//! What clients acknowledge.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use fulmar_core::{
    ChannelName, Class, Draft, Epoch, Key, Log, Now, Offset, Payload, Publication,
    codec::binary::{self, Ack},
    datagrams::{Effects, Pace, Path, Sender, Source},
    log::Bounds,
};

use super::messages::problem_is_short;

/// How many packets are under way when an acknowledgement comes: more than one can name.
const SENT: u64 = 70;

/// The `ack` frame. Read and written again it is the same, and a sender believes it as far as it names what was sent.
pub(super) fn acknowledgements(input: &[u8]) {
    let ack = match binary::decode_ack(input) {
        Ok(ack) => ack,
        Err(problem) => return problem_is_short(&problem),
    };
    assert!(binary::is_ack(input) && binary::decode(input).is_err(), "it is no message");
    assert_eq!(binary::decode_ack(&binary::encode_ack(ack)), Ok(ack), "written again");
    let named: Vec<_> = ack.numbers().collect();
    assert!(named.first() == Some(&ack.newest) && named.is_sorted_by(|one, next| one > next), "{named:?}");
    assert_eq!(named.len() as u32, 1 + naming_bits(ack), "{named:?}");

    let (mut sender, mut log) = sent();
    let all: BTreeSet<_> = (1..=SENT).collect();
    let named: BTreeSet<_> = named.into_iter().collect();
    let believed = if ack.newest <= SENT { all.intersection(&named).count() } else { 0 };
    let left = SENT as usize - believed;
    let now = Duration::from_millis(1);
    for _ in 0..2 {
        sender.acknowledge(ack, now);
        let [packets, bytes, values] = sender.under_way();
        assert_eq!((packets, values), (left, left), "of {SENT}, {believed} were named");
        assert_eq!(bytes == 0, left == 0);
    }
    // By stream, of what was sent there and of what was not.
    let more = sender.acknowledge_stream(0, ack.newest);
    assert!(more.is_empty() && sender.acknowledge_stream(1, ack.newest).is_empty());
    // What it does not name is taken for lost in the end, and goes anew.
    let mut effects = Effects::default();
    sender.flush(Duration::from_secs(60), &PATH, &mut log, &mut effects);
    assert_eq!((effects.counts.lost, effects.counts.values), (left as u64, left as u64));
}

/// How many bits of the bitmap name a number: 0 is one, which no packet has; there is none below.
fn naming_bits(ack: Ack) -> u32 {
    let before = ack.newest.min(62);
    (ack.bitmap & ((1 << before) - 1)).count_ones()
}

/// Room for one value in each packet.
const PATH: Path<'_> =
    Path { prefix: &[], room: 40, window: 1 << 20, burst: 1 << 20, rtt: Duration::from_millis(10) };

/// A sender with so many packets under way, and its log.
fn sent() -> (Sender, Logged) {
    let bounds = Bounds { count: 1_000, bytes: usize::MAX, age: Duration::MAX };
    let mut log = Log::new(Class::State, Epoch::from_entropy(0), bounds);
    let channel = ChannelName::parse("state:a").expect("a name");
    for n in 1..=SENT {
        let draft = Draft::value(Key::parse(&n.to_string()).expect("a key"), Payload::text("x".repeat(20)));
        let (offset, now) = (Offset::new(n).expect("small"), Now::from_millis(0));
        log.apply(
            Arc::new(Publication::new(channel.clone(), 1, log.epoch().clone(), offset, now, draft)),
            now,
        );
    }
    let (mut sender, mut log) = (Sender::default(), Logged(log));
    let lane = sender.open(0, 1, 0, Offset::ZERO, Pace { interval: Duration::ZERO, duplicate: None });
    sender.stream(0, 1_000, Duration::ZERO, &mut log).expect("the channel is in sync");
    sender.wake(lane);
    sender.flush(Duration::ZERO, &PATH, &mut log, &mut Effects::default());
    assert_eq!(sender.under_way()[0], SENT as usize);
    (sender, log)
}

struct Logged(Log);

impl Source for Logged {
    fn news(&mut self, _tag: usize, read: &mut dyn FnMut(&Log) -> bool) {
        read(&self.0);
    }

    fn look(&mut self, _tag: usize, look: &mut dyn FnMut(&Log)) {
        look(&self.0);
    }
}
