//! The path: datagrams that are lost, late, twice and out of order; streams that are neither, but stall.

use std::time::Duration;

use crate::{rng::Rng, scenario::Link};

pub fn micros(n: u64) -> Duration {
    Duration::from_micros(n)
}

/// One direction for datagrams.
#[derive(Debug)]
pub struct Datagrams {
    link: Link,
    bad: bool,
    /// When that changes.
    until: Duration,
    rng: Rng,
}

impl Datagrams {
    pub fn new(link: Link, rng: Rng) -> Self {
        Self { link, bad: false, until: Duration::ZERO, rng }
    }

    /// When a packet arrives: never, once or twice.
    pub fn send(&mut self, now: Duration) -> Vec<Duration> {
        let Self { link, bad, until, rng } = self;
        if *until <= now {
            *bad = !*bad;
            let lasts = link.lasts[usize::from(*bad)];
            *until = now + micros(rng.range(lasts / 2, lasts * 3 / 2));
        }
        if rng.chance(link.loss[usize::from(*bad)]) {
            return Vec::new();
        }
        let copies = if rng.chance(link.twice) { 2 } else { 1 };
        let arrive = (0..copies).map(|_| {
            let late = if rng.chance(link.late) { 3 * link.delay } else { 0 };
            now + micros(link.delay + rng.range(0, link.jitter) + late)
        });
        arrive.collect()
    }
}

/// One direction of a stream.
#[derive(Debug)]
pub struct Stream {
    last: Duration,
    /// What is under way, in bytes.
    pub backlog: usize,
}

impl Stream {
    pub fn new() -> Self {
        Self { last: Duration::ZERO, backlog: 0 }
    }

    /// When a frame arrives.
    pub fn send(
        &mut self,
        bytes: usize,
        now: Duration,
        delay: u64,
        stall: (u64, u64),
        rng: &mut Rng,
    ) -> Duration {
        let stalled = if rng.chance(stall.0) { rng.range(0, stall.1) } else { 0 };
        self.backlog += bytes;
        self.last = self.last.max(now + micros(delay + stalled));
        self.last
    }
}
