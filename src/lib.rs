#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

#[cfg(feature = "cli")]
pub mod cli;
pub mod device;
pub mod error;
pub mod generate;
mod kernels;
pub mod load;
pub mod matmul;
pub mod models;
pub mod nn;
pub mod ops;
pub mod train;

pub use error::{Error, NotFinite, Result};
