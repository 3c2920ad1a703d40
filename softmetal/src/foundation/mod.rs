//! The Foundation classes that Metal's callers use.
