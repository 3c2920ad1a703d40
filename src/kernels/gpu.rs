//! Kernels on a GPU, whichever it is: buffers, launches, matrix products.
//!
//! An op's kernels are a header in the dialect of `cuda.h` and `metal.h`. It is compiled when it is first used, for
//! the element types and shape constants that the launch names, and kept for the device.

mod products;

use super::{Input, Memory};
use bytemuck::NoUninit;
use candle_core::backend::BackendDevice;
use candle_core::op::BackpropOp;
use candle_core::{DType, Device, Layout, Result, Shape, Storage, Tensor, bail};

pub(crate) use products::{Beside, Operand};

/// What runs kernels.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Gpu<'a> {
    #[cfg(feature = "cuda")]
    Cuda(&'a candle_core::CudaDevice),
    #[cfg(feature = "metal")]
    Metal(&'a candle_core::MetalDevice),
    /// Kernels as C++ on the CPU, for tests.
    #[cfg(feature = "host")]
    Host,
    #[allow(dead_code, reason = "keeps the lifetime in a build without a GPU")]
    None(std::convert::Infallible, std::marker::PhantomData<&'a ()>),
}

/// A kernel header.
pub(crate) struct Unit {
    /// The file's name, for the compiler's messages.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
    /// Whether it may be compiled for speed: no NaN or infinity has a meaning, functions are approximate.
    pub fast_math: bool,
}

/// The header beside the calling file, with parts that others have, too, before it.
macro_rules! unit {
    ($name:literal $(, $part:literal)*) => {
        $crate::kernels::gpu::Unit {
            name: $name,
            text: concat!(
                $("#line 1 \"", $part, "\"\n", include_str!($part), "\n#line 1 \"", $name, "\"\n",)*
                include_str!($name)
            ),
            fast_math: false,
        }
    };
}
pub(crate) use unit;

/// One launch of one kernel.
pub(crate) struct Launch<'a> {
    pub unit: &'static Unit,
    /// The kernel's name in the unit.
    pub entry: &'static str,
    /// Element types by their names in the unit.
    pub types: &'a [(&'static str, DType)],
    /// Constants by their names in the unit; `GROUP_SIZE` is added.
    pub defines: &'a [(&'static str, i64)],
    /// Groups along x, y and z.
    pub groups: [usize; 3],
    /// Threads of a group: a multiple of 32.
    pub threads: usize,
    /// Bytes of group memory beside what the kernel declares.
    pub shared: usize,
}

/// An argument of a kernel.
pub(crate) enum Arg<'a> {
    In(Input<'a>),
    Out(&'a mut Buffer),
    /// A tensor that is changed in place.
    Update(Input<'a>),
    /// A pointer the kernel does not follow.
    Null,
}

impl<'a> From<Input<'a>> for Arg<'a> {
    fn from(input: Input<'a>) -> Self {
        Arg::In(input)
    }
}

impl<'a> From<&'a mut Buffer> for Arg<'a> {
    fn from(buffer: &'a mut Buffer) -> Self {
        Arg::Out(buffer)
    }
}

impl<'a> From<Option<Input<'a>>> for Arg<'a> {
    fn from(input: Option<Input<'a>>) -> Self {
        input.map_or(Arg::Null, Arg::In)
    }
}

/// Contiguous memory of a device, which kernels write.
pub(crate) struct Buffer {
    pub(super) storage: Storage,
    pub(super) layout: Layout,
    pub(super) dtype: DType,
}

impl Buffer {
    /// Memory that nothing has written yet.
    pub fn new(gpu: Gpu<'_>, shape: impl Into<Shape>, dtype: DType) -> Result<Self> {
        let shape = shape.into();
        // SAFETY: a kernel writes every element before one is read; that is what kernels' tests check.
        let storage = unsafe {
            match gpu {
                #[cfg(feature = "cuda")]
                Gpu::Cuda(device) => Storage::Cuda(match super::cuda::graph::captured(device) {
                    Some(stream) => super::cuda::memory(device, &stream, shape.elem_count(), dtype)?,
                    None => device.alloc_uninit(&shape, dtype)?,
                }),
                #[cfg(feature = "metal")]
                Gpu::Metal(device) => Storage::Metal(device.alloc_uninit(&shape, dtype)?),
                #[cfg(feature = "host")]
                Gpu::Host => Storage::Cpu(candle_core::cpu_backend::CpuDevice.alloc_uninit(&shape, dtype)?),
                Gpu::None(never, _) => match never {},
            }
        };
        Ok(Buffer { storage, layout: Layout::contiguous(shape), dtype })
    }

