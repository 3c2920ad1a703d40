//! `--dtype`: what is computed in.

use candle_core::DType;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What is computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// bf16 for a bf16 checkpoint on a CPU with AVX-512 BF16, else f32
    #[default]
    Auto,
    /// 32-bit floats
    F32,
    /// bfloat16, accumulated in f32
    Bf16,
}

impl Precision {
    /// The dtype, for a checkpoint stored in `stored`.
    pub fn dtype(self, stored: Option<DType>) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::Auto if stored == Some(DType::BF16) && crate::ops::fast_bf16() => DType::BF16,
            Precision::Auto => DType::F32,
        }
    }
}
