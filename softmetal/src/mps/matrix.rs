//! `MPSMatrix` and `MPSVector`: a buffer, and how its bytes are matrices or vectors.

use super::descriptor::{MatrixDescriptor, VectorDescriptor};
use super::kernel::{report_broken, unless_nil};
use super::layout::{Layout, Operand};
use crate::foundation::NSObject;
use crate::metal::{Buffer, CommandBuffer, Device, device};
use crate::objc::{Allocated, Instance, Strong, class};
use std::sync::OnceLock;

/// What matrices and vectors have in common.
struct Storage {
    /// Of the lazy ones, made when it is asked for.
    buffer: OnceLock<Option<Strong<Buffer>>>,
    offset: usize,
    layout: Layout,
    /// Whether all rules are kept: what is not was reported, and is not worked on.
    sound: bool,
    vector: bool,
}

impl Storage {
    /// In a program's buffer.
    fn new(place: &str, buffer: &Instance<Buffer>, offset: usize, layout: Layout, vector: bool) -> Self {
        let mut broken = if vector { layout.broken_rules_of_vectors() } else { layout.broken_rules() };
        if broken.is_empty() {
            broken = layout.broken_rules_of_buffer(buffer.length(), offset);
        }
        report_broken(place, &broken);
        let sound = broken.is_empty();
        Self { buffer: OnceLock::from(Some(buffer.retain())), offset, layout, sound, vector }
    }

    /// In a buffer of its own.
    fn lazy(place: &str, layout: Layout, vector: bool) -> Self {
        let broken = if vector { layout.broken_rules_of_vectors() } else { layout.broken_rules() };
        report_broken(place, &broken);
        Self { buffer: OnceLock::new(), offset: 0, layout, sound: broken.is_empty(), vector }
    }

    fn data(&self, place: &str) -> Option<Strong<Buffer>> {
        let make = || Buffer::shared(place, self.layout.length().filter(|_| self.sound)?);
        self.buffer.get_or_init(make).clone()
    }

    fn resource_size(&self) -> usize {
        self.layout.length().unwrap_or(0)
    }

    fn operand(&self, place: &str) -> Option<(Operand, Strong<Buffer>)> {
        let buffer = self.data(place).filter(|_| self.sound)?;
        let memory = buffer.allocation().memory().clone();
        let operand =
            Operand { memory, offset: self.offset, layout: self.layout, origin: [0, 0], vector: self.vector };
        Some((operand, buffer))
    }
}

/// `MPSMatrix`.
pub struct Matrix(Storage);

class! {
    Matrix: linked "._OBJC_CLASS_MPSMatrix" "MPSMatrix", superclass NSObject, protocols [], Long;
    - "initWithBuffer:descriptor:" => Matrix::init;
    - "initWithBuffer:offset:descriptor:" => Matrix::init_at;
    - "initWithDevice:descriptor:" => Matrix::init_lazy;
    - "device" => Matrix::device;
    - "rows" => Matrix::rows;
    - "columns" => Matrix::columns;
    - "matrices" => Matrix::matrices;
    - "dataType" => Matrix::data_type;
    - "rowBytes" => Matrix::row_bytes;
    - "matrixBytes" => Matrix::matrix_bytes;
    - "offset" => Matrix::offset;
    - "data" => Matrix::data;
    - "resourceSize" => Matrix::resource_size;
    - "synchronizeOnCommandBuffer:" => Matrix::synchronize;
}

impl Matrix {
    fn init(
        _: Allocated,
        buffer: &Instance<Buffer>,
        descriptor: &Instance<MatrixDescriptor>,
    ) -> Strong<Self> {
        let place = "-[MPSMatrix initWithBuffer:descriptor:]";
        Strong::new(Self(Storage::new(place, buffer, 0, descriptor.layout(), false)))
    }

    fn init_at(
        _: Allocated,
        buffer: &Instance<Buffer>,
        offset: usize,
        descriptor: &Instance<MatrixDescriptor>,
    ) -> Option<Strong<Self>> {
        let place = "-[MPSMatrix initWithBuffer:offset:descriptor:]";
        let new = Strong::new(Self(Storage::new(place, buffer, offset, descriptor.layout(), false)));
        unless_nil("MPSMatrix", new)
    }

