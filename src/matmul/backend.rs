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
    /// Metal Performance Shaders on Apple's GPUs, by `MPSMatrixMultiplication`.
    Mps,
    /// This crate's kernels on a GPU, which layers have: up to four rows as one read of the weights, and on CUDA the wide factor
    /// of a low-rank update. They compute no other products.
    Fused,
    /// Metal Performance Shaders on Apple's GPUs, one row or one column by `MPSMatrixVectorMultiplication`. They compute no other
    /// products.
    #[serde(rename = "mps-vector")]
    MpsVector,
}

/// Every backend and its name.
const NAMES: [(Backend, &str); 6] = [
    (Backend::Candle, "candle"),
    (Backend::Packed, "packed"),
    (Backend::CublasLt, "cublaslt"),
    (Backend::Mps, "mps"),
    (Backend::Fused, "fused"),
    (Backend::MpsVector, "mps-vector"),
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
        found.map(|(backend, _)| *backend).ok_or_else(|| {
            format!("wants auto, candle, packed, cublaslt, mps, mps-vector or fused, got {name:?}")
        })
    }
}

/// A way to compute products: one a file.
pub(super) trait Compute: Sync {
    /// What names it.
    fn key(&self) -> Backend;

    /// Whether it computes products on a device at all.
    fn on(&self, site: Site<'_>) -> bool;

    /// Whether it computes products of a kind on a device that it is on.
    fn computes(&self, site: Site<'_>, dtype: DType, shape: &Shape) -> bool {
        let _ = (site, dtype, shape);
        true
    }

    /// Computes a product of at least one term into memory of its own, contiguous, `(batch, m, n)`.
    fn product(&self, site: Site<'_>, product: &Product<'_>) -> Result<Buffer>;
}

/// Those of this build.
const ALL: &[&dyn Compute] = &[
    &candle::Candle,
    &packed::Packed,
    #[cfg(feature = "cuda")]
    &super::cublaslt::CublasLt,
    #[cfg(feature = "metal")]
    &super::mps::Mps { by_vector: false },
    #[cfg(feature = "metal")]
    &super::mps::Mps { by_vector: true },
    &fused::Fused,
];

impl Backend {
    /// Those that compute on a site.
    pub(crate) fn on(site: Site<'_>) -> impl Iterator<Item = Backend> {
        ALL.iter().filter(move |one| one.on(site)).map(|one| one.key())
    }

    /// What computes on a site by this name, if anything does.
    fn compute(self, site: Site<'_>) -> Option<&'static dyn Compute> {
        ALL.iter().find(|one| one.key() == self && one.on(site)).copied()
    }

    /// Whether it computes products of a kind on a site.
    pub(super) fn computes(self, site: Site<'_>, dtype: DType, shape: &Shape) -> bool {
        self.compute(site).is_some_and(|one| one.computes(site, dtype, shape))
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
        match self.compute(site) {
            Some(one) => one.product(site, product),
            None => bail!("matmul: {self} does not compute on this device"),
        }
    }
}
