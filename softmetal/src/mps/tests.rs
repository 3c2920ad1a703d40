//! The kernels against plain `f64` code: every type, transpose, stride, offset, origin and batch; and each rule broken.

use super::element::DataType;
use super::layout::{Layout, Operand, recommended_stride};
use super::product::{Product, broken_types};
use super::softmax::SoftMax;
use crate::exec::Context;
use crate::metal::memory::{Allocation, StorageMode};
use half::f16;

const F32: DataType = DataType::FLOAT32;
const F16: DataType = DataType::FLOAT16;

/// Matrices in a buffer of their own, among bytes that must stay what they are.
struct Matrices {
    allocation: Allocation,
    operand: Operand,
}

/// Where a test puts matrices: elements more than needed.
#[derive(Clone, Copy)]
struct Room {
    offset: usize,
    row: usize,
    rows: usize,
    origin: [usize; 2],
}

const TIGHT: Room = Room { offset: 0, row: 0, rows: 0, origin: [0, 0] };
const WIDE: Room = Room { offset: 3, row: 5, rows: 2, origin: [2, 1] };

impl Matrices {
    fn new([rows, columns]: [usize; 2], matrices: usize, data_type: DataType, room: Room) -> Self {
        let size = data_type.size().expect("a size");
        let (rows, columns) = (rows + room.origin[0], columns + room.origin[1]);
        let row_bytes = (columns + room.row) * size;
        let matrix_bytes = (rows + room.rows) * row_bytes;
        let layout = Layout { rows, columns, matrices, row_bytes, matrix_bytes, data_type };
        assert_eq!(layout.broken_rules(), [""; 0]);
        let length = room.offset * size + layout.length().expect("fits");
        let allocation = Allocation::new(length, StorageMode::Shared, "matrices").expect("memory");
        let memory = allocation.memory().clone();
        let operand =
            Operand { memory, offset: room.offset * size, layout, origin: room.origin, vector: false };
        Self { allocation, operand }
    }

    /// Fills the part that kernels see with numbers that all differ.
    fn filled(self, part: [usize; 2], seed: u64) -> Self {
        let mut state = seed;
        for matrix in 0..self.operand.layout.matrices {
            for row in 0..part[0] {
                let random = |_| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 40) as f32 / (1 << 23) as f32 - 1.0
                };
                let values: Vec<f32> = (0..part[1]).map(random).collect();
                self.operand.write(matrix, row, &values);
            }
        }
        self
    }

    fn at(&self, matrix: usize, row: usize, column: usize) -> f64 {
        let size = self.operand.layout.data_type.size().expect("a size");
        let start = self.operand.row(matrix, row, column).end;
        let bytes = &self.bytes()[start..start + size];
        match size {
            2 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f64(),
            _ => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).into(),
        }
    }

    fn bytes(&self) -> &[u8] {
        let contents = self.allocation.contents().expect("shared");
        // SAFETY: all bytes of the buffer.
        unsafe { std::slice::from_raw_parts(contents.as_ptr(), self.allocation.length()) }
    }
}

fn context() -> Context<'static> {
    Context { command: 1, seed: 1, check: true, ordered: &|_, _| true }
}

fn close(got: f64, wants: f64, scale: f64, data_type: DataType, what: &str) {
    let epsilon = if data_type == F16 { 1.0 / 1024.0 } else { 1.0 / (1 << 21) as f64 };
    let within = epsilon * (scale + wants.abs());
    assert!((got - wants).abs() <= within, "{what}: wants {wants}, got {got}");
}

