//! What every op stands on: one dispatch that makes an op a Candle `CustomOp`, and the CPU's SIMD loops,
//! row helpers and matrix products. Nothing here knows an op.

pub(crate) mod add;
pub(crate) mod blocks;
#[cfg(any(feature = "cuda", feature = "host"))]
mod cache;
pub(crate) mod casts;
pub(crate) mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub(crate) mod directory;
pub(crate) mod element;
#[cfg(any(feature = "cuda", all(test, feature = "host")))]
pub(crate) mod gather;
pub(crate) mod gemm;
// Without a GPU there is none to match, and with the host's alone nobody asks for fast math.
#[cfg_attr(
    not(any(feature = "cuda", feature = "metal", feature = "host")),
    allow(unused, unreachable_code, clippy::needless_pass_by_value)
)]
#[cfg_attr(not(any(feature = "cuda", feature = "metal")), allow(dead_code))]
pub(crate) mod gpu;
#[cfg(target_arch = "x86_64")]
mod halves;
#[cfg(feature = "host")]
pub(crate) mod host;
#[cfg(feature = "metal")]
mod metal;
pub(crate) mod partials;
pub(crate) mod pieces;
#[cfg(any(feature = "metal", all(test, feature = "host")))]
mod product;
pub(crate) mod rows;
pub(crate) mod tape;
#[cfg(target_arch = "x86_64")]
mod tiles;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, MetalStorage, Result, Shape,
    Storage, StorageRef, Tensor, WithDType, bail,
};
use gpu::{Buffer, Gpu};

/// An op on `N` tensors that writes one.
///
/// [`Fused`]`(op)` is then a Candle op. Inputs are contiguous: the public functions in `ops` see to it.
pub(crate) trait FusedOp<const N: usize>: Send + Sync + 'static {
    /// The name that Candle's errors go by.
    const NAME: &'static str;

    /// Whether the op has several parallel parts, so that it pays to move the whole of it to rayon's pool at once.
    const IN_POOL: bool = false;

    /// The forward pass on the CPU, and the shape of the output.
    fn cpu(&self, inputs: [Input<'_>; N]) -> Result<(CpuStorage, Shape)>;

    /// The forward pass on a GPU.
    fn gpu(&self, _: Gpu<'_>, _: [Input<'_>; N]) -> Result<Buffer> {
        bail!("{}: has no GPU kernel", Self::NAME)
    }

    /// The gradient of each input, given the output and its gradient `g` (contiguous).
    ///
    /// An input that needs none gets `None`; one that needs it must get its gradient.
    fn grad(
        &self,
        inputs: [&Tensor; N],
        y: &Tensor,
        g: &Tensor,
        needs: [bool; N],
    ) -> Result<[Option<Tensor>; N]> {
        match gpu::on(y, |gpu| self.gpu_grad(gpu, inputs, y, g, needs)) {
            Some(grads) => grads,
            None => self.cpu_grad(inputs, y, g, needs),
        }
    }

    /// [`FusedOp::grad`] on the CPU.
    fn cpu_grad(&self, _: [&Tensor; N], _: &Tensor, _: &Tensor, _: [bool; N]) -> Result<[Option<Tensor>; N]> {
        bail!("{}: has no gradient on the CPU", Self::NAME)
    }

    /// [`FusedOp::grad`] on a GPU.
    fn gpu_grad(
        &self,
        _: Gpu<'_>,
        _: [&Tensor; N],
        _: &Tensor,
        _: &Tensor,
        _: [bool; N],
    ) -> Result<[Option<Tensor>; N]> {
        bail!("{}: has no gradient on a GPU", Self::NAME)
    }
}

/// A [`FusedOp`] as a Candle op.
pub(crate) struct Fused<K>(pub K);

