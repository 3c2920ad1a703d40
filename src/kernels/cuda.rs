//! CUDA: kernels compiled by NVRTC for the device at hand, kept in memory and on disk, and launched on candle's stream.

pub(crate) mod ahead;
mod compile;
mod gemm;
pub(crate) mod graph;
pub(crate) mod profile;
pub(crate) mod readback;

use super::gpu::{Arg, Key, Launch, source};
use super::{Input, Memory};
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, SyncOnDrop,
    result, sys,
};
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorage, CudaStorageSlice};
use candle_core::{DType, Error, Result, Storage, bail};
pub(super) use gemm::product;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, LazyLock, Mutex};

/// Compiled kernels, by GPU (its primary context) and by what they were compiled for.
static FUNCTIONS: LazyLock<Mutex<HashMap<(usize, Key), CudaFunction>>> = LazyLock::new(Default::default);

/// Group memory that a kernel may declare beside what its launch asks for.
const DECLARED: usize = 1 << 10;

/// Group memory beyond this is asked for.
const PLAIN_SHARED: usize = 48 << 10;

fn function(context: &Arc<CudaContext>, launch: &Launch<'_>) -> Result<CudaFunction> {
    let key = (context.cu_ctx() as usize, Key::new(launch));
    if let Some(function) = FUNCTIONS.lock().unwrap_or_else(|e| e.into_inner()).get(&key) {
        return Ok(function.clone());
    }
    let text = source(include_str!("cuda.h"), launch)?;
    let module = compile::module(context, &compile::Source::new(context, text, launch)?)?;
    let function = module.load_function(launch.entry).map_err(Error::wrap)?;
    if launch.shared > PLAIN_SHARED {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(attribute, launch.shared as i32).map_err(Error::wrap)?;
    }
    // Another thread may have been first: what is here once stays, as a graph may hold it by its address.
    let mut functions = FUNCTIONS.lock().unwrap_or_else(|e| e.into_inner());
    Ok(functions.entry(key).or_insert(function).clone())
}

/// Launches a kernel on the device's stream.
pub(super) fn launch(
    device: &CudaDevice,
    launch: &Launch<'_>,
    args: &mut [Arg<'_>],
    params: &[u8],
) -> Result<()> {
    if ahead::asked(device, launch)? {
        return Ok(());
    }
    let stream = graph::stream(device);
    let function = function(stream.context(), launch)?;
    let mut pointers = Vec::with_capacity(args.len());
    let mut guards = Vec::with_capacity(args.len());
    for arg in args {
        let (pointer, guard) = match arg {
            Arg::In(input) | Arg::Update(input) => read(input, &stream)?,
            Arg::Out(buffer) => match &mut buffer.storage {
                Storage::Cuda(storage) => write(storage, &stream)?,
                _ => bail!("{}: wants memory of the CUDA device", launch.entry),
            },
            Arg::Null => (0, None),
        };
        pointers.push(pointer);
        guards.extend(guard);
    }
    // The driver reads the parameters' own alignment: 16 bytes fit any of them.
    let mut block = [0u128; 32];
    if params.len() > size_of_val(&block) {
        bail!(
            "{}: wants at most {} bytes of parameters, got {}",
            launch.entry,
            size_of_val(&block),
            params.len()
        )
    }
    bytemuck::bytes_of_mut(&mut block)[..params.len()].copy_from_slice(params);
    let mut values: Vec<*mut c_void> = pointers.iter_mut().map(|p| std::ptr::from_mut(p).cast()).collect();
    values.push(block.as_mut_ptr().cast());
    let [x, y, z] = launch.groups.map(|n| n as u32);
    stream.context().bind_to_thread().map_err(Error::wrap)?;
    profile::span(
        &stream,
        || launch.entry.to_string(),
        || {
            // SAFETY: `values` points to what the kernel's parameters are, in order; memory lives until the stream has
            // used it, as it is freed on the same stream.
            unsafe {
                let (grid, block) = ((x, y, z), (launch.threads as u32, 1, 1));
                result::launch_kernel(
                    function.cu_function(),
                    grid,
                    block,
                    launch.shared as u32,
                    stream.cu_stream(),
                    &mut values,
                )
            }
            .map_err(|e| Error::Msg(format!("{}: {e:?}", launch.entry)))
        },
    )
}

/// Memory that is taken and given back on `stream`, and that nothing has written yet.
pub(super) fn memory(
    device: &CudaDevice,
    stream: &Arc<CudaStream>,
    len: usize,
    dtype: DType,
) -> Result<CudaStorage> {
    /// As [`memory`], of one type.
    fn of<T: CudaDType + DeviceRepr>(
        device: &CudaDevice,
        stream: &Arc<CudaStream>,
        len: usize,
    ) -> Result<CudaStorage> {
        // SAFETY: as of every `Buffer`, a kernel writes every element before one is read.
        let slice = unsafe { stream.alloc::<T>(len) }.map_err(Error::wrap)?;
        Ok(CudaStorage::wrap_cuda_slice(slice, device.clone()))
    }
    match dtype {
        DType::F32 => of::<f32>(device, stream, len),
        DType::F16 => of::<half::f16>(device, stream, len),
        DType::BF16 => of::<half::bf16>(device, stream, len),
        DType::U32 => of::<u32>(device, stream, len),
        _ => bail!("cuda graph: wants f32, f16, bf16 or u32, got {dtype:?}"),
    }
}

/// [`memory`] of zeros.
pub(super) fn zeros(
    device: &CudaDevice,
    stream: &Arc<CudaStream>,
    len: usize,
    dtype: DType,
) -> Result<CudaStorage> {
    let mut storage = memory(device, stream, len, dtype)?;
    match &mut storage.slice {
        CudaStorageSlice::F32(slice) => stream.memset_zeros(slice),
        CudaStorageSlice::F16(slice) => stream.memset_zeros(slice),
        CudaStorageSlice::BF16(slice) => stream.memset_zeros(slice),
        CudaStorageSlice::U32(slice) => stream.memset_zeros(slice),
        _ => Ok(()),
    }
    .map_err(Error::wrap)?;
    Ok(storage)
}

pub(crate) type Pointer<'a> = (sys::CUdeviceptr, Option<SyncOnDrop<'a>>);

