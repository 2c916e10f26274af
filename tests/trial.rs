//! `fulmar bench trial`, and that it can fail.

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fulmar"));
    command.args(["bench", "trial"]).args(arguments).output().expect("it runs")
}

/// A few clients, each of which suffers every kind of fault.
fn trial(more: &[&str]) -> Output {
    let few = ["--clients=4", "--events=400", "--rate=200", "--pause=0.4", "--faults=5"];
    run(&[few.as_slice(), more].concat())
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn nothing_is_lost_repeated_or_out_of_order() {
    let output = trial(&["--verbose"]);
    let words = words(&output);
    assert!(output.status.success(), "{words}");
    assert!(words.contains("1600 deliveries; lost 0, repeated 0, out of order 0,"), "{words}");
}

#[test]
fn what_is_planted_is_found() {
    let found = [
        ("lost", "lost 1, repeated 0, out of order 0,"),
        ("repeated", "lost 0, repeated 1, out of order 0,"),
        ("swapped", "lost 0, repeated 0, out of order 1,"),
    ];
    for (plant, expected) in found {
        let output = trial(&["--plant", plant]);
        let words = words(&output);
        assert!(!output.status.success(), "{plant}: {words}");
        assert!(words.contains(&format!("the trial failed with seed 1: {expected}")), "{plant}: {words}");
    }
}

#[test]
fn a_client_that_comes_back_too_late_is_found() {
    let output = trial(&["--plant=late"]);
    let words = words(&output);
    assert!(!output.status.success(), "{words}");
    // Where it had everything, the place after is one that the server does not know.
    assert!(words.contains(": lost 1, ") || words.contains(" gaps 1,"), "{words}");
}

#[test]
fn what_the_history_cannot_hold_is_refused() {
    let output = run(&["--rate=1000000"]);
    assert!(!output.status.success());
    assert!(
        words(&output).contains("take a lower --rate or --pause, or more --channels"),
        "{}",
        words(&output)
    );
}
