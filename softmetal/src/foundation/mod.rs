//! The Foundation classes that Metal's callers use, as far as they use them.

mod array;
mod collections;
mod error;
mod object;
mod process_info;
mod string;
mod url;

pub use array::NSArray;
pub use collections::{NSDictionary, NSNumber};
pub use error::NSError;
pub use object::NSObject;
pub use process_info::NSProcessInfo;
pub use string::{Label, NSString};
pub use url::NSURL;

use crate::objc::{Class, IsClass};

/// The classes.
pub(crate) const CLASSES: &[fn() -> &'static Class] = &[
    NSObject::class,
    NSString::class,
    NSError::class,
    NSArray::class,
    NSDictionary::class,
    NSNumber::class,
    NSURL::class,
    NSProcessInfo::class,
];
