//! What every op stands on: one dispatch that makes an op a Candle `CustomOp`, and the CPU's SIMD loops,
//! row helpers and matrix products. Nothing here knows an op.

pub(crate) mod add;
pub(crate) mod cpu;
pub(crate) mod element;
pub(crate) mod gemm;
pub(crate) mod tape;
#[cfg(target_arch = "x86_64")]
mod tiles;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Storage, StorageRef, Tensor,
    WithDType, bail,
};

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

    /// The gradient of each input, given the output and its gradient `g` (contiguous).
    ///
    /// An input that needs none gets `None`; one that needs it must get its gradient.
    fn grad(
        &self,
        inputs: [&Tensor; N],
        y: &Tensor,
        g: &Tensor,
        needs: [bool; N],
    ) -> Result<[Option<Tensor>; N]>;
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
                let run = || self.0.cpu([$(Input { op: K::NAME, storage: $s, layout: $l }),+]);
                if K::IN_POOL { cpu::in_pool(run) } else { run() }
            }

            fn bwd(&self, $($t: &Tensor,)+ y: &Tensor, g: &Tensor) -> Result<$grads> {
                let g = g.contiguous()?;
                let run = || self.0.grad([$($t),+], y, &g, [$($t.track_op()),+]);
                let $g = if K::IN_POOL { cpu::in_pool(run)? } else { run()? };
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

/// One input of an op on the CPU.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    op: &'static str,
    storage: &'a CpuStorage,
    layout: &'a Layout,
}

impl<'a> Input<'a> {
    pub fn dtype(&self) -> DType {
        match self.storage {
            CpuStorage::F32(_) => DType::F32,
            CpuStorage::F16(_) => DType::F16,
            CpuStorage::BF16(_) => DType::BF16,
            CpuStorage::F64(_) => DType::F64,
            CpuStorage::U32(_) => DType::U32,
            CpuStorage::I64(_) => DType::I64,
            _ => DType::U8,
        }
    }

    pub fn dims(&self) -> &'a [usize] {
        self.layout.dims()
    }

    pub fn shape(&self) -> Shape {
        self.layout.shape().clone()
    }

    pub fn stride(&self) -> &'a [usize] {
        self.layout.stride()
    }

    /// The elements, which must be contiguous.
    pub fn slice<T: WithDType>(&self) -> Result<&'a [T]> {
        match self.layout.contiguous_offsets() {
            Some((start, end)) => Ok(&self.storage.as_slice::<T>()?[start..end]),
            None => bail!("{}: wants a contiguous input, got strides {:?}", self.op, self.layout.stride()),
        }
    }

    /// The elements from the first one on, to be read by [`Input::stride`].
    pub fn strided<T: WithDType>(&self) -> Result<&'a [T]> {
        Ok(&self.storage.as_slice::<T>()?[self.layout.start_offset()..])
    }
}

/// A tensor on the CPU, held for reading: how a gradient sees its inputs.
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
    pub fn input(&self, op: &'static str) -> Result<Input<'_>> {
        match &*self.storage {
            Storage::Cpu(storage) => Ok(Input { op, storage, layout: self.layout }),
            _ => bail!("{op}: wants its tensors on one device, got one that is not on the CPU"),
        }
    }
}

/// Calls a gradient's CPU code with its tensors as inputs.
pub(crate) fn with_inputs<const N: usize, R>(
    op: &'static str,
    tensors: [&Tensor; N],
    f: impl FnOnce([Input<'_>; N]) -> Result<R>,
) -> Result<R> {
    let held = tensors.map(Held::new);
    let mut inputs = Vec::with_capacity(N);
    for h in &held {
        inputs.push(h.input(op)?);
    }
    match inputs.try_into() {
        Ok(inputs) => f(inputs),
        Err(_) => unreachable!("as many inputs as tensors"),
    }
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
