//! What wakes a feed.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use futures_util::task::AtomicWaker;

use super::lock;

/// Which subscriptions of a feed have something to read. A subscription stands in it at most once, since a channel wakes
/// it once until it has drained; so its length is bounded by the session's subscriptions.
#[derive(Debug, Default)]
pub(super) struct Ready {
    queue: Mutex<VecDeque<usize>>,
    waker: AtomicWaker,
    /// There is something to do though nothing is in it.
    poked: AtomicBool,
    /// Where reading stands is told by a cursor, which has room for so many channels only.
    by_cursor: bool,
}

/// A wait. Nothing of who waits is kept when it is over: a session may keep a `Ready` for longer than its connection lasted.
struct Waiting<'a>(&'a Ready);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waker.take();
    }
}

impl Ready {
    pub(super) fn new(by_cursor: bool) -> Self {
        Self { by_cursor, ..Self::default() }
    }

    pub(super) fn push(&self, key: usize) {
        let mut queue = lock(&self.queue);
        if !queue.contains(&key) {
            queue.push_back(key);
        }
        drop(queue);
        self.waker.wake();
    }

    pub(super) fn is_described_by_cursors(&self) -> bool {
        self.by_cursor
    }

    pub(super) fn push_front(&self, key: usize) {
        lock(&self.queue).push_front(key);
    }

    pub(super) fn push_back(&self, key: usize) {
        lock(&self.queue).push_back(key);
    }

    pub(super) fn pop(&self) -> Option<usize> {
        lock(&self.queue).pop_front()
    }

    /// Wakes whoever waits, though there is nothing to read.
    pub(super) fn poke(&self) {
        self.poked.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn is_empty(&self) -> bool {
        lock(&self.queue).is_empty() && !self.poked.swap(false, Ordering::AcqRel)
    }

    /// Waits until it is not empty, or was poked. Cancel-safe, for one who waits.
    pub(super) async fn filled(&self) {
        let _waiting = Waiting(self);
        poll_fn(|cx| {
            // Before looking, so that nothing comes unseen in between.
            self.waker.register(cx.waker());
            if self.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        task::{Wake, Waker},
    };

    use super::*;

    struct Task;

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn who_no_longer_waits_is_not_kept() {
        let (ready, task) = (Ready::default(), Arc::new(Task));
        let waker = Waker::from(task.clone());
        let mut wait = Box::pin(ready.filled());
        assert!(wait.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
        drop(waker);
        assert_eq!(Arc::strong_count(&task), 2, "it is to be woken");
        drop(wait);
        assert_eq!(Arc::strong_count(&task), 1);
    }
}
