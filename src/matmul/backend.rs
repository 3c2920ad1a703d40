//! What computes products.

use super::site::Site;
use super::table::User;
use super::{Product, Shape, candle, fused, packed};
use crate::kernels::gpu::Buffer;
use candle_core::{DType, Result, bail};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What computes products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Backend {
    /// Candle's: the `gemm` crate on a CPU, cuBLAS on CUDA, MLX's kernels on Metal.
    Candle,
    /// This crate's on a CPU: packed tiles of AVX-512 where there is it, rows of weights read once for a few rows.
    Packed,
    /// cuBLASLt on CUDA, by its heuristic.
    CublasLt,
    /// Metal Performance Shaders on Apple's GPUs.
    Mps,
    /// This crate's kernels on a GPU, which layers have: up to four rows as one read of the weights, and on CUDA the wide factor
    /// of a low-rank update. They compute no other products.
    Fused,
}

/// Every backend and its name.
const NAMES: [(Backend, &str); 5] = [
    (Backend::Candle, "candle"),
    (Backend::Packed, "packed"),
    (Backend::CublasLt, "cublaslt"),
    (Backend::Mps, "mps"),
    (Backend::Fused, "fused"),
];

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(backend, _)| backend == self).map_or("", |(_, name)| name);
        f.pad(name)
    }
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let found = NAMES.iter().find(|(_, known)| *known == name);
        found
            .map(|(backend, _)| *backend)
            .ok_or_else(|| format!("wants auto, candle, packed, cublaslt, mps or fused, got {name:?}"))
    }
}

/// Whether MPS computes with the factors as they are: it converts them to the dtype of the result.
#[cfg(feature = "metal")]
fn takes_factors(product: &Product<'_>) -> bool {
    let beta = product.c.map_or(0.0, |(beta, _)| beta);
    let exact = |factor: f32| half::f16::from_f32(factor).to_f32() == factor;
    product.dtype() != DType::F16 || (exact(product.alpha) && exact(beta))
}

impl Backend {
    /// Those that compute on a site.
    pub(crate) fn on(site: Site<'_>) -> &'static [Backend] {
        match site {
            #[cfg(feature = "host")]
            Site::Cpu if site.gpu().is_some() => &[Backend::Candle, Backend::Packed, Backend::Fused],
            Site::Cpu => &[Backend::Candle, Backend::Packed],
            #[cfg(feature = "cuda")]
            Site::Cuda(_) => &[Backend::Candle, Backend::CublasLt, Backend::Fused],
            #[cfg(feature = "metal")]
            Site::Metal(_) => &[Backend::Candle, Backend::Mps, Backend::Fused],
            Site::None(never, _) => match never {},
        }
    }

    /// Whether it computes products of a kind on a site.
    pub(super) fn computes(self, site: Site<'_>, dtype: DType, shape: &Shape) -> bool {
        Backend::on(site).contains(&self) && (self != Backend::Fused || fused::computes(site, dtype, shape))
    }

    /// Which computes what was not measured.
    pub(super) fn default(user: User, site: Site<'_>, dtype: DType) -> Backend {
        match (user, site, dtype) {
            (User::Calls, Site::Cpu, DType::BF16) => Backend::Packed,
            _ => user.usual(),
        }
    }

    /// Computes a product into memory of its own, contiguous, `(batch, m, n)`.
    pub(super) fn product(self, site: Site<'_>, product: &Product<'_>) -> Result<Buffer> {
        let [batch, m, n, k] = product.sizes();
        if batch * m * n == 0 || k == 0 {
            return candle::without_terms(product);
        }
        match (self, site) {
            (Backend::Candle, _) => candle::product(product),
            (Backend::Packed, Site::Cpu) => packed::product(product),
            #[cfg(feature = "cuda")]
            (Backend::CublasLt, Site::Cuda(device)) => super::cublaslt::product(device, product),
            #[cfg(feature = "metal")]
            (Backend::Mps, Site::Metal(device)) if takes_factors(product) => super::mps::run(device, product),
            #[cfg(feature = "metal")]
            (Backend::Mps, Site::Metal(_)) => candle::product(product),
            (Backend::Fused, site) => fused::product(site, product),
            (backend, _) => bail!("matmul: {backend} does not compute on this device"),
        }
    }
}