macro_rules! impl_custom_op {
    ($CustomOp:ident, $n:literal, $grads:ty, |$g:ident| $tuple:expr, [$($s:ident $l:ident $t:ident),+]) => {
        impl<K: FusedOp<$n>> $CustomOp for Fused<K> {
            fn name(&self) -> &'static str {
                K::NAME
            }

            fn cpu_fwd(&self, $($s: &CpuStorage, $l: &Layout),+) -> Result<(CpuStorage, Shape)> {
                let inputs = [$(Input { op: K::NAME, memory: Memory::Cpu($s), layout: $l }),+];
                #[cfg(feature = "host")]
                if host::on() {
                    return match self.0.gpu(Gpu::Host, inputs)?.into_parts() {
                        (Storage::Cpu(storage), shape) => Ok((storage, shape)),
                        _ => unreachable!("host kernels write CPU memory"),
                    };
                }
                let run = || self.0.cpu(inputs);
                if K::IN_POOL { cpu::in_pool(run) } else { run() }
            }

            #[cfg(feature = "cuda")]
            fn cuda_fwd(&self, $($s: &CudaStorage, $l: &Layout),+) -> Result<(CudaStorage, Shape)> {
                let inputs = [$(Input { op: K::NAME, memory: Memory::Cuda($s), layout: $l }),+];
                match self.0.gpu(Gpu::Cuda(first(&[$($s),+]).device()), inputs)?.into_parts() {
                    (Storage::Cuda(storage), shape) => Ok((storage, shape)),
                    _ => unreachable!("a CUDA device has CUDA memory"),
                }
            }

            #[cfg(feature = "metal")]
            fn metal_fwd(&self, $($s: &MetalStorage, $l: &Layout),+) -> Result<(MetalStorage, Shape)> {
                let inputs = [$(Input { op: K::NAME, memory: Memory::Metal($s), layout: $l }),+];
                match self.0.gpu(Gpu::Metal(first(&[$($s),+]).device()), inputs)?.into_parts() {
                    (Storage::Metal(storage), shape) => Ok((storage, shape)),
                    _ => unreachable!("a Metal device has Metal memory"),
                }
            }

            fn bwd(&self, $($t: &Tensor,)+ y: &Tensor, g: &Tensor) -> Result<$grads> {
                let g = g.contiguous()?;
                let run = || self.0.grad([$($t),+], y, &g, [$($t.track_op()),+]);
                let $g = if K::IN_POOL && y.device().is_cpu() { cpu::in_pool(run)? } else { run()? };
                Ok($tuple)
            }
        }
    };
}
impl_custom_op!(CustomOp1, 1, Option<Tensor>, |g| { let [a] = g; a }, [s1 l1 t1]);
impl_custom_op!(CustomOp2, 2, (Option<Tensor>, Option<Tensor>), |g| g.into(), [s1 l1 t1, s2 l2 t2]);
impl_custom_op!(
    CustomOp3,
    3,
    (Option<Tensor>, Option<Tensor>, Option<Tensor>),
    |g| g.into(),
    [s1 l1 t1, s2 l2 t2, s3 l3 t3]
);

#[cfg(any(feature = "cuda", feature = "metal"))]
fn first<'a, T>(storages: &[&'a T]) -> &'a T {
    storages[0]
}

