//! A software Metal device for Linux.
//!
//! Built as a shared library, it stands in for the Objective-C runtime and for the Metal, Foundation and Metal
//! Performance Shaders classes that a Rust program on `objc2-metal` uses: shaders are compiled by clang and run on the
//! CPU, under a checker. It is no fast device and no model of Apple's hardware: it says whether a program's Metal code
//! is right by the rules that can be written down.
//!
//! ```text
//! objc   the Objective-C runtime: classes, messages, reference counts, blocks
//! foundation, metal, mps   the classes
//! msl    Metal Shading Language to a loaded kernel
//! exec   threads, threadgroups and the checker of their memory
//! report what was found wrong
//! strict Metal text, read with the rules of Apple's compiler
//! ```
#![deny(missing_docs)]

pub mod config;
pub mod exec;
pub mod foundation;
pub mod metal;
pub mod mps;
pub mod msl;
pub mod objc;
pub mod report;
pub mod strict;
