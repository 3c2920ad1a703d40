//! What fails, what is missing, and what is left behind: of command buffers, and of processes.

use super::super::commands::{Commands, LEFT_OUT, Wait};
use super::super::kernels::queue;
use super::*;
use objc2_metal::{
    MTLBuffer, MTLCommandBuffer, MTLCommandEncoder, MTLComputeCommandEncoder, MTLResourceOptions, MTLSize,
};
use std::process::{Command, Output};

/// A command buffer that fails: an indirect dispatch of more threads than there are.
#[test]
fn a_failure_on_the_gpu_is_an_error() {
    let Some((_, metal)) = gpu().filter(|(_, metal)| on_softmetal(metal)) else { return };
    let text = "#include <metal_stdlib>\nkernel void none(uint i [[thread_position_in_grid]]) {}";
    let library = metal.metal_device().new_library_with_source(text, None).unwrap();
    let function = library.get_function("none", None).unwrap();
    let pipeline = metal.metal_device().new_compute_pipeline_state_with_function(&function).unwrap();
    let commands = Commands::new(&queue(&metal).unwrap()).unwrap();
    let groups = raw(&metal).newBufferWithLength_options(12, MTLResourceOptions::StorageModeShared).unwrap();
    let encoder = commands.0.computeCommandEncoder().unwrap();
    // SAFETY: twelve bytes of a shared buffer that the GPU does not use yet.
    unsafe { groups.contents().cast::<[u32; 3]>().write([u32::MAX, 1, 1]) };
    encoder.setComputePipelineState(pipeline.as_ref());
    let threads = MTLSize { width: 32, height: 1, depth: 1 };
    // SAFETY: a buffer of twelve bytes.
    unsafe {
        encoder.dispatchThreadgroupsWithIndirectBuffer_indirectBufferOffset_threadsPerThreadgroup(
            &groups, 0, threads,
        );
    }
    encoder.endEncoding();
    commands.commit();
    let error = commands.wait(|| "the product of 3x4 by 4x5".into()).unwrap_err().to_string();
    assert!(error.starts_with("mps: the product of 3x4 by 4x5 failed on the GPU: "), "{error}");
    assert!(error.contains("indirect dispatch"), "{error}");
    assert!(commands.is_done());
}

/// Runs one of these tests in a process of its own, with a variable set.
fn child(name: &str, value: &str) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = format!("matmul::mps::tests::processes::{name}");
    command.args(["--exact", &name, "--nocapture", "--test-threads=1"]).env("METAL_CANDLE_CHILD", value);
    command.env_remove("SOFTMETAL_LOG").env_remove("SOFTMETAL_REPORTS");
    if name.ends_with("nil_of_a_child") {
        command.env("SOFTMETAL_NIL", value);
    }
    if name.ends_with("failure_of_candles_of_a_child") {
        // The kernel's write is reported, too.
        command.env("SOFTMETAL_REPORTS", "continue").env("CANDLE_METAL_COMPUTE_PER_BUFFER", "1");
    }
    if name.ends_with("loop_of_a_child") {
        // All that is alive at the end is listed, and is no failure. The checker remembers every command.
        command
            .env("SOFTMETAL_LEAKS", "all")
            .env("SOFTMETAL_REPORTS", "continue")
            .env("SOFTMETAL_CHECK", "off");
    }
    command.output().unwrap()
}

fn in_child() -> Option<String> {
    std::env::var("METAL_CANDLE_CHILD").ok()
}

/// Each wait is needed: without it the checker of softmetal ends the process with status 86.
#[test]
fn a_missing_wait_is_found() {
    if gpu().is_none_or(|(_, metal)| !on_softmetal(&metal)) {
        return;
    }
    // Without the first, the product reads what candle has not committed yet; without the second, candle reads the product.
    let found = [
        ("none", 0, ""),
        ("before", 86, "Uninitialised in MPSMatrixMultiplication: reads byte 0 of "),
        ("after", 86, "Hazard in affine_f32 ("),
    ];
    for (wait, status, report) in found {
        let output = child("hand_over_of_a_child", wait);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{wait}: {text}");
        assert!(text.contains(report), "{wait}: wants {report}, got {text}");
    }
}

