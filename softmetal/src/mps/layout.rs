//! Where the elements of matrices lie: element [i, j] of the k-th matrix is at byte
//! `offset + k * matrix_bytes + i * row_bytes + j * size`.

use super::element::DataType;
use crate::exec::memory::poison;
use crate::exec::{Context, Memory, touch};
use crate::report::{self, Kind, Report};
use std::ops::Range;
use std::sync::Arc;

/// What an `MPSMatrixDescriptor` says, or an `MPSVectorDescriptor`: vectors are matrices of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Rows of a matrix.
    pub rows: usize,
    /// Columns of a matrix: the elements of a vector.
    pub columns: usize,
    /// How many there are.
    pub matrices: usize,
    /// From a row to the next.
    pub row_bytes: usize,
    /// From a matrix, or a vector, to the next.
    pub matrix_bytes: usize,
    /// Of the elements.
    pub data_type: DataType,
}

/// Apple's recommended stride for so many elements. It is documented as what "gives best performance", without a number:
/// this is what systems give, a multiple of 16 bytes.
pub fn recommended_stride(elements: usize, data_type: DataType) -> usize {
    let bytes = elements.saturating_mul((data_type.0 & 0xff) as usize).div_ceil(8);
    bytes.checked_next_multiple_of(16).unwrap_or(usize::MAX)
}

impl Layout {
    /// A matrix by itself.
    pub fn matrix(rows: usize, columns: usize, row_bytes: usize, data_type: DataType) -> Self {
        let matrix_bytes = rows.saturating_mul(row_bytes);
        Self { rows, columns, matrices: 1, row_bytes, matrix_bytes, data_type }
    }

    /// Vectors.
    pub fn vectors(length: usize, vectors: usize, vector_bytes: usize, data_type: DataType) -> Self {
        Self {
            rows: 1,
            columns: length,
            matrices: vectors,
            row_bytes: vector_bytes,
            matrix_bytes: vector_bytes,
            data_type,
        }
    }

    /// The bytes that a buffer must have, from the first element on. None if that is more than there are addresses.
    pub fn length(&self) -> Option<usize> {
        let matrices = self.matrices.checked_sub(1)?.checked_mul(self.matrix_bytes)?;
        let rows = self.rows.checked_sub(1)?.checked_mul(self.row_bytes)?;
        matrices.checked_add(rows)?.checked_add(self.columns.checked_mul(self.data_type.size()?)?)
    }

    /// The rules of a matrix's descriptor that it breaks.
    pub fn broken_rules(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let Some(size) = self.data_type.size() else {
            return vec![format!("dataType: wants one with whole bytes, got {}", self.data_type.name())];
        };
        for (name, value) in [("rows", self.rows), ("columns", self.columns), ("matrices", self.matrices)] {
            if value == 0 {
                broken.push(format!("{name}: wants at least 1, got 0"));
            }
        }
        let (row, name) = (self.row_bytes, self.data_type.name());
        if !row.is_multiple_of(size) {
            broken
                .push(format!("rowBytes: wants a multiple of the element size ({size}, {name}), got {row}"));
        }
        if self.columns.checked_mul(size).is_none_or(|columns| row < columns) {
            broken.push(format!(
                "rowBytes: wants enough for all the columns ({} of {size} bytes), got {row}",
                self.columns
            ));
        }
        if self.matrices > 1 {
            let matrix = self.matrix_bytes;
            if row == 0 || !matrix.is_multiple_of(row) {
                broken.push(format!("matrixBytes: wants a multiple of rowBytes ({row}), got {matrix}"));
            }
            if self.rows.checked_mul(row).is_none_or(|rows| matrix < rows) {
                broken.push(format!(
                    "matrixBytes: wants at least rows * rowBytes ({} * {row}), got {matrix}",
                    self.rows
                ));
            }
        }
        broken
    }

    /// The rules of a vector's descriptor that it breaks.
    pub fn broken_rules_of_vectors(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let Some(size) = self.data_type.size() else {
            return vec![format!("dataType: wants one with whole bytes, got {}", self.data_type.name())];
        };
        for (name, value) in [("length", self.columns), ("vectors", self.matrices)] {
            if value == 0 {
                broken.push(format!("{name}: wants at least 1, got 0"));
            }
        }
        let stride = self.matrix_bytes;
        if !stride.is_multiple_of(size) {
            broken.push(format!("vectorBytes: wants a multiple of the element size ({size}), got {stride}"));
        }
        if self.matrices > 1 && self.columns.checked_mul(size).is_none_or(|length| stride < length) {
            broken.push(format!(
                "vectorBytes: wants enough for all elements ({} of {size} bytes), got {stride}",
                self.columns
            ));
        }
        broken
    }

    /// What is wrong with a buffer of that length as the place of these matrices.
    pub fn broken_rules_of_buffer(&self, buffer: usize, offset: usize) -> Vec<String> {
        let Some(length) = self.length() else { return Vec::new() };
        if offset.checked_add(length).is_none_or(|end| end > buffer) {
            let (matrices, rows, columns) = (self.matrices, self.rows, self.columns);
            return vec![format!(
                "buffer: wants {length} bytes from offset {offset} on, for {matrices} of {rows} x {columns} {} with \
                 rowBytes {} and matrixBytes {}, got a length of {buffer}",
                self.data_type.name(),
                self.row_bytes,
                self.matrix_bytes,
            )];
        }
        match self.data_type.size() {
            Some(size) if !offset.is_multiple_of(size) => {
                vec![format!("offset: wants a multiple of the element size ({size}), got {offset}")]
            }
            _ => Vec::new(),
        }
    }
}

