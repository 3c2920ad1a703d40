//! The Metal Performance Shaders classes, from `objc2-metal-performance-shaders`: values against plain `f64` code, and
//! each wrong use with the right one beside it.

mod matrices;
mod reports;
mod rules;

use matrices::*;
use objc2::rc::Retained;
use objc2::{AnyThread, ClassType, msg_send};
use objc2_foundation::{NSObjectProtocol, NSString};
use objc2_metal::*;
use objc2_metal_performance_shaders::*;
use reports::{alone, nothing_found};

#[test]
fn the_device_is_supported() {
    // SAFETY: nil or a device.
    unsafe {
        assert!(MPSSupportsMTLDevice(Some(&device())));
        assert!(!MPSSupportsMTLDevice(None));
    }
}

#[test]
fn products() {
    let _alone = alone();
    for types in [[F32; 3], [F16; 3], [F16, F16, F32], [F32, F16, F32]] {
        for transposed in 0..4 {
            let transposes = [transposed & 1 == 1, transposed & 2 == 2];
            for [rows, interior, columns] in [[1, 1, 1], [33, 31, 1], [1, 33, 31], [17, 32, 33]] {
                let shape = |transposed, a, b| if transposed { (b, a) } else { (a, b) };
                let (left_rows, left_columns) = shape(transposes[0], rows, interior);
                let (right_rows, right_columns) = shape(transposes[1], interior, columns);
                let left = Matrices::new(left_rows, left_columns, 2, types[0], value);
                let right = Matrices::new(right_rows, right_columns, 2, types[1], |i| value(i + 1000));
                let result = Matrices::new(rows, columns, 2, types[2], |i| value(i + 2000));
                let kernel = multiplication(transposes, [rows, interior, columns], [0.5, 0.25]);
                run(|commands| encode(&kernel, commands, [&left, &right, &result]));
                let (a, b, c) = (contents(&left.buffer), contents(&right.buffer), contents(&result.buffer));
                for index in 0..2 * rows * columns {
                    let (matrix, i, j) = (index / (rows * columns), index / columns % rows, index % columns);
                    let product = |k| {
                        let (x, y) = shape(transposes[0], i, k);
                        let (z, w) = shape(transposes[1], k, j);
                        left.at(&a, matrix, x, y) * right.at(&b, matrix, z, w)
                    };
                    let wants = 0.5 * (0..interior).map(product).sum::<f64>() + 0.25 * value(index + 2000);
                    close(result.at(&c, matrix, i, j), wants, types[2]);
                }
            }
        }
    }
    nothing_found();
}

#[test]
fn products_of_parts() {
    let _alone = alone();
    let [left, right, result] = [0, 1, 2].map(|_| Matrices::new(6, 6, 3, F32, value));
    let kernel = simple([2, 3, 4]);
    let origin = |x, y| MTLOrigin { x, y, z: 0 };
    // SAFETY: numbers.
    unsafe {
        kernel.setLeftMatrixOrigin(origin(1, 2));
        kernel.setRightMatrixOrigin(origin(3, 0));
        kernel.setResultMatrixOrigin(origin(4, 1));
        assert_eq!(kernel.resultMatrixOrigin(), origin(4, 1));
        assert_eq!((kernel.batchStart(), kernel.batchSize()), (0, usize::MAX));
        kernel.setBatchStart(1);
        kernel.setBatchSize(1);
    }
    run(|commands| encode(&kernel, commands, [&left, &right, &result]));
    let (a, c) = (contents(&left.buffer), contents(&result.buffer));
    for index in 0..3 * 36 {
        let (matrix, i, j) = (index / 36, index / 6 % 6, index % 6);
        let wants = if matrix == 1 && i >= 4 && (1..5).contains(&j) {
            (0..3).map(|k| left.at(&a, 1, i - 4 + 1, k + 2) * left.at(&a, 1, k + 3, j - 1)).sum()
        } else {
            value(index)
        };
        close(result.at(&c, matrix, i, j), wants, F32);
    }
    nothing_found();
}

#[test]
fn a_beta_of_zero_does_not_read_the_result() {
    let _alone = alone();
    let left = Matrices::new(3, 3, 1, F32, value);
    let result = Matrices::new(3, 3, 1, F32, |_| f64::NAN);
    let fresh =
        device().newBufferWithLength_options(36, MTLResourceOptions::StorageModeShared).expect("memory");
    let never_written =
        Matrices { matrix: matrix(&fresh, 3, 3, 12, F32), buffer: fresh, offset: 0, row_bytes: 12, ..result };
    run(|commands| encode(&simple([3, 3, 3]), commands, [&left, &left, &never_written]));
    let bytes = contents(&never_written.buffer);
    assert!((0..9).all(|i| !never_written.at(&bytes, 0, i / 3, i % 3).is_nan()));
    nothing_found();
}

