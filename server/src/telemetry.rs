//! Counters of a node. Relaxed atomics: they are read by people and tests, nothing is decided on them.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a node has done since it started.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: Counter,)* }

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
    deliveries,
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
    datagrams,
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
