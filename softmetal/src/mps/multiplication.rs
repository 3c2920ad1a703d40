//! `MPSMatrixMultiplication` and `MPSMatrixVectorMultiplication`.

use super::element::DataType;
use super::kernel::{
    Batch, BinaryKernel, Kernel, Origin, Property, at_element, at_origin, report_broken, unless_nil,
};
use super::matrix::{Matrix, Vector};
use super::product::{EncodedProduct, Product, broken_types};
use crate::metal::{Buffer, CommandBuffer, Device};
use crate::objc::{Allocated, Instance, Strong, class};

/// `MPSMatrixMultiplication`.
#[repr(C)]
pub struct MatrixMultiplication {
    kernel: Kernel,
    product: Product,
    left_origin: Property<Origin>,
    right_origin: Property<Origin>,
    result_origin: Property<Origin>,
    batch: Property<Batch>,
}

class! {
    MatrixMultiplication: linked "._OBJC_CLASS_MPSMatrixMultiplication" "MPSMatrixMultiplication", superclass Kernel, protocols [], Long;
    - "initWithDevice:transposeLeft:transposeRight:resultRows:resultColumns:interiorColumns:alpha:beta:" => MatrixMultiplication::init;
    - "initWithDevice:resultRows:resultColumns:interiorColumns:" => MatrixMultiplication::init_simple;
    - "copy" => MatrixMultiplication::copy;
    - "leftMatrixOrigin" => MatrixMultiplication::left_origin;
    - "setLeftMatrixOrigin:" => MatrixMultiplication::set_left_origin;
    - "rightMatrixOrigin" => MatrixMultiplication::right_origin;
    - "setRightMatrixOrigin:" => MatrixMultiplication::set_right_origin;
    - "resultMatrixOrigin" => MatrixMultiplication::result_origin;
    - "setResultMatrixOrigin:" => MatrixMultiplication::set_result_origin;
    - "batchStart" => MatrixMultiplication::batch_start;
    - "setBatchStart:" => MatrixMultiplication::set_batch_start;
    - "batchSize" => MatrixMultiplication::batch_size;
    - "setBatchSize:" => MatrixMultiplication::set_batch_size;
    - "encodeToCommandBuffer:leftMatrix:rightMatrix:resultMatrix:" => MatrixMultiplication::encode;
}

impl MatrixMultiplication {
    #[expect(clippy::too_many_arguments, reason = "the method's")]
    fn init(
        _: Allocated,
        device: &Instance<Device>,
        transpose_left: bool,
        transpose_right: bool,
        rows: usize,
        columns: usize,
        interior: usize,
        alpha: f64,
        beta: f64,
    ) -> Option<Strong<Self>> {
        let product = Product {
            transpose_left,
            transpose_right,
            rows,
            columns,
            interior,
            alpha,
            beta,
            ..Product::SIMPLE
        };
        unless_nil("MPSMatrixMultiplication", Self::new(Kernel::new(device), product))
    }

    fn init_simple(
        _: Allocated,
        device: &Instance<Device>,
        rows: usize,
        columns: usize,
        interior: usize,
    ) -> Strong<Self> {
        Self::new(Kernel::new(device), Product { rows, columns, interior, ..Product::SIMPLE })
    }

    fn new(kernel: Kernel, product: Product) -> Strong<Self> {
        Strong::new(Self {
            kernel,
            product,
            left_origin: Property::default(),
            right_origin: Property::default(),
            result_origin: Property::default(),
            batch: Property::default(),
        })
    }

    fn copy(&self) -> Strong<Self> {
        let copy = Self::new(self.kernel.copy(None), self.product);
        copy.left_origin.set(self.left_origin.get());
        copy.right_origin.set(self.right_origin.get());
        copy.result_origin.set(self.result_origin.get());
        copy.batch.set(self.batch.get());
        copy
    }

    fn left_origin(&self) -> Origin {
        self.left_origin.get()
    }

    fn set_left_origin(&self, origin: Origin) {
        self.left_origin.set(origin);
    }

    fn right_origin(&self) -> Origin {
        self.right_origin.get()
    }

