//! Metal: kernels compiled once for each device, and encoded into candle's command buffers.

use super::gpu::{Arg, Buffer, Key, Launch, Operand, source};
use super::{Input, Memory};
use candle_core::backend::BackendStorage;
use candle_core::{DType, Error, Layout, MetalDevice, MetalStorage, Result, Storage, bail};
use candle_metal_kernels::metal::{ComputeCommandEncoder, ComputePipeline};
use objc2_metal::MTLSize;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

static PIPELINES: LazyLock<Mutex<HashMap<(u64, Key), ComputePipeline>>> = LazyLock::new(Default::default);

fn pipeline(device: &MetalDevice, launch: &Launch<'_>) -> Result<ComputePipeline> {
    let key = (device.metal_device().registry_id(), Key::new(launch));
    let mut pipelines = PIPELINES.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(pipeline) = pipelines.get(&key) {
        return Ok(pipeline.clone());
    }
    let text = source(include_str!("metal.h"), launch)?;
    let failed = |e: &dyn std::fmt::Display| Error::Msg(format!("{}: {e}", launch.unit.name));
    let device = device.metal_device();
    let library = device.new_library_with_source(&text, None).map_err(|e| failed(&e))?;
    let function = library.get_function(launch.entry, None).map_err(|e| failed(&e))?;
    let pipeline = device.new_compute_pipeline_state_with_function(&function).map_err(|e| failed(&e))?;
    pipelines.insert(key, pipeline.clone());
    Ok(pipeline)
}

/// Encodes a kernel into the device's command buffer.
pub(super) fn launch(
    device: &MetalDevice,
    launch: &Launch<'_>,
    args: &mut [Arg<'_>],
    params: &[u8],
) -> Result<()> {
    let pipeline = pipeline(device, launch)?;
    let guard = device.command_encoder()?;
    let encoder: &ComputeCommandEncoder = guard.as_ref();
    encoder.set_label(launch.entry);
    encoder.set_compute_pipeline_state(&pipeline);
    for (i, arg) in args.iter().enumerate() {
        match arg {
            Arg::In(input) => {
                let (storage, offset) = read(input)?;
                encoder.set_input_buffer(i, Some(storage.buffer()), offset);
            }
            Arg::Update(input) => {
                let (storage, offset) = read(input)?;
                encoder.set_output_buffer(i, Some(storage.buffer()), offset);
            }
            Arg::Out(buffer) => match &buffer.storage {
                Storage::Metal(storage) => encoder.set_output_buffer(i, Some(storage.buffer()), 0),
                _ => bail!("{}: wants memory of the Metal device", launch.entry),
            },
            Arg::Null => encoder.set_input_buffer(i, None, 0),
        }
    }
    encoder.set_bytes_directly(args.len(), params.len(), params.as_ptr().cast());
    if launch.shared > 0 {
        encoder.set_threadgroup_memory_length(0, launch.shared);
    }
    let [x, y, z] = launch.groups;
    let size = |width, height, depth| MTLSize { width, height, depth };
    encoder.dispatch_thread_groups(size(x, y, z), size(launch.threads, 1, 1));
    Ok(())
}

/// An input's memory, and where in it the first element is, in bytes.
fn read<'a>(input: &Input<'a>) -> Result<(&'a MetalStorage, usize)> {
    match input.memory {
        Memory::Metal(storage) => Ok((storage, input.layout.start_offset() * input.dtype().size_in_bytes())),
        _ => bail!("{}: wants its tensors on one device, got one that is not on the GPU", input.op),
    }
}

/// See `Gpu::product`.
#[allow(clippy::too_many_arguments, reason = "BLAS has them")]
pub(super) fn product(
    _device: &MetalDevice,
    (m, n, k): (usize, usize, usize),
    alpha: f32,
    a: &Operand<'_>,
    b: &Operand<'_>,
    beta: f32,
    c: &mut Buffer,
    at: usize,
) -> Result<()> {
    let whole = at == 0 && m * n == c.layout.shape().elem_count();
    if alpha != 1.0 || beta != 0.0 || !whole || a.x.dtype() != c.dtype {
        bail!("matmul: wants a whole product in a dtype of its own")
    }
    let matrix = |x: &Operand<'_>, rows: usize, cols: usize| {
        let (rs, cs) = if x.transposed { (1, x.stride) } else { (x.stride, 1) };
        Layout::new((1, rows, cols).into(), vec![rows * cols, rs, cs], x.x.layout.start_offset())
    };
    let ((a_memory, _), (b_memory, _)) = (read(&a.x)?, read(&b.x)?);
    let product = a_memory.matmul(b_memory, (1, m, n, k), &matrix(a, m, k), &matrix(b, k, n))?;
    c.storage = Storage::Metal(product);
    let _: DType = c.dtype;
    Ok(())
}
