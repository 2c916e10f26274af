//! TCP clients that do not take what they are sent as it comes: those that take something live, however slowly.
//!
//! The kernel ends a connection whose peer does not acknowledge for [`limits::TCP_STALLED`], and one whose peer has had no room for so
//! long. The latter it counts from when the peer first had none until the peer has room for all of a buffer of up to 64 KiB at once: who
//! reads slowly never has, and would be cut off while it reads. So what the peer takes is looked at, and moves the kernel's deadline.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
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

/// A peer that lags, until it has taken all.
#[derive(Debug)]
pub(super) struct Lag {
    since: Instant,
    acknowledged: u64,
    look: Pin<Box<Sleep>>,
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
        let look = Box::pin(time::sleep(limits::TCP_LOOK));
        let it = Self { since: before(&look), acknowledged: acknowledged(stream)?, look };
        it.spare(stream, Duration::ZERO)?;
        Ok(it)
    }

    /// Whether it has taken `all`, as [`acknowledged`] counts it. Meanwhile, sees to it that it lives as long as it takes something.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>, stream: &TcpStream, all: u64) -> Poll<()> {
        loop {
            ready!(self.look.as_mut().poll(cx));
            self.look = Box::pin(time::sleep(limits::TCP_LOOK));
            match self.look(stream, all) {
                Ok(false) => {}
                // It has caught up, or the connection has ended.
                Ok(true) | Err(_) => return Poll::Ready(()),
            }
        }
    }

    fn look(&mut self, stream: &TcpStream, all: u64) -> io::Result<bool> {
        let acknowledged = acknowledged(stream)?;
        if acknowledged >= all {
            SockRef::from(stream).set_tcp_user_timeout(Some(limits::TCP_STALLED))?;
            return Ok(true);
        }
        if acknowledged > self.acknowledged {
            self.acknowledged = acknowledged;
            self.spare(stream, before(&self.look).duration_since(self.since))?;
        }
        Ok(false)
    }

    /// Lets the peer, which has lagged for so long, take nothing for a while.
    fn spare(&self, stream: &TcpStream, lagged: Duration) -> io::Result<()> {
        // What it took may have come right after the look before, or the lag have begun before that was noticed.
        SockRef::from(stream).set_tcp_user_timeout(Some(lagged + limits::TCP_STALLED + limits::TCP_LOOK))
    }
}

/// When a timer for the next look was set.
fn before(look: &Sleep) -> Instant {
    look.deadline() - limits::TCP_LOOK
}
