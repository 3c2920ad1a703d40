//! `NSDictionary` and `NSNumber`: what preprocessor macros are given by.

use super::array::{EnumerationState, enumerate, retained};
use super::{NSArray, NSObject, NSString};
use crate::objc::{Allocated, AnyStrong, Class, Instance, Object, Strong, class};
use std::ffi::c_void;

/// `NSDictionary` with strings for keys.
pub struct NSDictionary {
    keys: Vec<AnyStrong>,
    values: Vec<AnyStrong>,
}

class! {
    NSDictionary: linked "._OBJC_CLASS_NSDictionary" "NSDictionary", superclass NSObject, protocols ["NSCopying", "NSFastEnumeration"], Short;
    + "dictionary" => NSDictionary::empty;
    - "init" => NSDictionary::init;
    - "initWithObjects:forKeys:count:" => NSDictionary::init_with;
    - "count" => NSDictionary::count;
    - "objectForKey:" => NSDictionary::object_for;
    - "allKeys" => NSDictionary::all_keys;
    - "allValues" => NSDictionary::all_values;
    - "getObjects:andKeys:" => NSDictionary::get_objects;
    - "countByEnumeratingWithState:objects:count:" => NSDictionary::enumerate;
    - "copy" => NSDictionary::copy;
}

fn text(object: &Object) -> Option<&str> {
    object.downcast::<NSString>().map(|string| string.text())
}

impl NSDictionary {
    /// A dictionary of keys and values.
    pub fn new(entries: Vec<(AnyStrong, AnyStrong)>) -> Strong<NSDictionary> {
        let (keys, values) = entries.into_iter().unzip();
        Strong::new(NSDictionary { keys, values })
    }

    /// Keys and values as text; of a number, its digits.
    pub fn texts(&self) -> impl Iterator<Item = (String, String)> {
        self.keys.iter().zip(&self.values).filter_map(|(key, value)| {
            let number = || value.downcast::<NSNumber>().map(|number| number.text());
            Some((text(key)?.to_owned(), text(value).map(str::to_owned).or_else(number)?))
        })
    }

