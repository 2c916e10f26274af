//! Hands libFuzzer's inputs to the target that `FULMAR_FUZZ` names.
#![no_main]

mod targets;

use std::{env, sync::OnceLock};

use targets::{TARGETS, Target};

static TARGET: OnceLock<Target> = OnceLock::new();

fn named() -> Target {
    let wanted = env::var("FULMAR_FUZZ").unwrap_or_default();
    let found = TARGETS.iter().find(|(name, _)| *name == wanted);
    let Some((_, target)) = found else {
        let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
        eprintln!("FULMAR_FUZZ names a target: {}", names.join(" "));
        std::process::exit(2);
    };
    *target
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    TARGET.get_or_init(named)(input);
});
