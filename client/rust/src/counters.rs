//! What a session has seen.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of a session.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) stream_bytes: Counter,
    pub(crate) datagrams: Counter,
    pub(crate) publications: Counter,
    pub(crate) dropped: Counter,
    pub(crate) unreadable: Counter,
    pub(crate) complaints: Counter,
    pub(crate) acks: Counter,
}

impl Counters {
    pub(crate) fn read(&self) -> Counts {
        Counts {
            stream_bytes: self.stream_bytes.get(),
            datagrams: self.datagrams.get(),
            publications: self.publications.get(),
            dropped: self.dropped.get(),
            unreadable: self.unreadable.get(),
            complaints: self.complaints.get(),
            acks: self.acks.get(),
        }
    }
}

/// What a session has seen so far. The transport's own figures are quinn's: [`Client::quic`](crate::Client::quic).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes off streams.
    pub stream_bytes: u64,
    /// Datagrams.
    pub datagrams: u64,
    /// Publications, by stream and datagram, of subscriptions that were there.
    pub publications: u64,
    /// Signals that were dropped because too many waited.
    pub dropped: u64,
    /// Datagrams that could not be read.
    pub unreadable: u64,
    /// Errors of the server's that answered no request.
    pub complaints: u64,
    /// Acknowledgements of datagrams that were sent.
    pub acks: u64,
}