/// The address of an input's first element.
pub(crate) fn read<'a>(input: &Input<'a>, stream: &'a CudaStream) -> Result<Pointer<'a>> {
    fn at<'a, T>(slice: &'a CudaSlice<T>, offset: usize, stream: &'a CudaStream) -> Result<Pointer<'a>> {
        let (pointer, guard) = slice.device_ptr(stream);
        Ok((pointer + (offset * size_of::<T>()) as u64, Some(guard)))
    }
    let Memory::Cuda(storage) = input.memory else {
        bail!("{}: wants its tensors on one device, got one that is not on the GPU", input.op)
    };
    let (theirs, ours) = (storage.device.cuda_stream(), stream.context().ordinal());
    if theirs.context().ordinal() != ours {
        bail!("{}: wants its tensors on GPU {ours}, got one on GPU {}", input.op, theirs.context().ordinal())
    }
    let offset = input.layout.start_offset();
    match &storage.slice {
        CudaStorageSlice::F32(slice) => at(slice, offset, stream),
        CudaStorageSlice::F16(slice) => at(slice, offset, stream),
        CudaStorageSlice::BF16(slice) => at(slice, offset, stream),
        CudaStorageSlice::U32(slice) => at(slice, offset, stream),
        CudaStorageSlice::U8(slice) => at(slice, offset, stream),
        CudaStorageSlice::I64(slice) => at(slice, offset, stream),
        _ => bail!("{}: wants f32, f16, bf16, u32, u8 or i64, got {:?}", input.op, input.dtype()),
    }
}

/// The address of an input's first element, to be read by work on the device's stream.
pub(super) fn address(device: &CudaDevice, input: &Input<'_>) -> Result<u64> {
    Ok(read(input, &device.cuda_stream())?.0)
}

pub(crate) fn write<'a>(storage: &'a mut CudaStorage, stream: &'a CudaStream) -> Result<Pointer<'a>> {
    fn at<'a, T>(slice: &'a mut CudaSlice<T>, stream: &'a CudaStream) -> Result<Pointer<'a>> {
        let (pointer, guard) = slice.device_ptr_mut(stream);
        Ok((pointer, Some(guard)))
    }
    match &mut storage.slice {
        CudaStorageSlice::F32(slice) => at(slice, stream),
        CudaStorageSlice::F16(slice) => at(slice, stream),
        CudaStorageSlice::BF16(slice) => at(slice, stream),
        CudaStorageSlice::U32(slice) => at(slice, stream),
        CudaStorageSlice::U8(slice) => at(slice, stream),
        CudaStorageSlice::I64(slice) => at(slice, stream),
        _ => bail!("wants memory of f32, f16, bf16, u32, u8 or i64"),
    }
}

/// The GPU's name, what it can do, and the newest CUDA of its driver.
pub(crate) fn described(device: &CudaDevice) -> String {
    let stream = device.cuda_stream();
    let context = stream.context();
    let name = context.name().unwrap_or_default();
    let (major, minor) = context.compute_capability().unwrap_or_default();
    let mut driver = 0;
    // SAFETY: it is valid for writing.
    unsafe { sys::cuDriverGetVersion(&mut driver) };
    format!("{name}, {major}.{minor}, CUDA {}.{}", driver / 1000, driver % 1000 / 10)
}

/// The GPU's multiprocessors.
pub(super) fn multiprocessors(device: &CudaDevice) -> usize {
    let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    device.cuda_stream().context().attribute(attribute).map_or(1, |n| n as usize)
}

/// The most memory of a group that a launch may ask for, in bytes, beside the little that a kernel declares itself.
pub(crate) fn group_memory(device: &CudaDevice) -> usize {
    let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    device.cuda_stream().context().attribute(attribute).map_or(PLAIN_SHARED, |n| n as usize) - DECLARED
}