/// One product, compared element by element; bytes outside of the result's part must not change.
fn check(kernel: Product, types: [DataType; 3], rooms: [Room; 3], matrices: usize) {
    let parts = [kernel.left_part(), kernel.right_part(), [kernel.rows, kernel.columns]];
    let [left, right, result] = [0, 1, 2]
        .map(|i| Matrices::new(parts[i], matrices, types[i], rooms[i]).filled(parts[i], i as u64 + 7));
    if kernel.beta == 0.0 {
        let nothing = vec![f32::NAN; kernel.columns];
        for matrix in 0..matrices {
            (0..kernel.rows).for_each(|row| result.operand.write(matrix, row, &nothing));
        }
    }
    let before = result.bytes().to_vec();
    let before = Matrices {
        allocation: Allocation::with_bytes(&before, StorageMode::Shared, "before").expect("memory"),
        operand: result.operand.clone(),
    };
    let what = format!("{kernel:?} {types:?}");
    let encoded = kernel.encode(
        ["left", "right", "result"],
        [&left.operand, &right.operand, &result.operand],
        broken_types(types),
    );
    let encoded = encoded.unwrap_or_else(|broken| panic!("{what}: {broken:?}"));
    encoded.run("product", &context());

    let processed = kernel.batch_start..matrices.min(kernel.batch_start.saturating_add(kernel.batch_size));
    assert!(!processed.is_empty());
    let mut written = vec![false; result.bytes().len()];
    for matrix in processed {
        for i in 0..kernel.rows {
            result.operand.row(matrix, i, kernel.columns).for_each(|byte| written[byte] = true);
            for j in 0..kernel.columns {
                let mut sum = 0.0;
                for k in 0..kernel.interior {
                    let a = if kernel.transpose_left { left.at(matrix, k, i) } else { left.at(matrix, i, k) };
                    let b =
                        if kernel.transpose_right { right.at(matrix, j, k) } else { right.at(matrix, k, j) };
                    sum += a * b;
                }
                let added = if kernel.beta == 0.0 { 0.0 } else { kernel.beta * before.at(matrix, i, j) };
                let wants = kernel.alpha * sum + added;
                let scale = kernel.alpha.abs() * (kernel.interior as f64).sqrt();
                close(
                    result.at(matrix, i, j),
                    wants,
                    scale,
                    types[2],
                    &format!("{what} [{matrix}, {i}, {j}]"),
                );
            }
        }
    }
    let changed = |byte: &usize| result.bytes()[*byte] != before.bytes()[*byte] && !written[*byte];
    assert_eq!((0..written.len()).find(changed), None, "{what}: a byte beside the result");
}

fn product([rows, interior, columns]: [usize; 3]) -> Product {
    Product { rows, columns, interior, ..Product::SIMPLE }
}

#[test]
fn products_of_all_types_and_layouts() {
    let types = [[F32, F32, F32], [F16, F16, F16], [F16, F16, F32], [F32, F16, F32]];
    for types in types {
        for transposed in 0..4 {
            for rooms in [[TIGHT; 3], [WIDE; 3], [TIGHT, WIDE, TIGHT], [WIDE, TIGHT, WIDE]] {
                for size in [[1, 1, 1], [1, 33, 31], [31, 1, 33], [33, 31, 1], [33, 32, 31]] {
                    let kernel = Product {
                        transpose_left: transposed & 1 == 1,
                        transpose_right: transposed & 2 == 2,
                        ..product(size)
                    };
                    check(kernel, types, rooms, 1);
                }
            }
        }
    }
}

#[test]
fn products_scaled_and_added() {
    for (alpha, beta) in [(1.0, 1.0), (0.5, 0.0), (-2.0, 0.25), (0.0, 1.0), (0.0, 0.0)] {
        for types in [[F32; 3], [F16; 3]] {
            check(Product { alpha, beta, ..product([31, 33, 5]) }, types, [WIDE; 3], 1);
        }
    }
}

#[test]
fn products_in_batches() {
    for (batch_start, batch_size) in [(0, usize::MAX), (0, 4), (1, 2), (3, 1), (2, usize::MAX)] {
        for rooms in [[TIGHT; 3], [WIDE; 3]] {
            let kernel = Product { batch_start, batch_size, beta: 1.0, ..product([3, 7, 5]) };
            check(kernel, [F32; 3], rooms, 4);
        }
    }
}

