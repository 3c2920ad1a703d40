//! Extreme values, fully masked rows, and inputs that do not fit.

use candle_core::{D, DType, Device, Result, Tensor, Var};
use metal_candle::ops::{self, Attention, Keys};

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

fn values(t: &Tensor) -> Result<Vec<f32>> {
    t.flatten_all()?.to_dtype(DType::F32)?.to_vec1()
}

fn rows(data: &[f32], cols: usize, dtype: DType) -> Result<Tensor> {
    Tensor::from_slice(data, (data.len() / cols, cols), &crate::device())?.to_dtype(dtype)
}

#[test]
fn softmax_of_extremes() -> Result<()> {
    let inf = f32::INFINITY;
    for dtype in DTYPES {
        // Large magnitudes do not overflow, -inf is zero weight.
        let y = ops::softmax_last_dim(&rows(&[6e4, 6e4, -6e4, -inf], 4, dtype)?)?;
        assert_eq!(values(&y)?, [0.5, 0.5, 0.0, 0.0], "{dtype:?}");
        // NaN, +inf and nothing but -inf make NaN of their row, and of no other.
        let x = rows(&[f32::NAN, 0., inf, 0., -inf, -inf, 0., 0.], 2, dtype)?;
        let y = values(&ops::softmax_last_dim(&x)?)?;
        assert!(
            y[0..6].iter().enumerate().all(|(i, v)| v.is_nan() || i == 3 && *v == 0.0),
            "{dtype:?} {y:?}"
        );
        assert_eq!(y[6..], [0.5, 0.5], "{dtype:?}");
        let y = values(&ops::log_softmax(&rows(&[6e4, 0., -inf], 3, dtype)?, D::Minus1)?)?;
        assert_eq!((y[0], y[2]), (0.0, -inf), "{dtype:?} {y:?}");
    }
    Ok(())
}

#[test]
fn softmax_over_another_dimension() -> Result<()> {
    let x = Var::randn(0f32, 1., (3, 5, 7), &crate::device())?;
    let g = Tensor::randn(0f32, 1., (3, 5, 7), &crate::device())?;
    for dim in 0..3 {
        let ours = ops::softmax(&x, dim)?;
        let theirs = candle_nn::ops::softmax(&x, dim)?;
        assert!((&ours - &theirs)?.abs()?.max_all()?.to_scalar::<f32>()? < 1e-6);
        let [a, b] = [ours, theirs].map(|y| (y * &g).unwrap().sum_all().unwrap().backward().unwrap());
        let diff = (a.get(&x).unwrap() - b.get(&x).unwrap())?;
        assert!(diff.abs()?.max_all()?.to_scalar::<f32>()? < 1e-6);
    }
    Ok(())
}

#[test]
fn norms_of_extremes() -> Result<()> {
    for dtype in DTYPES {
        let w = Tensor::ones(3, dtype, &crate::device())?;
        let x = rows(&[0., 0., 0., f32::NAN, 1., 1., 3e4, 3e4, 3e4], 3, dtype)?;
        let y = values(&ops::rms_norm(&x, &w, 1e-6)?)?;
        assert_eq!(y[..3], [0., 0., 0.]);
        assert!(
            y[3..6].iter().all(|v| v.is_nan()) && y[6..].iter().all(|v| (v - 1.).abs() < 1e-2),
            "{dtype:?} {y:?}"
        );
        let y = values(&ops::layer_norm(&x, &w, &w, 1e-6)?)?;
        assert_eq!((&y[..3], &y[6..]), (&[1f32; 3][..], &[1f32; 3][..]), "{dtype:?}");
    }
    Ok(())
}

#[test]
fn gated_units_of_extremes() -> Result<()> {
    for dtype in DTYPES {
        let gate = Var::from_tensor(&rows(&[-6e4, -100., 0., 100., 6e4, f32::NAN], 6, dtype)?)?;
        let up = Tensor::ones((1, 6), dtype, &crate::device())?;
        for f in [ops::silu_mul, ops::gelu_mul] {
            let y = f(&gate, &up)?;
            let grads = y.sum_all()?.backward()?;
            let (y, d) = (values(&y)?, values(grads.get(&gate).unwrap())?);
            assert!(y[..3].iter().all(|v| v.abs() < 1e-6) && (y[3] - 100.).abs() < 0.1, "{dtype:?} {y:?}");
            assert_eq!((d[0], d[2], d[4]), (0.0, 0.5, 1.0), "{dtype:?} {d:?}");
            assert!(y[5].is_nan() && d[5].is_nan());
        }
    }
    Ok(())
}

