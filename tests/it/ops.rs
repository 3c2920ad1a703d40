//! Every fused op, on every case, dtype and layout, against its reference: values, then gradients.
//!
//! References run on the CPU, the ops on [`crate::device`]. `METAL_CANDLE_TEST_OPS` names ops to leave the others out.

use candle_core::{D, DType, Device, Result, Tensor, Var};
use metal_candle::ops::{self, Spec};

/// How the inputs of a case lie in memory.
#[derive(Clone, Copy, Debug)]
enum View {
    Contiguous,
    /// Rows taken from the middle of a larger tensor.
    Offset,
    /// The last two dimensions stored the other way round.
    Transposed,
}

fn view(x: &Tensor, view: View) -> Result<Tensor> {
    match view {
        View::Contiguous => Ok(x.clone()),
        View::Offset => {
            let pad = x.narrow(0, 0, 1)?;
            Tensor::cat(&[&pad, x, &pad], 0)?.narrow(0, 1, x.dim(0)?)
        }
        View::Transposed if x.rank() >= 2 => {
            let (a, b) = (x.rank() - 2, x.rank() - 1);
            x.transpose(a, b)?.contiguous()?.transpose(a, b)
        }
        View::Transposed => Ok(x.clone()),
    }
}

fn error(a: &Tensor, exact: &Tensor) -> Result<f64> {
    (a.to_dtype(DType::F64)? - exact.to_dtype(DType::F64)?)?.abs()?.flatten_all()?.max(0)?.to_scalar()
}

/// As FlashAttention's tests do: our error against a wider reference may be at most twice the error of the plain
/// op in the same dtype, plus a rounding of the largest term: the inputs are unit normal, so that is 1 at least.
fn assert_close(what: &str, dtype: DType, ours: &Tensor, plain: &Tensor, exact: &Tensor) -> Result<()> {
    assert_eq!(ours.dims(), exact.dims(), "{what}: shape");
    let (ours, plain) = (error(ours, exact)?, error(plain, exact)?);
    let largest: f64 = exact.to_dtype(DType::F64)?.abs()?.flatten_all()?.max(0)?.to_scalar()?;
    let rounding = match dtype {
        DType::F32 => 2f64.powi(-22),
        DType::F16 => 2f64.powi(-11),
        _ => 2f64.powi(-8),
    };
    let allowed = 2. * plain + rounding * largest.max(1.0);
    assert!(ours <= allowed, "{what}: error {ours:e}, plain candle has {plain:e}, allowed {allowed:e}");
    Ok(())
}

struct Run {
    y: Tensor,
    grads: Vec<Option<Tensor>>,
}

impl Run {
    fn on_cpu(self) -> Result<Self> {
        let cpu = |t: &Tensor| t.to_device(&Device::Cpu);
        let grads = self.grads.iter().map(|g| g.as_ref().map(cpu).transpose()).collect::<Result<_>>()?;
        Ok(Run { y: cpu(&self.y)?, grads })
    }
}

fn run(
    f: fn(&[Tensor]) -> Result<Tensor>,
    op: &Spec,
    inputs: &[Tensor],
    layout: View,
    g: Option<&Tensor>,
) -> Result<Run> {
    let vars: Vec<_> = inputs.iter().map(Var::from_tensor).collect::<Result<_>>()?;
    let inputs: Vec<_> = vars
        .iter()
        .enumerate()
        .map(|(i, v)| {
            view(
                &if op.trainable.contains(&i) { v.as_tensor().clone() } else { v.as_detached_tensor() },
                layout,
            )
        })
        .collect::<Result<_>>()?;
    let y = f(&inputs)?;
    let Some(g) = g else { return Ok(Run { y, grads: Vec::new() }) };
    let grads = (&y * g.to_dtype(y.dtype())?)?.sum_all()?.backward()?;
    Ok(Run { y, grads: vars.iter().map(|v| grads.get(v).cloned()).collect() })
}

