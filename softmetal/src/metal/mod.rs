//! The Metal classes.
