//! `B_ij = exp(A_ij) / sum_k exp(A_ik)`, and its logarithm: what `MPSMatrixSoftMax` and `MPSMatrixLogSoftMax` compute.
//!
//! The largest of a row is subtracted first, so that no sum overflows; the sum is in `f32`.

use super::element::DataType;
use super::layout::{Operand, batch};
use crate::exec::Context;
use std::ops::Range;

/// A kernel, as a program has set it.
#[derive(Clone, Copy, Debug)]
pub struct SoftMax {
    /// Whether the logarithm is wanted.
    pub logarithm: bool,
    /// Rows; `usize::MAX` for all from the source's origin on.
    pub source_rows: usize,
    /// Columns, likewise.
    pub source_columns: usize,
    /// The first matrix to process.
    pub batch_start: usize,
    /// How many; `usize::MAX` for all.
    pub batch_size: usize,
}

/// A softmax of certain matrices, found to break no rule.
#[derive(Clone)]
pub struct EncodedSoftMax {
    logarithm: bool,
    part: [usize; 2],
    input: Operand,
    result: Operand,
    batch: Range<usize>,
}

impl SoftMax {
    /// The softmax of certain matrices, or all rules that it breaks.
    pub fn encode(&self, input: &Operand, result: &Operand) -> Result<EncodedSoftMax, Vec<String>> {
        let mut broken = Vec::new();
        let types = [input, result].map(|operand| operand.layout.data_type);
        for (name, data_type) in ["inputMatrix", "resultMatrix"].into_iter().zip(types) {
            if ![DataType::FLOAT32, DataType::FLOAT16].contains(&data_type) {
                let name_of_type = data_type.name();
                broken.push(format!(
                    "{name}: wants MPSDataTypeFloat32 or MPSDataTypeFloat16, got {name_of_type}"
                ));
            }
        }
        if types[0] != types[1] {
            let [input, result] = types.map(DataType::name);
            broken.push(format!("resultMatrix: wants the inputMatrix's {input}, got {result}"));
        }
        // Documented: adjusted to fit into the source from its origin on.
        let available = |whole: usize, origin| whole.saturating_sub(origin);
        let rows = self.source_rows.min(available(input.layout.rows, input.origin[0]));
        let columns = self.source_columns.min(available(input.layout.columns, input.origin[1]));
        let part = [rows, columns];
        if rows == 0 || columns == 0 {
            let layout = input.layout;
            broken.push(format!(
                "inputMatrix: wants an element at its origin {:?} at least, and at least 1 sourceRows and sourceColumns, \
                 got {} x {} and {} x {}",
                input.origin, layout.rows, layout.columns, self.source_rows, self.source_columns
            ));
        }
        broken.extend(result.broken_rules("resultMatrix", part));
        let named = [("inputMatrix", input), ("resultMatrix", result)];
        let batch = batch(self.batch_start, self.batch_size, &named, &mut broken);
        if result.overlaps(input) && !result.is_in_place_of(input) {
            broken.push(
                "resultMatrix: wants memory of its own or all of the inputMatrix's, got some of it".into(),
            );
        }
        if !broken.is_empty() {
            return Err(broken);
        }
        Ok(EncodedSoftMax {
            logarithm: self.logarithm,
            part,
            input: input.clone(),
            result: result.clone(),
            batch,
        })
    }
}

impl EncodedSoftMax {
    /// Computes it. Reports call it `name`.
    pub fn run(&self, name: &str, context: &Context) {
        let [rows, columns] = self.part;
        let mut values = vec![0f32; columns];
        for matrix in self.batch.clone() {
            self.input.touch(matrix, self.part, false, name, context);
            self.result.touch(matrix, self.part, true, name, context);
            for row in 0..rows {
                self.input.read(matrix, row, &mut values);
                softmax(&mut values, self.logarithm);
                self.result.write(matrix, row, &values);
            }
        }
    }
}

fn softmax(values: &mut [f32], logarithm: bool) {
    let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = values.iter().map(|x| (x - largest).exp()).sum();
    if logarithm {
        let log = sum.ln();
        values.iter_mut().for_each(|x| *x = *x - largest - log);
    } else {
        values.iter_mut().for_each(|x| *x = (*x - largest).exp() / sum);
    }
}