fn check(op: &Spec, dtype: DType, layout: View) -> Result<()> {
    for case in op.cases {
        if !matches!(layout, View::Contiguous) && case[0].iter().product::<usize>() > 100_000 {
            continue;
        }
        let inputs = ops::inputs(case, dtype, &Device::Cpu)?;
        let wide: Vec<_> = inputs.iter().map(|t| t.to_dtype(DType::F64)).collect::<Result<_>>()?;
        let shape = run(op.reference, op, &wide, View::Contiguous, None)?.y;
        // The same gradient every time: a test that fails can be run again.
        let g = (0..shape.elem_count()).map(|i| 1.5 * (1.0 + 12.9898 * i as f32).sin());
        let g = Tensor::from_iter(g, &Device::Cpu)?.reshape(shape.shape())?.to_dtype(dtype)?;
        let device = crate::device();
        let here: Vec<_> = inputs.iter().map(|t| t.to_device(&device)).collect::<Result<_>>()?;
        let ours = run(op.fused, op, &here, layout, Some(&g.to_device(&device)?))?.on_cpu()?;
        let untracked = (op.fused)(&here)?.to_device(&Device::Cpu)?;
        let plain = run(op.reference, op, &inputs, View::Contiguous, Some(&g))?;
        let exact = run(op.reference, op, &wide, View::Contiguous, Some(&g))?;

        let what = format!("{} {dtype:?} {layout:?} {case:?}", op.name);
        assert_close(&what, dtype, &ours.y, &plain.y, &exact.y)?;
        assert_close(&format!("{what} without a graph"), dtype, &untracked, &plain.y, &exact.y)?;
        for &i in op.trainable {
            let [ours, plain, exact] = [&ours, &plain, &exact]
                .map(|r| r.grads[i].as_ref().unwrap_or_else(|| panic!("{what}: no gradient for input {i}")));
            assert_close(&format!("{what}: gradient {i}"), dtype, ours, plain, exact)?;
        }
    }
    Ok(())
}

fn check_all(dtype: DType) -> Result<()> {
    let only = std::env::var("METAL_CANDLE_TEST_OPS").unwrap_or_default();
    let only: Vec<_> = only.split(',').filter(|name| !name.is_empty()).collect();
    for op in ops::ALL.iter().filter(|op| only.is_empty() || only.contains(&op.name)) {
        for layout in [View::Contiguous, View::Offset, View::Transposed] {
            check(op, dtype, layout)?;
        }
    }
    Ok(())
}

#[test]
fn fused_ops_match_their_references_in_f32() -> Result<()> {
    check_all(DType::F32)
}

#[test]
fn fused_ops_match_their_references_in_f16() -> Result<()> {
    check_all(DType::F16)
}

#[test]
fn fused_ops_match_their_references_in_bf16() -> Result<()> {
    check_all(DType::BF16)
}

/// `rope` written out, for tables of each row that turn a part of the features.
fn turned(t: &[Tensor], tables: DType, interleaved: bool, thd: bool) -> Result<Tensor> {
    let x = if thd { t[0].transpose(1, 2)? } else { t[0].clone() };
    let half = t[1].dim(2)?;
    let [cos, sin] = [1, 2].map(|i| t[i].to_dtype(tables)?.to_dtype(x.dtype())?.unsqueeze(1));
    let (cos, sin) = (cos?, sin?);
    let (pairs, rest) = (x.narrow(3, 0, 2 * half)?, x.narrow(3, 2 * half, x.dim(3)? - 2 * half)?);
    let (b, h, len, _) = pairs.dims4()?;
    let pairs = match interleaved {
        true => pairs.reshape((b, h, len, half, 2))?.transpose(3, 4)?,
        false => pairs.reshape((b, h, len, 2, half))?,
    };
    let [x1, x2] = [0, 1].map(|i| pairs.narrow(3, i, 1)?.squeeze(3));
    let (x1, x2) = (x1?, x2?);
    let y1 = (x1.broadcast_mul(&cos)? - x2.broadcast_mul(&sin)?)?;
    let y2 = (x1.broadcast_mul(&sin)? + x2.broadcast_mul(&cos)?)?;
    let y = Tensor::stack(&[y1, y2], if interleaved { 4 } else { 3 })?.reshape((b, h, len, 2 * half))?;
    let y = Tensor::cat(&[y, rest], 3)?;
    if thd { y.transpose(1, 2) } else { Ok(y) }
}

