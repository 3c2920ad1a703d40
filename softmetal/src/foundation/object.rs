//! `NSObject`: what every object answers to.

use crate::objc::{Allocated, Class, Object, Selector, Strong, abi, class};

/// `NSObject`: an object without a state.
pub struct NSObject;

class! {
    NSObject: root "._OBJC_CLASS_NSObject" "NSObject", protocols ["NSObject"], Short;
    + "alloc" => alloc;
    + "allocWithZone:" => alloc_with_zone;
    + "new" => new;
    + "class" => class_itself;
    + "instancesRespondToSelector:" => instances_respond;
    - "init" => NSObject::init;
    - "self" => itself;
    - "class" => class_of;
    - "superclass" => superclass_of;
    - "retain" => retain;
    - "release" => release;
    - "autorelease" => autorelease;
    - "retainCount" => retain_count;
    - "isEqual:" => is_equal;
    - "hash" => hash;
    - "isKindOfClass:" => is_kind_of;
    - "isMemberOfClass:" => is_member_of;
    - "respondsToSelector:" => responds;
    - "isProxy" => is_proxy;
}

impl NSObject {
    fn init(_: Allocated) -> Strong<Self> {
        Strong::new(Self)
    }
}

fn alloc(class: &'static Class) -> *mut Object {
    // SAFETY: a class.
    unsafe { abi::objc_alloc(class) }
}

fn alloc_with_zone(class: &'static Class, _zone: *mut std::ffi::c_void) -> *mut Object {
    alloc(class)
}

fn new(class: &'static Class) -> *mut Object {
    let object = alloc(class);
    // SAFETY: `init` takes no argument and returns an object, in every class.
    unsafe {
        let init = Selector::named(c"init");
        let function = abi::objc_msg_lookup(object, init);
        let function: unsafe extern "C" fn(*mut Object, Selector) -> *mut Object =
            std::mem::transmute(function);
        function(object, init)
    }
}

fn class_itself(class: &'static Class) -> &'static Class {
    class
}

fn instances_respond(class: &'static Class, selector: Selector) -> bool {
    class.method(selector).is_some()
}

fn itself(this: &Object) -> *mut Object {
    this.as_ptr()
}

fn class_of(this: &Object) -> &'static Class {
    this.class()
}

fn superclass_of(this: &Object) -> Option<&'static Class> {
    this.class().superclass()
}

fn retain(this: &Object) -> *mut Object {
    // SAFETY: the receiver.
    unsafe { abi::objc_retain(this.as_ptr()) }
}

fn release(this: &Object) {
    // SAFETY: the caller gives a count of the receiver up.
    unsafe { abi::objc_release(this.as_ptr()) }
}

fn autorelease(this: &Object) -> *mut Object {
    // SAFETY: the caller gives a count of the receiver up.
    unsafe { abi::objc_autorelease(this.as_ptr()) }
}

fn retain_count(this: &Object) -> usize {
    this.retain_count()
}

fn is_equal(this: &Object, other: Option<&Object>) -> bool {
    other.is_some_and(|other| std::ptr::eq(this, other))
}

fn hash(this: &Object) -> usize {
    this.as_ptr() as usize
}

fn is_kind_of(this: &Object, class: &'static Class) -> bool {
    this.class().is_kind_of(class)
}

fn is_member_of(this: &Object, class: &'static Class) -> bool {
    std::ptr::eq(this.class(), class)
}

fn responds(this: &Object, selector: Selector) -> bool {
    this.class().method(selector).is_some()
}

fn is_proxy(_: &Object) -> bool {
    false
}
