//! Fused ops with gradients. They take the places of their namesakes in `candle_nn`, with the same arguments.
//!
//! Each file holds one op: the formula, the plain-Candle reference, the CPU code, the gradient, and the
//! [`Spec`] that tests and benchmarks read. Sums are `f32` whatever the dtype; inputs may be any view.
//!
//! An op never cuts a graph: what a variable reaches gets its gradient, or `backward` fails.

pub(crate) mod adamw;
mod attention;
mod coverage;
mod cross_entropy;
#[cfg(any(feature = "cuda", all(test, feature = "host")))]
pub(crate) mod decode_state;
mod dora_linear;
mod dropout;
mod embedding;
mod gated;
mod glue;
#[cfg(feature = "cuda")]
pub(crate) mod joined_linear;
pub(crate) mod kv_append;
mod layer_norm;
mod linear;
mod linear_cross_entropy;
mod lora_linear;
#[cfg(test)]
mod near;
#[cfg(any(feature = "cuda", test))]
mod norm_linear;
mod rms_norm;
mod rope;
#[cfg(feature = "cuda")]
pub(crate) mod rope_attention;
// For the generator, and for benchmarks of the choice alone.
#[doc(hidden)]
pub mod sample;
mod softmax;
#[cfg(any(feature = "cuda", test))]
pub(crate) mod turn_append;

pub(crate) use crate::kernels::cpu::in_pool;
pub use crate::kernels::cpu::simd_name;
// For benchmarks of a backward pass as the trainer runs it. A plain Candle op on a recorded tensor would be a gap.
#[cfg(feature = "cuda")]
pub(crate) use crate::kernels::cuda::{ahead::compile_ahead, graph};
pub use crate::kernels::gemm::fast_bf16;
#[doc(hidden)]
pub use crate::kernels::tape::{Gradients, Tape};
pub use attention::{Attention, Keys, attention, attention_thd};
pub(crate) use coverage::covered;
pub use coverage::grad_coverage;
pub use cross_entropy::{CrossEntropy, IGNORE, Reduction, cross_entropy, cross_entropy_with};
pub use dora_linear::{dora_linear, dora_norms};
pub use dropout::Dropout;
use dropout::dropout;
pub(crate) use embedding::embedding_scaled;
pub use embedding::{embedding, embedding_padded};
#[cfg(feature = "cuda")]
pub(crate) use gated::Activation;
pub use gated::{geglu, gelu_mul, silu_mul, swiglu};
pub use glue::add;
pub(crate) use glue::{affine, cast, narrow, reshape};
pub use layer_norm::layer_norm;
#[cfg(feature = "cuda")]
pub(crate) use linear::cast_into;
pub use linear::linear;
pub(crate) use linear::{FEW as FEW_ROWS, Few};
pub(crate) use linear_cross_entropy::GPU_CHUNK as LOGITS_CHUNK;
pub use linear_cross_entropy::linear_cross_entropy;
#[cfg(feature = "cuda")]
pub(crate) use lora_linear::Wide;
pub use lora_linear::{LoraLinear, lora_linear};
#[cfg(feature = "cuda")]
pub(crate) use norm_linear::norm_linear;
pub use rms_norm::{add_rms_norm, rms_norm};
pub use rope::{rope, rope_i, rope_thd};
pub use softmax::{log_softmax, softmax, softmax_last_dim};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use candle_core::{CpuStorage, DType, Device, Result, Shape, Tensor, WithDType, bail};

/// The shapes of an op's inputs.
pub type Case = &'static [&'static [usize]];

/// What a test or a benchmark needs to know of one op.
pub struct Spec {
    /// The op's name.
    pub name: &'static str,
    /// The op in plain Candle ops: the definition of correct.
    pub reference: fn(&[Tensor]) -> Result<Tensor>,
    /// The op.
    pub fused: fn(&[Tensor]) -> Result<Tensor>,
    /// The inputs that have gradients.
    pub trainable: &'static [usize],
    /// Shapes of the inputs, for each case worth a test.
    pub cases: &'static [Case],
}

/// Every op.
pub const ALL: &[Spec] = &[
    softmax::SOFTMAX,
    softmax::LOG_SOFTMAX,
    rms_norm::RMS_NORM,
    rms_norm::ADD_RMS_NORM,
    layer_norm::SPEC,
    rope::ROPE,
    rope::ROPE_I,
    rope::ROPE_THD,
    gated::SWIGLU,
    gated::GEGLU,
    gated::SILU_MUL,
    gated::GELU_MUL,
    linear::SPEC,
    lora_linear::SPEC,
    dora_linear::SPEC,
    cross_entropy::SPEC,
    linear_cross_entropy::SPEC,
    attention::CAUSAL,
    attention::WINDOW,
    attention::FULL,
];

/// Normally distributed inputs for one case, the same ones every time.
///
/// # Errors
///
/// When the device has no room.
pub fn inputs(case: Case, dtype: DType, device: &Device) -> Result<Vec<Tensor>> {
    let mut rng = ChaCha8Rng::seed_from_u64(299_792_458);
    let normal = |rng: &mut ChaCha8Rng| {
        let (u, v): (f64, f64) = (rng.random(), rng.random());
        ((-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    };
    let mut make = |shape: &[usize]| {
        let data = (0..shape.iter().product()).map(|_| normal(&mut rng)).collect();
        Tensor::from_vec::<_, f32>(data, shape, device)?.to_dtype(dtype)
    };
    case.iter().map(|&shape| make(shape)).collect()
}

/// The size of the last dimension.
fn last_dim(op: &str, dims: &[usize]) -> Result<usize> {
    match dims.last() {
        Some(&n) => Ok(n),
        None => bail!("{op}: wants at least one dimension, got a scalar"),
    }
}

/// `x` in `f32`, or as it is when it is `f64`: what a reference computes in.
fn wide(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 })
}

pub(crate) fn storage<T: WithDType>(data: Vec<T>) -> CpuStorage {
    T::to_cpu_storage_owned(data)
}

fn tensor<T: WithDType>(data: Vec<T>, shape: &Shape, device: &Device) -> Result<Tensor> {
    Tensor::from_vec(data, shape, device)
}
