//! What breaks a rule is reported.

use crate::matrices::*;
use crate::reports::{alone, found, nothing_found, reports};
use objc2::rc::autoreleasepool;
use objc2_metal::*;
use objc2_metal_performance_shaders::MPSDataType;

#[test]
fn wrong_matrices_are_reported() {
    let _alone = alone();
    let sixty = buffer(&[0; 60], MTLResourceOptions::StorageModeShared);
    matrix(&sixty, 3, 5, 20, F32);
    nothing_found();
    matrix(&sixty, 3, 5, 18, F32);
    found(&[
        "Validation in -[MPSMatrix initWithBuffer:descriptor:]",
        "rowBytes: wants a multiple of the element size (4",
    ]);
    matrix(&sixty, 3, 5, 16, F32);
    found(&["rowBytes: wants enough for all the columns (5 of 4 bytes), got 16"]);
    matrix(&sixty, 4, 5, 20, F32);
    found(&["wants 80 bytes from offset 0 on", "got a length of 60"]);
}

#[test]
fn wrong_products_are_reported_and_not_encoded() {
    let _alone = alone();
    let options = MTLResourceOptions::StorageModeShared;
    let tight = |rows, columns| Matrices::tight(rows, columns, F32, options);
    let (left, right, result) = (tight(4, 5), tight(5, 6), tight(4, 6));
    run(|commands| encode(&simple([4, 5, 6]), commands, [&left, &right, &result]));
    nothing_found();
    let before = contents(&result.buffer);

    let place = "-[MPSMatrixMultiplication encodeToCommandBuffer:leftMatrix:rightMatrix:resultMatrix:]";
    run(|commands| encode(&simple([5, 5, 6]), commands, [&left, &right, &result]));
    found(&[
        "Validation",
        place,
        "leftMatrix: wants 5 rows",
        "resultMatrix: wants 5 rows from its origin's 0 on, got 4",
    ]);
    let bf16 = Matrices::tight(4, 5, MPSDataType::BFloat16, options);
    run(|commands| encode(&simple([4, 5, 6]), commands, [&bf16, &right, &result]));
    found(&[place, "left dataType: wants one of MPSDataTypeFloat32", "got MPSDataTypeBFloat16"]);
    let half = Matrices::tight(4, 6, F16, options);
    run(|commands| encode(&simple([4, 5, 6]), commands, [&left, &right, &half]));
    found(&["result dataType: wants MPSDataTypeFloat32 for sources of it"]);
    assert_eq!(contents(&result.buffer), before);
}

#[test]
fn a_missing_wait_is_reported() {
    let _alone = alone();
    let options = MTLResourceOptions::StorageModeShared;
    let [left, right, result] = [0, 1, 2].map(|_| Matrices::tight(8, 8, F32, options));
    let queue = queue();
    let commands = queue.commandBuffer().expect("a command buffer");
    encode(&simple([8, 8, 8]), &commands, [&left, &right, &result]);
    commands.commit();
    contents(&left.buffer);
    assert_eq!(reports(), [""; 0], "both read");
    contents(&result.buffer);
    found(&["Hazard in host use of", "byte 0 of", "got a read by the host"]);
    commands.waitUntilCompleted();
    contents(&result.buffer);
    nothing_found();
}

#[test]
fn a_missing_order_between_products_is_reported() {
    let _alone = alone();
    let chain = |options| {
        let [a, b, c] = [0, 1, 2].map(|_| Matrices::tight(8, 8, F32, options));
        let queue = queue();
        let commands = queue.commandBuffer().expect("a command buffer");
        encode(&simple([8, 8, 8]), &commands, [&a, &a, &b]);
        encode(&simple([8, 8, 8]), &commands, [&b, &b, &c]);
        commands.commit();
        commands.waitUntilCompleted();
    };
    chain(MTLResourceOptions::StorageModeShared);
    nothing_found();
    chain(MTLResourceOptions::StorageModeShared | MTLResourceOptions::HazardTrackingModeUntracked);
    found(&["Hazard in MPSMatrixMultiplication"]);
}

#[test]
fn a_product_of_memory_that_nothing_has_written_is_reported() {
    let _alone = alone();
    let fresh =
        device().newBufferWithLength_options(64, MTLResourceOptions::StorageModeShared).expect("memory");
    let mut left = Matrices::tight(4, 4, F32, MTLResourceOptions::StorageModeShared);
    let right = Matrices::tight(4, 4, F32, MTLResourceOptions::StorageModeShared);
    let result = Matrices::tight(4, 4, F32, MTLResourceOptions::StorageModeShared);
    left.matrix = matrix(&fresh, 4, 4, 16, F32);
    run(|commands| encode(&simple([4, 4, 4]), commands, [&left, &right, &result]));
    found(&["Uninitialised in MPSMatrixMultiplication"]);
}

#[test]
fn nothing_leaks_in_a_loop() {
    let _alone = alone();
    let queue = queue();
    let before = device().currentAllocatedSize();
    for _ in 0..2000 {
        autoreleasepool(|_| {
            let [left, right, result] =
                [0, 1, 2].map(|_| Matrices::tight(2, 2, F32, MTLResourceOptions::StorageModeShared));
            let commands = queue.commandBuffer().expect("a command buffer");
            encode(&simple([2, 2, 2]), &commands, [&left, &right, &result]);
            commands.commit();
            commands.waitUntilCompleted();
        });
    }
    assert_eq!(device().currentAllocatedSize(), before);
    nothing_found();
}
