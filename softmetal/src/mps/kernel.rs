//! `MPSKernel` and the classes of kernels of one and of two matrices: what all kernels have.

use super::layout::Operand;
use crate::config::CONFIG;
use crate::foundation::{Label, NSObject, NSString};
use crate::metal::Device;
use crate::objc::{Argument, Encode, Instance, IsClass, Returned, Strong, class};
use crate::report::{self, Kind, Report};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What an `init` gives: nil if `SOFTMETAL_NIL` names the class.
pub(super) fn unless_nil<T: IsClass>(class: &str, object: Strong<T>) -> Option<Strong<T>> {
    Some(object).filter(|_| CONFIG.nil.as_deref() != Some(class))
}

/// `MTLOrigin`. Of a matrix, x is a row and y a column.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    pub x: usize,
    pub y: usize,
    pub z: usize,
}

// SAFETY: the encoding of clang for a structure of three NSUInteger, which has no tag.
unsafe impl Encode for Origin {
    const ENCODING: &'static str = "{?=QQQ}";
}

impl Argument for Origin {
    type Raw = Self;
    unsafe fn from_raw(raw: Self) -> Self {
        raw
    }
}

impl Returned for Origin {
    type Raw = Self;
    const ENCODING: &'static str = <Self as Encode>::ENCODING;
    fn into_raw(self, _: bool) -> Self {
        self
    }
}

/// What a setter changes.
#[derive(Default)]
pub(super) struct Property<T>(Mutex<T>);

impl<T: Copy> Property<T> {
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub fn get(&self) -> T {
        *self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn set(&self, value: T) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = value;
    }
}

/// `MPSKernel`.
#[repr(C)]
pub struct Kernel {
    device: Strong<Device>,
    label: Label,
    options: AtomicUsize,
}

class! {
    Kernel: linked "._OBJC_CLASS_MPSKernel" "MPSKernel", superclass NSObject, protocols ["NSCopying"], Long;
    - "device" => Kernel::device;
    - "label" => Kernel::label;
    - "setLabel:" => Kernel::set_label;
    - "options" => Kernel::options;
    - "setOptions:" => Kernel::set_options;
}

impl Kernel {
    pub(super) fn new(device: &Instance<Device>) -> Self {
        Self { device: device.retain(), label: Label::default(), options: AtomicUsize::new(0) }
    }

    /// The same for another device, or for this one.
    pub(super) fn copy(&self, device: Option<&Instance<Device>>) -> Self {
        let copy = Self::new(device.unwrap_or(&self.device));
        copy.label.set(self.label.get().as_deref());
        copy.options.store(self.options(), Ordering::Relaxed);
        copy
    }

    fn device(&self) -> Strong<Device> {
        self.device.clone()
    }

    fn label(&self) -> Option<Strong<NSString>> {
        self.label.get()
    }

    fn set_label(&self, label: Option<&Instance<NSString>>) {
        self.label.set(label);
    }

    fn options(&self) -> usize {
        self.options.load(Ordering::Relaxed)
    }

    // None of the options changes what is computed here; validation is never skipped.
    fn set_options(&self, options: usize) {
        self.options.store(options, Ordering::Relaxed);
    }

    /// What reports call it.
    pub(super) fn name(&self, class: &str) -> String {
        match self.label.text() {
            Some(label) => format!("{class} `{label}`"),
            None => class.to_owned(),
        }
    }
}

/// The matrices of a batch that are processed: the properties of that name.
#[derive(Clone, Copy)]
pub(super) struct Batch {
    pub start: usize,
    pub size: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Self { start: 0, size: usize::MAX }
    }
}

/// `MPSMatrixUnaryKernel`.
#[repr(C)]
pub struct UnaryKernel {
    pub(super) kernel: Kernel,
    pub(super) source_origin: Property<Origin>,
    pub(super) result_origin: Property<Origin>,
    pub(super) batch: Property<Batch>,
}

class! {
    UnaryKernel: linked "._OBJC_CLASS_MPSMatrixUnaryKernel" "MPSMatrixUnaryKernel", superclass Kernel, protocols [], Long;
    - "sourceMatrixOrigin" => UnaryKernel::source_origin;
    - "setSourceMatrixOrigin:" => UnaryKernel::set_source_origin;
    - "resultMatrixOrigin" => UnaryKernel::result_origin;
    - "setResultMatrixOrigin:" => UnaryKernel::set_result_origin;
    - "batchStart" => UnaryKernel::batch_start;
    - "setBatchStart:" => UnaryKernel::set_batch_start;
    - "batchSize" => UnaryKernel::batch_size;
    - "setBatchSize:" => UnaryKernel::set_batch_size;
}

impl UnaryKernel {
    pub(super) fn new(device: &Instance<Device>) -> Self {
        Self {
            kernel: Kernel::new(device),
            source_origin: Property::default(),
            result_origin: Property::default(),
            batch: Property::default(),
        }
    }

    pub(super) fn copy(&self, device: Option<&Instance<Device>>) -> Self {
        Self {
            kernel: self.kernel.copy(device),
            source_origin: Property::new(self.source_origin.get()),
            result_origin: Property::new(self.result_origin.get()),
            batch: Property::new(self.batch.get()),
        }
    }

