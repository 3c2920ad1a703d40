//! `NSString`.

use super::NSObject;
use crate::objc::{Allocated, Class, Instance, Object, Strong, class, refuse};
use std::ffi::{CString, c_char, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;

/// `NSUTF8StringEncoding`.
const UTF8: usize = 4;
/// `NSASCIIStringEncoding`.
const ASCII: usize = 1;

/// `NSString`: text that does not change.
pub struct NSString {
    text: String,
    /// The same with a NUL, as far as C can have it.
    c_text: CString,
}

class! {
    NSString: linked "._OBJC_CLASS_NSString" "NSString", superclass NSObject, protocols ["NSCopying"], Short;
    + "string" => NSString::empty;
    + "stringWithUTF8String:" => NSString::with_utf8;
    - "init" => NSString::init;
    - "initWithBytes:length:encoding:" => NSString::init_with_bytes;
    - "UTF8String" => NSString::utf8;
    - "lengthOfBytesUsingEncoding:" => NSString::length_in;
    - "length" => NSString::length;
    - "isEqual:" => NSString::is_equal;
    - "isEqualToString:" => NSString::is_equal_to_string;
    - "hash" => NSString::hash_value;
    - "copy" => NSString::copy;
    - "copyWithZone:" => NSString::copy_with_zone;
    - "description" => NSString::description;
}

impl NSString {
    /// A string.
    pub fn new(text: &str) -> Strong<NSString> {
        let until_nul = text.split('\0').next().unwrap_or_default();
        Strong::new(NSString { text: text.to_owned(), c_text: CString::new(until_nul).unwrap_or_default() })
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn empty(_: &'static Class) -> Strong<NSString> {
        Self::new("")
    }

    fn with_utf8(_: &'static Class, text: *const c_char) -> Option<Strong<NSString>> {
        // SAFETY: the caller's C string.
        let text = unsafe { std::ffi::CStr::from_ptr(text) };
        Some(Self::new(text.to_str().ok()?))
    }

    fn init(_: Allocated) -> Strong<NSString> {
        Self::new("")
    }

    // The encoding is an int in GNUstep's declaration, which objc2 follows, here and below.
    fn init_with_bytes(
        _: Allocated,
        bytes: *const c_void,
        length: usize,
        encoding: i32,
    ) -> Option<Strong<NSString>> {
        wants_utf8("-[NSString initWithBytes:length:encoding:]", encoding as usize);
        // SAFETY: the caller's bytes.
        let bytes =
            if length == 0 { &[] } else { unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), length) } };
        Some(Self::new(std::str::from_utf8(bytes).ok()?))
    }

    fn utf8(&self) -> *const c_char {
        self.c_text.as_ptr()
    }

    fn length_in(&self, encoding: i32) -> usize {
        wants_utf8("-[NSString lengthOfBytesUsingEncoding:]", encoding as usize);
        self.text.len()
    }

    fn length(&self) -> usize {
        self.text.encode_utf16().count()
    }

    fn is_equal(&self, other: Option<&Object>) -> bool {
        other.and_then(|other| other.downcast::<NSString>()).is_some_and(|other| other.text == self.text)
    }

    fn is_equal_to_string(&self, other: Option<&Instance<NSString>>) -> bool {
        other.is_some_and(|other| other.text == self.text)
    }

    fn hash_value(&self) -> usize {
        let mut hasher = DefaultHasher::new();
        self.text.hash(&mut hasher);
        hasher.finish() as usize
    }

    fn copy(this: &Instance<NSString>) -> Strong<NSString> {
        this.retain()
    }

    fn copy_with_zone(this: &Instance<NSString>, _zone: *mut c_void) -> Strong<NSString> {
        this.retain()
    }

    fn description(this: &Instance<NSString>) -> Strong<NSString> {
        this.retain()
    }
}

fn wants_utf8(place: &str, encoding: usize) {
    if encoding != UTF8 && encoding != ASCII {
        refuse(&format!("{place}: wants UTF-8, got encoding {encoding}"));
    }
}

/// A `label` property: what objects are called in reports.
#[derive(Default)]
pub struct Label(Mutex<Option<String>>);

impl Label {
    /// Sets it; the text is copied.
    pub fn set(&self, label: Option<&Instance<NSString>>) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = label.map(|label| label.text().to_owned());
    }

    /// What `-label` returns.
    pub fn get(&self) -> Option<Strong<NSString>> {
        self.text().map(|text| NSString::new(&text))
    }

    /// The text.
    pub fn text(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}
