//! The Objective-C runtime: classes, messages, reference counts, autorelease pools, blocks.
