//! Classes: names, superclasses, methods.

use super::method::Method;
use super::object::Object;
use super::refuse;
use super::selector::Selector;
use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;

/// Whether instances that are alive at the end of the process are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lives {
    /// Made for one use, as command buffers, encoders, descriptors, errors and strings are.
    Short,
    /// Kept by programs as long as they like, as buffers and pipelines are: reported with `SOFTMETAL_LEAKS=all`.
    Long,
    /// Never released, as the device is.
    Forever,
}

/// A class. Its address is what programs link to.
#[repr(C)]
pub struct Class {
    /// The metaclass. First, as in every object.
    isa: *const Class,
    /// Of a metaclass, the class it belongs to.
    of: Option<&'static Class>,
    name: &'static CStr,
    superclass: Option<fn() -> &'static Class>,
    protocols: &'static [&'static str],
    methods: fn() -> Vec<Method>,
    table: OnceLock<HashMap<Selector, Method>>,
    /// What `alloc` gives, where programs may call it.
    placeholder: OnceLock<Object>,
    allocatable: bool,
    drop_state: Option<unsafe fn(*mut Object)>,
    free: Option<unsafe fn(*mut Object)>,
    lives: Lives,
    pub(super) live: AtomicUsize,
}

// SAFETY: the pointer is to a static; everything else is.
unsafe impl Sync for Class {}

/// A state that a class gives its instances; `class!` implements it.
pub trait IsClass: Send + Sync + Sized + 'static {
    /// The class.
    fn class() -> &'static Class;
}

/// What `class!` writes down of a class.
#[doc(hidden)]
pub struct Parts {
    pub name: &'static CStr,
    pub superclass: Option<fn() -> &'static Class>,
    pub protocols: &'static [&'static str],
    pub methods: fn() -> Vec<Method>,
    pub allocatable: bool,
    pub drop_state: unsafe fn(*mut Object),
    pub free: unsafe fn(*mut Object),
    pub lives: Lives,
}

impl Class {
    #[doc(hidden)]
    pub const fn new(meta: &'static Class, parts: Parts) -> Self {
        Self {
            isa: meta,
            of: None,
            name: parts.name,
            superclass: parts.superclass,
            protocols: parts.protocols,
            methods: parts.methods,
            table: OnceLock::new(),
            placeholder: OnceLock::new(),
            allocatable: parts.allocatable,
            drop_state: Some(parts.drop_state),
            free: Some(parts.free),
            lives: parts.lives,
            live: AtomicUsize::new(0),
        }
    }

    #[doc(hidden)]
    pub const fn new_meta(of: &'static Class, name: &'static CStr, methods: fn() -> Vec<Method>) -> Self {
        Self {
            isa: std::ptr::null(),
            of: Some(of),
            name,
            superclass: None,
            protocols: &[],
            methods,
            table: OnceLock::new(),
            placeholder: OnceLock::new(),
            allocatable: false,
            drop_state: None,
            free: None,
            lives: Lives::Forever,
            live: AtomicUsize::new(0),
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name.to_str().unwrap_or("<no UTF-8>")
    }

    /// Its name, as C has it.
    pub fn c_name(&self) -> &'static CStr {
        self.name
    }

    /// Whether it is the class of a class.
    pub fn is_meta(&self) -> bool {
        self.of.is_some()
    }

    /// The class that a metaclass belongs to; a class itself.
    pub fn base(&'static self) -> &'static Class {
        self.of.unwrap_or(self)
    }

    /// The metaclass; a metaclass has itself.
    pub fn meta(&'static self) -> &'static Class {
        // SAFETY: null or a static.
        unsafe { self.isa.as_ref() }.unwrap_or(self)
    }

    /// The class whose methods are inherited: of a metaclass, the superclass's metaclass, and of the root's the root.
    pub fn superclass(&self) -> Option<&'static Class> {
        match self.of {
            Some(base) => Some(base.superclass().map_or(base, Class::meta)),
            None => self.superclass.map(|superclass| superclass()),
        }
    }

    /// Whether it is that class or one that inherits from it.
    pub fn is_kind_of(&self, other: &Class) -> bool {
        std::ptr::eq(self, other) || self.superclass().is_some_and(|superclass| superclass.is_kind_of(other))
    }

    /// The protocols it says to conform to, without those of its superclass.
    pub fn protocols(&self) -> &'static [&'static str] {
        self.protocols
    }

    /// Whether it or a superclass conforms to a protocol.
    pub fn conforms_to(&self, protocol: &str) -> bool {
        self.protocols.contains(&protocol)
            || self.superclass.is_some_and(|superclass| superclass().conforms_to(protocol))
    }

    /// The methods that it has itself.
    pub fn own_methods(&self) -> &HashMap<Selector, Method> {
        self.table
            .get_or_init(|| (self.methods)().into_iter().map(|method| (method.selector(), method)).collect())
    }