/// `f` of a part of a wider tensor, with tables of another dtype.
fn part(t: &[Tensor], tables: DType, f: fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let x = Tensor::cat(&[&t[0], &t[0]], 3)?.narrow(3, 0, t[0].dim(3)?)?;
    f(&x, &t[1].to_dtype(tables)?, &t[2].to_dtype(tables)?)
}

/// `rms_norm` with its weight rounded.
fn normed(t: &[Tensor], weight: DType) -> Result<Tensor> {
    let x = t[0].to_dtype(if t[0].dtype() == DType::F64 { DType::F64 } else { DType::F32 })?;
    let mean = (x.sqr()?.sum_keepdim(D::Minus1)? / x.dim(D::Minus1)? as f64)?;
    let y = x.broadcast_div(&(mean + 1e-5)?.sqrt()?)?;
    y.broadcast_mul(&t[1].to_dtype(weight)?.to_dtype(y.dtype())?)?.to_dtype(t[0].dtype())
}

/// What the ops take beyond one dtype and whole tensors: wide and narrow weights and tables, strides, a table a row.
#[test]
fn ops_take_other_dtypes_and_layouts() -> Result<()> {
    const BHTD: &[ops::Case] =
        &[&[&[2, 3, 5, 80], &[2, 5, 32], &[2, 5, 32]], &[&[2, 3, 5, 21], &[2, 5, 9], &[2, 5, 9]]];
    const BTHD: &[ops::Case] =
        &[&[&[2, 5, 3, 80], &[2, 5, 32], &[2, 5, 32]], &[&[2, 5, 3, 21], &[2, 5, 9], &[2, 5, 9]]];
    const NORM: &[ops::Case] = &[&[&[40, 128], &[128]], &[&[3, 5, 33], &[33]], &[&[70, 4096], &[4096]]];
    let spec = |name, reference, fused, trainable, cases| Spec { name, reference, fused, trainable, cases };
    let specs = [
        spec(
            "rope",
            |t| turned(t, t[0].dtype(), false, false),
            |t| part(t, DType::F32, ops::rope),
            &[0],
            BHTD,
        ),
        spec(
            "rope",
            |t| turned(t, DType::BF16, false, false),
            |t| part(t, DType::BF16, ops::rope),
            &[0],
            BHTD,
        ),
        spec(
            "rope_i",
            |t| turned(t, t[0].dtype(), true, false),
            |t| part(t, DType::F32, ops::rope_i),
            &[0],
            BHTD,
        ),
        spec(
            "rope_thd",
            |t| turned(t, t[0].dtype(), false, true),
            |t| part(t, DType::F32, ops::rope_thd),
            &[0],
            BTHD,
        ),
        spec(
            "rms_norm",
            |t| normed(t, t[0].dtype()),
            |t| ops::rms_norm(&t[0], &t[1].to_dtype(DType::F32)?, 1e-5),
            &[0, 1],
            NORM,
        ),
        spec(
            "rms_norm",
            |t| normed(t, DType::BF16),
            |t| ops::rms_norm(&t[0], &t[1].to_dtype(DType::BF16)?, 1e-5),
            &[0],
            NORM,
        ),
    ];
    for op in &specs {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            check(op, dtype, View::Contiguous)?;
        }
    }
    Ok(())
}
