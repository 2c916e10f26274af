//! A fault that is planted in one client, so that it is seen that the trial finds it. Pure.

/// What goes wrong, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    /// An event does not reach the application
    Lost,
    /// An event reaches it again
    Repeated,
    /// Two events of a channel reach it in each other's place
    Swapped,
    /// The client comes back one offset too late
    Late,
}

/// What stands between a client and its application.
#[derive(Clone, Debug)]
pub(super) struct Plant {
    kind: Option<Kind>,
    held: Option<(usize, u64)>,
}

impl Plant {
    pub(super) fn new(kind: Option<Kind>) -> Self {
        Self { kind, held: None }
    }

    /// What reaches the application when an event of a channel has come; `struck` once something has happened to the client.
    pub(super) fn pass(
        &mut self,
        struck: bool,
        channel: usize,
        number: u64,
    ) -> impl Iterator<Item = (usize, u64)> {
        let event = (channel, number);
        let mut passed = [Some(event), None];
        if let Some(held) = self.held.take_if(|held| held.0 == channel) {
            passed[1] = Some(held);
        } else if struck {
            match self.kind.take_if(|kind| *kind != Kind::Late) {
                Some(Kind::Lost) => passed[0] = None,
                Some(Kind::Repeated) => passed[1] = Some(event),
                Some(Kind::Swapped) => self.held = passed[0].take(),
                Some(Kind::Late) | None => {}
            }
        }
        passed.into_iter().flatten()
    }

    /// Whether the client, which comes back, does so too late.
    pub(super) fn is_late(&mut self) -> bool {
        self.kind.take_if(|kind| *kind == Kind::Late).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(kind: Option<Kind>) -> Vec<u64> {
        let mut plant = Plant::new(kind);
        (1..=6)
            .flat_map(|number| plant.pass(number > 2, 0, number).collect::<Vec<_>>())
            .map(|it| it.1)
            .collect()
    }

    #[test]
    fn it_happens_once() {
        assert_eq!(numbers(None), [1, 2, 3, 4, 5, 6]);
        assert_eq!(numbers(Some(Kind::Lost)), [1, 2, 4, 5, 6]);
        assert_eq!(numbers(Some(Kind::Repeated)), [1, 2, 3, 3, 4, 5, 6]);
        assert_eq!(numbers(Some(Kind::Swapped)), [1, 2, 4, 3, 5, 6]);
        assert_eq!(numbers(Some(Kind::Late)), [1, 2, 3, 4, 5, 6]);
        let mut late = Plant::new(Some(Kind::Late));
        assert_eq!([late.is_late(), late.is_late()], [true, false]);
    }

    #[test]
    fn events_are_swapped_within_a_channel() {
        let mut plant = Plant::new(Some(Kind::Swapped));
        let passed: Vec<_> = [(0, 1), (1, 1), (0, 2)]
            .into_iter()
            .flat_map(|(c, n)| plant.pass(true, c, n).collect::<Vec<_>>())
            .collect();
        assert_eq!(passed, [(1, 1), (0, 2), (0, 1)]);
    }
}
