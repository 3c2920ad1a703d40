//! `--device` and `--dtype`: what computes, and what in.

use super::terminal;
use crate::device::{self, Choice};
use candle_core::{DType, Device};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What is computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// bf16 for a bf16 checkpoint on a GPU or on a CPU with AVX-512 BF16, else f32
    #[default]
    Auto,
    /// 32-bit floats
    F32,
    /// bfloat16, accumulated in f32
    Bf16,
}

impl Precision {
    /// The dtype, for a checkpoint stored in `stored`.
    pub fn dtype(self, stored: Option<DType>, device: &Device) -> DType {
        let fast_bf16 = !device.is_cpu() || crate::ops::fast_bf16();
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::Auto if stored == Some(DType::BF16) && fast_bf16 => DType::BF16,
            Precision::Auto => DType::F32,
        }
    }
}

/// `--device`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct DeviceArg {
    /// What computes: auto (a GPU if there is one), cpu, cuda, cuda:N or metal
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: Choice,
}

impl DeviceArg {
    /// The device.
    pub fn open(self) -> anyhow::Result<Device> {
        open(self.device)
    }
}

/// `--device` and `--dtype`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Compute {
    #[command(flatten)]
    pub device: DeviceArg,
    /// What is computed in
    #[arg(long, value_enum, default_value_t)]
    pub dtype: Precision,
}

/// The device of a choice; a GPU that the choice would take and cannot is told of.
pub fn open(choice: Choice) -> anyhow::Result<Device> {
    let device = choice.open()?;
    if choice == Choice::Auto
        && let Some(why) = device::cuda_is_unfit()
    {
        terminal::note(format!("computing on the CPU: {why}"));
    }
    Ok(device)
}
