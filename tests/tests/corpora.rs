//! The fuzzers' corpora, replayed by the ordinary tests.

#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

use baton_tests::fuzzing::TARGETS;
use std::path::Path;

#[test]
fn every_target_has_a_corpus_and_all_of_it_passes() {
    for (name, target) in TARGETS {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "no corpus in {}", dir.display());
        for file in files {
            // Named first, so that a panic's output says which file it was.
            println!("{}", file.display());
            target(&std::fs::read(&file).unwrap());
        }
    }
}
