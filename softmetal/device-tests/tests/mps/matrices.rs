//! Matrices in buffers, and kernels, made as a program makes them.

use half::f16;
use objc2::AnyThread;
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_metal::*;
use objc2_metal_performance_shaders::*;
use std::ptr::NonNull;

pub type Device = ProtocolObject<dyn MTLDevice>;
pub type Buffer = ProtocolObject<dyn MTLBuffer>;
pub type Queue = ProtocolObject<dyn MTLCommandQueue>;
pub type CommandBuffer = ProtocolObject<dyn MTLCommandBuffer>;

pub const F32: MPSDataType = MPSDataType::Float32;
pub const F16: MPSDataType = MPSDataType::Float16;

pub fn device() -> Retained<Device> {
    MTLCreateSystemDefaultDevice().expect("a device")
}

pub fn queue() -> Retained<Queue> {
    device().newCommandQueue().expect("a queue")
}

pub fn size_of(data_type: MPSDataType) -> usize {
    (data_type.0 & 0xff) as usize / 8
}

pub fn bytes_of(values: &[f64], data_type: MPSDataType) -> Vec<u8> {
    let f32s = values.iter().flat_map(|x| (*x as f32).to_ne_bytes());
    let f16s = values.iter().flat_map(|x| f16::from_f64(*x).to_ne_bytes());
    if data_type == F16 { f16s.collect() } else { f32s.collect() }
}

pub fn buffer(bytes: &[u8], options: MTLResourceOptions) -> Retained<Buffer> {
    let pointer = NonNull::from(bytes).cast();
    // SAFETY: that many bytes, which are copied.
    unsafe { device().newBufferWithBytes_length_options(pointer, bytes.len(), options) }.expect("memory")
}

/// The bytes of a buffer, through its contents.
pub fn contents(buffer: &Buffer) -> Vec<u8> {
    // SAFETY: all bytes of a shared buffer.
    unsafe { std::slice::from_raw_parts(buffer.contents().cast::<u8>().as_ptr(), buffer.length()) }.to_vec()
}

/// Matrices with rows wider than needed, at an offset.
pub struct Matrices {
    pub matrix: Retained<MPSMatrix>,
    pub buffer: Retained<Buffer>,
    pub data_type: MPSDataType,
    pub offset: usize,
    pub row_bytes: usize,
    pub matrix_bytes: usize,
}

pub const OFFSET: usize = 24;

impl Matrices {
    pub fn new(
        rows: usize,
        columns: usize,
        matrices: usize,
        data_type: MPSDataType,
        value: impl Fn(usize) -> f64,
    ) -> Self {
        let size = size_of(data_type);
        // SAFETY: numbers.
        let row_bytes = unsafe { MPSMatrixDescriptor::rowBytesForColumns_dataType(columns, data_type) };
        let matrix_bytes = row_bytes * (rows + 1);
        let mut bytes = vec![0xffu8; OFFSET + matrices * matrix_bytes];
        for index in 0..matrices * rows * columns {
            let (matrix, row, column) = (index / (rows * columns), index / columns % rows, index % columns);
            let at = OFFSET + matrix * matrix_bytes + row * row_bytes + column * size;
            bytes[at..at + size].copy_from_slice(&bytes_of(&[value(index)], data_type));
        }
        let buffer = buffer(&bytes, MTLResourceOptions::StorageModeShared);
        // SAFETY: numbers, and a buffer of that length.
        let matrix = unsafe {
            let descriptor =
                MPSMatrixDescriptor::matrixDescriptorWithRows_columns_matrices_rowBytes_matrixBytes_dataType(
                    rows,
                    columns,
                    matrices,
                    row_bytes,
                    matrix_bytes,
                    data_type,
                );
            MPSMatrix::initWithBuffer_offset_descriptor(MPSMatrix::alloc(), &buffer, OFFSET, &descriptor)
        };
        Self { matrix, buffer, data_type, offset: OFFSET, row_bytes, matrix_bytes }
    }