/// A vector is a matrix of one column whose elements follow each other: a product with B and C transposed.
#[test]
fn vectors_are_rows() {
    let vectors = Layout::vectors(33, 3, 160, F32);
    assert_eq!(vectors.broken_rules_of_vectors(), [""; 0]);
    assert_eq!(vectors.length(), Some(2 * 160 + 33 * 4));
    assert_eq!((vectors.rows, vectors.columns), (1, 33));
}

fn refusal(kernel: Product, operands: [&Matrices; 3], words: &str) {
    let operands = operands.map(|matrices| &matrices.operand);
    let types = broken_types(operands.map(|operand| operand.layout.data_type));
    let broken = kernel.encode(["leftMatrix", "rightMatrix", "resultMatrix"], operands, types);
    let broken = broken.err().expect("refused");
    assert_eq!(broken.len(), 1, "{broken:?}");
    assert!(broken[0].contains(words), "{words} in {broken:?}");
}

#[test]
fn products_that_break_a_rule() {
    let matrices = |part, count, data_type| Matrices::new(part, count, data_type, TIGHT);
    let (left, right, result) =
        (matrices([4, 5], 1, F32), matrices([5, 6], 1, F32), matrices([4, 6], 1, F32));
    let kernel = product([4, 5, 6]);
    let clean = [&left, &right, &result].map(|matrices| &matrices.operand);
    assert!(kernel.encode(["a", "b", "c"], clean, Vec::new()).is_ok());

    let rows = Product { rows: 5, transpose_left: true, ..product([5, 4, 6]) };
    refusal(rows, [&left, &right, &result], "resultMatrix: wants 5 rows from its origin's 0 on, got 4");
    refusal(product([4, 5, 7]), [&left, &matrices([5, 7], 1, F32), &result], "resultMatrix: wants 7 columns");
    refusal(kernel, [&matrices([4, 4], 1, F32), &right, &result], "leftMatrix: wants 5 columns");
    refusal(kernel, [&left, &matrices([4, 6], 1, F32), &result], "rightMatrix: wants 5 rows");
    let transposed = Product { transpose_left: true, ..kernel };
    refusal(transposed, [&matrices([5, 3], 1, F32), &right, &result], "leftMatrix: wants 4 columns");
    let mut moved = matrices([4, 6], 1, F32);
    moved.operand.origin = [1, 0];
    refusal(kernel, [&left, &right, &moved], "resultMatrix: wants 4 rows from its origin's 1 on, got 4");
    moved.operand.origin = [0, usize::MAX];
    refusal(kernel, [&left, &right, &moved], "resultMatrix: wants 6 columns");
    refusal(Product { interior: 0, ..kernel }, [&left, &right, &result], "interiorColumns: wants at least 1");

    let twice = matrices([4, 5], 2, F32);
    refusal(kernel, [&twice, &right, &result], "leftMatrix: wants as many matrices as the others (1), got 2");
    let second = Product { batch_start: 1, batch_size: 1, ..kernel };
    let (right2, result2) = (matrices([5, 6], 2, F32), matrices([4, 6], 2, F32));
    refusal(second, [&left, &right2, &result2], "leftMatrix: wants 1 matrices from batchStart 1 on, got 1");

    let overlapping = Matrices { allocation: shared(400), operand: result.operand.clone() };
    let memory = overlapping.allocation.memory().clone();
    let place = |matrices: &Matrices, offset| Matrices {
        allocation: shared(1),
        operand: Operand { memory: memory.clone(), offset, ..matrices.operand.clone() },
    };
    let (near, apart) = (place(&result, 76), place(&result, 80));
    refusal(kernel, [&place(&left, 0), &right, &near], "resultMatrix: wants memory of its own");
    let first = place(&left, 0);
    let apart = [&first, &right, &apart].map(|matrices| &matrices.operand);
    assert!(kernel.encode(["a", "b", "c"], apart, Vec::new()).is_ok());
}

fn shared(length: usize) -> Allocation {
    Allocation::new(length, StorageMode::Shared, "shared").expect("memory")
}

