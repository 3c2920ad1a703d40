//! Products on every backend of [`crate::device`], against sums in f64.

use candle_core::{DType, Device, IndexOp, Result, Tensor, Var};
use metal_candle::matmul::{Backend, addmm, matmul, transposed, with_backend};
use metal_candle::ops::{LoraLinear, Tape, linear, lora_linear};

/// Those that compute on a device; what a backend does not compute is Candle's.
fn backends() -> &'static [Backend] {
    match crate::device() {
        Device::Cpu => &[Backend::Candle, Backend::Packed, Backend::Fused],
        Device::Cuda(_) => &[Backend::Candle, Backend::CublasLt, Backend::Fused],
        Device::Metal(_) => &[Backend::Candle, Backend::Mps, Backend::MpsVector, Backend::Fused],
    }
}

/// Values that no two rows share, of magnitude one.
fn values(dims: &[usize], dtype: DType) -> Result<Tensor> {
    let data = (0..dims.iter().product()).map(|i: usize| (1.7 * (i % 1021) as f64 + dims.len() as f64).sin());
    Tensor::from_iter(data, &Device::Cpu)?.reshape(dims)?.to_dtype(dtype)
}

fn exact(x: &Tensor) -> Result<Tensor> {
    x.to_device(&Device::Cpu)?.to_dtype(DType::F64)
}

/// `ours` is within rounding of sums of `terms` products: what f32 sums lose, and the rounding of the result.
fn assert_close(what: &str, ours: &Tensor, exact: &Tensor, terms: usize) -> Result<()> {
    assert_near(what, ours, exact, terms, 1.0)
}

/// [`assert_close`] of a result that is rounded several times.
fn assert_near(what: &str, ours: &Tensor, exact: &Tensor, terms: usize, roundings: f64) -> Result<()> {
    assert_eq!(ours.dims(), exact.dims(), "{what}");
    let unit = match ours.dtype() {
        DType::F32 => 0.0,
        DType::F16 => 2f64.powi(-10),
        _ => 2f64.powi(-7),
    };
    let ours: Vec<f64> = self::exact(ours)?.flatten_all()?.to_vec1()?;
    let exact: Vec<f64> = exact.flatten_all()?.to_vec1()?;
    for (i, (a, b)) in ours.iter().zip(&exact).enumerate() {
        let allowed = roundings * unit * b.abs().max(1.0) + 2f64.powi(-22) * terms as f64;
        assert!((a - b).abs() <= allowed, "{what}: {a} at {i}, not {b}");
    }
    Ok(())
}

/// A tensor as it comes, as the transpose of another, as a part of a wider one, and as every second row of one.
fn views(dims: &[usize], dtype: DType) -> Result<Vec<(&'static str, Tensor)>> {
    let device = crate::device();
    let x = values(dims, dtype)?.to_device(&device)?;
    let rank = dims.len();
    let transposed = x.transpose(rank - 2, rank - 1)?.contiguous()?.transpose(rank - 2, rank - 1)?;
    let zeros = Tensor::zeros_like(&x)?;
    let part =
        Tensor::cat(&[&zeros, &x, &zeros], rank - 1)?.narrow(rank - 1, dims[rank - 1], dims[rank - 1])?;
    let below = Tensor::cat(&[&zeros, &x], rank - 2)?.narrow(rank - 2, dims[rank - 2], dims[rank - 2])?;
    let apart = Tensor::stack(&[&x, &zeros], rank - 1)?.narrow(rank - 1, 0, 1)?.squeeze(rank - 1)?;
    let mut views =
        vec![("whole", x.clone()), ("transposed", transposed), ("columns", part), ("rows", below)];
    views.push(("apart", apart));
    if rank == 3 {
        views.push(("one for all", x.i(0)?.unsqueeze(0)?.broadcast_as(x.shape())?));
        views.push(("batch between", x.transpose(0, 1)?.contiguous()?.transpose(0, 1)?));
    }
    Ok(views)
}