    /// Memory of zeros.
    pub fn zeros(gpu: Gpu<'_>, shape: impl Into<Shape>, dtype: DType) -> Result<Self> {
        let shape = shape.into();
        let storage = match gpu {
            #[cfg(feature = "cuda")]
            Gpu::Cuda(device) => Storage::Cuda(match super::cuda::graph::captured(device) {
                Some(stream) => super::cuda::zeros(device, &stream, shape.elem_count(), dtype)?,
                None => device.zeros_impl(&shape, dtype)?,
            }),
            #[cfg(feature = "metal")]
            Gpu::Metal(device) => Storage::Metal(device.zeros_impl(&shape, dtype)?),
            #[cfg(feature = "host")]
            Gpu::Host => Storage::Cpu(candle_core::cpu_backend::CpuDevice.zeros_impl(&shape, dtype)?),
            Gpu::None(never, _) => match never {},
        };
        Ok(Buffer { storage, layout: Layout::contiguous(shape), dtype })
    }

    #[cfg(feature = "cuda")]
    pub fn storage_mut(&mut self) -> &mut Storage {
        &mut self.storage
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn dims(&self) -> &[usize] {
        self.layout.dims()
    }

    /// The buffer in another shape of as many elements.
    pub fn reshape(mut self, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        debug_assert_eq!(shape.elem_count(), self.layout.shape().elem_count());
        self.layout = Layout::contiguous(shape);
        self
    }

    /// As an input of a kernel.
    pub fn input(&self, op: &'static str) -> Input<'_> {
        Input { op, memory: Memory::of(&self.storage), layout: &self.layout }
    }

    /// As a tensor.
    pub fn tensor(self) -> Tensor {
        let shape = self.layout.shape().clone();
        Tensor::from_storage(self.storage, shape, BackpropOp::none(), false)
    }

    /// Of memory that has been written.
    pub fn from_parts(storage: Storage, shape: impl Into<Shape>, dtype: DType) -> Self {
        Buffer { storage, layout: Layout::contiguous(shape), dtype }
    }

    pub(crate) fn into_parts(self) -> (Storage, Shape) {
        (self.storage, self.layout.shape().clone())
    }
}

impl Gpu<'_> {
    /// Launches a kernel: `args` in the order of its pointers, then `params`.
    pub fn launch<P: NoUninit>(self, launch: &Launch<'_>, args: &mut [Arg<'_>], params: &P) -> Result<()> {
        if launch.groups.contains(&0) {
            return Ok(());
        }
        let params = bytemuck::bytes_of(params);
        match self {
            #[cfg(feature = "cuda")]
            Gpu::Cuda(device) => super::cuda::launch(device, launch, args, params),
            #[cfg(feature = "metal")]
            Gpu::Metal(device) => super::metal::launch(device, launch, args, params),
            #[cfg(feature = "host")]
            Gpu::Host => super::host::launch(launch, args, params),
            Gpu::None(never, _) => {
                let _ = (args, params);
                match never {}
            }
        }
    }

    /// Where its tensors are.
    #[cfg(any(feature = "cuda", feature = "metal", feature = "host"))]
    pub fn device(self) -> Device {
        match self {
            #[cfg(feature = "cuda")]
            Gpu::Cuda(device) => Device::Cuda(device.clone()),
            #[cfg(feature = "metal")]
            Gpu::Metal(device) => Device::Metal(device.clone()),
            #[cfg(feature = "host")]
            Gpu::Host => Device::Cpu,
            Gpu::None(never, _) => match never {},
        }
    }

    /// Where an input's first element is, for kernels that follow addresses they read; none on Metal. What is there must
    /// live until such a kernel was launched.
    pub fn address(self, input: &Input<'_>) -> Result<Option<u64>> {
        match self {
            #[cfg(feature = "cuda")]
            Gpu::Cuda(device) => super::cuda::address(device, input).map(Some),
            #[cfg(feature = "metal")]
            Gpu::Metal(_) => Ok(None),
            #[cfg(feature = "host")]
            Gpu::Host => super::host::address(input).map(Some),
            Gpu::None(never, _) => {
                let _ = input;
                match never {}
            }
        }
    }

