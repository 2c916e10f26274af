//! Counters of a node. Relaxed atomics: they are read by people and tests, nothing is decided on them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Places of a [`Spread`] counter: about as many as processors mostly are, since threads that share one only lose time.
const PLACES: usize = 16;

macro_rules! counters {
    (@type) => { Counter };
    (@type $type:ident) => { $type };
    ($($(#[$doc:meta])* $name:ident $(: $type:ident)?,)*) => {
        /// What a node has done since it started.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: counters!(@type $($type)?),)* }

        impl Counters {
            /// Every counter's name and value.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.get()),)*].into_iter()
            }
        }
    };
}

/// One counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `n`, and gives the value before.
    pub fn add(&self, n: u64) -> u64 {
        self.0.fetch_add(n, Ordering::Relaxed)
    }

    /// Takes `n` away, of what was added before: for those that count what there is, and not what was.
    pub fn subtract(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One counter that all threads add to all the time. Each has a place of its own for it, as memory that two processors write to in
/// turn has to go from one to the other each time.
#[derive(Debug, Default)]
pub struct Spread([Place; PLACES]);

/// Not in one cache line with anything else, nor in one that is fetched along with it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Place(AtomicU64);

thread_local! {
    /// Which place a thread has.
    static PLACE: usize = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        THREADS.fetch_add(1, Ordering::Relaxed) % PLACES
    };
}

impl Spread {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        // None where a thread is about to end.
        let place = PLACE.try_with(|place| *place).unwrap_or(0);
        if let Some(place) = self.0.get(place) {
            place.0.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.iter().map(|place| place.0.load(Ordering::Relaxed)).sum()
    }
}

counters! {
    /// Publications accepted.
    publications,
    /// Publishes answered from the idempotency window.
    repeats,
    /// Publications encoded as JSON.
    encoded_json,
    /// Publications encoded as binary frames.
    encoded_binary,
    /// Bytes of larger encodings that are kept now.
    encoded_bytes,
    /// Publications given to connections.
    deliveries: Spread,
    /// Gaps told to subscribers.
    gaps,
    /// Gaps told to subscribers who were too slow for a channel's history.
    slow_gaps,
    /// Connections closed because their client was too slow for a channel's history, where that is the policy.
    slow_disconnects,
    /// Publications of state not given to a subscriber who had caught up, because newer ones of their keys came before it took
    /// more. What goes by datagram is not in it: there the channel's rate alone replaces much.
    conflated,
    /// Snapshots begun.
    resets,
    /// Times a parked subscription was woken.
    wakes,
    /// Channels evicted.
    evictions,
    /// WebTransport datagrams sent.
    datagrams: Spread,
    /// Datagrams with state that were lost.
    datagrams_lost,
    /// Values that were lost and sent anew.
    repairs,
    /// Bytes of datagrams that were sent twice ahead of any loss.
    duplicated_bytes,
    /// Values that did not fit a datagram, and went by stream.
    oversize,
    /// Signals not given to a subscriber because they had expired when they could be sent.
    signals_expired,
    /// Signals not given to a subscriber because their channel had forgotten them before they could be sent: it holds so many.
    signals_forgotten,
    /// Signals not given to a subscriber because they did not fit a datagram.
    signals_oversize,
    /// Connections that ended because nothing was heard from their client.
    dead_peers,
    /// Connections that were not let in because there were too many.
    turned_away,
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn what_threads_add_is_one_sum() {
        let counter = Spread::default();
        thread::scope(|scope| {
            for _ in 0..3 * PLACES {
                scope.spawn(|| {
                    counter.increment();
                    counter.add(9);
                });
            }
        });
        assert_eq!(counter.get(), 30 * PLACES as u64);
    }
}