#[test]
fn products_of_every_view_and_dtype() -> Result<()> {
    let sizes = [(1, 1, 1), (1, 33, 31), (3, 5, 65), (31, 33, 17), (64, 64, 64), (5, 130, 4)];
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (i, (m, n, k)) in sizes.into_iter().enumerate() {
            for outer in [&[][..], &[3]] {
                let (a_dims, b_dims) = ([outer, &[m, k]].concat(), [outer, &[k, n]].concat());
                let (a_views, b_views) = (views(&a_dims, dtype)?, views(&b_dims, dtype)?);
                // Each view of one operand beside some view of the other.
                for j in 0..a_views.len().max(b_views.len()) {
                    let (a_name, a) = &a_views[j % a_views.len()];
                    let (b_name, b) = &b_views[(j + i) % b_views.len()];
                    let wanted = exact(a)?.contiguous()?.matmul(&exact(b)?.contiguous()?)?;
                    for backend in backends() {
                        let what = format!("{backend} {dtype:?} {a_name} {a_dims:?} by {b_name} {b_dims:?}");
                        let y = with_backend(*backend, || matmul(a, b))?;
                        // Candle's sums of f16 are rounded on their way on a CPU.
                        let halves = *backend != Backend::Packed && dtype == DType::F16;
                        assert_near(&what, &y, &wanted, k, if halves { 4.0 } else { 1.0 })?;
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_sum_beside_a_product() -> Result<()> {
    let device = crate::device();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (dims, k) in [(vec![2, 33, 17], 31), (vec![5, 4], 0), (vec![1, 7], 3), (vec![0, 7], 3)] {
            let rank = dims.len();
            let (mut a_dims, mut b_dims) = (dims.clone(), dims.clone());
            (a_dims[rank - 1], b_dims[rank - 2]) = (k, k);
            let a = values(&a_dims, dtype)?.to_device(&device)?;
            let b = values(&b_dims, dtype)?.to_device(&device)?;
            let c = Tensor::cat(&[&values(&dims, dtype)?, &values(&dims, dtype)?], 0)?.to_device(&device)?;
            let c = c.narrow(0, dims[0], dims[0])?;
            for (beta, alpha) in [(1.0, 1.0), (-0.5, 2.0), (0.0, 1.0)] {
                let product = match k * dims[0] {
                    0 => Tensor::zeros(&dims[..], DType::F64, &Device::Cpu)?,
                    _ => exact(&a)?.matmul(&exact(&b)?)?,
                };
                let wanted = ((product * alpha)? + (exact(&c)? * beta)?)?;
                for backend in backends() {
                    let y = with_backend(*backend, || addmm(&c, &a, &b, beta as f32, alpha as f32))?;
                    // Candle's rounds the product, its multiple, the multiple of `c` and the sum.
                    assert_near(
                        &format!("{backend} {dtype:?} {dims:?} {alpha} {beta}"),
                        &y,
                        &wanted,
                        k,
                        4.0,
                    )?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn what_counts_for_nothing_is_not_read() -> Result<()> {
    let device = crate::device();
    let (a, b) =
        (values(&[3, 5], DType::F32)?.to_device(&device)?, values(&[5, 4], DType::F32)?.to_device(&device)?);
    let c = Tensor::full(f32::NAN, (3, 4), &device)?;
    for backend in backends() {
        let y = with_backend(*backend, || addmm(&c, &a, &b, 0.0, 1.0))?;
        assert_close(&format!("{backend}"), &y, &exact(&a)?.matmul(&exact(&b)?)?, 5)?;
    }
    Ok(())
}

#[test]
fn a_tape_has_the_gradients_of_a_graph() -> Result<()> {
    let device = crate::device();
    let leaf = |dims: &[usize]| Var::from_tensor(&values(dims, DType::F32)?.to_device(&device)?);
    let (x, w) = (leaf(&[2, 5, 7])?, leaf(&[3, 7])?);
    let (y, tape) = Tape::record(&[], || matmul(&x, &transposed(&w)?))?;
    let ours = tape.backward(&y, y.ones_like()?)?;
    let theirs = matmul(&x, &w.t()?)?.sum_all()?.backward()?;
    for var in [&x, &w] {
        assert_close("gradient", ours.get(var).unwrap(), &exact(theirs.get(var).unwrap())?, 30)?;
    }
    Ok(())
}

#[test]
fn one_weight_for_all_matrices_and_gradients_on_every_backend() -> Result<()> {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        gradients_on_every_backend(dtype)?;
    }
    Ok(())
}

/// Of `2 x wᵀ + c / 2`, against sums in f64.
fn gradients_on_every_backend(dtype: DType) -> Result<()> {
    let device = crate::device();
    let leaf = |dims: &[usize]| Var::from_tensor(&values(dims, dtype)?.to_device(&device)?);
    let (x, w, c) = (leaf(&[2, 3, 5, 7])?, leaf(&[11, 7])?, leaf(&[2, 3, 5, 11])?);
    let g = values(&[2, 3, 5, 11], dtype)?.to_device(&device)?;
    let (rows, weight) = (exact(&x)?.reshape((30, 7))?, exact(&w)?);
    let plain = ((rows.matmul(&weight.t()?)?.reshape((2, 3, 5, 11))? * 2.0)? + (exact(&c)? * 0.5)?)?;
    let by_row = exact(&g)?.reshape((30, 11))?;
    let gradients = [
        ("x", &x, (by_row.matmul(&weight)? * 2.0)?.reshape((2, 3, 5, 7))?),
        ("w", &w, (by_row.t()?.matmul(&rows)? * 2.0)?),
        ("c", &c, (exact(&g)? * 0.5)?),
    ];
    for backend in backends() {
        with_backend(*backend, || {
            let y = addmm(&c, &x, &w.t()?, 0.5, 2.0)?;
            assert_near(&format!("{backend} {dtype:?}"), &y, &plain, 7, 4.0)?;
            let grads = (&y * &g)?.sum_all()?.backward()?;
            for (name, var, wanted) in &gradients {
                let what = format!("{backend} {dtype:?}: gradient of {name}");
                assert_near(&what, grads.get(var).unwrap(), wanted, 30, 4.0)?;
            }
            Ok::<_, candle_core::Error>(())
        })?;
    }
    // A frozen operand gets none.
    let y = matmul(&x, &w.detach().t()?)?;
    let grads = y.sum_all()?.backward()?;
    assert!(grads.get(&x).is_some() && grads.get(&w).is_none());
    Ok(())
}

/// A few rows, and the factors of a low rank, which layers have kernels for: with those and without.
#[test]
fn layers_of_few_rows_and_low_rank_on_every_backend() -> Result<()> {
    let device = crate::device();
    let of = |dims: &[usize], dtype| values(dims, dtype)?.to_device(&device);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for m in [1, 3, 4, 33] {
            let (n, k, r) = (40, 65, 8);
            let (x, w, bias) = (of(&[m, k], dtype)?, of(&[n, k], dtype)?, of(&[n], dtype)?);
            let (a, b) = ((of(&[r, k], dtype)? * 0.125)?, (of(&[n, r], dtype)? * 0.125)?);
            let base = LoraLinear { weight: w.clone(), bias: None, scale: 2.0, dropout: None };
            let plain = exact(&x)?.matmul(&exact(&w)?.t()?)?;
            let wanted = plain.broadcast_add(&exact(&bias)?)?;
            let low = exact(&x)?.matmul(&exact(&a)?.t()?)?.matmul(&exact(&b)?.t()?)?;
            let updated = (&plain + (low * 2.0)?)?;
            for backend in backends() {
                let what = format!("{backend} {dtype:?} of {m} rows");
                with_backend(*backend, || {
                    assert_near(&what, &linear(&x, &w, Some(&bias))?, &wanted, k, 2.0)?;
                    // The low-rank product is rounded before the second factor.
                    assert_near(&what, &lora_linear(&x, &a, &b, &base)?, &updated, 4 * k, 4.0)
                })?;
            }
        }
    }
    Ok(())
}

#[test]
fn products_that_do_not_fit_are_named() -> Result<()> {
    let device = crate::device();
    let x = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &device);
    for (a, b) in [(x(&[2, 3])?, x(&[4, 5])?), (x(&[2, 3, 4])?, x(&[3, 4, 5])?), (x(&[3])?, x(&[3, 2])?)] {
        let error = matmul(&a, &b).unwrap_err().to_string();
        assert!(error.contains("wants (.., m, k) by (.., k, n)"), "{error}");
    }
    let error = matmul(&x(&[2, 2])?, &x(&[2, 2])?.to_dtype(DType::F16)?).unwrap_err().to_string();
    assert!(error.contains("one dtype") && error.contains("F16"), "{error}");
    let whole = Tensor::zeros((2, 2), DType::U32, &device)?;
    let error = matmul(&whole, &whole).unwrap_err().to_string();
    assert!(error.contains("f32, f16 and bf16") && error.contains("U32"), "{error}");
    // As many elements are not enough.
    let error = addmm(&x(&[3, 2])?, &x(&[2, 2])?, &x(&[2, 3])?, 1.0, 1.0).unwrap_err().to_string();
    assert!(error.contains("wants c of the shape"), "{error}");
    let error = addmm(&x(&[3, 3])?, &x(&[2, 2])?, &x(&[2, 2])?, 1.0, 1.0).unwrap_err().to_string();
    assert!(error.contains("wants c of the shape"), "{error}");
    Ok(())
}

/// What a child process is to find its products equal to.
const WANTED: &str = "METAL_CANDLE_PRODUCT_OF_A_CHILD";

/// `METAL_CANDLE_MATMUL` decides who multiplies: on a CPU, of a few rows by weights, Candle and `packed`
/// add up in different orders.
#[test]
fn a_product_is_by_the_backend_that_the_environment_names() {
    let cache = tempfile::tempdir().unwrap();
    for (named, wanted) in
        [("packed", "packed"), ("candle", "candle"), ("mps", "candle"), ("auto", "candle"), ("", "candle")]
    {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "matmul::product_of_a_child", "--test-threads=1"]);
        command.env("METAL_CANDLE_MATMUL", named).env("METAL_CANDLE_CACHE", cache.path()).env(WANTED, wanted);
        let output = command.env_remove("METAL_CANDLE_TEST_DEVICE").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{named:?}: {text}");
    }
}

#[test]
fn product_of_a_child() -> Result<()> {
    let Ok(wanted) = std::env::var(WANTED) else { return Ok(()) };
    let (a, b) = (values(&[3, 4000], DType::F32)?, values(&[9, 4000], DType::F32)?.t()?);
    let all = |y: Tensor| y.flatten_all()?.to_vec1::<f32>();
    let by = |backend| all(with_backend(backend, || matmul(&a, &b))?);
    let (candle, packed) = (by(Backend::Candle)?, by(Backend::Packed)?);
    assert_ne!(candle, packed);
    assert_eq!(all(matmul(&a, &b)?)?, if wanted == "packed" { packed } else { candle });
    Ok(())
}