    fn source_origin(&self) -> Origin {
        self.source_origin.get()
    }

    fn set_source_origin(&self, origin: Origin) {
        self.source_origin.set(origin);
    }

    fn result_origin(&self) -> Origin {
        self.result_origin.get()
    }

    fn set_result_origin(&self, origin: Origin) {
        self.result_origin.set(origin);
    }

    fn batch_start(&self) -> usize {
        self.batch.get().start
    }

    fn set_batch_start(&self, start: usize) {
        self.batch.set(Batch { start, ..self.batch.get() });
    }

    fn batch_size(&self) -> usize {
        self.batch.get().size
    }

    fn set_batch_size(&self, size: usize) {
        self.batch.set(Batch { size, ..self.batch.get() });
    }
}

/// `MPSMatrixBinaryKernel`.
#[repr(C)]
pub struct BinaryKernel {
    pub(super) kernel: Kernel,
    pub(super) primary_origin: Property<Origin>,
    pub(super) secondary_origin: Property<Origin>,
    pub(super) result_origin: Property<Origin>,
    pub(super) batch: Property<Batch>,
}

class! {
    BinaryKernel: linked "._OBJC_CLASS_MPSMatrixBinaryKernel" "MPSMatrixBinaryKernel", superclass Kernel, protocols [], Long;
    - "primarySourceMatrixOrigin" => BinaryKernel::primary_origin;
    - "setPrimarySourceMatrixOrigin:" => BinaryKernel::set_primary_origin;
    - "secondarySourceMatrixOrigin" => BinaryKernel::secondary_origin;
    - "setSecondarySourceMatrixOrigin:" => BinaryKernel::set_secondary_origin;
    - "resultMatrixOrigin" => BinaryKernel::result_origin;
    - "setResultMatrixOrigin:" => BinaryKernel::set_result_origin;
    - "batchStart" => BinaryKernel::batch_start;
    - "setBatchStart:" => BinaryKernel::set_batch_start;
    - "batchSize" => BinaryKernel::batch_size;
    - "setBatchSize:" => BinaryKernel::set_batch_size;
}

impl BinaryKernel {
    pub(super) fn new(device: &Instance<Device>) -> Self {
        Self {
            kernel: Kernel::new(device),
            primary_origin: Property::default(),
            secondary_origin: Property::default(),
            result_origin: Property::default(),
            batch: Property::default(),
        }
    }

    pub(super) fn copy(&self, device: Option<&Instance<Device>>) -> Self {
        Self {
            kernel: self.kernel.copy(device),
            primary_origin: Property::new(self.primary_origin.get()),
            secondary_origin: Property::new(self.secondary_origin.get()),
            result_origin: Property::new(self.result_origin.get()),
            batch: Property::new(self.batch.get()),
        }
    }

    pub(super) fn primary_origin(&self) -> Origin {
        self.primary_origin.get()
    }

    pub(super) fn set_primary_origin(&self, origin: Origin) {
        self.primary_origin.set(origin);
    }

    pub(super) fn secondary_origin(&self) -> Origin {
        self.secondary_origin.get()
    }

    pub(super) fn set_secondary_origin(&self, origin: Origin) {
        self.secondary_origin.set(origin);
    }

    pub(super) fn result_origin(&self) -> Origin {
        self.result_origin.get()
    }

    pub(super) fn set_result_origin(&self, origin: Origin) {
        self.result_origin.set(origin);
    }

    pub(super) fn batch_start(&self) -> usize {
        self.batch.get().start
    }

    pub(super) fn set_batch_start(&self, start: usize) {
        self.batch.set(Batch { start, ..self.batch.get() });
    }

    pub(super) fn batch_size(&self) -> usize {
        self.batch.get().size
    }

    pub(super) fn set_batch_size(&self, size: usize) {
        self.batch.set(Batch { size, ..self.batch.get() });
    }
}

/// Reports the rules that a call breaks, in one report.
pub(super) fn report_broken(place: &str, broken: &[String]) {
    if !broken.is_empty() {
        report::add(Report {
            kind: Kind::Validation,
            place: place.to_owned(),
            line: None,
            text: broken.join("; "),
        });
    }
}

/// The operand of a matrix from an origin on; z must be 0.
pub(super) fn at_origin(
    mut operand: Operand,
    name: &str,
    origin: Origin,
    broken: &mut Vec<String>,
) -> Operand {
    if origin.z != 0 {
        broken.push(format!("{name}: wants 0 as its origin's z, got {}", origin.z));
    }
    operand.origin = [origin.x, origin.y];
    operand
}

/// The operand of a vector from an element on: its origin's x. y and z must be 0.
pub(super) fn at_element(
    mut operand: Operand,
    name: &str,
    origin: Origin,
    broken: &mut Vec<String>,
) -> Operand {
    if origin.y != 0 || origin.z != 0 {
        broken.push(format!("{name}: wants 0 as its origin's y and z, got {} and {}", origin.y, origin.z));
    }
    operand.origin = [0, origin.x];
    operand
}
