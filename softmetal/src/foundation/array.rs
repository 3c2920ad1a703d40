//! `NSArray`, and the enumeration of collections.

use super::NSObject;
use crate::objc::{Allocated, Class};
use crate::objc::{AnyStrong, Argument, Encode, Instance, Object, Range, Strong, class, refuse};

/// `NSArray`: objects in order.
pub struct NSArray {
    objects: Vec<AnyStrong>,
}

class! {
    NSArray: linked "._OBJC_CLASS_NSArray" "NSArray", superclass NSObject, protocols ["NSCopying", "NSFastEnumeration"], Short;
    + "array" => NSArray::empty;
    - "init" => NSArray::init;
    - "initWithObjects:count:" => NSArray::init_with_objects;
    - "count" => NSArray::count;
    - "objectAtIndex:" => NSArray::object_at;
    - "firstObject" => NSArray::first;
    - "lastObject" => NSArray::last;
    - "getObjects:" => NSArray::get_objects;
    - "getObjects:range:" => NSArray::get_objects_in;
    - "countByEnumeratingWithState:objects:count:" => NSArray::enumerate;
    - "copy" => NSArray::copy;
}

/// `NSFastEnumerationState`.
#[repr(C)]
pub struct EnumerationState {
    state: usize,
    items: *const *mut Object,
    mutations: *mut usize,
    extra: [usize; 5],
}

// SAFETY: the encoding that objc2 has for it.
unsafe impl Encode for *mut EnumerationState {
    const ENCODING: &'static str = "^{?=Q^@^Q[5Q]}";
}

impl Argument for *mut EnumerationState {
    type Raw = Self;
    unsafe fn from_raw(raw: Self) -> Self {
        raw
    }
}

/// Gives an enumeration its next objects, as many as there is room for.
pub(super) fn enumerate(
    objects: &[AnyStrong],
    state: *mut EnumerationState,
    room: *mut *mut Object,
    length: usize,
) -> usize {
    // What an enumeration would find changed: nothing of these is ever.
    static NEVER: usize = 0;
    // SAFETY: the caller's state and room, as the protocol says.
    unsafe {
        let from = (*state).state.min(objects.len());
        let next = &objects[from..objects.len().min(from.saturating_add(length))];
        for (index, object) in next.iter().enumerate() {
            *room.add(index) = object.as_ptr();
        }
        (*state).state = from + next.len();
        (*state).items = room;
        (*state).mutations = (&raw const NEVER).cast_mut();
        next.len()
    }
}

impl NSArray {
    /// An array.
    pub fn new(objects: Vec<AnyStrong>) -> Strong<NSArray> {
        Strong::new(NSArray { objects })
    }

    /// Its objects.
    pub fn objects(&self) -> &[AnyStrong] {
        &self.objects
    }

    fn empty(_: &'static Class) -> Strong<NSArray> {
        Self::new(Vec::new())
    }

    fn init(_: Allocated) -> Strong<NSArray> {
        Self::new(Vec::new())
    }

    fn init_with_objects(_: Allocated, objects: *const *mut Object, count: usize) -> Strong<NSArray> {
        Self::new(retained(objects, count))
    }

    fn count(&self) -> usize {
        self.objects.len()
    }

    fn object_at(&self, index: usize) -> AnyStrong {
        let found = self.objects.get(index).cloned();
        let count = self.objects.len();
        found.unwrap_or_else(|| {
            refuse(&format!("-[NSArray objectAtIndex:]: wants less than {count}, got {index}"))
        })
    }

    fn first(&self) -> Option<AnyStrong> {
        self.objects.first().cloned()
    }

    fn last(&self) -> Option<AnyStrong> {
        self.objects.last().cloned()
    }

    fn get_objects(&self, room: *mut *mut Object) {
        self.get_objects_in(room, Range { location: 0, length: self.objects.len() });
    }

    fn get_objects_in(&self, room: *mut *mut Object, range: Range) {
        let objects = range.end().and_then(|end| self.objects.get(range.location..end));
        let Some(objects) = objects else {
            refuse("-[NSArray getObjects:range:]: wants a range in the array")
        };
        for (index, object) in objects.iter().enumerate() {
            // SAFETY: the caller has room for the objects of the range.
            unsafe { *room.add(index) = object.as_ptr() };
        }
    }

    fn enumerate(&self, state: *mut EnumerationState, room: *mut *mut Object, length: usize) -> usize {
        enumerate(&self.objects, state, room, length)
    }

    fn copy(this: &Instance<NSArray>) -> Strong<NSArray> {
        this.retain()
    }
}

/// The objects of a C array, retained.
pub(super) fn retained(objects: *const *mut Object, count: usize) -> Vec<AnyStrong> {
    // SAFETY: the caller's array of live objects.
    (0..count).map(|index| AnyStrong::retain(unsafe { &**objects.add(index) })).collect()
}