    fn set_right_origin(&self, origin: Origin) {
        self.right_origin.set(origin);
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

    fn encode(
        &self,
        command_buffer: &Instance<CommandBuffer>,
        left: &Instance<Matrix>,
        right: &Instance<Matrix>,
        result: &Instance<Matrix>,
    ) {
        let place = "-[MPSMatrixMultiplication encodeToCommandBuffer:leftMatrix:rightMatrix:resultMatrix:]";
        let (Some(left), Some(right), Some(result)) = (left.operand(), right.operand(), result.operand())
        else {
            return;
        };
        let names = ["leftMatrix", "rightMatrix", "resultMatrix"];
        let mut broken = Vec::new();
        let operands = [
            at_origin(left.0, names[0], self.left_origin.get(), &mut broken),
            at_origin(right.0, names[1], self.right_origin.get(), &mut broken),
            at_origin(result.0, names[2], self.result_origin.get(), &mut broken),
        ];
        broken.extend(broken_types(operands.each_ref().map(|operand| operand.layout.data_type)));
        let Batch { start, size } = self.batch.get();
        let product = Product { batch_start: start, batch_size: size, ..self.product };
        let encoded = product.encode(names, operands.each_ref(), broken);
        let name = self.kernel.name("MPSMatrixMultiplication");
        add(command_buffer, place, name, encoded, [&left.1, &right.1], &result.1);
    }
}

/// `MPSMatrixVectorMultiplication`.
#[repr(C)]
pub struct MatrixVectorMultiplication {
    kernel: BinaryKernel,
    transpose: bool,
    rows: usize,
    columns: usize,
    alpha: f64,
    beta: f64,
}

class! {
    MatrixVectorMultiplication: linked "._OBJC_CLASS_MPSMatrixVectorMultiplication" "MPSMatrixVectorMultiplication", superclass BinaryKernel, protocols [], Long;
    - "initWithDevice:transpose:rows:columns:alpha:beta:" => MatrixVectorMultiplication::init;
    - "initWithDevice:rows:columns:" => MatrixVectorMultiplication::init_simple;
    - "copy" => MatrixVectorMultiplication::copy;
    - "encodeToCommandBuffer:inputMatrix:inputVector:resultVector:" => MatrixVectorMultiplication::encode;
}

impl MatrixVectorMultiplication {
    fn init(
        _: Allocated,
        device: &Instance<Device>,
        transpose: bool,
        rows: usize,
        columns: usize,
        alpha: f64,
        beta: f64,
    ) -> Option<Strong<Self>> {
        let kernel = BinaryKernel::new(device);
        let new = Strong::new(Self { kernel, transpose, rows, columns, alpha, beta });
        unless_nil("MPSMatrixVectorMultiplication", new)
    }

    fn init_simple(_: Allocated, device: &Instance<Device>, rows: usize, columns: usize) -> Strong<Self> {
        let kernel = BinaryKernel::new(device);
        Strong::new(Self { kernel, transpose: false, rows, columns, alpha: 1.0, beta: 0.0 })
    }

    fn copy(&self) -> Strong<Self> {
        let Self { transpose, rows, columns, alpha, beta, .. } = *self;
        Strong::new(Self { kernel: self.kernel.copy(None), transpose, rows, columns, alpha, beta })
    }

    fn encode(
        &self,
        command_buffer: &Instance<CommandBuffer>,
        matrix: &Instance<Matrix>,
        vector: &Instance<Vector>,
        result: &Instance<Vector>,
    ) {
        let place =
            "-[MPSMatrixVectorMultiplication encodeToCommandBuffer:inputMatrix:inputVector:resultVector:]";
        let (Some(matrix), Some(vector), Some(result)) =
            (matrix.operand(), vector.operand(), result.operand())
        else {
            return;
        };
        // Vectors lie as rows: the row y is the row x times op(A) transposed.
        let names = ["inputVector", "inputMatrix", "resultVector"];
        let mut broken = Vec::new();
        let operands = [
            at_element(vector.0, names[0], self.kernel.secondary_origin.get(), &mut broken),
            at_origin(matrix.0, names[1], self.kernel.primary_origin.get(), &mut broken),
            at_element(result.0, names[2], self.kernel.result_origin.get(), &mut broken),
        ];
        let types = operands.each_ref().map(|operand| operand.layout.data_type);
        broken.extend(broken_types_of_vectors(types));
        let Batch { start, size } = self.kernel.batch.get();
        let product = Product {
            transpose_left: false,
            transpose_right: !self.transpose,
            rows: 1,
            columns: self.rows,
            interior: self.columns,
            alpha: self.alpha,
            beta: self.beta,
            batch_start: start,
            batch_size: size,
        };
        let encoded = product.encode(names, operands.each_ref(), broken);
        let name = self.kernel.kernel.name("MPSMatrixVectorMultiplication");
        add(command_buffer, place, name, encoded, [&matrix.1, &vector.1], &result.1);
    }
}

/// Apple documents no types for it: what every MPS kernel of floating point numbers takes is offered, and no mixture.
fn broken_types_of_vectors(types: [DataType; 3]) -> Vec<String> {
    let [vector, matrix, result] = types;
    let float = [DataType::FLOAT32, DataType::FLOAT16].contains(&matrix);
    if float && vector == matrix && result == matrix {
        return Vec::new();
    }
    let [vector, matrix, result] = types.map(DataType::name);
    vec![format!(
        "dataTypes: softmetal wants MPSDataTypeFloat32 or MPSDataTypeFloat16 for all three, got {matrix} (inputMatrix), \
         {vector} (inputVector) and {result} (resultVector)"
    )]
}

/// Writes a product into a command buffer, or reports what is wrong with it.
fn add(
    command_buffer: &CommandBuffer,
    place: &str,
    name: String,
    encoded: Result<EncodedProduct, Vec<String>>,
    sources: [&Buffer; 2],
    result: &Buffer,
) {
    match encoded {
        Ok(encoded) => {
            let uses = [(sources[0], false), (sources[1], false), (result, true)];
            let run_name = name.clone();
            command_buffer.encode(
                place,
                &name,
                &uses,
                Box::new(move |context| {
                    encoded.run(&run_name, context);
                    Ok(())
                }),
            );
        }
        Err(broken) => report_broken(place, &broken),
    }
}
