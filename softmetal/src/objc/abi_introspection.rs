//! The runtime's C functions that ask about classes, methods and objects.

use super::abi::c_functions;
use super::class::{Class, classes};
use super::method::Method;
use super::object::Object;
use super::selector::Selector;
use super::{Implementation, refuse};
use std::ffi::{CString, c_char, c_int, c_uint, c_void};

/// An array of C's with a nil at its end, which the caller frees.
pub(super) fn copied<T>(items: &[*const T], count: *mut c_uint) -> *mut *const T {
    // SAFETY: nil, or a place for a number.
    if let Some(count) = unsafe { count.as_mut() } {
        *count = items.len() as c_uint;
    }
    if items.is_empty() {
        return std::ptr::null_mut();
    }
    // SAFETY: memory for the items and the nil after them.
    unsafe {
        let array = libc::calloc(items.len() + 1, size_of::<*const T>()).cast::<*const T>();
        if array.is_null() {
            refuse("no memory");
        }
        std::ptr::copy_nonoverlapping(items.as_ptr(), array, items.len());
        array
    }
}

/// The encodings in a method's encoding: the result, the receiver, the selector, the arguments.
fn encodings(text: &str) -> Vec<&str> {
    let mut rest = text;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let pointers = rest.len() - rest.trim_start_matches('^').len();
        let length = pointers
            + match rest.as_bytes()[pointers] {
                b'{' => rest[pointers..].find('}').map_or(rest.len() - pointers, |end| end + 1),
                b'@' if rest[pointers..].starts_with("@?") => 2,
                _ => 1,
            };
        found.push(&rest[..length]);
        rest = &rest[length..];
    }
    found
}

fn duplicate(text: &str) -> *mut c_char {
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: a C string; the caller frees the copy.
    unsafe { libc::strdup(text.as_ptr()) }
}

fn method_of(class: &Class, selector: Selector) -> *const Method {
    class.method(selector).map_or(std::ptr::null(), std::ptr::from_ref)
}

