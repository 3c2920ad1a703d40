//! `C = alpha * op(A) * op(B) + beta * C`: what `MPSMatrixMultiplication` and `MPSMatrixVectorMultiplication` compute.
//!
//! Products are summed in `f32` and rounded once to the result's type. With a beta of zero the result is not read.

use super::element::DataType;
use super::layout::{Operand, batch};
use crate::exec::Context;
use std::ops::Range;

/// A kernel, as a program has set it.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Whether A lies transposed.
    pub transpose_left: bool,
    /// Whether B lies transposed.
    pub transpose_right: bool,
    /// Of C.
    pub rows: usize,
    /// Of C.
    pub columns: usize,
    /// Columns of op(A), rows of op(B).
    pub interior: usize,
    /// The factor of the product.
    pub alpha: f64,
    /// The factor of what C was.
    pub beta: f64,
    /// The first matrix to process.
    pub batch_start: usize,
    /// How many; `usize::MAX` for all.
    pub batch_size: usize,
}

/// Rows that are summed together: each row of the right matrix is read once for all of them.
const ROWS: usize = 8;

/// A product of certain matrices, found to break no rule.
#[derive(Clone)]
pub struct EncodedProduct {
    kernel: Product,
    left: Operand,
    right: Operand,
    result: Operand,
    batch: Range<usize>,
}

impl Product {
    /// What the initialisers without transposes and factors set, except for the sizes.
    pub const SIMPLE: Self = Self {
        transpose_left: false,
        transpose_right: false,
        rows: 0,
        columns: 0,
        interior: 0,
        alpha: 1.0,
        beta: 0.0,
        batch_start: 0,
        batch_size: usize::MAX,
    };

    pub(super) fn left_part(&self) -> [usize; 2] {
        let [rows, columns] = [self.rows, self.interior];
        if self.transpose_left { [columns, rows] } else { [rows, columns] }
    }

    pub(super) fn right_part(&self) -> [usize; 2] {
        let [rows, columns] = [self.interior, self.columns];
        if self.transpose_right { [columns, rows] } else { [rows, columns] }
    }

    /// The product of certain matrices, or all rules that it breaks, after those it is known to break. `names` are
    /// what the caller calls the matrices.
    pub fn encode(
        &self,
        names: [&str; 3],
        operands: [&Operand; 3],
        mut broken: Vec<String>,
    ) -> Result<EncodedProduct, Vec<String>> {
        let [left, right, result] = operands;
        let sizes =
            [("resultRows", self.rows), ("resultColumns", self.columns), ("interiorColumns", self.interior)];
        for (name, size) in sizes {
            if size == 0 {
                broken.push(format!("{name}: wants at least 1, got 0"));
            }
        }
        broken.extend(left.broken_rules(names[0], self.left_part()));
        broken.extend(right.broken_rules(names[1], self.right_part()));
        broken.extend(result.broken_rules(names[2], [self.rows, self.columns]));
        let named = [(names[0], left), (names[1], right), (names[2], result)];
        let batch = batch(self.batch_start, self.batch_size, &named, &mut broken);
        for (name, source) in &named[..2] {
            if result.overlaps(source) {
                broken.push(format!("{}: wants memory of its own, got some of {name}'s", names[2]));
            }
        }
        if !broken.is_empty() {
            return Err(broken);
        }
        let [left, right, result] = operands.map(Operand::clone);
        Ok(EncodedProduct { kernel: *self, left, right, result, batch })
    }
}

/// The types that `MPSMatrixMultiplication` takes: Apple asserts these when it is encoded.
pub(super) fn broken_types([left, right, result]: [DataType; 3]) -> Vec<String> {
    let mut broken = Vec::new();
    let input = [DataType::FLOAT32, DataType::FLOAT16, DataType::INT8, DataType::INT16];
    for (name, data_type) in [("left", left), ("right", right)] {
        if !input.contains(&data_type) {
            broken.push(format!(
                "{name} dataType: wants one of MPSDataTypeFloat32, MPSDataTypeFloat16, MPSDataTypeInt8, \
                 MPSDataTypeInt16, got {}",
                data_type.name()
            ));
        } else if data_type.element().is_none() {
            broken.push(format!(
                "{name} dataType: wants MPSDataTypeFloat32 or MPSDataTypeFloat16 on softmetal, got {}",
                data_type.name()
            ));
        }
    }
    if result.element().is_none() {
        broken.push(format!(
            "result dataType: wants MPSDataTypeFloat32 or MPSDataTypeFloat16, got {}",
            result.name()
        ));
    }
    if !broken.is_empty() {
        return broken;
    }
    let (f32, f16) = (DataType::FLOAT32, DataType::FLOAT16);
    if left != right && (left, right, result) != (f32, f16, f32) {
        broken.push(format!(
            "dataTypes: mixed ones want left and result MPSDataTypeFloat32 and right MPSDataTypeFloat16, got {}, {}, {}",
            left.name(),
            right.name(),
            result.name()
        ));
    } else if (left, result) == (f32, f16) {
        broken.push(
            "result dataType: wants MPSDataTypeFloat32 for sources of it, got MPSDataTypeFloat16".into(),
        );
    }
    broken
}

impl EncodedProduct {
    /// Computes it. Reports call it `name`.
    pub fn run(&self, name: &str, context: &Context) {
        let Product { rows, columns, interior, .. } = self.kernel;
        let (alpha, beta) = (self.kernel.alpha as f32, self.kernel.beta as f32);
        let result_part = [rows, columns];
        let mut before = vec![0f32; columns];
        let mut sums = vec![0f32; ROWS * columns];
        for matrix in self.batch.clone() {
            self.left.touch(matrix, self.kernel.left_part(), false, name, context);
            self.right.touch(matrix, self.kernel.right_part(), false, name, context);
            if beta != 0.0 {
                self.result.touch(matrix, result_part, false, name, context);
            }
            self.result.touch(matrix, result_part, true, name, context);
            let left = dense(&self.left, matrix, [rows, interior], self.kernel.transpose_left);
            let right = dense(&self.right, matrix, [interior, columns], self.kernel.transpose_right);
            for first in (0..rows).step_by(ROWS) {
                sums.fill(0.0);
                let left = &left[first * interior..rows.min(first + ROWS) * interior];
                for (k, right) in right.chunks_exact(columns).enumerate() {
                    for (sums, left) in sums.chunks_exact_mut(columns).zip(left.chunks_exact(interior)) {
                        sums.iter_mut().zip(right).for_each(|(sum, x)| *sum += left[k] * x);
                    }
                }
                for (row, sums) in (first..rows).zip(sums.chunks_exact_mut(columns)) {
                    sums.iter_mut().for_each(|sum| *sum *= alpha);
                    if beta != 0.0 {
                        self.result.read(matrix, row, &mut before);
                        sums.iter_mut().zip(&before).for_each(|(sum, before)| *sum += beta * before);
                    }
                    self.result.write(matrix, row, sums);
                }
            }
        }
    }
}

/// `op(matrix)`, row after row without gaps.
fn dense(operand: &Operand, matrix: usize, [rows, columns]: [usize; 2], transposed: bool) -> Vec<f32> {
    let mut values = vec![0f32; rows * columns];
    if !transposed {
        for (row, values) in values.chunks_exact_mut(columns).enumerate() {
            operand.read(matrix, row, values);
        }
        return values;
    }
    let mut line = vec![0f32; rows];
    for column in 0..columns {
        operand.read(matrix, column, &mut line);
        for (row, value) in line.iter().enumerate() {
            values[row * columns + column] = *value;
        }
    }
    values
}
