//! TCP clients that do not take what they are sent as it comes: those that take something live, however slowly.
//!
//! The kernel ends a connection whose peer does not acknowledge for [`limits::TCP_STALLED`], and one whose peer has had no room for so
//! long. The latter it counts from when the peer first had none until the peer has room for all of a buffer of up to 64 KiB at once: who
//! reads slowly never has, and would be cut off while it reads. So of a connection that has once lagged, it is looked here what the peer takes.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use nix::{getsockopt_impl, libc, sockopt_impl, sys::socket::getsockopt};
use socket2::SockRef;
use tokio::{
    net::TcpStream,
    time::{self, Instant, Sleep},
};

use crate::limits;

sockopt_impl!(
    /// The first 128 bytes of Linux's `struct tcp_info`, which only ever grows.
    Info,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    [u64; 16]
);
/// Where `tcpi_bytes_acked` stands in it.
const BYTES_ACKED: usize = 15;

/// A peer that has lagged.
#[derive(Debug)]
pub(super) struct Lag {
    acknowledged: u64,
    /// Whether the kernel's own clock is off. It runs until the peer was seen to take something, since it knows since when nothing was.
    spared: bool,
    /// When it last took something, or was given something to take.
    took: Instant,
    /// Set while there is something that it has not taken.
    look: Option<Pin<Box<Sleep>>>,
}

/// What the peer of a connection has acknowledged, in bytes, and perhaps one more for its handshake.
///
/// # Errors
/// The system's.
pub(super) fn acknowledged(stream: &TcpStream) -> io::Result<u64> {
    Ok(getsockopt(stream, Info)?[BYTES_ACKED])
}

impl Lag {
    /// The peer has no room from now on.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn begin(stream: &TcpStream) -> io::Result<Self> {
        let look = soon();
        Ok(Self { acknowledged: acknowledged(stream)?, spared: false, took: set(&look), look: Some(look) })
    }

    /// What the peer had acknowledged when it was last looked.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// There is more to take.
    pub(super) fn give(&mut self) {
        if self.look.is_none() {
            let look = soon();
            self.took = set(&look);
            self.look = Some(look);
        }
    }

    /// Waits until the peer has taken nothing for too long, of `all` that it is to acknowledge.
    pub(super) fn poll_stalled(&mut self, cx: &mut Context<'_>, stream: &TcpStream, all: u64) -> Poll<()> {
        while let Some(look) = &mut self.look {
            ready!(look.as_mut().poll(cx));
            let next = soon();
            let now = set(&next);
            // What fails is the connection's end, which reading it tells.
            let acknowledged = acknowledged(stream).unwrap_or(all);
            if acknowledged > self.acknowledged {
                (self.acknowledged, self.took) = (acknowledged, now);
                if !self.spared {
                    // For good, since the kernel may go on counting where it was when the peer lags the next time.
                    self.spared = SockRef::from(stream).set_tcp_user_timeout(None).is_ok();
                }
            }
            if acknowledged < all && now.duration_since(self.took) >= limits::TCP_STALLED {
                return Poll::Ready(());
            }
            self.look = (acknowledged < all).then_some(next);
        }
        Poll::Pending
    }
}

fn soon() -> Pin<Box<Sleep>> {
    Box::pin(time::sleep(limits::TCP_LOOK))
}

/// When a timer was set.
fn set(look: &Sleep) -> Instant {
    look.deadline() - limits::TCP_LOOK
}
