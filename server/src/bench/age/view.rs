//! What a subscriber holds, and how old it is.

use std::collections::HashMap;

use fulmar_core::Key;

use super::{figures::Histogram, stamp::Stamp};

/// Between two looks at the age of what is held, in ms.
const LOOK: f64 = 1.0;

/// The values of a channel as one subscriber has them. Times are in ms since 1970.
#[derive(Debug, Default)]
pub(super) struct View {
    held: HashMap<Key, Held>,
    ages: Histogram,
    convergence: Histogram,
    /// Ends of bursts that were never seen, since the next burst came before.
    passed_over: u64,
    publications: u64,
}

#[derive(Debug)]
struct Held {
    offset: u64,
    time: f64,
    stamp: Stamp,
    /// Until when its age has been looked at.
    looked: f64,
}

impl View {
    /// Takes a publication that came at `now`. What is older than what is held says nothing.
    pub(super) fn take(&mut self, now: f64, key: &Key, offset: u64, time: f64, stamp: Stamp) {
        self.publications += 1;
        let last = match self.held.get_mut(key) {
            Some(held) if offset <= held.offset => return,
            Some(held) => {
                held.look(now, &mut self.ages);
                let last = held.stamp;
                *held = Held { offset, time, stamp, looked: held.looked };
                last
            }
            None => {
                self.held.insert(key.clone(), Held { offset, time, stamp, looked: now });
                stamp
            }
        };
        if stamp.is_last() {
            self.convergence.add(now - time);
        }
        // All bursts before the present one should have come to their ends.
        let whole = last.is_last() || last.burst == 0;
        let ended = if whole { last.burst + 1 } else { last.burst };
        self.passed_over += u64::from(stamp.burst.saturating_sub(ended));
    }

    /// Forgets what was noted, and looks from now on.
    pub(super) fn begin(&mut self, now: f64) {
        (self.ages, self.convergence, self.passed_over, self.publications) = Default::default();
        for held in self.held.values_mut() {
            held.looked = now;
        }
    }

    /// What was noted until `now`.
    pub(super) fn report(&mut self, now: f64) -> Noted {
        for held in self.held.values_mut() {
            held.look(now, &mut self.ages);
        }
        let short = self.held.values().filter(|held| !held.stamp.is_last()).count() as u64;
        let mut convergence = self.convergence.clone();
        for _ in 0..self.passed_over + short {
            convergence.add(f64::INFINITY);
        }
        Noted {
            keys: self.held.len(),
            ages: self.ages.clone(),
            convergence,
            missed: self.passed_over + short,
            publications: self.publications,
        }
    }
}

impl Held {
    fn look(&mut self, now: f64, ages: &mut Histogram) {
        while self.looked + LOOK <= now {
            self.looked += LOOK;
            ages.add(self.looked - self.time);
        }
    }
}

/// What subscribers noted.
#[derive(Debug, Default)]
pub(super) struct Noted {
    /// The keys that are held; of many subscribers, by the one who holds the fewest.
    pub(super) keys: usize,
    pub(super) ages: Histogram,
    /// From the acceptance of the last publication of a key in a burst to its receipt; infinite for one that did not come
    /// before the next burst.
    pub(super) convergence: Histogram,
    /// Ends of bursts that a key did not come to.
    pub(super) missed: u64,
    pub(super) publications: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::parse(name).expect("a key")
    }

    fn stamp(burst: u32, tick: u32) -> Stamp {
        Stamp { burst, tick, ticks: 3 }
    }

    #[test]
    fn ages_are_looked_at_every_millisecond() {
        let mut view = View::default();
        view.take(1000.0, &key("a"), 1, 980.0, stamp(0, 0));
        view.begin(1010.0);
        view.take(1020.0, &key("a"), 3, 1000.0, stamp(0, 1));
        // An older one changes nothing.
        view.take(1025.0, &key("a"), 2, 990.0, stamp(0, 2));
        let noted = view.report(1030.0);
        // Ten looks from 31 to 40 ms, then ten from 21 to 30.
        assert_eq!((noted.ages.count(), noted.ages.max()), (20, 40.0));
        assert!((noted.ages.percentile(50.0) - 30.0).abs() < 0.1, "{}", noted.ages.percentile(50.0));
        assert_eq!((noted.keys, noted.publications), (1, 2));
    }

    #[test]
    fn convergence_is_of_the_last_of_a_burst_only() {
        let mut view = View::default();
        view.begin(0.0);
        for tick in 0..3 {
            let time = f64::from(tick) * 10.0;
            view.take(time + 5.0 + f64::from(tick), &key("a"), u64::from(tick) + 1, time, stamp(1, tick));
        }
        assert_eq!((view.convergence.count(), view.convergence.max(), view.passed_over), (1, 7.0, 0));
        // The end of the second burst is lost on one key, that of the third on the other.
        view.take(100.0, &key("b"), 9, 90.0, stamp(2, 1));
        view.take(200.0, &key("b"), 19, 190.0, stamp(3, 2));
        assert_eq!((view.convergence.count(), view.passed_over), (2, 1));
        assert_eq!(view.passed_over, 1);
        // A whole burst went by, and the last has not ended.
        view.take(200.0, &key("a"), 20, 190.0, stamp(3, 1));
        let noted = view.report(300.0);
        assert_eq!((noted.missed, noted.convergence.count(), noted.convergence.max()), (3, 5, f64::INFINITY));
    }
}