    fn init_lazy(
        _: Allocated,
        _: &Instance<Device>,
        descriptor: &Instance<MatrixDescriptor>,
    ) -> Strong<Self> {
        let place = "-[MPSMatrix initWithDevice:descriptor:]";
        Strong::new(Self(Storage::lazy(place, descriptor.layout(), false)))
    }

    /// The matrices for a kernel, and the buffer they lie in; none if they break a rule, which was reported.
    pub(super) fn operand(&self) -> Option<(Operand, Strong<Buffer>)> {
        self.0.operand("-[MPSMatrix data]")
    }

    fn device(&self) -> Strong<Device> {
        device().retain()
    }

    fn rows(&self) -> usize {
        self.0.layout.rows
    }

    fn columns(&self) -> usize {
        self.0.layout.columns
    }

    fn matrices(&self) -> usize {
        self.0.layout.matrices
    }

    fn data_type(&self) -> u32 {
        self.0.layout.data_type.0
    }

    fn row_bytes(&self) -> usize {
        self.0.layout.row_bytes
    }

    fn matrix_bytes(&self) -> usize {
        self.0.layout.matrix_bytes
    }

    fn offset(&self) -> usize {
        self.0.offset
    }

    fn data(&self) -> Option<Strong<Buffer>> {
        self.0.data("-[MPSMatrix data]")
    }

    fn resource_size(&self) -> usize {
        self.0.resource_size()
    }

    // Documented: for resources that are not managed nothing is done, and none is here.
    fn synchronize(&self, _: &Instance<CommandBuffer>) {}
}

/// `MPSVector`.
pub struct Vector(Storage);

class! {
    Vector: linked "._OBJC_CLASS_MPSVector" "MPSVector", superclass NSObject, protocols [], Long;
    - "initWithBuffer:descriptor:" => Vector::init;
    - "initWithBuffer:offset:descriptor:" => Vector::init_at;
    - "initWithDevice:descriptor:" => Vector::init_lazy;
    - "device" => Vector::device;
    - "length" => Vector::length;
    - "vectors" => Vector::vectors;
    - "dataType" => Vector::data_type;
    - "vectorBytes" => Vector::vector_bytes;
    - "offset" => Vector::offset;
    - "data" => Vector::data;
    - "resourceSize" => Vector::resource_size;
    - "synchronizeOnCommandBuffer:" => Vector::synchronize;
}

impl Vector {
    fn init(
        _: Allocated,
        buffer: &Instance<Buffer>,
        descriptor: &Instance<VectorDescriptor>,
    ) -> Strong<Self> {
        let place = "-[MPSVector initWithBuffer:descriptor:]";
        Strong::new(Self(Storage::new(place, buffer, 0, descriptor.layout(), true)))
    }

    fn init_at(
        _: Allocated,
        buffer: &Instance<Buffer>,
        offset: usize,
        descriptor: &Instance<VectorDescriptor>,
    ) -> Option<Strong<Self>> {
        let place = "-[MPSVector initWithBuffer:offset:descriptor:]";
        let new = Strong::new(Self(Storage::new(place, buffer, offset, descriptor.layout(), true)));
        unless_nil("MPSVector", new)
    }

    fn init_lazy(
        _: Allocated,
        _: &Instance<Device>,
        descriptor: &Instance<VectorDescriptor>,
    ) -> Strong<Self> {
        let place = "-[MPSVector initWithDevice:descriptor:]";
        Strong::new(Self(Storage::lazy(place, descriptor.layout(), true)))
    }

    /// The vectors for a kernel, as matrices of one row, and the buffer they lie in.
    pub(super) fn operand(&self) -> Option<(Operand, Strong<Buffer>)> {
        self.0.operand("-[MPSVector data]")
    }

    fn device(&self) -> Strong<Device> {
        device().retain()
    }

    fn length(&self) -> usize {
        self.0.layout.columns
    }

    fn vectors(&self) -> usize {
        self.0.layout.matrices
    }

    fn data_type(&self) -> u32 {
        self.0.layout.data_type.0
    }

    fn vector_bytes(&self) -> usize {
        self.0.layout.matrix_bytes
    }

    fn offset(&self) -> usize {
        self.0.offset
    }

    fn data(&self) -> Option<Strong<Buffer>> {
        self.0.data("-[MPSVector data]")
    }

    fn resource_size(&self) -> usize {
        self.0.resource_size()
    }

    fn synchronize(&self, _: &Instance<CommandBuffer>) {}
}