    /// The string that stands at a key.
    pub fn string(&self, key: &str) -> Option<String> {
        self.texts().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    fn empty(_: &'static Class) -> Strong<NSDictionary> {
        Self::new(Vec::new())
    }

    fn init(_: Allocated) -> Strong<NSDictionary> {
        Self::new(Vec::new())
    }

    fn init_with(
        _: Allocated,
        objects: *const *mut Object,
        keys: *const *mut Object,
        count: usize,
    ) -> Strong<NSDictionary> {
        Self::new(retained(keys, count).into_iter().zip(retained(objects, count)).collect())
    }

    fn count(&self) -> usize {
        self.keys.len()
    }

    fn object_for(&self, key: &Object) -> Option<AnyStrong> {
        let wanted = text(key)?;
        let found = self.keys.iter().position(|key| text(key) == Some(wanted))?;
        Some(self.values[found].clone())
    }

    fn all_keys(&self) -> Strong<NSArray> {
        NSArray::new(self.keys.clone())
    }

    fn all_values(&self) -> Strong<NSArray> {
        NSArray::new(self.values.clone())
    }

    fn get_objects(&self, objects: *mut *mut Object, keys: *mut *mut Object) {
        for (room, from) in [(objects, &self.values), (keys, &self.keys)] {
            for (index, object) in from.iter().enumerate().take_while(|_| !room.is_null()) {
                // SAFETY: the caller has room for all.
                unsafe { *room.add(index) = object.as_ptr() };
            }
        }
    }

    fn enumerate(&self, state: *mut EnumerationState, room: *mut *mut Object, length: usize) -> usize {
        enumerate(&self.keys, state, room, length)
    }

    fn copy(this: &Instance<NSDictionary>) -> Strong<NSDictionary> {
        this.retain()
    }
}

/// `NSNumber`.
#[derive(Clone, Copy, Debug)]
pub enum NSNumber {
    /// With a sign, or not so great that it needs its bit.
    Signed(i64),
    /// Without a sign.
    Unsigned(u64),
    /// Of a floating-point type.
    Float(f64),
}

class! {
    NSNumber: linked "._OBJC_CLASS_NSNumber" "NSNumber", superclass NSObject, protocols ["NSCopying"], Short;
    + "numberWithBool:" => NSNumber::with_bool;
    + "numberWithInt:" => NSNumber::with_int;
    + "numberWithUnsignedInt:" => NSNumber::with_unsigned_int;
    + "numberWithLongLong:" => NSNumber::with_long_long;
    + "numberWithUnsignedLongLong:" => NSNumber::with_unsigned_long_long;
    + "numberWithInteger:" => NSNumber::with_long_long;
    + "numberWithUnsignedInteger:" => NSNumber::with_unsigned_long_long;
    + "numberWithFloat:" => NSNumber::with_float;
    + "numberWithDouble:" => NSNumber::with_double;
    - "initWithBool:" => NSNumber::init_with_bool;
    - "initWithInt:" => NSNumber::init_with_int;
    - "initWithUnsignedInt:" => NSNumber::init_with_unsigned_int;
    - "initWithLongLong:" => NSNumber::init_with_long_long;
    - "initWithUnsignedLongLong:" => NSNumber::init_with_unsigned_long_long;
    - "initWithFloat:" => NSNumber::init_with_float;
    - "initWithDouble:" => NSNumber::init_with_double;
    - "boolValue" => NSNumber::bool_value;
    - "intValue" => NSNumber::int_value;
    - "longLongValue" => NSNumber::integer_value;
    - "integerValue" => NSNumber::integer_value;
    - "unsignedIntegerValue" => NSNumber::unsigned_value;
    - "unsignedLongLongValue" => NSNumber::unsigned_value;
    - "floatValue" => NSNumber::float_value;
    - "doubleValue" => NSNumber::double_value;
    - "stringValue" => NSNumber::string_value;
    - "description" => NSNumber::string_value;
    - "copyWithZone:" => NSNumber::copy_with_zone;
}

macro_rules! made_from {
    ($($with:ident $init:ident $type:ty => $variant:ident;)*) => { $(
        fn $with(_: &'static Class, value: $type) -> Strong<NSNumber> {
            Strong::new(NSNumber::$variant(value.into()))
        }

        fn $init(_: Allocated, value: $type) -> Strong<NSNumber> {
            Strong::new(NSNumber::$variant(value.into()))
        }
    )* };
}

impl NSNumber {
    made_from! {
        with_bool init_with_bool bool => Signed;
        with_int init_with_int i32 => Signed;
        with_unsigned_int init_with_unsigned_int u32 => Signed;
        with_long_long init_with_long_long i64 => Signed;
        with_unsigned_long_long init_with_unsigned_long_long u64 => Unsigned;
        with_float init_with_float f32 => Float;
        with_double init_with_double f64 => Float;
    }

    /// Its digits.
    pub fn text(&self) -> String {
        match self {
            Self::Signed(value) => value.to_string(),
            Self::Unsigned(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
        }
    }

    fn double_value(&self) -> f64 {
        match *self {
            Self::Signed(value) => value as f64,
            Self::Unsigned(value) => value as f64,
            Self::Float(value) => value,
        }
    }

    fn float_value(&self) -> f32 {
        self.double_value() as f32
    }

    fn integer_value(&self) -> i64 {
        match *self {
            Self::Signed(value) => value,
            Self::Unsigned(value) => value as i64,
            Self::Float(value) => value as i64,
        }
    }

    fn unsigned_value(&self) -> u64 {
        match *self {
            Self::Float(value) => value as u64,
            Self::Signed(_) | Self::Unsigned(_) => self.integer_value() as u64,
        }
    }

    fn int_value(&self) -> i32 {
        self.integer_value() as i32
    }

    fn bool_value(&self) -> bool {
        self.double_value() != 0.0
    }

    fn string_value(&self) -> Strong<NSString> {
        NSString::new(&self.text())
    }

    fn copy_with_zone(this: &Instance<NSNumber>, _zone: *mut c_void) -> Strong<NSNumber> {
        this.retain()
    }
}
