//! Matrix products: what can compute one, and which of them does.

#[cfg(feature = "metal")]
pub mod mps;
mod view;

#[allow(unused_imports, reason = "for the backends")]
pub(crate) use view::{Product, View};