#[test]
fn types_that_are_refused() {
    let (bf16, i8, i16) = (DataType::BFLOAT16, DataType::INT8, DataType::INT16);
    let wants = "wants one of MPSDataTypeFloat32, MPSDataTypeFloat16, MPSDataTypeInt8, MPSDataTypeInt16";
    for (types, words) in [
        ([bf16, F32, F32], wants),
        ([F32, bf16, F32], wants),
        ([F32, F32, bf16], "result dataType: wants MPSDataTypeFloat32 or MPSDataTypeFloat16"),
        ([F32, F32, i8], "result dataType"),
        ([i16, F32, F32], "on softmetal"),
        ([F16, F32, F32], "mixed ones want left and result MPSDataTypeFloat32"),
        ([F32, F16, F16], "mixed ones"),
        ([F32, F32, F16], "wants MPSDataTypeFloat32 for sources of it"),
    ] {
        let [left, right, result] = types.map(|data_type| Matrices::new([2, 2], 1, data_type, TIGHT));
        refusal(product([2, 2, 2]), [&left, &right, &result], words);
    }
}

#[test]
fn layouts_that_break_a_rule() {
    let layout = Layout { rows: 3, columns: 5, matrices: 2, row_bytes: 24, matrix_bytes: 96, data_type: F32 };
    assert_eq!(layout.broken_rules(), [""; 0]);
    assert_eq!(layout.length(), Some(96 + 2 * 24 + 20));
    for (broken, words) in [
        (
            Layout { row_bytes: 22, matrix_bytes: 88, ..layout },
            "rowBytes: wants a multiple of the element size (4",
        ),
        (
            Layout { row_bytes: 16, ..layout },
            "rowBytes: wants enough for all the columns (5 of 4 bytes), got 16",
        ),
        (Layout { matrix_bytes: 100, ..layout }, "matrixBytes: wants a multiple of rowBytes (24), got 100"),
        (
            Layout { matrix_bytes: 48, ..layout },
            "matrixBytes: wants at least rows * rowBytes (3 * 24), got 48",
        ),
        (Layout { rows: 0, ..layout }, "rows: wants at least 1"),
        (Layout { matrices: 0, ..layout }, "matrices: wants at least 1"),
        (Layout { data_type: DataType::INVALID, ..layout }, "dataType: wants one with whole bytes"),
        (Layout { columns: usize::MAX, ..layout }, "rowBytes: wants enough"),
    ] {
        let rules = broken.broken_rules();
        assert_eq!(rules.len(), 1, "{rules:?}");
        assert!(rules[0].contains(words), "{words} in {rules:?}");
    }
    assert_eq!(layout.broken_rules_of_buffer(164, 0), [""; 0]);
    assert_eq!(layout.broken_rules_of_buffer(168, 4), [""; 0]);
    assert!(layout.broken_rules_of_buffer(163, 0)[0].contains("wants 164 bytes from offset 0 on"));
    assert!(layout.broken_rules_of_buffer(167, 4)[0].contains("got a length of 167"));
    assert!(
        layout.broken_rules_of_buffer(1000, 2)[0].contains("offset: wants a multiple of the element size")
    );
    assert!(!layout.broken_rules_of_buffer(1000, usize::MAX).is_empty());
    let vectors = Layout::vectors(5, 2, 16, F32);
    assert!(vectors.broken_rules_of_vectors()[0].contains("vectorBytes: wants enough for all elements"));
    let vectors = Layout::vectors(5, 2, 22, F32);
    assert!(vectors.broken_rules_of_vectors()[0].contains("vectorBytes: wants a multiple"));
}

#[test]
fn recommended_strides() {
    for (columns, data_type, bytes) in
        [(4, F32, 16), (5, F32, 32), (1, F16, 16), (1000, F16, 2000), (9, F16, 32)]
    {
        assert_eq!(recommended_stride(columns, data_type), bytes);
        assert!(Layout::matrix(2, columns, bytes, data_type).broken_rules().is_empty());
    }
}

