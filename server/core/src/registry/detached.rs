//! The sessions without a connection.

use std::{cmp::Reverse, collections::BTreeSet, time::Duration};

use super::SessionId;

/// A session's stay without a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stay {
    pub(super) since: Duration,
    /// Its subscriptions.
    pub(super) subscriptions: usize,
}

/// All of them, in the orders in which they end.
#[derive(Debug, Default)]
pub(super) struct Detached {
    /// Those first that have been for longest.
    by_age: BTreeSet<(Duration, SessionId)>,
    /// Those last that have most subscriptions; of those, the one that has been for longest.
    by_size: BTreeSet<(usize, Reverse<Duration>, SessionId)>,
    subscriptions: usize,
}

impl Detached {
    pub(super) fn insert(&mut self, id: SessionId, stay: Stay) {
        self.by_age.insert((stay.since, id));
        self.by_size.insert((stay.subscriptions, Reverse(stay.since), id));
        self.subscriptions += stay.subscriptions;
    }

    pub(super) fn remove(&mut self, id: SessionId, stay: Stay) {
        self.by_age.remove(&(stay.since, id));
        self.by_size.remove(&(stay.subscriptions, Reverse(stay.since), id));
        self.subscriptions -= stay.subscriptions;
    }

    /// That which has been for longest, and since when.
    pub(super) fn oldest(&self) -> Option<(Duration, SessionId)> {
        self.by_age.first().copied()
    }

    /// That which has most subscriptions.
    pub(super) fn largest(&self) -> Option<SessionId> {
        self.by_size.last().map(|(_, _, id)| *id)
    }

    /// The subscriptions of all together.
    pub(super) fn subscriptions(&self) -> usize {
        self.subscriptions
    }
}
