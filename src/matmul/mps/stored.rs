//! A view's memory as MPS's descriptors say it.

use super::super::View;
use super::kernels::made;
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{DType, Layout, MetalStorage, Result, Shape, bail};
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2::{AnyThread, msg_send};
use objc2_metal::MTLBuffer;
use objc2_metal_performance_shaders::{
    MPSDataType, MPSMatrix, MPSMatrixDescriptor, MPSVector, MPSVectorDescriptor,
};

/// Matrices as they lie: in rows, transposed or not, one after another. All in elements.
#[derive(Clone)]
pub(super) struct Stored {
    /// Keeps candle's allocator from giving the buffer to another tensor.
    pub storage: MetalStorage,
    /// Before the first one.
    pub start: usize,
    pub rows: usize,
    pub cols: usize,
    /// From a row to the next.
    pub stride: usize,
    /// How many are stored; 1 where a batch reads the same one.
    pub matrices: usize,
    /// From a matrix to the next.
    pub matrix_stride: usize,
}

impl Stored {
    /// What a view reads, as it is stored: a transposed one has its columns as rows here.
    pub fn of(view: &View<'_>) -> Result<Self> {
        let (rows, cols) = if view.transposed { (view.cols, view.rows) } else { (view.rows, view.cols) };
        let one = view.batch == 1 || view.batch_stride == 0;
        let (matrices, matrix_stride) =
            if one { (1, rows * view.stride) } else { (view.batch, view.batch_stride) };
        let stored = Stored {
            storage: view.input.metal()?.clone(),
            start: view.input.start_offset(),
            rows,
            cols,
            stride: view.stride,
            matrices,
            matrix_stride,
        };
        stored.widened()?.documented()
    }

    /// New memory for contiguous matrices, which nothing has written.
    pub fn new(like: &MetalStorage, [matrices, rows, cols]: [usize; 3], dtype: DType) -> Result<Self> {
        // SAFETY: MPS writes every element before one is read.
        let storage = unsafe { like.device().alloc_uninit(&Shape::from((matrices, rows, cols)), dtype)? };
        Ok(Self::contiguous(storage, [matrices, rows, cols]))
    }

    /// Memory that holds contiguous matrices from its beginning on.
    pub fn contiguous(storage: MetalStorage, [matrices, rows, cols]: [usize; 3]) -> Self {
        Stored { storage, start: 0, rows, cols, stride: cols, matrices, matrix_stride: rows * cols }
    }

    fn size(&self) -> usize {
        self.storage.dtype().size_in_bytes()
    }

    /// bf16, which MPS's products refuse, as f32: by candle's kernel, on its stream.
    fn widened(self) -> Result<Self> {
        if self.storage.dtype() != DType::BF16 {
            return Ok(self);
        }
        let dims = [self.matrices, self.rows, self.cols];
        let strides = vec![self.matrix_stride, self.stride, 1];
        let layout = Layout::new(Shape::from(dims.to_vec()), strides, self.start);
        Ok(Self::contiguous(self.storage.to_dtype(&layout, DType::F32)?, dims))
    }

    /// With rows that lie as Apple documents it: `rowBytes` holds a row. Else a copy with the `rowBytes` that MPS recommends.
    fn documented(self) -> Result<Self> {
        if self.stride >= self.cols {
            return Ok(self);
        }
        // SAFETY: numbers.
        let row_bytes = unsafe {
            MPSMatrixDescriptor::rowBytesForColumns_dataType(self.cols, data_type(self.storage.dtype())?)
        };
        let stride = row_bytes / self.size();
        let mut copy = Self::new(&self.storage, [self.matrices, self.rows, stride], self.storage.dtype())?;
        copy.cols = self.cols;
        for i in 0..self.matrices {
            let (from, to) = (self.start + i * self.matrix_stride, i * copy.matrix_stride);
            self.storage.copy2d(&mut copy.storage, self.rows, self.cols, self.stride, stride, from, to)?;
        }
        Ok(copy)
    }