#[test]
fn a_fully_masked_query_gives_zeros_and_no_gradient() -> Result<()> {
    for dtype in DTYPES {
        for queries in [3, 70] {
            let make = || {
                Var::from_tensor(
                    &Tensor::randn(0f32, 1., (2, 2, queries, 32), &crate::device())?.to_dtype(dtype)?,
                )
            };
            let [q, k, v] = [make()?, make()?, make()?];
            // The second batch row has no key at all.
            let keys = Keys::Rows([(0, queries as u32), (0, 0)].into());
            let y = ops::attention(&q, &k, &v, &Attention { scale: 0.2, keys, ..Default::default() })?;
            assert!(values(&y.get(1)?)?.iter().all(|v| *v == 0.0));
            assert!(values(&y.get(0)?)?.iter().all(|v| v.is_finite() && *v != 0.0));
            let grads = y.sum_all()?.backward()?;
            for var in [&q, &k, &v] {
                let d = grads.get(var).unwrap();
                assert!(values(&d.get(1)?)?.iter().all(|v| *v == 0.0));
                assert!(values(d)?.iter().all(|v| v.is_finite()));
            }
        }
    }
    Ok(())
}

/// A CPU reads no key or value before the first that a tile of queries sees, and none where there is none.
#[test]
fn what_comes_before_the_first_key_may_be_anything() -> Result<()> {
    let cpu = Device::Cpu;
    for dtype in DTYPES {
        for (queries, first) in [(3, 2), (8, 4), (70, 36), (200, 150)] {
            let make = || Tensor::randn(0f32, 1., (1, 2, queries, 32), &cpu)?.to_dtype(dtype);
            let [q, k, v] = [make()?, make()?, make()?];
            let bad = Tensor::full(f32::NAN, (1, 2, first, 32), &cpu)?.to_dtype(dtype)?;
            let behind = |x: &Tensor| Tensor::cat(&[&bad, &x.narrow(2, first, queries - first)?], 2);
            let see = |k: &Tensor, v: &Tensor, range: (usize, usize)| {
                let keys = Keys::Rows([(range.0 as u32, range.1 as u32)].into());
                values(&ops::attention(&q, k, v, &Attention { scale: 0.2, keys, ..Default::default() })?)
            };
            let range = (first, queries);
            assert_eq!(see(&behind(&k)?, &behind(&v)?, range)?, see(&k, &v, range)?);
            assert!(see(&k, &v, (queries + 1, queries + 1))?.iter().all(|y| *y == 0.0));
        }
    }
    Ok(())
}

/// Packing and padding give what each document gives alone, in values and gradients.
#[test]
fn packed_and_padded_attention_equals_separate() -> Result<()> {
    let (first, second) = (37usize, 90usize);
    let total = first + second;
    let starts: Vec<u32> = (0..total).map(|i| if i < first { 0 } else { first as u32 }).collect();
    let make = |h| Var::randn(0f32, 1., (1, total, h, 16), &crate::device());
    let (q, k, v) = (make(4)?, make(2)?, make(2)?);
    let g = Tensor::randn(0f32, 1., (1, total, 4, 16), &crate::device())?;
    let causal = Attention { scale: 0.25, causal: true, ..Default::default() };
    let packed = Attention { keys: Keys::Documents(starts.into()), ..causal.clone() };
    let whole = ops::attention_thd(&q, &k, &v, &packed)?;
    let parts = [(0, first), (first, second)].map(|(at, len)| {
        let part = |t: &Tensor| t.narrow(1, at, len).unwrap();
        ops::attention_thd(&part(&q), &part(&k), &part(&v), &causal).unwrap()
    });
    let parts = Tensor::cat(&parts, 1)?;
    let close = |a: &Tensor, b: &Tensor| -> Result<()> {
        let diff = (a - b)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(diff < 1e-5, "{diff}");
        Ok(())
    };
    close(&whole, &parts)?;
    let [a, b] = [whole, parts].map(|y| (y * &g).unwrap().sum_all().unwrap().backward().unwrap());
    for var in [&q, &k, &v] {
        close(a.get(var).unwrap(), b.get(var).unwrap())?;
    }

    // Padding on the left: row ranges hide it.
    let pad = 11;
    let left = |t: &Tensor| {
        Tensor::cat(&[&Tensor::ones((1, pad, t.dim(2)?, 16), DType::F32, &crate::device())?, t], 1)
    };
    let keys = Keys::Rows([(pad as u32, (pad + total) as u32)].into());
    let padded =
        ops::attention_thd(&left(&q)?, &left(&k)?, &left(&v)?, &Attention { keys, ..causal.clone() })?;
    close(&padded.narrow(1, pad, total)?, &ops::attention_thd(&q, &k, &v, &causal)?)
}

