//! Publications off datagrams that came before the frame that names their alias. PROTOCOL.md, section 8.

use std::collections::VecDeque;

use fulmar_core::{Draft, Offset};
use tokio::time::Instant;

use crate::limits;

/// A publication whose alias stands for nothing yet.
#[derive(Debug)]
pub(crate) struct Nameless {
    pub(crate) alias: u64,
    pub(crate) offset: Offset,
    pub(crate) time: u64,
    pub(crate) draft: Draft,
}

/// The last such publications of a moment.
#[derive(Debug, Default)]
pub(crate) struct Early {
    kept: VecDeque<(Instant, Nameless)>,
}

impl Early {
    /// Keeps one. Whether another had to go.
    pub(crate) fn keep(&mut self, it: Nameless, now: Instant) -> bool {
        self.expire(now);
        let full = self.kept.len() == limits::EARLY_FRAMES;
        if full {
            self.kept.pop_front();
        }
        self.kept.push_back((now, it));
        full
    }

    /// Those of an alias, in the order in which they came.
    pub(crate) fn take(&mut self, alias: u64, now: Instant) -> Vec<Nameless> {
        self.expire(now);
        let (taken, kept): (VecDeque<_>, _) =
            std::mem::take(&mut self.kept).into_iter().partition(|(_, it)| it.alias == alias);
        self.kept = kept;
        taken.into_iter().map(|(_, it)| it).collect()
    }

    fn expire(&mut self, now: Instant) {
        while self.kept.front().is_some_and(|(at, _)| now.duration_since(*at) > limits::EARLY_AGE) {
            self.kept.pop_front();
        }
    }
}
