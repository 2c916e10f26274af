//! What one client may make the server hold at once.

use std::{pin::pin, sync::Arc};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits;

/// A budget in bytes, shared by all that one connection or session does. Who finds it spent waits, and so is not read on.
#[derive(Clone, Debug)]
pub struct Budget {
    left: Arc<Semaphore>,
    all: usize,
}

/// Bytes of a budget, until it is dropped.
#[derive(Debug)]
pub struct Reserved {
    permit: Option<OwnedSemaphorePermit>,
}

/// What one HTTP connection has for all of its requests. In the extensions of each of them.
#[derive(Clone, Debug)]
pub struct Budgets {
    /// For bodies of requests.
    pub bodies: Budget,
    /// For answers that are made whole before they are sent.
    pub answers: Budget,
}

impl Budgets {
    /// Those of a new connection.
    pub fn of_connection() -> Self {
        Self {
            bodies: Budget::new(limits::CONNECTION_BODY_BYTES),
            answers: Budget::new(limits::CONNECTION_ANSWER_BYTES),
        }
    }
}

impl Reserved {
    /// Gives back what is above `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.permit {
            drop(permit.split(permit.num_permits().saturating_sub(bytes)));
        }
    }

    /// `bytes`, which keep this until their last reader has gone.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held { bytes, _reserved: self })
    }
}

struct Held {
    bytes: Bytes,
    _reserved: Reserved,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self { left: Arc::new(Semaphore::new(bytes)), all: bytes }
    }

    /// Waits until `bytes` are left, and takes them. More than there are in all count as all. First come, first served.
    pub async fn reserve(&self, bytes: usize) -> Reserved {
        let bytes = u32::try_from(bytes.min(self.all)).unwrap_or(u32::MAX);
        // A semaphore that is never closed has always a permit in the end.
        Reserved { permit: pin!(self.left.clone().acquire_many_owned(bytes)).await.ok() }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn who_finds_it_spent_waits() {
        let budget = Budget::new(100);
        let first = budget.reserve(60).now_or_never().expect("there is enough");
        {
            let mut second = pin!(budget.reserve(60));
            assert!(second.as_mut().now_or_never().is_none());
            drop(first);
            assert!(second.now_or_never().is_some());
        }
        let mut all = budget.reserve(100).now_or_never().expect("the second was given up");
        all.shrink(40);
        let bytes = all.hold(Bytes::from_static(b"answer"));
        let sixty = budget.reserve(60).now_or_never().expect("given back");
        assert!(budget.reserve(1).now_or_never().is_none());
        drop((bytes, sixty));
        assert!(budget.reserve(1000).now_or_never().is_some(), "no more than all");
    }
}
