//! What a run is like: drawn from its seed.

use std::time::Duration;

use fulmar_core::{datagrams::Pace, log::Bounds};

use crate::rng::Rng;

#[derive(Clone, Debug)]
pub struct Scenario {
    pub channels: Vec<ChannelPlan>,
    pub streams: usize,
    pub down: Link,
    pub up: Link,
    /// Of the streams beside.
    pub stream_delay: u64,
    /// How often in a thousand frames a stream stalls, and for how long at most.
    pub stall: (u64, u64),
    /// What may be under way on a stream.
    pub stream_window: usize,
    /// What the path takes, changing from time to time.
    pub rooms: Vec<usize>,
    pub windows: Vec<usize>,
    pub burst: usize,
    /// Between two changes of the path.
    pub path_lasts: u64,
    /// How much later than it should the receiver acknowledges, at most.
    pub slow_acks: u64,
    /// How much later than it should the sender flushes, at most.
    pub slow_flushes: u64,
    /// How many datagrams of unknown aliases the client keeps.
    pub keeps: usize,
    /// Between two ends of subscriptions; 0 for never.
    pub churn: u64,
    /// How long there are publications.
    pub lasts: u64,
}

#[derive(Clone, Debug)]
pub struct ChannelPlan {
    pub stream: usize,
    pub keys: u64,
    pub bounds: Bounds,
    pub pace: Pace,
    /// Between publications, in µs.
    pub every: u64,
    /// Publications at once.
    pub batch: u64,
    /// How often in a thousand publishing pauses, and for how long.
    pub pause: (u64, u64),
    pub removals: u64,
    pub sizes: Vec<(u64, u64)>,
    pub priorities: bool,
    pub ids: bool,
    /// Offsets are left out.
    pub holes: bool,
}

/// One direction of the datagrams' path: Gilbert's and Elliott's two states of loss, and times. Times are in µs.
#[derive(Clone, Debug)]
pub struct Link {
    pub loss: [u64; 2],
    /// How long the first state lasts, and the second.
    pub lasts: [u64; 2],
    pub delay: u64,
    pub jitter: u64,
    /// How often in a thousand a packet takes much longer.
    pub late: u64,
    pub twice: u64,
}

impl Link {
    fn draw(rng: &mut Rng) -> Self {
        let loss = match rng.range(0, 3) {
            0 => [0, 0],
            1 => [rng.range(1, 50), rng.range(1, 50)],
            2 => [rng.range(0, 20), rng.range(500, 1000)],
            _ => [rng.range(100, 400), rng.range(100, 400)],
        };
        // Where nearly all is lost it is not for long, so at most some 40 % are lost in all.
        let bad = rng.range(5_000, 200_000);
        let lasts = [2 * bad, bad];
        let delay = rng.pick(&[200, 5_000, 20_000, 80_000, 150_000]);
        let jitter = rng.pick(&[0, 300, delay / 4, delay]);
        Self {
            loss,
            lasts,
            delay,
            jitter,
            late: rng.pick(&[0, 0, 20, 200]),
            twice: rng.pick(&[0, 0, 20, 300]),
        }
    }
}

const SIZES: [(u64, u64); 7] =
    [(0, 0), (1, 40), (20, 200), (500, 1_400), (1_300, 3_500), (3_000, 16_000), (15_900, 20_000)];

impl ChannelPlan {
    fn draw(rng: &mut Rng, stream: usize, lasts: u64) -> Self {
        let keys = rng.pick(&[1, 3, 8, 30, 200]);
        let (count, age) = match rng.range(0, 2) {
            0 => (rng.range(1, 5) as usize, 10_000),
            1 => (keys as usize + 1, rng.range(5, 200)),
            _ => (1_000, 10_000),
        };
        let bounds = Bounds { count, bytes: usize::MAX, age: Duration::from_millis(age) };
        let pace = Pace {
            interval: Duration::from_millis(rng.pick(&[0, 5, 5, 33, 200])),
            duplicate: rng.pick(&[None, None, Some(3), Some(30)]).map(Duration::from_millis),
        };
        let mut sizes = vec![SIZES[rng.range(0, 3) as usize], SIZES[rng.range(0, 2) as usize]];
        if rng.chance(400) {
            sizes.push(SIZES[rng.range(3, 6) as usize]);
        }
        if rng.chance(100) {
            // Many at once that come in parts.
            sizes = vec![(9_000, 16_000)];
        }
        let batch = rng.pick(&[1, 1, 4, 30]);
        let publications = rng.pick(&[20, 100, 300, 600]);
        Self {
            stream,
            keys,
            bounds,
            pace,
            every: (lasts * batch / publications).max(500),
            batch,
            pause: (rng.pick(&[0, 20, 100]), 400_000),
            removals: rng.pick(&[0, 50, 150, 400]),
            sizes,
            priorities: rng.chance(400),
            ids: rng.chance(100),
            holes: rng.chance(300),
        }
    }
}

impl Scenario {
    pub fn draw(rng: &mut Rng) -> Self {
        let lasts = rng.range(300_000, 3_000_000);
        let channels = rng.pick(&[1, 1, 2, 3]);
        let streams = if rng.chance(300) { 1 } else { channels };
        let plans = (0..channels).map(|index| ChannelPlan::draw(rng, index % streams, lasts)).collect();
        // On some paths hardly a datagram goes, so that most is for the streams.
        let narrow = rng.chance(250);
        let several =
            |rng: &mut Rng, from: &[usize]| (0..rng.range(1, 4)).map(|_| rng.pick(from)).collect::<Vec<_>>();
        Self {
            channels: plans,
            streams,
            down: Link::draw(rng),
            up: Link::draw(rng),
            stream_delay: rng.pick(&[200, 10_000, 100_000]),
            stall: (rng.pick(&[0, 10, 60, 200]), rng.pick(&[50_000, 800_000])),
            stream_window: rng.pick(&[1_000, 3_000, 20_000, 200_000]),
            rooms: if narrow {
                several(rng, &[1_200, 300, 60, 40, 0])
            } else {
                several(rng, &[1_452, 1_452, 1_200, 1_200, 1_000, 600, 300, 60, 0])
            },
            windows: several(rng, &[0, 1_500, 3_000, 12_000, 100_000, 1_000_000]),
            burst: rng.pick(&[1, 3_000, 64_000]),
            path_lasts: rng.pick(&[20_000, 200_000, 2_000_000]),
            slow_acks: rng.pick(&[0, 0, 5_000, 200_000]),
            slow_flushes: rng.pick(&[0, 0, 1_000, 50_000]),
            keeps: rng.pick(&[0, 8]),
            churn: rng.pick(&[0, 0, 0, 50_000, 500_000]),
            lasts,
        }
    }
}