#[test]
fn inputs_that_do_not_fit_are_named() -> Result<()> {
    let x = Tensor::zeros((2, 4), DType::F32, &crate::device())?;
    let w = Tensor::zeros(3, DType::F32, &crate::device())?;
    let message = |r: Result<Tensor>| r.unwrap_err().to_string();
    assert!(
        message(ops::rms_norm(&x, &w, 1e-5)).contains("wants a weight of shape [4] for x [2, 4], got [3]")
    );
    assert!(message(ops::linear(&x, &x.narrow(1, 0, 3)?, None)).contains("wants x (.., 3)"));
    let targets = Tensor::new(&[1i64, 4], &Device::Cpu)?;
    assert!(message(ops::cross_entropy(&x, &targets)).contains("wants targets below 4"));
    let ids = Tensor::new(&[[0u32, 9]], &Device::Cpu)?;
    assert!(message(ops::embedding(&ids, &x)).contains("wants ids below 2, got 9"));
    let q = Tensor::zeros((1, 3, 2, 4), DType::F32, &crate::device())?;
    let k = Tensor::zeros((1, 2, 2, 4), DType::F32, &crate::device())?;
    assert!(
        message(ops::attention(&q, &k, &k, &Attention::default())).contains("heads of q a multiple of k's")
    );
    let u = Tensor::zeros((2, 4), DType::U32, &crate::device())?;
    assert!(message(ops::softmax_last_dim(&u)).contains("wants f32, f16 or bf16, got U32"));
    Ok(())
}

/// The mask of dropout is the same in backward: the gradient of `x` and of `A` see it.
#[test]
fn lora_dropout_uses_one_mask() -> Result<()> {
    use ops::{Dropout, LoraLinear, lora_linear};
    let (m, k, n, r) = (20, 48, 24, 4);
    let randn = |shape: (usize, usize)| Var::randn(0f32, 1., shape, &crate::device());
    let (x, a, b) = (randn((m, k))?, randn((r, k))?, randn((n, r))?);
    let weight = Tensor::zeros((n, k), DType::F32, &crate::device())?;
    let g = Tensor::randn(0f32, 1., (m, n), &crate::device())?;
    let base = LoraLinear { weight, bias: None, scale: 1.5, dropout: Some(Dropout { p: 0.4, seed: 3 }) };
    let y = lora_linear(&x, &a, &b, &base)?;
    let grads = (&y * &g)?.sum_all()?.backward()?;
    // With a zero base, y is linear in each of x, A and B: <grad, value> is <g, y> for each of the three.
    let whole = (&y * &g)?.sum_all()?.to_scalar::<f32>()?;
    for var in [&x, &a, &b] {
        let part = (grads.get(var).unwrap() * var.as_tensor())?.sum_all()?.to_scalar::<f32>()?;
        assert!((part - whole).abs() <= 1e-3 * whole.abs().max(1.0), "{part} {whole}");
    }
    let dx = grads.get(&x).unwrap().flatten_all()?.to_vec1::<f32>()?;
    let dropped = dx.iter().filter(|v| **v == 0.0).count() as f32 / dx.len() as f32;
    assert!((dropped - 0.4).abs() < 0.08, "{dropped}");
    Ok(())
}

