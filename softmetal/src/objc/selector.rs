//! Selectors: names that are compared by address.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char};
use std::sync::{LazyLock, RwLock};

/// A method's name, interned.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Selector(*const c_char);

// SAFETY: the name it points to is never freed.
unsafe impl Send for Selector {}
// SAFETY: as above, nor changed.
unsafe impl Sync for Selector {}

static NAMES: LazyLock<RwLock<HashMap<&'static CStr, Selector>>> = LazyLock::new(RwLock::default);

impl Selector {
    /// The selector of that name.
    pub fn named(name: &CStr) -> Self {
        if let Some(&selector) = NAMES.read().unwrap_or_else(|e| e.into_inner()).get(name) {
            return selector;
        }
        let mut names = NAMES.write().unwrap_or_else(|e| e.into_inner());
        if let Some(&selector) = names.get(name) {
            return selector;
        }
        let kept: &'static CStr = Box::leak(CString::from(name).into_boxed_c_str());
        let selector = Self(kept.as_ptr());
        names.insert(kept, selector);
        selector
    }

    /// The selector of that name, where a program or a class has one.
    pub fn known(name: &CStr) -> Option<Self> {
        NAMES.read().unwrap_or_else(|e| e.into_inner()).get(name).copied()
    }

    /// The name, as C has it.
    pub fn as_ptr(self) -> *const c_char {
        self.0
    }

    /// The name.
    pub fn name(self) -> &'static str {
        // SAFETY: a selector is only made from a leaked C string.
        unsafe { CStr::from_ptr(self.0) }.to_str().unwrap_or("<no UTF-8>")
    }
}
