//! `MPSMatrixDescriptor` and `MPSVectorDescriptor`.

use super::element::DataType;
use super::layout::{Layout, recommended_stride};
use crate::foundation::NSObject;
use crate::objc::{Class, Strong, class};
use std::sync::{Mutex, MutexGuard};

/// `MPSMatrixDescriptor`.
pub struct MatrixDescriptor {
    layout: Mutex<Layout>,
    /// Made without `matrixBytes`: it follows rows and `rowBytes`.
    single: bool,
}

class! {
    MatrixDescriptor: linked "._OBJC_CLASS_MPSMatrixDescriptor" "MPSMatrixDescriptor", superclass NSObject, protocols [], Short;
    + "matrixDescriptorWithRows:columns:rowBytes:dataType:" => MatrixDescriptor::with_rows;
    + "matrixDescriptorWithDimensions:columns:rowBytes:dataType:" => MatrixDescriptor::with_rows;
    + "matrixDescriptorWithRows:columns:matrices:rowBytes:matrixBytes:dataType:" => MatrixDescriptor::with_matrices;
    + "rowBytesForColumns:dataType:" => MatrixDescriptor::row_bytes_for_columns;
    + "rowBytesFromColumns:dataType:" => MatrixDescriptor::row_bytes_for_columns;
    - "rows" => MatrixDescriptor::rows;
    - "columns" => MatrixDescriptor::columns;
    - "matrices" => MatrixDescriptor::matrices;
    - "rowBytes" => MatrixDescriptor::row_bytes;
    - "matrixBytes" => MatrixDescriptor::matrix_bytes;
    - "dataType" => MatrixDescriptor::data_type;
    - "setRows:" => MatrixDescriptor::set_rows;
    - "setColumns:" => MatrixDescriptor::set_columns;
    - "setRowBytes:" => MatrixDescriptor::set_row_bytes;
    - "setDataType:" => MatrixDescriptor::set_data_type;
}

impl MatrixDescriptor {
    /// What it says now.
    pub(super) fn layout(&self) -> Layout {
        let layout = *self.lock();
        match self.single {
            true => Layout::matrix(layout.rows, layout.columns, layout.row_bytes, layout.data_type),
            false => layout,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Layout> {
        self.layout.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn with_rows(_: &Class, rows: usize, columns: usize, row_bytes: usize, data_type: u32) -> Strong<Self> {
        let layout = Layout::matrix(rows, columns, row_bytes, DataType(data_type));
        Strong::new(Self { layout: Mutex::new(layout), single: true })
    }

    fn with_matrices(
        _: &Class,
        rows: usize,
        columns: usize,
        matrices: usize,
        row_bytes: usize,
        matrix_bytes: usize,
        data_type: u32,
    ) -> Strong<Self> {
        let data_type = DataType(data_type);
        let layout = Layout { rows, columns, matrices, row_bytes, matrix_bytes, data_type };
        Strong::new(Self { layout: Mutex::new(layout), single: false })
    }

    fn row_bytes_for_columns(_: &Class, columns: usize, data_type: u32) -> usize {
        recommended_stride(columns, DataType(data_type))
    }

    fn rows(&self) -> usize {
        self.layout().rows
    }

    fn columns(&self) -> usize {
        self.layout().columns
    }

    fn matrices(&self) -> usize {
        self.layout().matrices
    }

    fn row_bytes(&self) -> usize {
        self.layout().row_bytes
    }

    fn matrix_bytes(&self) -> usize {
        self.layout().matrix_bytes
    }

    fn data_type(&self) -> u32 {
        self.layout().data_type.0
    }

    fn set_rows(&self, rows: usize) {
        self.lock().rows = rows;
    }

    fn set_columns(&self, columns: usize) {
        self.lock().columns = columns;
    }

    fn set_row_bytes(&self, row_bytes: usize) {
        self.lock().row_bytes = row_bytes;
    }

    fn set_data_type(&self, data_type: u32) {
        self.lock().data_type = DataType(data_type);
    }
}

/// `MPSVectorDescriptor`.
pub struct VectorDescriptor {
    layout: Mutex<Layout>,
    /// Made without `vectorBytes`: it follows the length.
    single: bool,
}

class! {
    VectorDescriptor: linked "._OBJC_CLASS_MPSVectorDescriptor" "MPSVectorDescriptor", superclass NSObject, protocols [], Short;
    + "vectorDescriptorWithLength:dataType:" => VectorDescriptor::with_length;
    + "vectorDescriptorWithLength:vectors:vectorBytes:dataType:" => VectorDescriptor::with_vectors;
    + "vectorBytesForLength:dataType:" => VectorDescriptor::vector_bytes_for_length;
    - "length" => VectorDescriptor::length;
    - "vectors" => VectorDescriptor::vectors;
    - "vectorBytes" => VectorDescriptor::vector_bytes;
    - "dataType" => VectorDescriptor::data_type;
    - "setLength:" => VectorDescriptor::set_length;
    - "setDataType:" => VectorDescriptor::set_data_type;
}

impl VectorDescriptor {
    /// What it says now.
    pub(super) fn layout(&self) -> Layout {
        let layout = *self.lock();
        match self.single {
            true => {
                let bytes = layout.columns.saturating_mul(layout.data_type.size().unwrap_or(1));
                Layout::vectors(layout.columns, 1, bytes, layout.data_type)
            }
            false => layout,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Layout> {
        self.layout.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn with_length(_: &Class, length: usize, data_type: u32) -> Strong<Self> {
        let layout = Layout::vectors(length, 1, 0, DataType(data_type));
        Strong::new(Self { layout: Mutex::new(layout), single: true })
    }

    fn with_vectors(
        _: &Class,
        length: usize,
        vectors: usize,
        vector_bytes: usize,
        data_type: u32,
    ) -> Strong<Self> {
        let layout = Layout::vectors(length, vectors, vector_bytes, DataType(data_type));
        Strong::new(Self { layout: Mutex::new(layout), single: false })
    }

    fn vector_bytes_for_length(_: &Class, length: usize, data_type: u32) -> usize {
        recommended_stride(length, DataType(data_type))
    }

    fn length(&self) -> usize {
        self.layout().columns
    }

    fn vectors(&self) -> usize {
        self.layout().matrices
    }

    fn vector_bytes(&self) -> usize {
        self.layout().matrix_bytes
    }

    fn data_type(&self) -> u32 {
        self.layout().data_type.0
    }

    fn set_length(&self, length: usize) {
        self.lock().columns = length;
    }

    fn set_data_type(&self, data_type: u32) {
        self.lock().data_type = DataType(data_type);
    }
}
