//! What is printed.

use super::{
    figures::Summary,
    flows::Flow,
    publisher::Ticks,
    watcher::{Report, Route},
    wire::Counts,
};

/// The subscribers of one way at one loss.
#[derive(Debug)]
pub(super) struct Line {
    route: Route,
    age: Summary,
    flow: Flow,
    seconds: f64,
    sessions: f64,
}

impl Line {
    pub(super) fn new(report: Report, counts: &Counts, seconds: u64) -> Self {
        let Report { route, flows, age, .. } = report;
        let (flow, sessions) = (counts.flows.sum(&flows), flows.len() as f64);
        Self { route, age, flow, seconds: seconds as f64, sessions }
    }

    fn p99(&self) -> f64 {
        self.age.p99.unwrap_or(f64::INFINITY)
    }

    fn bytes(&self) -> f64 {
        (self.flow.down.bytes + self.flow.up.bytes) as f64
    }
}

pub(super) fn ages_head() {
    println!(
        "{:>7} {:>12} {:>9} {:>9} {:>9} {:>12} {:>10} {:>12} {:>10} {:>8}",
        "loss %",
        "way",
        "p50 ms",
        "p99 ms",
        "max ms",
        "down KB/s",
        "up KB/s",
        "down pkt/s",
        "up pkt/s",
        "lost %"
    );
}

/// The lines of one loss and what they come to; bytes and packets are those of one subscriber.
pub(super) fn ages(loss: f64, lines: &[Line], lossless: &[Line]) {
    for line in lines {
        let each = |number: u64| number as f64 / line.seconds / line.sessions;
        let (down, up) = (line.flow.down, line.flow.up);
        println!(
            "{loss:>7} {:>12} {} {} {} {:>12.1} {:>10.2} {:>12.1} {:>10.1} {:>8.2}",
            line.route,
            ms(line.age.p50),
            ms(line.age.p99),
            ms(line.age.max),
            each(down.bytes) / 1e3,
            each(up.bytes) / 1e3,
            each(down.packets),
            each(up.packets),
            (down.lost + up.lost) as f64 * 100.0 / (down.packets + up.packets).max(1) as f64,
        );
    }
    let by = |lines: &[Line], route| lines.iter().position(|line| line.route == route);
    let find = |route| by(lines, route).map(|at| &lines[at]);
    let websocket = find(Route::Websocket);
    for line in lines.iter().filter(|line| line.route != Route::Websocket) {
        let mut ratios = Vec::new();
        if let Some(websocket) = websocket {
            ratios.push(format!("p99 to websocket's {:.3}", line.p99() / websocket.p99()));
            ratios.push(format!("bytes to websocket's {:.2}", line.bytes() / websocket.bytes()));
        }
        if let Some(at) = by(lossless, line.route) {
            ratios.push(format!("p99 to its own without loss {:.2}", line.p99() / lossless[at].p99()));
        }
        let up = line.flow.up.bytes as f64 * 100.0 / line.flow.down.bytes.max(1) as f64;
        ratios.push(format!("up to down {up:.1} %"));
        println!("{:>20}: {}", line.route, ratios.join(", "));
    }
}

pub(super) fn convergence_head() {
    println!(
        "{:>7} {:>12} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10} {:>8}",
        "loss %", "way", "p50 ms", "p99 ms", "max ms", "p50 RTT", "p99 RTT", "max RTT", "samples", "missed"
    );
}

pub(super) fn convergence(loss: f64, report: &Report, rtt: f64) {
    let Summary { count, p50, p99, max } = report.convergence;
    let times = [p50, p99, max];
    println!(
        "{loss:>7} {:>12} {} {} {} {} {} {} {count:>10} {:>8}",
        report.route,
        ms(times[0]),
        ms(times[1]),
        ms(times[2]),
        ms(times[0].map(|it| it / rtt)),
        ms(times[1].map(|it| it / rtt)),
        ms(times[2].map(|it| it / rtt)),
        report.missed,
    );
}

/// Whether the wire kept its delay, and the publisher its pace: where another load kept them from it, so it did the rest.
pub(super) fn trust(counts: &Counts, ticks: Option<Ticks>) {
    let Summary { p50, p99, max, .. } = counts.lateness;
    let [p50, p99, max] = [p50, p99, max].map(|it| it.unwrap_or(f64::INFINITY));
    let wire = format!("late by {p50:.2} ms at p50, {p99:.2} ms at p99, {max:.2} ms at most");
    let pace = ticks.map_or(String::new(), |it| {
        format!("; published {:.1} % of the times it was due", it.ticks as f64 * 100.0 / it.due)
    });
    println!("{:>20}: {wire}{pace}", "wire");
}

fn ms(time: Option<f64>) -> String {
    time.map_or_else(|| format!("{:>9}", "never"), |it| format!("{it:>9.2}"))
}
