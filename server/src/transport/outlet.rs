//! The way out of a TCP connection: whether what is written now would be sent now.
//!
//! What has been written can no longer become newer. So what is read of a log should be read when the path has room for it, and the
//! buffers between the two, the kernel's above all, should be nearly empty by then.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    sync::Notify,
    time,
};

use super::lag::{self, Lag};
use crate::limits;

/// Tells those who write to a connection, through whatever lies between, when it is worth it. In the extensions of each of its
/// requests.
#[derive(Clone, Debug, Default)]
pub struct Outlet(Arc<Valve>);

#[derive(Debug, Default)]
struct Valve {
    blocked: AtomicBool,
    opened: Notify,
    /// How often anything came or went.
    moves: AtomicU64,
    /// What a peer that has lagged had acknowledged when it was last looked.
    acknowledged: AtomicU64,
}

impl Outlet {
    /// Waits until the connection has sent nearly all that was written to it. Cancel-safe.
    pub async fn clear(&self) {
        loop {
            let opened = self.0.opened.notified();
            if !self.0.blocked.load(Ordering::Acquire) {
                return;
            }
            opened.await;
        }
    }

    /// Waits until nothing has come or gone over the connection for `patience`, or a quarter longer.
    pub async fn quiet(&self, patience: Duration) {
        let (mut seen, mut looks) = (self.0.moves.load(Ordering::Relaxed), 0);
        while looks < 4 {
            time::sleep(patience / 4).await;
            let moves = self.0.moves.load(Ordering::Relaxed);
            looks = if moves == seen { looks + 1 } else { 0 };
            seen = moves;
        }
    }

    fn moved(&self) {
        self.0.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// What grows, of a connection that waits for its peer, while the peer takes what it is sent, however slowly.
    pub fn progress(&self) -> u64 {
        self.0.acknowledged.load(Ordering::Relaxed)
    }

    fn block(&self) {
        self.0.blocked.store(true, Ordering::Release);
    }

    fn open(&self) {
        if self.0.blocked.swap(false, Ordering::AcqRel) {
            self.0.opened.notify_waiters();
        }
    }
}

/// A TCP connection that keeps little unsent: flushing it takes until what was written has left, but for
/// [`limits::TCP_UNSENT`] bytes at most.
#[derive(Debug)]
pub struct Prompt {
    stream: TcpStream,
    outlet: Outlet,
    /// What was written since the kernel last said that it had room.
    written: usize,
    /// What was ever written.
    total: u64,
    /// What the peer had acknowledged before anything was written.
    origin: u64,
    /// Of a peer that did not once take what it was sent as it came.
    lag: Option<Lag>,
}

impl Prompt {
    /// Sets up an accepted connection.
    ///
    /// # Errors
    /// The system's.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        socket.set_tcp_user_timeout(Some(limits::TCP_STALLED))?;
        socket.set_tcp_notsent_lowat(limits::TCP_UNSENT)?;
        let origin = lag::acknowledged(&stream)?;
        Ok(Self { stream, outlet: Outlet::default(), written: 0, total: 0, origin, lag: None })
    }

    /// What tells whether it is worth writing to.
    pub fn outlet(&self) -> Outlet {
        self.outlet.clone()
    }