/// Matrices in a buffer, and the part of each that a kernel works on.
#[derive(Clone)]
pub struct Operand {
    /// The buffer.
    pub memory: Arc<Memory>,
    /// Of the first element in it.
    pub offset: usize,
    /// How they lie.
    pub layout: Layout,
    /// First row and column of the part: `x` and `y` of a matrix origin.
    pub origin: [usize; 2],
    /// Whether the rows are vectors.
    pub vector: bool,
}

impl Operand {
    /// The bytes of part of a row: `columns` elements from the origin's column on, of the `row`-th after the origin's.
    pub(super) fn row(&self, matrix: usize, row: usize, columns: usize) -> Range<usize> {
        let size = self.layout.data_type.size().unwrap_or(0);
        let start = self.offset
            + matrix * self.layout.matrix_bytes
            + (self.origin[0] + row) * self.layout.row_bytes
            + self.origin[1] * size;
        start..start + columns * size
    }

    /// Tells the checker that the part of one matrix is used, and reports if nothing has written what is read.
    pub(super) fn touch(
        &self,
        matrix: usize,
        [rows, columns]: [usize; 2],
        write: bool,
        name: &str,
        context: &Context,
    ) {
        if !context.check {
            return;
        }
        let first = self.row(matrix, 0, columns);
        // Rows without gaps are one piece.
        let count = if first.len() == self.layout.row_bytes { 1 } else { rows };
        let piece = |index: usize| {
            let row = self.row(matrix, index, columns);
            row.start..row.start + row.len() * rows / count
        };
        for index in 0..count {
            touch(&self.memory, piece(index), write, name, context);
        }
        if !write && let Some(byte) = (0..count).find_map(|index| self.never_written(piece(index))) {
            let (buffer, length) = (self.memory.name(), self.memory.length());
            report::add(Report {
                kind: Kind::Uninitialised,
                place: name.to_owned(),
                line: None,
                text: format!("reads byte {byte} of {buffer} ({length} bytes), which nothing has written"),
            });
        }
    }

    /// The first of the bytes in a range that are as they were when the memory was made, eight at a time.
    fn never_written(&self, range: Range<usize>) -> Option<usize> {
        let words = (range.start.next_multiple_of(8)..).step_by(8).take_while(|word| word + 8 <= range.end);
        // SAFETY: inside of the memory, at an offset that is a multiple of eight, as its address is.
        let value = |word: usize| unsafe { self.memory.address().add(word).cast::<u64>().read() };
        words.into_iter().find(|word| value(*word) == poison(*word))
    }

    /// The part of a row, converted.
    pub(super) fn read(&self, matrix: usize, row: usize, into: &mut [f32]) {
        let bytes = self.row(matrix, row, into.len());
        if let Some(element) = self.layout.data_type.element() {
            // SAFETY: the kernel was checked to stay inside of the matrices, and these inside of the memory.
            unsafe { element.read(self.memory.address().add(bytes.start), into) };
        }
    }

    /// Writes the part of a row.
    pub(super) fn write(&self, matrix: usize, row: usize, from: &[f32]) {
        let bytes = self.row(matrix, row, from.len());
        if let Some(element) = self.layout.data_type.element() {
            // SAFETY: as above.
            unsafe { element.write(from, self.memory.address().add(bytes.start)) };
        }
    }

    /// What is wrong with this as the place of a part of that size.
    pub(super) fn broken_rules(&self, name: &str, [rows, columns]: [usize; 2]) -> Vec<String> {
        let mut broken = Vec::new();
        let [x, y] = self.origin;
        let fits =
            |origin: usize, part: usize, whole| origin.checked_add(part).is_some_and(|end| end <= whole);
        if !fits(x, rows, self.layout.rows) {
            broken.push(format!(
                "{name}: wants {rows} rows from its origin's {x} on, got {}",
                self.layout.rows
            ));
        }
        if !fits(y, columns, self.layout.columns) {
            let there = self.layout.columns;
            let columns_are = if self.vector { "elements" } else { "columns" };
            broken
                .push(format!("{name}: wants {columns} {columns_are} from its origin's {y} on, got {there}"));
        }
        broken
    }

    /// All bytes that its matrices may have, for questions of overlap.
    fn extent(&self) -> Range<usize> {
        let start = self.memory.address() as usize + self.offset;
        start..start + self.layout.length().unwrap_or(0)
    }

    /// Whether the two may share a byte.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (self.extent(), other.extent());
        a.start < b.end && b.start < a.end
    }

    /// Whether the two are the same elements.
    pub(super) fn is_in_place_of(&self, other: &Self) -> bool {
        self.extent() == other.extent() && self.layout == other.layout && self.origin == other.origin
    }
}

/// The matrices that a kernel processes: from `start` on `size`, or all there are if that is `usize::MAX`; each operand
/// must have them.
pub(super) fn batch(
    start: usize,
    size: usize,
    operands: &[(&str, &Operand)],
    broken: &mut Vec<String>,
) -> Range<usize> {
    let fewest = operands.iter().map(|(_, operand)| operand.layout.matrices).min().unwrap_or(0);
    let end = if size == usize::MAX { fewest } else { start.saturating_add(size) };
    for (name, operand) in operands {
        let matrices = operand.layout.matrices;
        if matrices < end || start >= matrices {
            let wants = if size == usize::MAX { "any".into() } else { size.to_string() };
            broken.push(format!("{name}: wants {wants} matrices from batchStart {start} on, got {matrices}"));
        } else if size == usize::MAX && matrices != fewest {
            broken.push(format!("{name}: wants as many matrices as the others ({fewest}), got {matrices}"));
        }
    }
    start..end
}
