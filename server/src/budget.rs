//! What one client may make the server hold at once.

use std::{pin::pin, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A budget in bytes, shared by all that one connection or session does. Who finds it spent waits, and so is not read on.
#[derive(Clone, Debug)]
pub struct Budget {
    left: Arc<Semaphore>,
    all: usize,
}

/// Bytes of a budget, until it is dropped.
#[derive(Debug)]
pub struct Reserved {
    _permit: Option<OwnedSemaphorePermit>,
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
        Reserved { _permit: pin!(self.left.clone().acquire_many_owned(bytes)).await.ok() }
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
        let mut second = pin!(budget.reserve(60));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        assert!(second.now_or_never().is_some());
        assert!(budget.reserve(1000).now_or_never().is_some(), "no more than all");
    }
}
