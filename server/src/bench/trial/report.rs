//! What is reported of clients, and how it is printed.

use std::{collections::BTreeMap, time::Duration};

use super::{
    ledger::Faults,
    limits,
    link::Broken,
    schedule::{Fault, Route},
};
use crate::bench::summary::percentile;

/// What became of a client, or of all of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    /// Different events that came.
    pub(super) events: u64,
    pub(super) faults: Faults,
    /// What happened to clients, and how often.
    suffered: BTreeMap<Fault, u64>,
    /// How long it took to recover, in ms, where nothing else happened before.
    recoveries: BTreeMap<Fault, Vec<f64>>,
    /// Where clients went on, and from where.
    ways: BTreeMap<(Route, Route), u64>,
    /// Attempts to connect that came to nothing.
    refused: u64,
    /// Connections on which the server did what it must not.
    wrong: u64,
    /// Clients that gave up.
    gave_up: u64,
    /// What went wrong with connections.
    reasons: Vec<String>,
}

impl Report {
    /// The server ended a connection, or it was lost.
    pub(super) fn broken(&mut self, transport: Route, why: &Broken) {
        self.wrong += u64::from(matches!(why, Broken::Wrong(_)));
        self.reason(format!("{transport} ended: {why}"));
    }

    /// An attempt to connect came to nothing.
    pub(super) fn refused(&mut self, transport: Route, why: &Broken) {
        self.refused += 1;
        self.wrong += u64::from(matches!(why, Broken::Wrong(_)));
        self.reason(format!("no {transport}: {why}"));
    }

    /// The client can do nothing more.
    pub(super) fn gave_up(&mut self, on: Route, why: &str) {
        self.gave_up += 1;
        // It says more than what came before.
        self.reasons.insert(0, format!("a client gave up on {on}, {why}"));
    }

    /// The client goes on.
    pub(super) fn went(&mut self, from: Route, to: Route) {
        *self.ways.entry((from, to)).or_default() += 1;
    }

    /// Something happened to the client.
    pub(super) fn suffered(&mut self, fault: Fault) {
        *self.suffered.entry(fault).or_default() += 1;
    }

    /// The client has caught up.
    pub(super) fn recovered(&mut self, from: Fault, took: Duration) {
        self.recoveries.entry(from).or_default().push(took.as_secs_f64() * 1e3);
    }

    fn reason(&mut self, reason: String) {
        if self.reasons.len() < limits::REASONS {
            self.reasons.push(reason);
        }
    }

    /// Whether the client has seen each event once and in order, and nothing else was wrong.
    pub(super) fn is_clean(&self) -> bool {
        self.faults == Faults::default() && self.wrong == 0 && self.gave_up == 0
    }

    pub(super) fn add(&mut self, other: Self) {
        self.events += other.events;
        self.faults.add(other.faults);
        for (fault, count) in other.suffered {
            *self.suffered.entry(fault).or_default() += count;
        }
        for (fault, times) in other.recoveries {
            self.recoveries.entry(fault).or_default().extend(times);
        }
        for (way, count) in other.ways {
            *self.ways.entry(way).or_default() += count;
        }
        self.refused += other.refused;
        self.wrong += other.wrong;
        self.gave_up += other.gave_up;
        for reason in other.reasons {
            self.reason(reason);
        }
    }

    /// What is wrong, in one line.
    pub(super) fn wrongs(&self) -> String {
        let Faults { lost, repeated, out_of_order, strange, gaps, resets } = self.faults;
        format!(
            "lost {lost}, repeated {repeated}, out of order {out_of_order}, never published {strange}, gaps {gaps}, \
             resets {resets}, wrong answers {}, gave up {}",
            self.wrong, self.gave_up
        )
    }

    /// A line for each client.
    pub(super) fn print_line(&self, client: usize) {
        let worst = self.recoveries.values().flatten().copied().fold(0.0, f64::max);
        println!("{client:>8} events {:>8}, {}, worst recovery {worst:.0} ms", self.events, self.wrongs());
    }

    /// All that there is to say.
    pub(super) fn print(&mut self) {
        println!("{} deliveries; {}", self.events, self.wrongs());
        println!(
            "{:>14} {:>8} {:>12} {:>12} {:>12} {:>12}",
            "fault", "times", "recovered", "p50 ms", "p99 ms", "max ms"
        );
        for (fault, count) in &self.suffered {
            let mut none = Vec::new();
            let times = self.recoveries.get_mut(fault).unwrap_or(&mut none);
            let [p50, p99, max] = [50.0, 99.0, 100.0].map(|percent| percentile(times, percent));
            let recovered = times.len();
            println!("{fault:>14} {count:>8} {recovered:>12} {p50:>12.1} {p99:>12.1} {max:>12.1}");
        }
        println!("{:>14} {}", "went on from to", Route::ALL.map(|to| format!("{to:>14}")).concat());
        for from in Route::ALL {
            let cell = |to| self.ways.get(&(from, to)).copied().unwrap_or(0);
            println!("{from:>14}  {}", Route::ALL.map(|to| format!("{:>14}", cell(to))).concat());
        }
        if !self.reasons.is_empty() {
            println!("{} attempts to connect failed; the first of what was wrong:", self.refused);
            self.reasons.iter().for_each(|reason| println!("  {reason}"));
        }
    }
}
