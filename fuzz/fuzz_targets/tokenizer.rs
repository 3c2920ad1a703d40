#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(
    // libFuzzer's hook would end the process at a panic of the tokenizers crate, which `load` turns into an error.
    init: drop(std::panic::take_hook()),
    |data: &[u8]| targets::run("tokenizer", data)
);