#[test]
fn matrices_times_vectors() {
    let _alone = alone();
    for data_type in [F32, F16] {
        for transposed in [false, true] {
            for (rows, columns) in [(1, 1), (33, 7), (5, 64)] {
                let shape = if transposed { (columns, rows) } else { (rows, columns) };
                let left = Matrices::new(shape.0, shape.1, 1, data_type, value);
                let vector = |length, from: usize| {
                    let values: Vec<f64> = (0..length).map(|i| value(i + from)).collect();
                    let buffer = buffer(&bytes_of(&values, data_type), MTLResourceOptions::StorageModeShared);
                    // SAFETY: numbers, and a buffer of that length.
                    let vector = unsafe {
                        let descriptor =
                            MPSVectorDescriptor::vectorDescriptorWithLength_dataType(length, data_type);
                        MPSVector::initWithBuffer_descriptor(MPSVector::alloc(), &buffer, &descriptor)
                    };
                    (vector, buffer)
                };
                let (x, _) = vector(columns, 500);
                let (y, result) = vector(rows, 700);
                // SAFETY: a device of Metal, numbers, and what is wrong with them is reported.
                unsafe {
                    let kernel =
                        MPSMatrixVectorMultiplication::initWithDevice_transpose_rows_columns_alpha_beta(
                            MPSMatrixVectorMultiplication::alloc(),
                            &device(),
                            transposed,
                            rows,
                            columns,
                            2.0,
                            -1.0,
                        );
                    run(|commands| {
                        kernel.encodeToCommandBuffer_inputMatrix_inputVector_resultVector(
                            commands,
                            &left.matrix,
                            &x,
                            &y,
                        );
                    });
                }
                let (a, y) = (contents(&left.buffer), values(&contents(&result), data_type));
                for (i, got) in y.into_iter().enumerate() {
                    let factor = |k| if transposed { left.at(&a, 0, k, i) } else { left.at(&a, 0, i, k) };
                    let sum: f64 = (0..columns).map(|k| factor(k) * value(k + 500)).sum();
                    close(got, 2.0 * sum - value(i + 700), data_type);
                }
            }
        }
    }
    nothing_found();
}

#[test]
fn softmax() {
    let _alone = alone();
    for data_type in [F32, F16] {
        for logarithm in [false, true] {
            let input = Matrices::new(5, 33, 2, data_type, |i| 3.0 * value(i));
            let result = Matrices::new(5, 33, 2, data_type, value);
            // SAFETY: a device of Metal, and what is wrong with the matrices is reported.
            unsafe {
                let kernel = MPSMatrixSoftMax::initWithDevice(MPSMatrixSoftMax::alloc(), &device());
                assert_eq!((kernel.sourceRows(), kernel.sourceColumns()), (usize::MAX, usize::MAX));
                let log = MPSMatrixLogSoftMax::initWithDevice(MPSMatrixLogSoftMax::alloc(), &device());
                let kernel: &MPSMatrixSoftMax = if logarithm { &log } else { &kernel };
                run(|commands| {
                    kernel.encodeToCommandBuffer_inputMatrix_resultMatrix(
                        commands,
                        &input.matrix,
                        &result.matrix,
                    );
                });
            }
            let (a, b) = (contents(&input.buffer), contents(&result.buffer));
            for index in 0..2 * 5 * 33 {
                let (matrix, i, j) = (index / 165, index / 33 % 5, index % 33);
                let sum: f64 = (0..33).map(|k| input.at(&a, matrix, i, k).exp()).sum();
                let share = input.at(&a, matrix, i, j).exp() / sum;
                close(result.at(&b, matrix, i, j), if logarithm { share.ln() } else { share }, data_type);
            }
        }
    }
    nothing_found();
}

#[test]
fn properties_of_matrices_and_kernels() {
    let _alone = alone();
    // SAFETY: numbers and objects of Metal.
    unsafe {
        let descriptor =
            MPSMatrixDescriptor::matrixDescriptorWithRows_columns_rowBytes_dataType(3, 5, 32, F32);
        assert_eq!((descriptor.matrices(), descriptor.matrixBytes()), (1, 96));
        descriptor.setRows(4);
        descriptor.setColumns(6);
        descriptor.setRowBytes(16);
        descriptor.setDataType(F16);
        assert_eq!((descriptor.rows(), descriptor.columns(), descriptor.rowBytes()), (4, 6, 16));
        assert_eq!((descriptor.dataType(), descriptor.matrixBytes()), (F16, 64));
        let lazy = MPSMatrix::initWithDevice_descriptor(MPSMatrix::alloc(), &device(), &descriptor);
        assert_eq!((lazy.rows(), lazy.columns(), lazy.rowBytes(), lazy.offset()), (4, 6, 16, 0));
        assert_eq!((lazy.resourceSize(), lazy.data().length()), (60, 60));
        assert_eq!(Retained::as_ptr(&lazy.data()), Retained::as_ptr(&lazy.data()));
        assert_eq!(MPSVectorDescriptor::vectorBytesForLength_dataType(5, F32), 32);

        let kernel = simple([1, 1, 1]);
        kernel.setOptions(MPSKernelOptions::SkipAPIValidation);
        kernel.setLabel(Some(&NSString::from_str("gate")));
        kernel.setBatchStart(2);
        let copy: Retained<MPSMatrixMultiplication> = msg_send![&kernel, copy];
        assert_eq!((copy.batchStart(), copy.options()), (2, MPSKernelOptions::SkipAPIValidation));
        assert_eq!(copy.label().expect("a label").to_string(), "gate");
        assert!(copy.isKindOfClass(MPSKernel::class()));
    }
    nothing_found();
}
