//! The Metal classes.

pub mod memory;
