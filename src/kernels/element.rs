//! Elements as the CPU kernels see them: stored in `f32`, `f16` or `bf16`, computed in `f32`.
//!
//! The conversions have no branch and no table, so that a loop over them becomes SIMD code.

use candle_core::WithDType;
use half::{bf16, f16};

/// A float element that is loaded to and stored from `f32`.
pub(crate) trait Element: WithDType {
    /// The value.
    fn to_f32(self) -> f32;
    /// The nearest element, ties to even.
    fn from_f32(v: f32) -> Self;
}

impl Element for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(v: f32) -> Self {
        v
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
    #[inline(always)]
    fn from_f32(v: f32) -> Self {
        let bits = v.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let nan = (bits >> 16) | 0x40;
        bf16::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded } as u16)
    }
}

impl Element for f16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        let bits = self.to_bits() as u32;
        let magnitude = (bits & 0x7fff) << 13;
        // 2^112 moves the exponent from f16's bias to f32's, subnormals included.
        let finite = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
        let magnitude = if bits & 0x7c00 == 0x7c00 { magnitude | 0x7f80_0000 } else { finite };
        f32::from_bits(magnitude | (bits & 0x8000) << 16)
    }
    #[inline(always)]
    fn from_f32(v: f32) -> Self {
        let sign = v.to_bits() & 0x8000_0000;
        let bits = v.to_bits() ^ sign;
        // Below 2^-14 the sum with 0.5 rounds at the place of f16's last subnormal bit.
        let subnormal = (f32::from_bits(bits) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
        let normal = bits.wrapping_add(0xc800_0fff + ((bits >> 13) & 1)) >> 13;
        let special = if bits > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
        let magnitude = if bits < 0x3880_0000 { subnormal } else { normal };
        let magnitude = if bits >= 0x4780_0000 { special } else { magnitude };
        f16::from_bits((magnitude | sign >> 16) as u16)
    }
}

/// `e^x` within 2 units in the last place; 0 below -87.3, `inf` above 88.3, NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let t = if x > 89.0 { 89.0 } else { x };
    let t = if t < -87.3 { -87.3 } else { t };
    let shifted = t.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_359_4, t);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4f32;
    let p = p.mul_add(r, 1.398_2e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r * r, r + 1.0);
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { p * scale }
}

/// The logistic function.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The hyperbolic tangent, within 1e-6.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_conversions_equal_those_of_half_for_every_value() {
        for bits in 0..=u16::MAX {
            let h = f16::from_bits(bits);
            let (ours, theirs) = (Element::to_f32(h), h.to_f32());
            assert!(ours == theirs || (ours.is_nan() && theirs.is_nan()), "{bits:04x}: {ours} {theirs}");
        }
    }

    #[test]
    fn narrowing_rounds_as_half_does() {
        let mut bits = 0u32;
        while bits < u32::MAX - 9973 {
            let v = f32::from_bits(bits);
            let (b, h) = (<bf16 as Element>::from_f32(v), <f16 as Element>::from_f32(v));
            assert!(b == bf16::from_f32(v) || v.is_nan() && b.is_nan(), "bf16 of {v}: {b}");
            assert!(
                h == f16::from_f32(v) || v.is_nan() && h.is_nan(),
                "f16 of {v}: {h} {}",
                f16::from_f32(v)
            );
            bits += 9973;
        }
    }

    #[test]
    fn exp_is_accurate_and_keeps_the_extremes() {
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3;
            let exact = (x as f64).exp();
            assert!((exp(x) as f64 - exact).abs() <= exact * 2.5e-7, "exp({x}) = {} not {exact}", exp(x));
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }
}
