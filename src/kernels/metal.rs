//! Metal: kernels compiled once for each device, and encoded into candle's command buffers.

use super::Input;
use super::gpu::{Arg, Buffer, Key, Launch, Operand, Unit, source};
use candle_core::{DType, Error, MetalDevice, MetalStorage, Result, Storage, bail};
use candle_metal_kernels::metal::{ComputeCommandEncoder, ComputePipeline};
use candle_metal_kernels::{GemmDType, call_mlx_gemm};
use objc2::available;
use objc2::rc::Retained;
use objc2_metal::{
    MTLCompileOptions, MTLLanguageVersion, MTLMathFloatingPointFunctions, MTLMathMode, MTLSize,
};
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

/// Compiled kernels, by GPU and by what they were compiled for.
static PIPELINES: LazyLock<Mutex<HashMap<(u64, Key), ComputePipeline>>> = LazyLock::new(Default::default);

/// Bytes that an encoder takes beside its buffers.
const SET_BYTES: usize = 4 << 10;

/// What a pointer that no kernel follows points to.
const NOTHING: [u8; 16] = [0; 16];

/// MSL 3.1, which macOS 14 has, and the arithmetic that the unit asks for.
fn options(unit: &Unit) -> Retained<MTLCompileOptions> {
    let options = MTLCompileOptions::new();
    options.setLanguageVersion(MTLLanguageVersion::Version3_1);
    let (mode, functions) = match unit.fast_math {
        true => (MTLMathMode::Fast, MTLMathFloatingPointFunctions::Fast),
        false => (MTLMathMode::Safe, MTLMathFloatingPointFunctions::Precise),
    };
    if available!(macos = 15, ios = 18) {
        options.setMathMode(mode);
        options.setMathFloatingPointFunctions(functions);
    } else {
        #[allow(deprecated)] // macOS 14 has nothing else
        options.setFastMathEnabled(unit.fast_math);
    }
    options
}

fn pipeline(device: &MetalDevice, launch: &Launch<'_>) -> Result<ComputePipeline> {
    let key = (device.metal_device().registry_id(), Key::new(launch));
    let mut pipelines = PIPELINES.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(pipeline) = pipelines.get(&key) {
        return Ok(pipeline.clone());
    }
    let text = source(include_str!("metal.h"), launch)?;
    let failed = |e| Error::Msg(format!("{}: Metal cannot compile {}: {e}", launch.unit.name, launch.entry));
    let device = device.metal_device();
    let library = device.new_library_with_source(&text, Some(&options(launch.unit))).map_err(failed)?;
    let function = library.get_function(launch.entry, None).map_err(failed)?;
    let pipeline = device.new_compute_pipeline_state_with_function(&function).map_err(failed)?;
    let most = pipeline.max_total_threads_per_threadgroup();
    if launch.threads > most {
        bail!("{}: wants groups of {} threads, got a GPU that runs {most}", launch.entry, launch.threads)
    }
    pipelines.insert(key, pipeline.clone());
    Ok(pipeline)
}

/// Encodes a kernel into the device's command buffer. Candle orders what one buffer's writers and readers do.
pub(super) fn launch(
    device: &MetalDevice,
    launch: &Launch<'_>,
    args: &mut [Arg<'_>],
    params: &[u8],
) -> Result<()> {
    if params.len() > SET_BYTES {
        bail!("{}: wants parameters of at most {SET_BYTES} bytes, got {}", launch.entry, params.len())
    }
    let pipeline = pipeline(device, launch)?;
    let guard = device.command_encoder()?;
    let encoder: &ComputeCommandEncoder = guard.as_ref();
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
            Arg::Out(buffer) => encoder.set_output_buffer(i, Some(written(buffer)?.buffer()), 0),
            // Metal's validation refuses an argument with nothing bound, also one that the kernel does not follow.
            Arg::Null => encoder.set_bytes_directly(i, NOTHING.len(), NOTHING.as_ptr().cast()),
        }
    }
    if !params.is_empty() {
        encoder.set_bytes_directly(args.len(), params.len(), params.as_ptr().cast());
    }
    if launch.shared > 0 {
        encoder.set_threadgroup_memory_length(0, launch.shared.next_multiple_of(16));
    }
    let [x, y, z] = launch.groups;
    let size = |width, height, depth| MTLSize { width, height, depth };
    encoder.dispatch_thread_groups(size(x, y, z), size(launch.threads, 1, 1));
    Ok(())
}

/// An input's memory, and where in it the first element is, in bytes.
fn read<'a>(input: &Input<'a>) -> Result<(&'a MetalStorage, usize)> {
    Ok((input.metal()?, input.first_byte()))
}

fn written(buffer: &Buffer) -> Result<&MetalStorage> {
    match &buffer.storage {
        Storage::Metal(storage) => Ok(storage),
        _ => bail!("kernels: want memory of the Metal device to write to"),
    }
}

/// The product of whole matrices by candle's kernel, written to the beginning of `c`; see `Gpu::product`.
///
/// Whether it is one: candle's kernel takes no other memory, sums in the operands' dtype, and adds to nothing.
pub(super) fn plain_product(
    device: &MetalDevice,
    (m, n, k): (usize, usize, usize),
    a: &Operand<'_>,
    b: &Operand<'_>,
    c: &mut Buffer,
) -> Result<bool> {
    let dense = |x: &Operand<'_>, rows, cols| x.stride == if x.transposed { rows } else { cols };
    let dtype = match a.x.dtype() {
        DType::F32 => GemmDType::F32,
        DType::F16 => GemmDType::F16,
        DType::BF16 => GemmDType::BF16,
        dtype => bail!("matmul: wants f32, f16 or bf16, got {dtype:?}"),
    };
    if a.x.dtype() != c.dtype || k == 0 || !dense(a, m, k) || !dense(b, k, n) {
        return Ok(false);
    }
    let strides = |x: &Operand<'_>| if x.transposed { [0, 1, x.stride] } else { [0, x.stride, 1] };
    let ((a_memory, a_at), (b_memory, b_at)) = (read(&a.x)?, read(&b.x)?);
    let encoder = device.command_encoder()?;
    call_mlx_gemm(
        device.metal_device(),
        &encoder,
        device.kernels(),
        dtype,
        (1, m, n, k),
        &strides(a),
        a_at,
        a_memory.buffer(),
        &strides(b),
        b_at,
        b_memory.buffer(),
        written(c)?.buffer(),
    )
    .map_err(Error::wrap)?;
    Ok(true)
}
