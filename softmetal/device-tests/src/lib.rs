//! The tests of softmetal's device, in `tests/`.