/// MPS's word for "failed" is nil.
#[test]
fn what_mps_does_not_make_is_named() {
    if gpu().is_none_or(|(_, metal)| !on_softmetal(&metal)) {
        return;
    }
    let classes = [
        "MPSMatrix",
        "MPSVector",
        "MPSMatrixMultiplication",
        "MPSMatrixVectorMultiplication",
        "MPSMatrixSoftMax",
    ];
    for class in classes {
        let output = child("nil_of_a_child", class);
        assert_eq!(output.status.code(), Some(0), "{class}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn nil_of_a_child() {
    let (Some((device, metal)), Some(class)) = (gpu(), in_child()) else { return };
    let x = numbers(&[3, 3], 1, DType::F32).to_device(&device).unwrap();
    let result = match &*class {
        "MPSMatrixMultiplication" | "MPSMatrix" => product(&metal, 1.0, &x, &x, None),
        "MPSMatrixSoftMax" => softmax(&x),
        _ => vector(&x, &x.get(0).unwrap()),
    };
    let (error, wanted) = (result.unwrap_err(), format!("mps: Metal Performance Shaders make no {class}"));
    assert_eq!(error.to_string().lines().next(), Some(&*wanted));
}

#[test]
fn hand_over_of_a_child() {
    let (Some((device, metal)), Some(wait)) = (gpu(), in_child()) else { return };
    let wait = match &*wait {
        "before" => Some(Wait::Before),
        "after" => Some(Wait::After),
        _ => None,
    };
    *LEFT_OUT.lock().unwrap() = wait;
    let x = Tensor::ones((33, 33), DType::F32, &device).unwrap().affine(2.0, 1.0).unwrap();
    let y = product(&metal, 1.0, &x, &x, None).unwrap().affine(1.0, 1.0).unwrap();
    assert_eq!(y.sum_all().unwrap().to_device(&Device::Cpu).unwrap().elem_count(), 1);
    device.synchronize().unwrap();
}

/// What is alive after so many turns, and the resident memory in kB before and after them, if it is known.
fn after_a_loop(turns: u64) -> (Vec<String>, Vec<u64>) {
    let output = child("loop_of_a_child", &turns.to_string());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let mut alive: Vec<_> =
        text.lines().filter(|line| line.contains("Lifetime in ")).map(str::to_owned).collect();
    alive.sort_unstable();
    let resident = text.lines().filter_map(|line| line.strip_prefix("resident kB: ")?.parse().ok());
    (alive, resident.collect())
}

/// 12,000 turns leave as many objects of every class behind as 600: a queue, the kernels that are kept, candle's buffers.
#[test]
fn nothing_grows_in_a_loop() {
    if gpu().is_none() {
        return;
    }
    let (few, _) = after_a_loop(600);
    assert_eq!(few, after_a_loop(12_000).0);
    let on_softmetal = gpu().is_some_and(|(_, metal)| on_softmetal(&metal));
    assert!(!on_softmetal || few.iter().any(|line| line.contains("MPSMatrixMultiplication: ")), "{few:#?}");
}

/// Neither do a million, nor memory beyond what softmetal writes down of each pass: 16 bytes.
#[test]
#[ignore = "ten minutes: just soak-metal"]
fn nothing_grows_in_a_million() {
    if gpu().is_none() {
        return;
    }
    const TURNS: u64 = 1_000_000;
    let ((few, _), (many, resident)) = (after_a_loop(600), after_a_loop(TURNS));
    println!("resident kB before and after a million turns: {resident:?}");
    assert_eq!(few, many);
    if let [before, after] = resident[..] {
        assert!(after < before + TURNS * 100 / 1000, "{before} kB, then {after}");
    }
}

#[test]
fn loop_of_a_child() {
    let (Some((device, metal)), Some(count)) = (gpu(), in_child()) else { return };
    let x = numbers(&[4, 4], 1, DType::F32).to_device(&device).unwrap();
    let (row, half, many) = (
        x.narrow(0, 1, 1).unwrap(),
        x.to_dtype(DType::BF16).unwrap(),
        numbers(&[3, 4, 4], 2, DType::F16).to_device(&device).unwrap(),
    );
    let batch = || {
        let mut batch = Batch::new(&device).unwrap();
        batch.add(1.0, &x, &x, None).unwrap();
        batch.add(0.5, &many, &many, Some((2.0, &many))).unwrap();
        batch.commit().unwrap()
    };
    // What is slow on softmetal is rare.
    let step = |turn: u32| match turn % 40 {
        10 => drop(product(&metal, 1.0, &half, &half, None).unwrap()),
        20 => assert_eq!(batch().wait().unwrap().len(), 2),
        // Nobody waits for it.
        30 => drop(batch()),
        0 => drop(softmax(&x).unwrap()),
        turn if turn % 2 == 0 => drop(product(&metal, 1.0, &x, &x, Some((1.0, &x))).unwrap()),
        _ => drop(product(&metal, 1.0, &row, &x, Some((1.0, &row))).unwrap()),
    };
    (0..200).for_each(step);
    let before = raw(&metal).currentAllocatedSize();
    say_resident();
    (0..count.parse().unwrap()).for_each(step);
    say_resident();
    assert!(raw(&metal).currentAllocatedSize() <= before);
}

/// The resident memory of this process, where the system tells it in a file.
fn say_resident() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    if let Some(kb) = line.and_then(|line| line.split_whitespace().next()) {
        eprintln!("resident kB: {kb}");
    }
}

/// A command buffer of candle's that fails: the last before a product is an error of the product; an earlier one is told by candle's
/// next `synchronize`.
#[test]
fn a_failure_of_candles_is_told() {
    if gpu().is_none_or(|(_, metal)| !on_softmetal(&metal)) {
        return;
    }
    for passes in ["0", "8"] {
        let output = child("failure_of_candles_of_a_child", passes);
        assert_eq!(output.status.code(), Some(0), "{passes}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A kernel of candle's that writes past a buffer, so many passes before a product, each in a command buffer of its own.
#[test]
fn failure_of_candles_of_a_child() {
    let (Some((device, metal)), Some(passes)) = (gpu(), in_child()) else { return };
    let text = "#include <metal_stdlib>\nkernel void past(device float *x [[buffer(0)]]) { x[1 << 20] = 1; }";
    let library = metal.metal_device().new_library_with_source(text, None).unwrap();
    let function = library.get_function("past", None).unwrap();
    let pipeline = metal.metal_device().new_compute_pipeline_state_with_function(&function).unwrap();
    let x = Tensor::ones((3, 3), DType::F32, &device).unwrap();
    device.synchronize().unwrap();
    {
        let encoder = metal.command_encoder().unwrap();
        let held = Held::new(&x);
        let (input, one) = (held.input("test"), MTLSize { width: 1, height: 1, depth: 1 });
        encoder.set_compute_pipeline_state(&pipeline);
        encoder.as_ref().set_output_buffer(0, Some(input.metal().unwrap().buffer()), 0);
        encoder.as_ref().dispatch_threads(one, one);
    }
    let passes = passes.parse::<usize>().unwrap();
    let y = (0..passes).fold(x, |y, _| y.affine(1.0, 1.0).unwrap());
    let (failed, told) = (product(&metal, 1.0, &y, &y, None).is_err(), device.synchronize().is_err());
    assert!(failed == (passes == 0) && told, "{failed} {told}");
    // Once.
    device.synchronize().unwrap();
    product(&metal, 1.0, &y, &y, None).unwrap();
}
