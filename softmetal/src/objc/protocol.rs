//! Protocols: here, names that classes say to conform to.

use super::abi::c_functions;
use super::abi_introspection::copied;
use super::class::{Class, classes};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_uint};
use std::sync::LazyLock;

/// A protocol.
pub struct Protocol {
    name: &'static str,
    c_name: CString,
}

/// Those of all classes.
static PROTOCOLS: LazyLock<BTreeMap<&'static str, Protocol>> = LazyLock::new(|| {
    let names = classes().flat_map(|class| class.protocols().iter().copied());
    names.map(|name| (name, Protocol { name, c_name: CString::new(name).unwrap_or_default() })).collect()
});

c_functions! {
    /// The protocol of that name, if a class conforms to it.
    fn objc_getProtocol(name: *const c_char) -> *const Protocol {
        let protocol = CStr::from_ptr(name).to_str().ok().and_then(|name| PROTOCOLS.get(name));
        protocol.map_or(std::ptr::null(), std::ptr::from_ref)
    }

    /// All protocols.
    fn objc_copyProtocolList(count: *mut c_uint) -> *mut *const Protocol {
        copied(&PROTOCOLS.values().map(std::ptr::from_ref).collect::<Vec<_>>(), count)
    }

    /// The protocols that a class says itself to conform to.
    fn class_copyProtocolList(class: *const Class, count: *mut c_uint) -> *mut *const Protocol {
        let names = class.as_ref().map_or(&[] as &[&str], Class::protocols);
        copied(&names.iter().map(|name| std::ptr::from_ref(&PROTOCOLS[name])).collect::<Vec<_>>(), count)
    }

    /// Whether a class or a superclass conforms to a protocol.
    fn class_conformsToProtocol(class: *const Class, protocol: *const Protocol) -> u8 {
        let conforms = |(class, protocol): (&Class, &Protocol)| class.conforms_to(protocol.name);
        u8::from(class.as_ref().zip(protocol.as_ref()).is_some_and(conforms))
    }

    /// The name of a protocol.
    fn protocol_getName(protocol: *const Protocol) -> *const c_char {
        (*protocol).c_name.as_ptr()
    }

    /// Whether two protocols are the same.
    fn protocol_isEqual(one: *const Protocol, other: *const Protocol) -> u8 {
        u8::from(std::ptr::eq(one, other))
    }
}
