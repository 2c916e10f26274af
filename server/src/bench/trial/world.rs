//! What all clients of a trial share.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use fulmar_core::ChannelName;

use crate::clock::Clock;

/// The server, and what is published there.
#[derive(Debug)]
pub(super) struct World {
    pub(super) http: SocketAddr,
    pub(super) quic: SocketAddr,
    pub(super) channels: Vec<ChannelName>,
    /// How many events each channel is to have.
    pub(super) totals: Vec<u64>,
    published: Vec<AtomicU64>,
    clock: Clock,
}

impl World {
    pub(super) fn new(
        http: SocketAddr,
        quic: SocketAddr,
        channels: usize,
        events: u64,
    ) -> Result<Self, fulmar_core::Problem> {
        let names: Result<Vec<_>, _> =
            (0..channels).map(|n| ChannelName::parse(&format!("event:trial-{n}"))).collect();
        let of = channels as u64;
        Ok(Self {
            http,
            quic,
            channels: names?,
            // Events go to the channels in turn.
            totals: (0..of).map(|n| events / of + u64::from(n < events % of)).collect(),
            published: (0..channels).map(|_| AtomicU64::new(0)).collect(),
            clock: Clock::start(),
        })
    }

    /// Which channel it is.
    pub(super) fn channel(&self, name: &str) -> Option<usize> {
        self.channels.iter().position(|it| it.as_str() == name)
    }

    /// The server has answered an event of a channel.
    pub(super) fn publish(&self, channel: usize) {
        if let Some(published) = self.published.get(channel) {
            published.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The events of each channel that the server has answered.
    pub(super) fn published(&self) -> Vec<u64> {
        self.published.iter().map(|it| it.load(Ordering::Relaxed)).collect()
    }

    /// Time since the trial began.
    pub(super) fn now(&self) -> Duration {
        self.clock.now().monotonic
    }
}
