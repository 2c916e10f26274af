//! What happens to a client, and when. Pure: a seed determines all of it.

use std::{fmt, time::Duration};

use crate::bench::random::Random;

/// Strikes fall after this share of the events, and before that one, so that something always flows on both sides.
const SPAN: (f64, f64) = (0.02, 0.95);
/// The shortest pause, as a share of the longest.
const LEAST_PAUSE: f64 = 0.05;
/// How often something happens soon after what happened before, and within how many events.
const SOON: (f64, u64) = (0.25, 40);
/// How often a client comes back with its session, and not by its cursor alone.
const WITH_SESSION: f64 = 0.65;

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Route {
    WebTransport,
    WebSocket,
    Sse,
    Poll,
}

impl Route {
    pub(super) const ALL: [Self; 4] = [Self::WebTransport, Self::WebSocket, Self::Sse, Self::Poll];
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::WebTransport => "webtransport",
            Self::WebSocket => "websocket",
            Self::Sse => "sse",
            Self::Poll => "poll",
        })
    }
}

/// What is done to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// Its connection is gone without a close. It comes back after a pause.
    Killed,
    /// It stops reading for a while.
    Stalled,
    /// It neither reads nor writes nor acknowledges for a while.
    Frozen,
    /// It goes on over another transport while it still has the first.
    Moved,
    /// It comes from another address.
    Readdressed,
    /// Not of the schedule: the server ended its connection, or it was lost.
    Broken,
}

impl Fault {
    /// Those of a schedule.
    pub(super) const PLANNED: [Self; 5] =
        [Self::Killed, Self::Stalled, Self::Frozen, Self::Moved, Self::Readdressed];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Killed => "killed",
            Self::Stalled => "stalled",
            Self::Frozen => "frozen",
            Self::Moved => "moved",
            Self::Readdressed => "readdressed",
            Self::Broken => "broken",
        })
    }
}

/// By what a client comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// By its session, and the positions that it has.
    Session,
    /// By the positions alone.
    Cursor,
}

/// What a client that moves does meanwhile with the connection that it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Old {
    /// It takes what still comes there.
    Taken,
    /// It takes nothing more of it, and keeps it until it is on the other.
    Ignored,
    /// It ends what it reads there, while it asks the other to go on.
    LetGo,
}

impl Old {
    const ALL: [Self; 3] = [Self::Taken, Self::Ignored, Self::LetGo];
}

/// When something happens to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// When it has got so far in the events, and has recovered from what happened before.
    At(u64),
    /// When so many more have come, whether it has recovered or not. Never twice in a row, so that what is missed is bounded.
    Soon(u64),
}

/// One thing that happens to a client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Strike {
    pub(super) moment: Moment,
    pub(super) fault: Fault,
    /// How long the client is away, where it is.
    pub(super) pause: Duration,
    /// Where it goes on.
    pub(super) to: Route,
    pub(super) by: By,
    pub(super) old: Old,
}

/// What happens to one client.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Schedule {
    pub(super) first: Route,
    pub(super) by: By,
    /// In the order in which they come.
    pub(super) strikes: Vec<Strike>,
}

impl Schedule {
    /// That of a client. Faults take turns in an order of its own, so that whoever has as many as there are kinds has each.
    pub(super) fn new(seed: u64, client: usize, events: u64, faults: usize, longest: Duration) -> Self {
        let mut random = Random(seed ^ Random(client as u64).next());
        let mut transport = Route::ALL[client % Route::ALL.len()];
        let (first, by) = (transport, means(&mut random));
        let mut moments: Vec<_> = (0..faults)
            .map(|_| ((SPAN.0 + (SPAN.1 - SPAN.0) * random.chance()) * events as f64).ceil() as u64)
            .collect();
        moments.sort_unstable();
        let mut kinds = Vec::new();
        while kinds.len() < faults {
            let mut turn = Fault::PLANNED;
            random.shuffle(&mut turn);
            kinds.extend(turn);
        }
        let mut may_be_soon = false;
        let strikes = moments.into_iter().zip(kinds).map(|(moment, fault)| {
            let soon = random.chance() < SOON.0 && may_be_soon;
            may_be_soon = !soon;
            let others: Vec<_> = Route::ALL.into_iter().filter(|it| *it != transport).collect();
            let to = match fault {
                Fault::Killed => random.one_of(&Route::ALL),
                Fault::Moved => random.one_of(&others),
                _ => None,
            };
            transport = to.unwrap_or(transport);
            Strike {
                moment: if soon { Moment::Soon(random.next() % SOON.1) } else { Moment::At(moment) },
                fault,
                pause: longest.mul_f64(LEAST_PAUSE + (1.0 - LEAST_PAUSE) * random.chance()),
                to: transport,
                by: means(&mut random),
                old: random.one_of(&Old::ALL).unwrap_or(Old::Taken),
            }
        });
        Self { first, by, strikes: strikes.collect() }
    }
}

fn means(random: &mut Random) -> By {
    if random.chance() < WITH_SESSION { By::Session } else { By::Cursor }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const LONGEST: Duration = Duration::from_secs(10);

    fn schedules(seed: u64) -> Vec<Schedule> {
        (0..200).map(|client| Schedule::new(seed, client, 100_000, 10, LONGEST)).collect()
    }

    #[test]
    fn a_seed_determines_it() {
        assert_eq!(schedules(1), schedules(1));
        assert_ne!(schedules(1), schedules(2));
        let all = schedules(1);
        assert_ne!(all[0].strikes, all[4].strikes, "clients have schedules of their own");
    }

    #[test]
    fn strikes_come_in_order_while_events_flow_and_each_kind_comes_to_everybody() {
        for it in schedules(3) {
            assert_eq!(it.strikes.len(), 10);
            let at = |strike: &Strike| match strike.moment {
                Moment::At(moment) => Some(moment),
                Moment::Soon(_) => None,
            };
            let moments: Vec<_> = it.strikes.iter().filter_map(at).collect();
            assert!(moments.is_sorted());
            assert!(moments.iter().all(|moment| (2_000..=95_000).contains(moment)));
            assert!(at(&it.strikes[0]).is_some(), "at first it has no place to come back to");
            assert!(it.strikes.windows(2).all(|pair| pair.iter().any(|strike| at(strike).is_some())));
            assert!(it.strikes.iter().all(|strike| strike.pause <= LONGEST && strike.pause >= LONGEST / 20));
            for kind in Fault::PLANNED {
                assert_eq!(it.strikes.iter().filter(|strike| strike.fault == kind).count(), 2);
            }
        }
    }

    #[test]
    fn all_pairs_of_transports_are_moved_between_in_every_way() {
        let (mut moves, mut returns) = (BTreeSet::new(), BTreeSet::new());
        for it in (5..10).flat_map(schedules) {
            let mut at = it.first;
            for strike in it.strikes {
                match strike.fault {
                    Fault::Moved => {
                        assert_ne!(at, strike.to);
                        moves.insert((at, strike.to, strike.by == By::Session, strike.old));
                    }
                    Fault::Killed => {
                        returns.insert((at, strike.to, strike.by == By::Session));
                    }
                    _ => assert_eq!(at, strike.to, "{} stays where it is", strike.fault),
                }
                at = strike.to;
            }
        }
        assert_eq!((moves.len(), returns.len()), (4 * 3 * 2 * 3, 4 * 4 * 2));
    }
}