#[test]
fn grad_coverage_names_the_variables_it_lacks() -> Result<()> {
    let var = |name: &str| -> Result<(String, Var)> {
        Ok((name.into(), Var::randn(0f32, 1., (4, 4), &crate::device())?))
    };
    let vars = [var("reached")?, var("cut")?, var("broken")?];
    let cut = vars[1].1.as_detached_tensor();
    let broken = (vars[2].1.as_tensor() * f64::NAN)?;
    let loss = ((vars[0].1.as_tensor() + cut)? + broken)?.sum_all()?;
    let error = ops::grad_coverage(&loss, &vars).unwrap_err().to_string();
    assert_eq!(error, "no finite gradient for 2 of 3 trainable variables: cut (none), broken (NaN)");
    let ours = (vars[0].1.as_tensor() + ops::softmax_last_dim(&vars[1].1)?)?.sum_all()?;
    assert!(ops::grad_coverage(&ours, &vars[..2]).is_ok());
    Ok(())
}

/// Targets on a GPU are not read back: a wrong one is told by the loss.
#[test]
fn a_target_on_the_gpu_that_is_no_class_makes_the_loss_nan() -> Result<()> {
    let device = crate::device();
    if device.is_cpu() {
        return Ok(());
    }
    let x = Tensor::zeros((3, 4), DType::F32, &device)?;
    for (targets, wrong) in [([1i64, 4, 0], true), ([1, -1, 0], true), ([1, ops::IGNORE, 0], false)] {
        let targets = Tensor::new(&targets, &device)?;
        let options = ops::CrossEntropy::default();
        for loss in
            [ops::cross_entropy(&x, &targets)?, ops::linear_cross_entropy(&x, &x, &targets, &options)?]
        {
            assert_eq!(loss.to_scalar::<f32>()?.is_nan(), wrong, "{targets:?}");
        }
    }
    Ok(())
}

/// One row, a few and many; `f32` weights, adapters and biases beside `x` in any dtype, and their gradients.
#[test]
fn linear_layers_with_f32_masters() -> Result<()> {
    let (k, n, r) = (40, 56, 4);
    let device = crate::device();
    for (dtype, bound) in [(DType::F32, 1e-5), (DType::F16, 1e-2), (DType::BF16, 4e-2)] {
        for m in [1, 3, 9] {
            let randn = |shape: &[usize]| Var::randn(0f32, 1., shape, &device);
            let x = Var::from_tensor(&randn(&[m, k])?.to_dtype(dtype)?)?;
            let (w, bias, a, b) = (randn(&[n, k])?, randn(&[n])?, randn(&[r, k])?, randn(&[n, r])?);
            let g = randn(&[m, n])?;
            let check = |ours: Tensor, plain: Tensor, vars: &[&Var]| -> Result<()> {
                let [y, theirs] = [&ours, &plain].map(|y| y.to_dtype(DType::F32).unwrap());
                let [ours, plain] = [&y, &theirs].map(|y| (y * g.as_tensor()).unwrap().sum_all().unwrap());
                let (ours, plain) = (ours.backward()?, plain.backward()?);
                let close = |a: &Tensor, b: &Tensor| -> Result<()> {
                    let [a, b] = [a, b].map(|t| t.to_dtype(DType::F32).unwrap());
                    let [error, size] = [(&a - &b)?, b].map(|t| t.abs().unwrap().max_all().unwrap());
                    let (error, size) = (error.to_scalar::<f32>()?, size.to_scalar::<f32>()?);
                    assert!(error <= bound * size, "{dtype:?} {m} rows: error {error} of {size}");
                    Ok(())
                };
                close(&y, &theirs)?;
                for var in vars {
                    let (ours, plain) = (ours.get(var).unwrap(), plain.get(var).unwrap());
                    assert_eq!(ours.dtype(), var.dtype());
                    close(ours, plain)?;
                }
                Ok(())
            };
            let wide = x.to_dtype(DType::F32)?;
            let base = wide.matmul(&w.t()?)?.broadcast_add(&bias)?;
            check(ops::linear(&x, &w, Some(&bias))?, base.clone(), &[&x, &w, &bias])?;
            let low = (wide.matmul(&a.t()?)?.matmul(&b.t()?)? * 1.5)?;
            let (weight, bias) = (w.as_detached_tensor(), Some(bias.as_detached_tensor()));
            let frozen = ops::LoraLinear { weight, bias, scale: 1.5, dropout: None };
            check(ops::lora_linear(&x, &a, &b, &frozen)?, (base + low)?, &[&x, &a, &b])?;
        }
    }
    Ok(())
}

