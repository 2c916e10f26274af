//! What an application has seen of numbered events. Pure.

/// The events of each channel are numbered from 1, and come once and in order, or it stands here.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    channels: Vec<Column>,
    faults: Faults,
}

/// One channel's events.
#[derive(Clone, Debug)]
struct Column {
    /// A bit for each number that has come.
    seen: Vec<u64>,
    /// How many there are to come in all.
    total: u64,
    /// The highest that has come.
    highest: u64,
    /// How many different ones have come.
    count: u64,
}

/// What should all be nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Faults {
    /// Events that never came.
    pub(super) lost: u64,
    /// Events that came again.
    pub(super) repeated: u64,
    /// Events that came after later ones.
    pub(super) out_of_order: u64,
    /// Events that were never published.
    pub(super) strange: u64,
    /// Where the server said that events were missed.
    pub(super) gaps: u64,
    /// Where the server said to forget what there is.
    pub(super) resets: u64,
}

impl Faults {
    pub(super) fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.out_of_order += other.out_of_order;
        self.strange += other.strange;
        self.gaps += other.gaps;
        self.resets += other.resets;
    }
}

impl Ledger {
    /// A ledger of channels with so many events each.
    pub(super) fn new(totals: &[u64]) -> Self {
        let column = |total: &u64| Column {
            seen: vec![0; (*total as usize + 1).div_ceil(64)],
            total: *total,
            highest: 0,
            count: 0,
        };
        Self { channels: totals.iter().map(column).collect(), faults: Faults::default() }
    }

    /// An event came.
    pub(super) fn event(&mut self, channel: usize, number: u64) {
        let faults = &mut self.faults;
        let Some(column) = self.channels.get_mut(channel).filter(|it| (1..=it.total).contains(&number))
        else {
            faults.strange += 1;
            return;
        };
        let Some(word) = column.seen.get_mut(number as usize / 64) else { return };
        let bit = 1 << (number % 64);
        if *word & bit != 0 {
            faults.repeated += 1;
            return;
        }
        *word |= bit;
        column.count += 1;
        if number < column.highest {
            faults.out_of_order += 1;
        }
        column.highest = column.highest.max(number);
    }

    /// The server said that events were missed.
    pub(super) fn gap(&mut self) {
        self.faults.gaps += 1;
    }

    /// The server said to forget what there is.
    pub(super) fn reset(&mut self) {
        self.faults.resets += 1;
    }

    /// How far it has come: the highest numbers of all channels together.
    pub(super) fn progress(&self) -> u64 {
        self.channels.iter().map(|it| it.highest).sum()
    }

    /// Whether these numbers, one for each channel, have come, or later ones.
    pub(super) fn has_reached(&self, numbers: &[u64]) -> bool {
        self.channels.iter().zip(numbers).all(|(column, number)| column.highest >= *number)
    }

    /// Whether the last events have come.
    pub(super) fn is_at_the_end(&self) -> bool {
        self.channels.iter().all(|it| it.highest == it.total)
    }

    /// How many different events have come.
    pub(super) fn events(&self) -> u64 {
        self.channels.iter().map(|it| it.count).sum()
    }

    /// What was wrong, if nothing more comes.
    pub(super) fn faults(&self) -> Faults {
        Faults { lost: self.channels.iter().map(|it| it.total - it.count).sum(), ..self.faults }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(numbers: &[u64]) -> Faults {
        let mut ledger = Ledger::new(&[5]);
        for number in numbers {
            ledger.event(0, *number);
        }
        ledger.faults()
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        let none = Faults::default();
        assert_eq!(after(&[1, 2, 3, 4, 5]), none);
        assert_eq!(after(&[1, 2, 4, 5]), Faults { lost: 1, ..none });
        assert_eq!(after(&[1, 2, 3]), Faults { lost: 2, ..none }, "the last ones too");
        assert_eq!(after(&[1, 2, 2, 3, 4, 5, 1]), Faults { repeated: 2, ..none });
        assert_eq!(after(&[1, 3, 2, 4, 5]), Faults { out_of_order: 1, ..none }, "late is not lost");
        assert_eq!(after(&[1, 2, 3, 4, 5, 6, 0]), Faults { strange: 2, ..none });
        assert_eq!(after(&[]), Faults { lost: 5, ..none });
    }

    #[test]
    fn channels_have_no_order_among_them() {
        let mut ledger = Ledger::new(&[130, 2]);
        ledger.event(1, 1);
        assert!(!ledger.has_reached(&[0, 2]));
        ledger.event(1, 2);
        assert!(ledger.has_reached(&[0, 2]) && !ledger.has_reached(&[1, 2]));
        (1..=130).for_each(|number| ledger.event(0, number));
        assert!(ledger.is_at_the_end());
        assert_eq!((ledger.progress(), ledger.events(), ledger.faults()), (132, 132, Faults::default()));
        ledger.event(2, 1);
        assert_eq!(ledger.faults(), Faults { strange: 1, ..Faults::default() }, "nobody subscribed there");
    }

    #[test]
    fn gaps_and_resets_are_wrong_even_if_nothing_is_missing() {
        let mut ledger = Ledger::new(&[0]);
        ledger.gap();
        ledger.reset();
        assert_eq!(ledger.faults(), Faults { gaps: 1, resets: 1, ..Faults::default() });
        let mut sum = after(&[1, 1]);
        sum.add(ledger.faults());
        assert_eq!(sum, Faults { lost: 4, repeated: 1, gaps: 1, resets: 1, ..Faults::default() });
    }
}