const WHOLE: SoftMax = SoftMax {
    logarithm: false,
    source_rows: usize::MAX,
    source_columns: usize::MAX,
    batch_start: 0,
    batch_size: usize::MAX,
};

#[test]
fn softmax_of_all_types_and_layouts() {
    for logarithm in [false, true] {
        for data_type in [F32, F16] {
            for room in [TIGHT, WIDE] {
                for part in [[1, 1], [31, 33], [2, 1000]] {
                    let input = Matrices::new(part, 3, data_type, room).filled(part, 3);
                    let result = Matrices::new(part, 3, data_type, room);
                    let kernel = SoftMax { logarithm, batch_start: 1, ..WHOLE };
                    let before = result.bytes()[..result.operand.row(1, 0, 0).start].to_vec();
                    kernel
                        .encode(&input.operand, &result.operand, Vec::new())
                        .expect("right")
                        .run("softmax", &context());
                    assert_eq!(result.bytes()[..before.len()], before, "matrix 0 is not in the batch");
                    for (matrix, row) in (1..3).flat_map(|matrix| (0..part[0]).map(move |row| (matrix, row)))
                    {
                        let sum: f64 = (0..part[1]).map(|column| input.at(matrix, row, column).exp()).sum();
                        for column in 0..part[1] {
                            let x = input.at(matrix, row, column);
                            let wants = if logarithm { x - sum.ln() } else { x.exp() / sum };
                            let scale = if logarithm { 1.0 } else { 4.0 * wants };
                            close(result.at(matrix, row, column), wants, scale, data_type, "softmax");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn softmax_of_a_part_and_of_extremes() {
    let input = Matrices::new([3, 4], 1, F32, TIGHT);
    let result = Matrices::new([2, 3], 1, F32, TIGHT);
    for row in 0..3 {
        input.operand.write(0, row, &[1000.0, -1000.0, 999.0, 88.0]);
    }
    let kernel = SoftMax { source_rows: 2, source_columns: 3, ..WHOLE };
    kernel.encode(&input.operand, &result.operand, Vec::new()).expect("right").run("softmax", &context());
    let share = 1.0 / (1.0 + (-1f64).exp());
    close(result.at(0, 1, 0), share, 1.0, F32, "large");
    assert_eq!(result.at(0, 1, 1), 0.0);
    close(result.at(0, 0, 2), 1.0 - share, 1.0, F32, "large");

    // In place.
    let kernel = SoftMax { source_columns: 1, ..WHOLE };
    kernel.encode(&input.operand, &input.operand, Vec::new()).expect("right").run("softmax", &context());
    assert_eq!((input.at(0, 2, 0), input.at(0, 2, 2)), (1.0, 999.0));
}

#[test]
fn softmax_that_breaks_a_rule() {
    let matrices = |part, data_type| Matrices::new(part, 1, data_type, TIGHT);
    let input = matrices([3, 4], F32);
    let refusal = |kernel: SoftMax, input: &Matrices, result: &Matrices, words: &str| {
        let broken = kernel.encode(&input.operand, &result.operand, Vec::new()).err().expect("refused");
        assert!(broken.iter().any(|rule| rule.contains(words)), "{words} in {broken:?}");
    };
    assert!(WHOLE.encode(&input.operand, &matrices([3, 4], F32).operand, Vec::new()).is_ok());
    refusal(WHOLE, &input, &matrices([2, 4], F32), "resultMatrix: wants 3 rows");
    refusal(WHOLE, &input, &matrices([3, 3], F32), "resultMatrix: wants 4 columns");
    refusal(WHOLE, &input, &matrices([3, 4], F16), "wants the inputMatrix's MPSDataTypeFloat32");
    let bf16 = matrices([3, 4], DataType::BFLOAT16);
    refusal(WHOLE, &bf16, &bf16, "inputMatrix: wants MPSDataTypeFloat32 or MPSDataTypeFloat16");
    let mut outside = matrices([3, 4], F32);
    outside.operand.origin = [3, 0];
    refusal(WHOLE, &outside, &matrices([3, 4], F32), "wants an element at its origin");
}
