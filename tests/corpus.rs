//! What the fuzzer found worth keeping, through the same targets without it, so that every machine's tests know of it.

#[path = "fuzz/targets.rs"]
mod targets;

use std::{collections::BTreeSet, fs, panic, path::Path};

use targets::TARGETS;

#[test]
fn the_corpus_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut broken = Vec::new();
    for (name, target) in TARGETS {
        let inputs: Vec<_> = fs::read_dir(corpus.join(name))
            .unwrap_or_else(|why| panic!("the corpus of {name}: {why}"))
            .map(|input| input.expect("an entry").path())
            .collect();
        assert!(!inputs.is_empty(), "{name} has inputs");
        for path in inputs {
            let input = fs::read(&path).expect("readable");
            if panic::catch_unwind(|| target(&input)).is_err() {
                broken.push(path);
            }
        }
    }
    assert!(broken.is_empty(), "these inputs break their targets: {broken:#?}");
}

#[test]
fn every_part_of_the_corpus_has_its_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let parts = fs::read_dir(corpus).expect("the corpus").map(|it| it.expect("an entry").file_name());
    let parts: BTreeSet<_> = parts.map(|name| name.into_string().expect("a name")).collect();
    assert_eq!(parts, TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect());
}
