//! Requests that wait for their answers, by `ref`.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fulmar_core::codec::binary::ServerFrame;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{error::Refusal, limits};

type Answer = Result<ServerFrame, Refusal>;

/// The requests of a session.
#[derive(Debug)]
pub(crate) struct Requests {
    waiting: Mutex<Waiting>,
    slots: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u32,
    answers: HashMap<NonZeroU32, oneshot::Sender<Answer>>,
}

/// One request. Dropping it gives the answer up.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) r#ref: NonZeroU32,
    answer: oneshot::Receiver<Answer>,
    requests: Arc<Requests>,
    _slot: OwnedSemaphorePermit,
}

impl Requests {
    pub(crate) fn new() -> Arc<Self> {
        let slots = Arc::new(Semaphore::new(limits::REQUESTS));
        Arc::new(Self { waiting: Mutex::default(), slots })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A `ref` of its own, once fewer than the bound wait; `None` when the session is over.
    pub(crate) async fn begin(self: &Arc<Self>) -> Option<Request> {
        let slot = self.slots.clone().acquire_owned().await.ok()?;
        let (sender, answer) = oneshot::channel();
        let mut waiting = self.waiting();
        let r#ref = loop {
            waiting.last = waiting.last.wrapping_add(1);
            match NonZeroU32::new(waiting.last) {
                Some(r#ref) if !waiting.answers.contains_key(&r#ref) => break r#ref,
                _ => {}
            }
        };
        waiting.answers.insert(r#ref, sender);
        drop(waiting);
        Some(Request { r#ref, answer, requests: self.clone(), _slot: slot })
    }

    /// Gives an answer to who waits for it.
    pub(crate) fn answer(&self, r#ref: NonZeroU32, answer: Answer) {
        let sender = self.waiting().answers.remove(&r#ref);
        if let Some(sender) = sender {
            // Who gave it up does not want it.
            let _ = sender.send(answer);
        }
    }

    /// Nothing is answered any more.
    pub(crate) fn end(&self) {
        self.slots.close();
        self.waiting().answers.clear();
    }
}

impl Request {
    /// The answer; `None` when the session ended before it.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.requests.waiting().answers.remove(&self.r#ref);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_find_their_requests_and_the_end_finds_all() {
        let requests = Requests::new();
        let (mut first, mut second) =
            (requests.begin().await.expect("open"), requests.begin().await.expect("open"));
        assert_ne!(first.r#ref, second.r#ref);
        let pong = |request: &Request| ServerFrame::Pong { r#ref: Some(request.r#ref) };
        requests.answer(second.r#ref, Ok(pong(&second)));
        assert_eq!(second.answer().await, Some(Ok(pong(&second))));
        drop(second);
        requests.answer(NonZeroU32::MAX, Ok(pong(&first)));
        requests.end();
        assert_eq!(first.answer().await, None);
        assert!(requests.begin().await.is_none());
        drop(first);
        assert!(requests.waiting().answers.is_empty());
    }

    #[tokio::test]
    async fn a_request_beyond_the_bound_waits() {
        let requests = Requests::new();
        let mut held = Vec::new();
        for _ in 0..limits::REQUESTS {
            held.push(requests.begin().await.expect("open"));
        }
        let (more, ()) = tokio::join!(requests.begin(), async {
            tokio::task::yield_now().await;
            assert_eq!(requests.waiting().answers.len(), limits::REQUESTS);
            held.pop();
        });
        assert!(more.is_some());
    }
}
