//! `MPSMatrixSoftMax`: `B_ij = exp(A_ij) / sum_k exp(A_ik)`; and `MPSMatrixLogSoftMax`, its logarithm.
//!
//! The largest of a row is subtracted first, so that no sum overflows; the sum is in `f32`.

use super::element::DataType;
use super::kernel::{Batch, Property, UnaryKernel, at_origin, report_broken, unless_nil};
use super::layout::{Operand, batch};
use super::matrix::Matrix;
use crate::exec::Context;
use crate::metal::{Buffer, CommandBuffer, Device};
use crate::objc::{Allocated, Instance, Strong, class};
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
    /// The softmax of certain matrices, or all rules that it breaks, after those it is known to break.
    pub fn encode(
        &self,
        input: &Operand,
        result: &Operand,
        mut broken: Vec<String>,
    ) -> Result<EncodedSoftMax, Vec<String>> {
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

/// `MPSMatrixSoftMax`.
#[repr(C)]
pub struct MatrixSoftMax {
    kernel: UnaryKernel,
    logarithm: bool,
    source_rows: Property<usize>,
    source_columns: Property<usize>,
}

class! {
    MatrixSoftMax: linked "._OBJC_CLASS_MPSMatrixSoftMax" "MPSMatrixSoftMax", superclass UnaryKernel, protocols [], Long;
    - "initWithDevice:" => MatrixSoftMax::init;
    - "copy" => MatrixSoftMax::copy;
    - "sourceRows" => MatrixSoftMax::source_rows;
    - "setSourceRows:" => MatrixSoftMax::set_source_rows;
    - "sourceColumns" => MatrixSoftMax::source_columns;
    - "setSourceColumns:" => MatrixSoftMax::set_source_columns;
    - "encodeToCommandBuffer:inputMatrix:resultMatrix:" => MatrixSoftMax::encode;
}

impl MatrixSoftMax {
    fn init(_: Allocated, device: &Instance<Device>) -> Option<Strong<Self>> {
        unless_nil("MPSMatrixSoftMax", Strong::new(Self::new(device, false)))
    }

    fn new(device: &Instance<Device>, logarithm: bool) -> Self {
        Self {
            kernel: UnaryKernel::new(device),
            logarithm,
            source_rows: Property::new(usize::MAX),
            source_columns: Property::new(usize::MAX),
        }
    }

    fn duplicate(&self) -> Self {
        Self {
            kernel: self.kernel.copy(None),
            logarithm: self.logarithm,
            source_rows: Property::new(self.source_rows.get()),
            source_columns: Property::new(self.source_columns.get()),
        }
    }

    fn copy(&self) -> Strong<Self> {
        Strong::new(self.duplicate())
    }

    fn source_rows(&self) -> usize {
        self.source_rows.get()
    }

    fn set_source_rows(&self, rows: usize) {
        self.source_rows.set(rows);
    }

    fn source_columns(&self) -> usize {
        self.source_columns.get()
    }

    fn set_source_columns(&self, columns: usize) {
        self.source_columns.set(columns);
    }

    fn encode(
        &self,
        command_buffer: &Instance<CommandBuffer>,
        input: &Instance<Matrix>,
        result: &Instance<Matrix>,
    ) {
        let class = if self.logarithm { "MPSMatrixLogSoftMax" } else { "MPSMatrixSoftMax" };
        let place = format!("-[{class} encodeToCommandBuffer:inputMatrix:resultMatrix:]");
        let (Some(input), Some(result)) = (input.operand(), result.operand()) else { return };
        let mut broken = Vec::new();
        let source = at_origin(input.0, "inputMatrix", self.kernel.source_origin.get(), &mut broken);
        let target = at_origin(result.0, "resultMatrix", self.kernel.result_origin.get(), &mut broken);
        let Batch { start, size } = self.kernel.batch.get();
        let softmax = SoftMax {
            logarithm: self.logarithm,
            source_rows: self.source_rows.get(),
            source_columns: self.source_columns.get(),
            batch_start: start,
            batch_size: size,
        };
        match softmax.encode(&source, &target, broken) {
            Ok(encoded) => {
                let name = self.kernel.kernel.name(class);
                let run_name = name.clone();
                let uses: [(&Buffer, bool); 2] = [(&input.1, false), (&result.1, true)];
                command_buffer.encode(
                    &place,
                    &name,
                    &uses,
                    Box::new(move |context| {
                        encoded.run(&run_name, context);
                        Ok(())
                    }),
                );
            }
            Err(broken) => report_broken(&place, &broken),
        }
    }
}

/// `MPSMatrixLogSoftMax`.
#[repr(C)]
pub struct MatrixLogSoftMax(MatrixSoftMax);

class! {
    MatrixLogSoftMax: linked "._OBJC_CLASS_MPSMatrixLogSoftMax" "MPSMatrixLogSoftMax", superclass MatrixSoftMax, protocols [], Long;
    - "initWithDevice:" => MatrixLogSoftMax::init;
    - "copy" => MatrixLogSoftMax::copy;
}

impl MatrixLogSoftMax {
    fn init(_: Allocated, device: &Instance<Device>) -> Strong<Self> {
        Strong::new(Self(MatrixSoftMax::new(device, true)))
    }

    fn copy(&self) -> Strong<Self> {
        Strong::new(Self(self.0.duplicate()))
    }
}
