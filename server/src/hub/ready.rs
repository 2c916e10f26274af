//! What wakes a feed.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::Mutex,
    task::{Poll, Waker},
};

use super::lock;

/// Which subscriptions of a feed have something to read. A subscription stands in it at most once, since a channel wakes
/// it once until it has drained; so its length is bounded by the session's subscriptions.
#[derive(Debug, Default)]
pub(super) struct Ready {
    /// Under one lock, since whoever looks at one part mostly needs the others.
    state: Mutex<State>,
    /// Where reading stands is told by a cursor, which has room for so many channels only.
    by_cursor: bool,
}

#[derive(Debug, Default)]
struct State {
    /// The first in line; none, if there is nobody. Mostly there is one, which costs no memory elsewhere.
    first: Option<usize>,
    /// Who waits.
    waker: Option<Waker>,
    /// There is something to do though nothing is in it.
    poked: bool,
    /// Those behind the first.
    others: VecDeque<usize>,
}

impl State {
    fn push_back(&mut self, key: usize) {
        if self.first.is_some() {
            self.others.push_back(key);
        } else {
            self.first = Some(key);
        }
    }

    fn push_front(&mut self, key: usize) {
        if let Some(second) = self.first.replace(key) {
            self.others.push_front(second);
        }
    }

    fn contains(&self, key: usize) -> bool {
        self.first == Some(key) || self.others.contains(&key)
    }
}

/// A wait. Nothing of who waits is kept when it is over: a session may keep a `Ready` for longer than its connection lasted.
#[derive(Debug)]
pub struct Waiting<'a> {
    ready: &'a Ready,
    /// Its waker may be kept.
    registered: bool,
}

impl Waiting<'_> {
    /// Whether there is something to read. If there is not, or not yet, who has this waker is woken when there is.
    pub fn poll(&mut self, waker: &Waker) -> Poll<()> {
        let mut state = lock(&self.ready.state);
        if state.first.is_some() || std::mem::take(&mut state.poked) {
            let waker = state.waker.take();
            drop(state);
            drop(waker);
            self.registered = false;
            return Poll::Ready(());
        }
        self.registered = true;
        match &mut state.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        Poll::Pending
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.registered {
            // Dropped apart from the lock, since that runs code of the waker's.
            let waker = lock(&self.ready.state).waker.take();
            drop(waker);
        }
    }
}

impl Ready {
    pub(super) fn new(by_cursor: bool) -> Self {
        Self { by_cursor, ..Self::default() }
    }

    pub(super) fn push(&self, key: usize) {
        let mut state = lock(&self.state);
        if !state.contains(key) {
            state.push_back(key);
        }
        let waker = state.waker.take();
        drop(state);
        wake(waker);
    }

    pub(super) fn is_described_by_cursors(&self) -> bool {
        self.by_cursor
    }

    pub(super) fn push_front(&self, key: usize) {
        lock(&self.state).push_front(key);
    }

    pub(super) fn push_back(&self, key: usize) {
        lock(&self.state).push_back(key);
    }

    pub(super) fn pop(&self) -> Option<usize> {
        let mut state = lock(&self.state);
        let key = state.first.take()?;
        state.first = state.others.pop_front();
        Some(key)
    }

    /// Wakes whoever waits, though there is nothing to read.
    pub(super) fn poke(&self) {
        let mut state = lock(&self.state);
        state.poked = true;
        let waker = state.waker.take();
        drop(state);
        wake(waker);
    }

    /// A wait until it is not empty, or was poked. One at a time.
    pub(super) fn wait(&self) -> Waiting<'_> {
        Waiting { ready: self, registered: false }
    }

    /// Waits until it is not empty, or was poked. Cancel-safe, for one who waits.
    pub(super) async fn filled(&self) {
        let mut waiting = self.wait();
        poll_fn(|cx| waiting.poll(cx.waker())).await;
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
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