    /// The method that a message calls.
    pub fn method(&self, selector: Selector) -> Option<&Method> {
        let own = self.own_methods().get(&selector);
        own.or_else(|| self.superclass()?.method(selector))
    }

    /// What `alloc` gives: the same for all, and no object yet.
    pub(super) fn alloc(&'static self) -> *mut Object {
        if !self.allocatable {
            refuse(&format!("+[{} alloc]: not offered by softmetal", self.name()));
        }
        self.placeholder.get_or_init(|| Object::placeholder(self)).as_ptr()
    }

    pub(super) fn drop_state(&self) -> Option<unsafe fn(*mut Object)> {
        self.drop_state
    }

    pub(super) fn free(&self) -> Option<unsafe fn(*mut Object)> {
        self.free
    }

    /// Whether living instances are reported at the end.
    pub fn lives(&self) -> Lives {
        self.lives
    }

    /// The class as an object that messages are sent to.
    pub fn as_object(&self) -> *mut Object {
        std::ptr::from_ref(self).cast_mut().cast()
    }
}

/// All classes.
pub fn classes() -> impl Iterator<Item = &'static Class> {
    let lists = [crate::foundation::CLASSES, crate::metal::CLASSES, crate::mps::CLASSES];
    lists.into_iter().flatten().map(|class| class())
}

/// The class of that name.
pub fn class_named(name: &str) -> Option<&'static Class> {
    classes().find(|class| class.name() == name)
}

/// Declares the class of a state: see [`crate::objc`].
#[doc(hidden)]
#[macro_export]
macro_rules! objc_class {
    (
        $state:ident: linked $symbol:literal $name:literal, superclass $superclass:ident, protocols [$($protocol:literal),*], $lives:ident;
        $($sign:tt $selector:literal => $function:expr;)*
    ) => {
        $crate::objc_class!(@declare [#[unsafe(export_name = $symbol)]] [true]
            $state $name [Some(<$superclass as $crate::objc::IsClass>::class)] [$($protocol),*] $lives [$($sign $selector $function;)*]);
    };
    (
        $state:ident: class $name:literal, superclass $superclass:ident, protocols [$($protocol:literal),*], $lives:ident;
        $($sign:tt $selector:literal => $function:expr;)*
    ) => {
        $crate::objc_class!(@declare [] [false]
            $state $name [Some(<$superclass as $crate::objc::IsClass>::class)] [$($protocol),*] $lives [$($sign $selector $function;)*]);
    };
    (
        $state:ident: root $symbol:literal $name:literal, protocols [$($protocol:literal),*], $lives:ident;
        $($sign:tt $selector:literal => $function:expr;)*
    ) => {
        $crate::objc_class!(@declare [#[unsafe(export_name = $symbol)]] [true]
            $state $name [None] [$($protocol),*] $lives [$($sign $selector $function;)*]);
    };
    (@declare [$(#[$export:meta])?] [$allocatable:literal] $state:ident $name:literal [$superclass:expr] [$($protocol:literal),*] $lives:ident
        [$($sign:tt $selector:literal $function:expr;)*]
    ) => {
        impl $crate::objc::IsClass for $state {
            fn class() -> &'static $crate::objc::Class {
                const NAME: &std::ffi::CStr =
                    match std::ffi::CStr::from_bytes_with_nul(concat!($name, "\0").as_bytes()) {
                        Ok(name) => name,
                        Err(_) => panic!("a class's name has no NUL"),
                    };
                static META: $crate::objc::Class = $crate::objc::Class::new_meta(&CLASS, NAME, || {
                    [$($crate::objc_class!(@class_method $sign $selector $function)),*].into_iter().flatten().collect()
                });
                $(#[$export])?
                static CLASS: $crate::objc::Class = $crate::objc::Class::new(
                    &META,
                    $crate::objc::Parts {
                        name: NAME,
                        superclass: $superclass,
                        protocols: &[$($protocol),*],
                        methods: || {
                            [$($crate::objc_class!(@method $sign $selector $function)),*].into_iter().flatten().collect()
                        },
                        allocatable: $allocatable,
                        drop_state: $crate::objc::drop_state::<$state>,
                        free: $crate::objc::free::<$state>,
                        lives: $crate::objc::Lives::$lives,
                    },
                );
                &CLASS
            }
        }
    };
    (@method - $selector:literal $function:expr) => {
        Some($crate::objc::Method::new($selector, $function))
    };
    (@method + $selector:literal $function:expr) => {
        None::<$crate::objc::Method>
    };
    (@class_method + $selector:literal $function:expr) => {
        Some($crate::objc::Method::new($selector, $function))
    };
    (@class_method - $selector:literal $function:expr) => {
        None::<$crate::objc::Method>
    };
}

pub use objc_class as class;
