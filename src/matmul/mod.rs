//! Matrix products: what can compute one, and which of them does.

mod view;

#[allow(unused_imports, reason = "for the backends")]
pub(crate) use view::{Product, View};
