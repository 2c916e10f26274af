//! The idempotency window: a publish that comes again gets its first answer.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::{limits, name::PublicationId, position::Position, time::Now};

/// Remembers what was answered to the last 10,000 publication ids of a channel, each for two minutes. It belongs to
/// the channel, so it outlives the publisher's session.
#[derive(Debug, Default)]
pub struct Window {
    answers: HashMap<Box<str>, Position>,
    order: VecDeque<(Duration, Box<str>)>,
    bytes: usize,
}

impl Window {
    /// What was answered to `id` of `publisher`, if it is remembered.
    pub fn get(&mut self, publisher: &str, id: &PublicationId, now: Now) -> Option<Position> {
        self.expire(now);
        self.answers.get(&*name(publisher, id)).cloned()
    }

    /// Remembers an answer.
    pub fn insert(&mut self, publisher: &str, id: &PublicationId, answer: Position, now: Now) {
        self.expire(now);
        if self.order.len() == limits::WINDOW_IDS {
            self.forget_oldest();
        }
        let name = name(publisher, id);
        self.bytes += cost(&name);
        self.order.push_back((now.monotonic, name.clone()));
        self.answers.insert(name, answer);
    }

    /// Forgets what is older than two minutes.
    pub fn expire(&mut self, now: Now) {
        while self.order.front().is_some_and(|(at, _)| now.since(*at) >= limits::WINDOW_AGE) {
            self.forget_oldest();
        }
    }

    /// What it occupies, roughly, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn forget_oldest(&mut self) {
        if let Some((_, name)) = self.order.pop_front() {
            self.bytes -= cost(&name);
            self.answers.remove(&name);
        }
    }
}

/// An id is scoped to its publisher. Publishers' names hold no NUL.
fn name(publisher: &str, id: &PublicationId) -> Box<str> {
    [publisher, "\0", id.as_str()].concat().into()
}

fn cost(name: &str) -> usize {
    2 * name.len() + 128
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Epoch, Offset};

    fn position(n: u64) -> Position {
        Position { epoch: Epoch::from_entropy(0), offset: Offset::new(n).expect("small") }
    }

    fn id(n: usize) -> PublicationId {
        PublicationId::parse(&n.to_string()).expect("an id")
    }

    #[test]
    fn a_repeat_is_known_within_its_scope_and_time() {
        let mut window = Window::default();
        window.insert("alice", &id(1), position(7), Now::from_millis(0));
        assert_eq!(window.get("alice", &id(1), Now::from_millis(119_999)), Some(position(7)));
        assert_eq!(window.get("bob", &id(1), Now::from_millis(0)), None);
        assert_eq!(window.get("alice", &id(1), Now::from_millis(120_000)), None);
        assert_eq!((window.bytes(), window.order.len()), (0, 0));
    }

    #[test]
    fn it_holds_no_more_than_its_bound() {
        let mut window = Window::default();
        for n in 0..limits::WINDOW_IDS + 10 {
            window.insert("p", &id(n), position(n as u64), Now::from_millis(0));
        }
        assert_eq!(window.order.len(), limits::WINDOW_IDS);
        assert_eq!(window.answers.len(), limits::WINDOW_IDS);
        assert_eq!(window.get("p", &id(9), Now::from_millis(0)), None);
        assert_eq!(window.get("p", &id(10), Now::from_millis(0)), Some(position(10)));
    }
}
