#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| baton_tests::fuzzing::request_routing(bytes));
