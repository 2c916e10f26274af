//! What a receiver acknowledges, and when.

use std::time::Duration;

use crate::{codec::binary::Ack, limits};

/// Which packets have been taken in.
#[derive(Debug, Default)]
pub(super) struct Acks {
    newest: u64,
    /// Bit *i*: `newest - 1 - i` was taken in.
    before: u64,
    /// Those that are not yet acknowledged, if there are any.
    owed: Option<Owed>,
    /// A packet was skipped, which the sender should hear of at once.
    skipped: bool,
    last: Option<Duration>,
}

/// Packets that are not yet acknowledged.
#[derive(Clone, Copy, Debug)]
struct Owed {
    count: u32,
    /// When the first of them was taken in.
    first: Duration,
    /// When the latest was that may make others wait for more.
    latest: Duration,
}

impl Acks {
    /// Whether a packet has been taken in, as far as is remembered.
    pub(super) fn has(&self, number: u64) -> bool {
        match self.newest.checked_sub(number) {
            None => false,
            Some(0) => self.newest > 0,
            Some(back) => back <= u64::from(Ack::BITS) && self.before >> (back - 1) & 1 == 1,
        }
    }

    /// Takes note of a packet that was taken in, now or again.
    pub(super) fn note(&mut self, number: u64, now: Duration) {
        if number > self.newest {
            let ahead = number - self.newest;
            self.skipped |= ahead > 1;
            let own = if self.newest == 0 { 0 } else { 1 };
            let shift = |bits: u64, by: u64| if by < 64 { bits << by } else { 0 };
            let mask = (1 << Ack::BITS) - 1;
            self.before = (shift(self.before, ahead) | shift(own, ahead - 1)) & mask;
            self.newest = number;
        } else if let Some(back) = (self.newest - number).checked_sub(1)
            && back < u64::from(Ack::BITS)
        {
            self.before |= 1 << back;
        }
        let owed = self.owed.get_or_insert(Owed { count: 0, first: now, latest: now });
        if owed.count < limits::ACK_FRAMES {
            (owed.count, owed.latest) = (owed.count + 1, now);
        }
    }

    /// When an acknowledgement should be sent, if one is owed.
    pub(super) fn due(&self) -> Option<Duration> {
        let owed = self.owed?;
        let due = if self.skipped {
            owed.first
        } else if owed.count < limits::ACK_FRAMES {
            owed.latest + limits::ACK_DELAY
        } else {
            owed.latest.max(owed.first + limits::ACK_DELAY)
        };
        Some(self.last.map_or(due, |last| due.max(last + limits::ACK_GAP)))
    }

    /// The acknowledgement that is owed.
    pub(super) fn take(&mut self, now: Duration) -> Option<Ack> {
        self.owed.take()?;
        self.skipped = false;
        self.last = Some(now);
        Some(Ack { newest: self.newest, bitmap: self.before })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_bitmap_says_which_came() {
        let mut acks = Acks::default();
        for number in [2, 5, 4, 70] {
            assert!(!acks.has(number));
            acks.note(number, ms(0));
            assert!(acks.has(number));
        }
        let ack = acks.take(ms(0)).expect("one is owed");
        assert_eq!(ack, Ack { newest: 70, bitmap: 0 }, "the others are too long ago");
        for number in [69, 8, 7] {
            acks.note(number, ms(1));
        }
        let ack = acks.take(ms(1)).expect("one is owed");
        assert_eq!(ack.numbers().collect::<Vec<_>>(), [70, 69, 8]);
        assert!(!acks.has(7) && acks.has(8) && !acks.has(71));
    }

    #[test]
    fn acknowledgements_wait_for_others_unless_one_was_skipped() {
        let mut acks = Acks::default();
        assert_eq!(acks.due(), None);
        acks.note(1, ms(100));
        assert_eq!(acks.due(), Some(ms(120)));
        acks.note(2, ms(105));
        assert_eq!(acks.due(), Some(ms(125)), "another came while it waited");
        acks.take(ms(125));
        assert_eq!((acks.due(), acks.take(ms(125))), (None, None));
        acks.note(4, ms(126));
        assert_eq!(acks.due(), Some(ms(129)), "at once, but not sooner than the gap");
        acks.take(ms(129));
        acks.note(6, ms(200));
        assert_eq!(acks.due(), Some(ms(200)));
    }

    #[test]
    fn no_more_than_four_wait_for_each_other_and_those_of_a_flood_for_the_delay() {
        let mut acks = Acks::default();
        for (number, now) in (1..).zip([100, 117, 134, 151]) {
            acks.note(number, ms(now));
        }
        assert_eq!(acks.due(), Some(ms(151)), "with the fourth");
        acks.note(5, ms(155));
        assert_eq!(acks.due(), Some(ms(151)));
        acks.take(ms(155));
        for number in 6..100 {
            acks.note(number, ms(200));
        }
        assert_eq!(acks.due(), Some(ms(220)));
    }
}