/// Where the elements of an input are.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "a build without a GPU makes the first only")]
pub(crate) enum Memory<'a> {
    Cpu(&'a CpuStorage),
    Cuda(&'a CudaStorage),
    Metal(&'a MetalStorage),
}

impl<'a> Memory<'a> {
    fn of(storage: &'a Storage) -> Self {
        match storage {
            Storage::Cpu(storage) => Memory::Cpu(storage),
            Storage::Cuda(storage) => Memory::Cuda(storage),
            Storage::Metal(storage) => Memory::Metal(storage),
        }
    }
}

/// One input of an op.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    op: &'static str,
    memory: Memory<'a>,
    layout: &'a Layout,
}

impl<'a> Input<'a> {
    pub fn new(op: &'static str, storage: &'a Storage, layout: &'a Layout) -> Self {
        Input { op, memory: Memory::of(storage), layout }
    }

    pub fn memory(&self) -> Memory<'a> {
        self.memory
    }

    pub fn layout(&self) -> &'a Layout {
        self.layout
    }

    pub fn dtype(&self) -> DType {
        match self.memory {
            Memory::Cpu(storage) => storage.dtype(),
            Memory::Cuda(storage) => storage.dtype(),
            Memory::Metal(storage) => storage.dtype(),
        }
    }

    fn cpu(&self) -> Result<&'a CpuStorage> {
        match self.memory {
            Memory::Cpu(storage) => Ok(storage),
            _ => bail!("{}: wants its tensors on one device, got one that is not on the CPU", self.op),
        }
    }

    /// Its memory on the Metal device.
    #[cfg(feature = "metal")]
    pub fn metal(&self) -> Result<&'a MetalStorage> {
        match self.memory {
            Memory::Metal(storage) => Ok(storage),
            _ => bail!("{}: wants its tensors on one device, got one that is not on the GPU", self.op),
        }
    }

    pub fn dims(&self) -> &'a [usize] {
        self.layout.dims()
    }

    pub fn shape(&self) -> Shape {
        self.layout.shape().clone()
    }

    /// Some of its rows, along the first dimension.
    pub fn rows<'b>(&self, layout: &'b mut Option<Layout>, first: usize, rows: usize) -> Result<Input<'b>>
    where
        'a: 'b,
    {
        let layout = layout.insert(self.layout.narrow(0, first, rows)?);
        Ok(Input { layout, ..*self })
    }

    /// Its memory under another layout.
    pub fn laid_out<'b>(self, layout: &'b Layout) -> Input<'b>
    where
        'a: 'b,
    {
        Input { layout, ..self }
    }

    /// Elements before the first one.
    pub fn start_offset(&self) -> usize {
        self.layout.start_offset()
    }

    pub fn stride(&self) -> &'a [usize] {
        self.layout.stride()
    }

    /// Whether the first element lies at a multiple of 16 bytes.
    pub fn at_16(&self) -> bool {
        self.first_byte().is_multiple_of(16)
    }

    /// Where in its memory it begins.
    #[allow(dead_code, reason = "not used in a build without a GPU")]
    pub fn first_byte(&self) -> usize {
        self.layout.start_offset() * self.dtype().size_in_bytes()
    }

    /// Refuses elements that are not contiguous.
    pub fn contiguous(&self) -> Result<()> {
        match self.layout.is_contiguous() {
            true => Ok(()),
            false => bail!("{}: wants a contiguous input, got strides {:?}", self.op, self.layout.stride()),
        }
    }

    /// The elements, which must be contiguous.
    pub fn slice<T: WithDType>(&self) -> Result<&'a [T]> {
        match self.layout.contiguous_offsets() {
            Some((start, end)) => Ok(&self.cpu()?.as_slice::<T>()?[start..end]),
            None => bail!("{}: wants a contiguous input, got strides {:?}", self.op, self.layout.stride()),
        }
    }

    /// The elements from the first one on, to be read by [`Input::stride`].
    pub fn strided<T: WithDType>(&self) -> Result<&'a [T]> {
        Ok(&self.cpu()?.as_slice::<T>()?[self.layout.start_offset()..])
    }
}

/// Elements that a thread of a GPU takes at a time: 16 bytes of the narrowest.
pub(crate) fn vec(dtype: DType, inputs: &[Input<'_>]) -> usize {
    let sizes = inputs.iter().map(|x| x.dtype().size_in_bytes());
    16 / sizes.fold(dtype.size_in_bytes(), usize::min)
}

/// A tensor held for reading: how a gradient sees its inputs.
pub(crate) struct Held<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Held<'a> {
    pub fn new(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Held { storage, layout }
    }

    /// The tensor as an op's input.
    pub fn input(&self, op: &'static str) -> Input<'_> {
        Input { op, memory: Memory::of(&self.storage), layout: self.layout }
    }
}

/// Calls a gradient's code with its tensors as inputs.
pub(crate) fn with_inputs<const N: usize, R>(
    op: &'static str,
    tensors: [&Tensor; N],
    f: impl FnOnce([Input<'_>; N]) -> Result<R>,
) -> Result<R> {
    let held = tensors.map(Held::new);
    f(held.each_ref().map(|held| held.input(op)))
}

/// The dtype all inputs must share.
pub(crate) fn same_dtype(op: &str, tensors: &[&Tensor]) -> Result<DType> {
    let dtypes: Vec<_> = tensors.iter().map(|t| t.dtype()).collect();
    match dtypes.iter().all(|d| *d == dtypes[0]) {
        true => Ok(dtypes[0]),
        false => bail!("{op}: wants inputs of one dtype, got {dtypes:?}"),
    }
}

/// `match` over the float dtypes: `T` is the element type in the body.
macro_rules! for_dtype {
    ($op:expr, $dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $T = f32;
                $body
            }
            candle_core::DType::F16 => {
                type $T = half::f16;
                $body
            }
            candle_core::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            dtype => candle_core::bail!("{}: wants f32, f16 or bf16, got {dtype:?}", $op),
        }
    };
}
pub(crate) use for_dtype;