/// A vocabulary so large that the logits of a few hundred rows are made in several parts.
#[test]
fn linear_cross_entropy_in_parts_equals_the_sum_of_separate_rows() -> Result<()> {
    let device = crate::device();
    let (rows, width, classes) = (300, 4, 400_000);
    let hidden = Var::randn(0f32, 1., (rows, width), &device)?;
    let head = Var::randn(0f32, 1., (classes, width), &device)?;
    let targets: Vec<i64> =
        (0..rows).map(|i| if i % 5 == 0 { ops::IGNORE } else { (i * 991) as i64 }).collect();
    let targets = Tensor::new(targets, &device)?;
    let options = ops::CrossEntropy { reduction: ops::Reduction::Sum, ..Default::default() };
    let loss = |from, len| {
        let (hidden, targets) = (hidden.narrow(0, from, len)?, targets.narrow(0, from, len)?);
        ops::linear_cross_entropy(&hidden, &head, &targets, &options)
    };
    let (whole, parts) = (loss(0, rows)?, ((loss(0, 100)? + loss(100, 100)?)? + loss(200, 100)?)?);
    let close = |a: &Tensor, b: &Tensor| -> Result<()> {
        let [error, size] = [(a - b)?, b.clone()].map(|t| t.abs().unwrap().max_all().unwrap());
        let (error, size) = (error.to_scalar::<f32>()?, size.to_scalar::<f32>()?);
        assert!(error <= 1e-5 * size, "{error} of {size}");
        Ok(())
    };
    close(&whole, &parts)?;
    let (whole, parts) = (whole.backward()?, parts.backward()?);
    for var in [&hidden, &head] {
        close(whole.get(var).unwrap(), parts.get(var).unwrap())?;
    }
    Ok(())
}

/// In f16 the mean over many rows of a large vocabulary leaves each gradient less than the type holds.
#[test]
fn linear_cross_entropy_in_f16_keeps_small_gradients() -> Result<()> {
    let make = |rows: usize, seed: f32| {
        let data = (0..rows * 16).map(move |i| (seed + i as f32 * 12.9898).sin());
        Tensor::from_iter(data, &crate::device())?.reshape((rows, 16))
    };
    let (hidden, head) = (make(512, 0.1)?, make(5000, 0.7)?);
    let targets = Tensor::from_iter((0..512).map(|i| i * 9), &Device::Cpu)?.to_dtype(DType::I64)?;
    let grads = |dtype| -> Result<[Tensor; 2]> {
        let [h, w] = [&hidden, &head].map(|x| Var::from_tensor(&x.to_dtype(dtype).unwrap()).unwrap());
        let scaled = ops::linear_cross_entropy(&h, &w, &targets, &Default::default())?.affine(4096.0, 0.0)?;
        let grads = scaled.backward()?;
        Ok([&h, &w].map(|x| grads.get(x).unwrap().to_dtype(DType::F32).unwrap()))
    };
    let norm = |x: &Tensor| x.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>();
    for (half, exact) in grads(DType::F16)?.iter().zip(grads(DType::F32)?) {
        let off = norm(&(half - &exact)?)? / norm(&exact)?;
        assert!(off < 5e-3, "{off}");
    }
    Ok(())
}

/// Rows of odd width do not begin at 16 bytes, also when there is one.
#[test]
fn one_row_of_odd_width() -> Result<()> {
    let table = Tensor::arange(0f32, 3.0 * 4099.0, &Device::Cpu)?.reshape((3, 4099))?;
    let ids = Tensor::new(&[[1u32]], &Device::Cpu)?;
    let here = Var::from_tensor(&table.to_device(&crate::device())?)?;
    let y = ops::embedding(&ids, &here)?;
    assert_eq!(values(&y)?, values(&table.get(1)?)?);
    let d = y.sum_all()?.backward()?.get(&here).unwrap().sum(1)?;
    assert_eq!(values(&d)?, [0.0, 4099.0, 0.0]);
    for dtype in DTYPES {
        let x = Tensor::arange(0f32, 66.0, &Device::Cpu)?
            .reshape((1, 66))?
            .affine(0.05, -1.0)?
            .to_dtype(dtype)?;
        let y = values(&ops::swiglu(&x.to_device(&crate::device())?)?)?;
        let x = values(&x)?;
        for (i, y) in y.iter().enumerate() {
            let exact = x[i] / (1.0 + (-x[i]).exp()) * x[33 + i];
            assert!((y - exact).abs() < 0.02, "{dtype:?} {i}: {y} {exact}");
        }
    }
    Ok(())
}