c_functions! {
    /// The class of an object; of nil, nil.
    fn object_getClass(object: *const Object) -> *const Class {
        object.as_ref().map_or(std::ptr::null(), |object| object.class())
    }

    /// The name of an object's class.
    fn object_getClassName(object: *const Object) -> *const c_char {
        object.as_ref().map_or(c"nil".as_ptr(), |object| object.class().c_name().as_ptr())
    }

    /// Whether an object is a class.
    fn object_isClass(object: *const Object) -> u8 {
        u8::from(object.as_ref().is_some_and(|object| object.class().is_meta()))
    }

    /// The name of a class.
    fn class_getName(class: *const Class) -> *const c_char {
        class.as_ref().map_or(c"nil".as_ptr(), |class| class.c_name().as_ptr())
    }

    /// The superclass, or nil.
    fn class_getSuperclass(class: *const Class) -> *const Class {
        class.as_ref().and_then(Class::superclass).map_or(std::ptr::null(), std::ptr::from_ref)
    }

    /// Whether a class is a metaclass.
    fn class_isMetaClass(class: *const Class) -> u8 {
        u8::from(class.as_ref().is_some_and(Class::is_meta))
    }

    /// The method of a class's instances.
    fn class_getInstanceMethod(class: *const Class, selector: Selector) -> *const Method {
        class.as_ref().map_or(std::ptr::null(), |class| method_of(class, selector))
    }

    /// The method of a class itself.
    fn class_getClassMethod(class: *const Class, selector: Selector) -> *const Method {
        class.as_ref().map_or(std::ptr::null(), |class| method_of(class.meta(), selector))
    }

    /// Whether a class's instances have a method.
    fn class_respondsToSelector(class: *const Class, selector: Selector) -> u8 {
        u8::from(!class_getInstanceMethod(class, selector).is_null())
    }

    /// The function of a method of a class's instances.
    fn class_getMethodImplementation(class: *const Class, selector: Selector) -> Option<Implementation> {
        class.as_ref().and_then(|class| class.method(selector)).map(Method::implementation)
    }

    /// The methods that a class has itself.
    fn class_copyMethodList(class: *const Class, count: *mut c_uint) -> *mut *const c_void {
        let methods = class.as_ref().into_iter().flat_map(|class| class.own_methods().values());
        copied(&methods.map(|method| std::ptr::from_ref(method).cast::<c_void>()).collect::<Vec<_>>(), count)
    }

    /// States are Rust's: no class has instance variables to list.
    fn class_copyIvarList(_class: *const Class, count: *mut c_uint) -> *mut *const c_void {
        copied::<c_void>(&[], count)
    }

    /// Properties are methods here.
    fn class_copyPropertyList(_class: *const Class, count: *mut c_uint) -> *mut *const c_void {
        copied::<c_void>(&[], count)
    }

    /// States are Rust's: no instance variable is found by name.
    fn class_getInstanceVariable(_class: *const Class, _name: *const c_char) -> *const c_void {
        std::ptr::null()
    }

    /// As [`class_getInstanceVariable`].
    fn class_getClassVariable(_class: *const Class, _name: *const c_char) -> *const c_void {
        std::ptr::null()
    }

    /// The bytes of an instance that a subclass could add to: none is known.
    fn class_getInstanceSize(_class: *const Class) -> usize {
        size_of::<Object>()
    }

    /// The version, which nothing sets.
    fn class_getVersion(_class: *const Class) -> c_int {
        0
    }

    /// All classes.
    fn objc_copyClassList(count: *mut c_uint) -> *mut *const c_void {
        copied(&classes().map(|class| std::ptr::from_ref(class).cast::<c_void>()).collect::<Vec<_>>(), count)
    }

    /// All classes, as many as there is room for; how many there are.
    fn objc_getClassList(room: *mut *const Class, length: c_int) -> c_int {
        if !room.is_null() {
            for (index, class) in classes().take(length.max(0) as usize).enumerate() {
                *room.add(index) = class;
            }
        }
        classes().count() as c_int
    }

    /// A method's name.
    fn method_getName(method: *const Method) -> Selector {
        (*method).selector()
    }

    /// What a method returns and takes.
    fn method_getTypeEncoding(method: *const Method) -> *const c_char {
        (*method).encoding().as_ptr()
    }

    /// The function of a method.
    fn method_getImplementation(method: *const Method) -> Implementation {
        (*method).implementation()
    }

    /// Arguments of a method, receiver and selector among them.
    fn method_getNumberOfArguments(method: *const Method) -> c_uint {
        encodings(&(*method).encoding().to_string_lossy()).len() as c_uint - 1
    }

    /// The encoding of what a method returns; the caller frees it.
    fn method_copyReturnType(method: *const Method) -> *mut c_char {
        duplicate(encodings(&(*method).encoding().to_string_lossy())[0])
    }

    /// The encoding of an argument, or nil; the caller frees it.
    fn method_copyArgumentType(method: *const Method, index: c_uint) -> *mut c_char {
        let encoding = (*method).encoding().to_string_lossy();
        encodings(&encoding).get(index as usize + 1).map_or(std::ptr::null_mut(), |text| duplicate(text))
    }

    /// The encoding of what a method returns.
    fn method_getReturnType(method: *const Method, room: *mut c_char, length: usize) {
        let text = duplicate(encodings(&(*method).encoding().to_string_lossy())[0]);
        libc::strncpy(room, text, length);
        libc::free(text.cast());
    }

    /// How many findings there are: a test's view of them.
    fn softmetal_reports() -> usize {
        crate::report::count()
    }

    /// The findings, a line each, which are then forgotten; the caller frees the text.
    fn softmetal_take_reports() -> *mut c_char {
        let lines = crate::report::take().iter().map(|report| format!("{report}\n")).collect::<String>();
        duplicate(&lines)
    }
}

#[cfg(test)]
mod tests {
    use super::encodings;

    #[test]
    fn encodings_of_a_method_are_told_apart() {
        assert_eq!(
            encodings("{?=QQQ}@:^{_NSRange=QQ}@?^@Q"),
            ["{?=QQQ}", "@", ":", "^{_NSRange=QQ}", "@?", "^@", "Q"]
        );
    }
}