    /// Whether one descriptor can say all its matrices: `matrixBytes` is a multiple of `rowBytes`, and holds a matrix.
    pub fn in_one(&self) -> bool {
        let whole = self.matrix_stride.is_multiple_of(self.stride);
        self.matrices == 1 || whole && self.matrix_stride >= self.rows * self.stride
    }

    /// Whether its matrices lie row after row, as if they were one.
    pub fn is_tall(&self) -> bool {
        self.matrices == 1 || self.matrix_stride == self.rows * self.stride
    }

    /// Whether its elements follow each other.
    pub fn is_line(&self) -> bool {
        self.matrices == 1 && (self.rows == 1 || self.stride == 1)
    }

    /// The rows of all its matrices as one.
    pub fn tall(&self) -> Self {
        Stored { rows: self.matrices * self.rows, matrices: 1, ..self.clone() }
    }

    /// Its first rows.
    pub fn first(&self, rows: usize) -> Self {
        Stored { rows, ..self.clone() }
    }

    /// One of its matrices.
    pub fn one(&self, index: usize) -> Self {
        let index = if self.matrices == 1 { 0 } else { index };
        Stored { start: self.start + index * self.matrix_stride, matrices: 1, ..self.clone() }
    }

    /// The bytes that Apple documents a buffer to need.
    fn bytes(&self) -> usize {
        let last = (self.matrices - 1) * self.matrix_stride + (self.rows - 1) * self.stride;
        (self.start + last + self.cols) * self.size()
    }

    fn holds(&self) -> Result<()> {
        match (self.bytes(), self.storage.buffer().length()) {
            (wants, got) if wants > got => bail!("mps: wants a buffer of {wants} bytes, got {got}"),
            _ => Ok(()),
        }
    }

    pub fn matrix(&self) -> Result<Retained<MPSMatrix>> {
        self.holds()?;
        let size = self.size();
        let (row, matrix) = (self.stride * size, self.matrix_stride * size);
        let (rows, cols, dtype) = (self.rows, self.cols, data_type(self.storage.dtype())?);
        // SAFETY: a layout as documented, in a buffer that holds it; the matrix retains the buffer.
        unsafe {
            let descriptor = match self.matrices {
                1 => MPSMatrixDescriptor::matrixDescriptorWithRows_columns_rowBytes_dataType(rows, cols, row, dtype),
                n => MPSMatrixDescriptor::matrixDescriptorWithRows_columns_matrices_rowBytes_matrixBytes_dataType(
                    rows, cols, n, row, matrix, dtype,
                ),
            };
            let buffer: &ProtocolObject<dyn MTLBuffer> = self.storage.buffer().as_ref();
            let at = self.start * size;
            made(msg_send![MPSMatrix::alloc(), initWithBuffer: buffer, offset: at, descriptor: &*descriptor])
        }
    }

    /// Its elements as a vector, which [is a line](Self::is_line).
    pub fn vector(&self) -> Result<Retained<MPSVector>> {
        self.holds()?;
        let dtype = data_type(self.storage.dtype())?;
        // SAFETY: as above.
        unsafe {
            let length = self.rows * self.cols;
            let descriptor = MPSVectorDescriptor::vectorDescriptorWithLength_dataType(length, dtype);
            let buffer: &ProtocolObject<dyn MTLBuffer> = self.storage.buffer().as_ref();
            let at = self.start * self.size();
            made(msg_send![MPSVector::alloc(), initWithBuffer: buffer, offset: at, descriptor: &*descriptor])
        }
    }
}

/// The types that every floating point kernel of MPS takes.
fn data_type(dtype: DType) -> Result<MPSDataType> {
    Ok(match dtype {
        DType::F32 => MPSDataType::Float32,
        DType::F16 => MPSDataType::Float16,
        dtype => bail!("mps: wants f32 or f16, got {dtype:?}"),
    })
}