    fn took(&mut self, cx: &mut Context<'_>, took: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match took {
            Poll::Ready(Ok(n)) => {
                self.written = self.written.saturating_add(n);
                self.outlet.moved();
                self.total += n as u64;
                if let Some(lag) = &mut self.lag {
                    lag.give();
                }
                self.look_after(cx)?;
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                self.written = usize::MAX;
                self.block(cx)?;
            }
        }
        took
    }

    fn block(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.outlet.block();
        if self.lag.is_none() {
            self.lag = Some(Lag::begin(&self.stream)?);
        }
        self.look_after(cx)
    }

    /// To be called whenever the connection waits for its peer. Fails when the peer has taken nothing for too long.
    fn look_after(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let all = self.origin + self.total;
        let Some(lag) = &mut self.lag else { return Ok(()) };
        let stalled = lag.poll_stalled(cx, &self.stream, all);
        self.outlet.0.acknowledged.store(lag.acknowledged(), Ordering::Relaxed);
        if stalled.is_pending() {
            return Ok(());
        }
        // Nobody is there to take what is left.
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Waits until the kernel holds less than half of [`limits::TCP_UNSENT`] unsent: what it calls writable.
    fn poll_clear(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Who writes little is not worth asking each time.
        while self.written > limits::TCP_UNSENT as usize / 2 {
            // tokio knows of a write that found no room only, so the kernel is asked; asking also makes it tell when there is.
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_io(Interest::WRITABLE, || writable(&self.stream)) {
                Ok(()) => self.written = 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.block(cx)?,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.outlet.open();
        Poll::Ready(Ok(()))
    }
}

fn writable(stream: &TcpStream) -> io::Result<()> {
    let mut asked = [PollFd::new(stream, PollFlags::OUT)];
    match poll(&mut asked, Some(&Timespec::default()))? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        if self.lag.is_some() {
            // What is left to be sent is the kernel's to look after from here on.
            let _ = SockRef::from(&self.stream).set_tcp_user_timeout(Some(limits::TCP_STALLED));
        }
    }
}

impl AsyncRead for Prompt {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.look_after(cx)?;
        let read = Pin::new(&mut self.stream).poll_read(cx, into);
        if read.is_ready() {
            self.outlet.moved();
        }
        read
    }
}

impl AsyncWrite for Prompt {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let took = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.took(cx, took)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let took = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.took(cx, took)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_clear(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What was handed on to be written, and whether it has been: for those who cannot see it, since HTTP lies between.
#[derive(Debug, Default)]
pub(super) struct Underway(Arc<Taken>);

#[derive(Debug)]
struct Taken {
    done: AtomicBool,
    changed: Notify,
}

impl Default for Taken {
    fn default() -> Self {
        Self { done: AtomicBool::new(true), changed: Notify::new() }
    }
}

struct Tracked {
    bytes: Bytes,
    taken: Arc<Taken>,
}

impl AsRef<[u8]> for Tracked {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.taken.done.store(true, Ordering::Release);
        self.taken.changed.notify_waiters();
    }
}

impl Underway {
    /// `bytes`, to be handed on. Those before have been taken.
    pub(super) fn hand_on(&mut self, bytes: Bytes) -> Bytes {
        self.0.done.store(false, Ordering::Release);
        Bytes::from_owner(Tracked { bytes, taken: self.0.clone() })
    }

    /// Waits until what was handed on has been taken: nobody holds it any more. Cancel-safe.
    pub(super) async fn taken(&self) {
        loop {
            let changed = self.0.changed.notified();
            if self.0.done.load(Ordering::Acquire) {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, future::join};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn a_flush_takes_until_little_is_unsent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("accepted");
        let (stream, _) = listener.accept().await.expect("connected");
        let mut prompt = Prompt::new(stream).expect("alive");
        let socket = SockRef::from(&prompt.stream);
        assert_eq!(
            (socket.tcp_notsent_lowat().ok(), socket.tcp_nodelay().ok()),
            (Some(limits::TCP_UNSENT), Some(true))
        );
        let outlet = prompt.outlet();
        let mut written = 0;
        while let Some(took) = prompt.write(&[0; 64 * 1024]).now_or_never() {
            written += took.expect("alive");
        }
        assert!(prompt.flush().now_or_never().is_none());
        assert!(outlet.clear().now_or_never().is_none());
        let mut read = vec![0; written];
        let (flushed, read) = join(prompt.flush(), client.read_exact(&mut read)).await;
        assert!(flushed.is_ok() && read.is_ok());
        assert!(outlet.clear().now_or_never().is_some());
    }

    #[tokio::test]
    async fn what_is_handed_on_is_taken_when_nobody_holds_it() {
        let mut underway = Underway::default();
        assert!(underway.taken().now_or_never().is_some());
        let bytes = underway.hand_on(Bytes::from_static(b"batch"));
        let rest = bytes.slice(2..);
        drop(bytes);
        assert!(underway.taken().now_or_never().is_none());
        join(underway.taken(), async { drop(rest) }).await;
    }
}
