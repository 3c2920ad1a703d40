//! The second step of a gradient of weights: parts that groups have summed are added up, in one order.

use super::gpu::{Buffer, Gpu, Launch, Unit, unit};
use bytemuck::NoUninit;
use candle_core::{DType, Result};

static UNIT: Unit = unit!("partials.h");

const WARP: usize = 32;

/// `Partials` of partials.h.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Params {
    parts: u32,
    cols: u32,
}

/// The sums of the columns of `parts`, `f32` `(parts, cols)`, in `dtype`: `(cols)`.
pub(crate) fn sum(gpu: Gpu<'_>, op: &'static str, parts: &Buffer, dtype: DType) -> Result<Buffer> {
    let (rows, cols) = (parts.dims()[0], parts.dims()[1]);
    let mut y = Buffer::new(gpu, cols, dtype)?;
    let launch = Launch {
        unit: &UNIT,
        entry: "sum_parts",
        types: &[("T", dtype)],
        defines: &[],
        groups: [cols.div_ceil(WARP), 1, 1],
        threads: 1024,
        shared: 0,
    };
    let params = Params { parts: rows as u32, cols: cols as u32 };
    gpu.launch(&launch, &mut [parts.input(op).into(), (&mut y).into()], &params)?;
    Ok(y)
}
