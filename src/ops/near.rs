//! What tests on a CUDA GPU compare with: numbers, and how far others are from them.

use candle_core::{DType, Device, Result, Shape, Tensor};

/// Numbers from `-scale / 2` to `scale / 2`, the same for a seed.
pub fn noise(shape: impl Into<Shape>, scale: f32, seed: u32) -> Result<Tensor> {
    let shape = shape.into();
    let hash = |i: usize| {
        let x = (i as u32).wrapping_add(seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
        let x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
        ((x ^ (x >> 16)) as f32 / u32::MAX as f32 - 0.5) * scale
    };
    Tensor::from_vec((0..shape.elem_count()).map(hash).collect(), shape, &Device::Cpu)
}

/// The relative distance to what is right, which is on the CPU.
pub fn off(x: &Tensor, right: &Tensor) -> Result<f32> {
    let x = x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?;
    let right = right.flatten_all()?;
    let norm = |x: &Tensor| x.sqr()?.sum_all()?.to_scalar::<f32>();
    Ok((norm(&(x - &right)?)? / norm(&right)?.max(1e-20)).sqrt())
}
