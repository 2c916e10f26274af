//! A receiver by itself, with frames that a sender made.

use std::time::Duration;

use fulmar_core::{
    Key, Offset,
    codec::binary::{Arrival, Values},
    datagrams::{Pace, Receiver, Taken},
    limits,
};

use crate::pacing::{Bench, ms};

const PACE: Pace = Pace { interval: Duration::ZERO, duplicate: None };

fn offset(n: u64) -> Offset {
    Offset::new(n).expect("small")
}

fn key(n: u64) -> Key {
    Key::parse(&n.to_string()).expect("a key")
}

/// One that has begun at `at`, in sync.
fn receiver(at: u64) -> Receiver {
    let mut receiver = Receiver::default();
    receiver.subscribed(0, offset(at));
    receiver.synced(0, offset(at));
    receiver
}

fn new(taken: Taken) -> Vec<Arrival> {
    let Taken::New(new) = taken else { panic!("{taken:?}") };
    new.into_iter().map(|(_, arrival)| arrival).collect()
}

/// The frames of a value of so many bytes. Those before are still under way.
fn frames(bench: &mut Bench, key: u64, bytes: usize) -> Vec<Values> {
    bench.publish(0, key, bytes, 16);
    bench.now += ms(1);
    bench.flush()
}

#[test]
fn parts_of_an_older_value_are_void_once_a_newer_one_has_begun() {
    let mut bench = Bench::new(1, PACE, 1_000_000);
    let (older, newer) = (frames(&mut bench, 1, 2_500), frames(&mut bench, 1, 2_500));
    let mut receiver = receiver(0);
    assert_eq!(new(receiver.datagram(older[0].clone(), ms(0))), []);
    assert_eq!(new(receiver.datagram(newer[0].clone(), ms(0))), []);
    assert_eq!(receiver.bytes(), 2_500, "of one value");
    for frame in [&older[1], &older[2], &newer[1]] {
        assert_eq!(new(receiver.datagram(frame.clone(), ms(0))), []);
    }
    let arrived = new(receiver.datagram(newer[2].clone(), ms(0)));
    assert_eq!(arrived.iter().map(|it| it.offset.get()).collect::<Vec<_>>(), [2]);
}

#[test]
fn parts_have_a_bound_and_what_has_begun_is_finished() {
    let mut bench = Bench::new(1, PACE, 100_000_000);
    let mut receiver = receiver(0);
    let (mut begun, mut refused) = (Vec::new(), 0);
    for key in 0..20 {
        let frames = frames(&mut bench, key, 16_000);
        match receiver.datagram(frames[0].clone(), ms(0)) {
            Taken::New(new) => {
                assert_eq!(new, []);
                begun.push(frames);
            }
            Taken::NoRoom => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((begun.len(), refused), (limits::PARTIAL_BYTES / 16_000, 20 - limits::PARTIAL_BYTES / 16_000));
    assert!(receiver.bytes() <= limits::PARTIAL_BYTES);
    let acknowledged = receiver.take_ack(ms(0)).expect("some have come").newest;
    assert_eq!(acknowledged, begun.last().expect("some")[0].number, "what was refused is not");
    for frames in begun {
        let arrived: usize =
            frames[1..].iter().map(|it| new(receiver.datagram(it.clone(), ms(0))).len()).sum();
        assert_eq!(arrived, 1);
    }
    assert!(receiver.bytes() < limits::PARTIAL_BYTES / 10, "{} bytes are left", receiver.bytes());
}

#[test]
fn parts_are_forgotten_with_what_they_belong_to() {
    for end in ["reset", "forgotten", "removed"] {
        let mut bench = Bench::new(1, PACE, 1_000_000);
        let mut receiver = receiver(0);
        let (one, other) = (frames(&mut bench, 1, 2_500), frames(&mut bench, 2, 2_500));
        receiver.datagram(one[0].clone(), ms(0));
        receiver.datagram(other[0].clone(), ms(0));
        assert_eq!(receiver.bytes(), 5_000);
        let left = match end {
            "reset" => {
                receiver.reset(0, offset(1));
                2_500
            }
            "forgotten" => {
                receiver.forget(0);
                0
            }
            _ => {
                assert!(receiver.publication(0, &key(2), offset(3)));
                receiver.synced(0, offset(3));
                2_500
            }
        };
        assert!((left..left + 100).contains(&receiver.bytes()), "{end}: {}", receiver.bytes());
    }
}

/// The snapshot tells what there is of keys up to where it began. What comes besides was under way before.
#[test]
fn a_straggler_does_not_come_back_within_a_snapshot() {
    let mut bench = Bench::new(1, PACE, 1_000_000);
    let (straggler, newer) = (frames(&mut bench, 1, 10), frames(&mut bench, 2, 10));
    let mut receiver = receiver(0);
    receiver.reset(0, offset(1));
    assert_eq!(receiver.position(0), None);
    assert_eq!(new(receiver.datagram(straggler[0].clone(), ms(0))), [], "it was removed before the snapshot");
    assert_eq!(new(receiver.datagram(newer[0].clone(), ms(0))).len(), 1, "it is not the snapshot's");
    assert!(receiver.publication(0, &key(1), offset(1)), "the snapshot brings it after all");
    receiver.synced(0, offset(1));
    assert_eq!(receiver.position(0), Some(offset(1)));
    assert!(!receiver.publication(0, &key(7), offset(1)), "what lies at the position is known");
    let ack = receiver.take_ack(ms(0)).expect("they have come");
    assert_eq!(ack.numbers().collect::<Vec<_>>(), [2, 1], "one that is void has come too");
}

#[test]
fn what_is_remembered_of_keys_is_bounded_by_what_is_new() {
    let mut receiver = receiver(0);
    for n in 1..=2_000 {
        assert!(receiver.publication(0, &key(n), offset(n)));
        receiver.synced(0, offset(n));
    }
    assert!(receiver.bytes() < 3_000, "{} bytes", receiver.bytes());
}

#[test]
fn what_comes_again_is_acknowledged_again() {
    let mut bench = Bench::new(1, PACE, 1_000_000);
    let one = frames(&mut bench, 1, 10);
    let mut receiver = receiver(0);
    assert_eq!(new(receiver.datagram(one[0].clone(), ms(0))).len(), 1);
    assert!(receiver.take_ack(ms(8)).is_some_and(|ack| ack.newest == 1));
    assert_eq!((receiver.ack_due(), receiver.take_ack(ms(8))), (None, None));
    assert_eq!(new(receiver.datagram(one[0].clone(), ms(20))), []);
    assert!(receiver.take_ack(ms(28)).is_some_and(|ack| ack.newest == 1), "the first may have been lost");
}
