//! The Metal Performance Shaders classes for matrices, to Apple's documented contract.