    /// How many groups run side by side, about.
    pub fn multiprocessors(self) -> usize {
        match self {
            #[cfg(feature = "cuda")]
            Gpu::Cuda(device) => super::cuda::multiprocessors(device),
            #[cfg(feature = "metal")]
            Gpu::Metal(_) => 32,
            #[cfg(feature = "host")]
            Gpu::Host => 4,
            Gpu::None(never, _) => match never {},
        }
    }
}

/// What kernels of one name took, or products of one size.
#[derive(Clone, Debug)]
#[cfg_attr(
    not(all(feature = "cuda", feature = "cli")),
    allow(dead_code, reason = "the command line asks CUDA")
)]
pub(crate) struct Spent {
    /// The kernel, or the sizes of the product.
    pub name: String,
    /// How often it ran.
    pub count: usize,
    /// The time of all of them, in ms.
    pub ms: f64,
}

/// Runs `f`, and tells what kernels of this crate and products took on a CUDA GPU; nothing elsewhere.
#[cfg(feature = "cli")]
pub(crate) fn profile<R>(f: impl FnOnce() -> crate::Result<R>) -> crate::Result<(R, Vec<Spent>)> {
    #[cfg(feature = "cuda")]
    {
        super::cuda::profile::begin();
        let result = f();
        let spent = super::cuda::profile::end();
        Ok((result?, spent?))
    }
    #[cfg(not(feature = "cuda"))]
    Ok((f()?, Vec::new()))
}

/// Runs `f` on the GPU that holds `tensor`; none for a tensor on the CPU.
pub(crate) fn on<R>(tensor: &Tensor, f: impl FnOnce(Gpu<'_>) -> Result<R>) -> Option<Result<R>> {
    match tensor.device() {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => Some(f(Gpu::Cuda(device))),
        #[cfg(feature = "metal")]
        Device::Metal(device) => Some(f(Gpu::Metal(device))),
        #[cfg(feature = "host")]
        Device::Cpu if super::host::on() => Some(f(Gpu::Host)),
        _ => {
            let _ = f;
            None
        }
    }
}

/// The source of a launch's unit: its types, its constants, the dialect, the shared part, and the unit.
pub(super) fn source(dialect: &str, launch: &Launch<'_>) -> Result<String> {
    use std::fmt::Write;
    // The constants come after what the dialect includes, whose names they may be.
    let mut text = format!("{dialect}\n#define GROUP_SIZE {}\n", launch.threads);
    for (name, value) in launch.defines {
        let _ = writeln!(text, "#define {name} {value}");
    }
    for (name, dtype) in launch.types {
        let _ = writeln!(text, "typedef {} {name};", type_name(launch.entry, *dtype)?);
    }
    let _ = writeln!(text, "#line 1 \"group.h\"\n{}", include_str!("group.h"));
    let _ = writeln!(text, "#line 1 \"{}\"\n{}", launch.unit.name, launch.unit.text);
    Ok(text)
}

fn type_name(op: &str, dtype: DType) -> Result<&'static str> {
    Ok(match dtype {
        DType::F32 => "float",
        DType::F16 => "f16",
        DType::BF16 => "bf16",
        _ => bail!("{op}: wants f32, f16 or bf16, got {dtype:?}"),
    })
}

/// What a compiled kernel depends on.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    unit: usize,
    entry: &'static str,
    threads: usize,
    types: [Option<DType>; 6],
    defines: [i64; 16],
}

impl Key {
    /// The names of types and constants are the same in every launch of one kernel; their values make the key.
    pub fn new(launch: &Launch<'_>) -> Self {
        let unit = std::ptr::from_ref(launch.unit) as usize;
        let mut key =
            Key { unit, entry: launch.entry, threads: launch.threads, types: [None; 6], defines: [0; 16] };
        for (to, (_, dtype)) in key.types.iter_mut().zip(launch.types) {
            *to = Some(*dtype);
        }
        for (to, (_, value)) in key.defines.iter_mut().zip(launch.defines) {
            *to = *value;
        }
        assert!(launch.types.len() <= key.types.len() && launch.defines.len() <= key.defines.len());
        key
    }
}