    /// Without an offset, a gap, or a batch.
    pub fn tight(rows: usize, columns: usize, data_type: MPSDataType, options: MTLResourceOptions) -> Self {
        let row_bytes = columns * size_of(data_type);
        let values: Vec<f64> = (0..rows * columns).map(value).collect();
        let buffer = buffer(&bytes_of(&values, data_type), options);
        let matrix = matrix(&buffer, rows, columns, row_bytes, data_type);
        Self { matrix, buffer, data_type, offset: 0, row_bytes, matrix_bytes: rows * row_bytes }
    }

    pub fn at(&self, bytes: &[u8], matrix: usize, row: usize, column: usize) -> f64 {
        let size = size_of(self.data_type);
        let at = self.offset + matrix * self.matrix_bytes + row * self.row_bytes + column * size;
        values(&bytes[at..at + size], self.data_type)[0]
    }
}

/// The numbers that bytes are.
pub fn values(bytes: &[u8], data_type: MPSDataType) -> Vec<f64> {
    let number = |bytes: &[u8]| match *bytes {
        [a, b] => f16::from_ne_bytes([a, b]).to_f64(),
        [a, b, c, d] => f32::from_ne_bytes([a, b, c, d]).into(),
        _ => panic!("an element of {} bytes", bytes.len()),
    };
    bytes.chunks(size_of(data_type)).map(number).collect()
}

pub fn matrix(
    buffer: &Buffer,
    rows: usize,
    columns: usize,
    row_bytes: usize,
    data_type: MPSDataType,
) -> Retained<MPSMatrix> {
    // SAFETY: numbers; what is wrong with them is reported.
    unsafe {
        let descriptor = MPSMatrixDescriptor::matrixDescriptorWithRows_columns_rowBytes_dataType(
            rows, columns, row_bytes, data_type,
        );
        MPSMatrix::initWithBuffer_descriptor(MPSMatrix::alloc(), buffer, &descriptor)
    }
}

/// Numbers between -1 and 1 that do not repeat soon.
pub fn value(index: usize) -> f64 {
    let mixed = (index as u32 + 1).wrapping_mul(0x9e37_79b1) >> 8;
    f64::from(f16::from_f64(f64::from(mixed) / f64::from(1 << 23) - 1.0))
}

pub fn run(encode: impl FnOnce(&CommandBuffer)) {
    let commands = queue().commandBuffer().expect("a command buffer");
    encode(&commands);
    commands.commit();
    commands.waitUntilCompleted();
    assert_eq!(commands.status(), MTLCommandBufferStatus::Completed, "{:?}", commands.error());
}

pub fn multiplication(
    transposes: [bool; 2],
    sizes: [usize; 3],
    factors: [f64; 2],
) -> Retained<MPSMatrixMultiplication> {
    // SAFETY: a device of Metal, and numbers.
    unsafe {
        MPSMatrixMultiplication::initWithDevice_transposeLeft_transposeRight_resultRows_resultColumns_interiorColumns_alpha_beta(
            MPSMatrixMultiplication::alloc(), &device(), transposes[0], transposes[1], sizes[0], sizes[2], sizes[1], factors[0], factors[1],
        )
    }
}

pub fn simple([rows, interior, columns]: [usize; 3]) -> Retained<MPSMatrixMultiplication> {
    // SAFETY: as above.
    unsafe {
        MPSMatrixMultiplication::initWithDevice_resultRows_resultColumns_interiorColumns(
            MPSMatrixMultiplication::alloc(),
            &device(),
            rows,
            columns,
            interior,
        )
    }
}

pub fn encode(
    kernel: &MPSMatrixMultiplication,
    commands: &CommandBuffer,
    [left, right, result]: [&Matrices; 3],
) {
    // SAFETY: what is wrong with them is reported.
    unsafe {
        kernel.encodeToCommandBuffer_leftMatrix_rightMatrix_resultMatrix(
            commands,
            &left.matrix,
            &right.matrix,
            &result.matrix,
        );
    }
}

#[track_caller]
pub fn close(got: f64, wants: f64, data_type: MPSDataType) {
    let tolerance = if data_type == F16 { 1e-2 } else { 1e-5 };
    assert!((got - wants).abs() <= tolerance * (1.0 + wants.abs()), "wants {wants}, got {got}");
}
