//! Matrix products by a kernel of our own: `product.metal.h`. It adds to what is there, and takes operands of one
//! dtype to sums of another, which candle's kernel does not.

use super::gpu::{Beside, Buffer, Gpu, Launch, Operand, Unit};
use bytemuck::{NoUninit, Pod, Zeroable};
use candle_core::Result;

static UNIT: Unit = Unit {
    name: "product.metal.h",
    text: concat!(include_str!("matrix.metal.h"), include_str!("product.metal.h")),
    fast_math: false,
};

/// Elements of a side of what a group makes.
const TILE: usize = 64;

/// `Factors` of the header.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Factors {
    depth: u32,
    a: [u32; 2],
    b: [u32; 2],
    alpha: f32,
}

impl Factors {
    fn new(depth: usize, alpha: f32, a: &Operand<'_>, b: &Operand<'_>) -> Self {
        let strides =
            |x: &Operand<'_>| if x.transposed { [1, x.stride as u32] } else { [x.stride as u32, 1] };
        Factors { depth: depth as u32, a: strides(a), b: strides(b), alpha }
    }
}

/// `Product` of the header.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Params {
    at: u64,
    mn: [u32; 2],
    pairs: [Factors; 2],
    beta: f32,
    pad: u32,
}

/// See `Gpu::product` and `Gpu::product_beside`.
#[allow(clippy::too_many_arguments, reason = "BLAS has them")]
pub(super) fn product(
    gpu: Gpu<'_>,
    (m, n, k): (usize, usize, usize),
    alpha: f32,
    a: &Operand<'_>,
    b: &Operand<'_>,
    beside: Option<&Beside<'_>>,
    beta: f32,
    c: &mut Buffer,
    at: usize,
) -> Result<()> {
    let second = beside.map(|other| Factors::new(other.depth, other.alpha, &other.a, &other.b));
    let params = Params {
        at: at as u64,
        mn: [m as u32, n as u32],
        pairs: [Factors::new(k, alpha, a, b), second.unwrap_or(Factors::zeroed())],
        beta,
        pad: 0,
    };
    let types = [("T", a.x.dtype()), ("C", c.dtype)];
    let groups = [n.div_ceil(TILE), m.div_ceil(TILE), 1];
    let launch = Launch {
        unit: &UNIT,
        entry: "product",
        types: &types,
        defines: &[],
        groups,
        threads: 128,
        shared: 0,
    };
    let [x, y] = [beside.map(|other| other.a.x), beside.map(|other| other.b.x)];
    gpu.launch(&launch, &mut [a.x.into(), b.x.into(), x.into(), y.into(), c.into()], &params)
}

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;
    use crate::kernels::{host, with_inputs};
    use candle_core::{DType, Device, Tensor};

    #[test]
    fn products_match_the_hosts() {
        let sizes = [(1, 1, 1), (5, 70, 33), (64, 64, 16), (130, 9, 100)];
        for ((m, n, k), dtype) in sizes.into_iter().zip([DType::F32, DType::F16, DType::BF16, DType::BF16]) {
            for (flips, sum) in [([false, false], dtype), ([true, false], DType::F32), ([false, true], dtype)]
            {
                let make = |rows: usize, cols: usize, flip| {
                    let shape = if flip { (cols, rows) } else { (rows, cols) };
                    let x: Vec<_> = (0..rows * cols).map(|i| (1.7 * i as f32).sin()).collect();
                    Tensor::from_vec(x, shape, &Device::Cpu)?.to_dtype(dtype)
                };
                let (a, b) = (make(m, k, flips[0]).unwrap(), make(k, n, flips[1]).unwrap());
                let ours = |by_kernel: bool| {
                    with_inputs("product", [&a, &b], |[x, y]| {
                        let mut c = Buffer::zeros(Gpu::Host, m * n + 3, sum)?;
                        let operand = |x, cols, flip| match flip {
                            true => Operand::rows(x, if cols == k { m } else { k }).t(),
                            false => Operand::rows(x, cols),
                        };
                        let (x, y) = (operand(x, k, flips[0]), operand(y, n, flips[1]));
                        for (alpha, beta) in [(1.5, 0.0), (-0.5, 2.0)] {
                            match by_kernel {
                                true => product(Gpu::Host, (m, n, k), alpha, &x, &y, None, beta, &mut c, 2)?,
                                false => host::product((m, n, k), alpha, &x, &y, beta, &mut c, 2)?,
                            }
                            // The same product a second time, beside itself.
                            let twice = Beside { alpha: 0.5, a: x, b: y, depth: k };
                            match by_kernel {
                                true => {
                                    product(Gpu::Host, (m, n, k), 1.0, &x, &y, Some(&twice), 1.0, &mut c, 2)?
                                }
                                false => host::product((m, n, k), 1.5, &x, &y, 1.0, &mut c, 2)?,
                            }
                        }
                        c.tensor().to_dtype(DType::F32)?.to_vec1::<f32>()
                    })
                    .unwrap()
                };
                for (x, y) in ours(true).iter().zip(&ours(false)) {
                    let eps = if sum == DType::BF16 { 1e-2 } else { 2e-3 };
                    assert!((x - y).abs() <= eps * y.abs().max(1.0), "{m}x{n}x{k} {dtype:?}: {x} {y}");
                }
            }
        }
    }
}
