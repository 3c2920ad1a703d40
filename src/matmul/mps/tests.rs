mod processes;

use super::*;
use crate::device;
use crate::matmul::Product;
use candle_core::{DType, Device, Tensor};
use kernels::{KEPT, Kernel, Key, PLAIN, counts, raw, with_kernel};
use objc2::rc::Retained;
use objc2_metal::MTLDevice;

/// The device of `METAL_CANDLE_TEST_DEVICE`, if it is Metal's.
fn gpu() -> Option<(Device, MetalDevice)> {
    let device = device::named(&std::env::var("METAL_CANDLE_TEST_DEVICE").unwrap_or("cpu".into())).unwrap();
    let Device::Metal(metal) = &device else { return None };
    Some((device.clone(), metal.clone()))
}

/// Whether bugs may be planted: not on a GPU that people look at.
fn on_softmetal(device: &MetalDevice) -> bool {
    raw(device).name().to_string() == "softmetal"
}

/// Numbers between -1 and 1 that do not repeat soon, rounded to a dtype, on the CPU.
fn numbers(shape: &[usize], seed: u32, dtype: DType) -> Tensor {
    let count: usize = shape.iter().product();
    let mix =
        |i: u32| ((i + 1).wrapping_mul(0x9e37_79b1).wrapping_add(seed) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    Tensor::from_iter((0..count as u32).map(mix), &Device::Cpu)
        .unwrap()
        .reshape(shape)
        .unwrap()
        .to_dtype(dtype)
        .unwrap()
}

fn f64s(x: &Tensor) -> Vec<f64> {
    let x = x.to_dtype(DType::F32).unwrap().to_device(&Device::Cpu).unwrap();
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Each within rounding of what Candle computes on the CPU in f64: sums of `k` numbers below 1, rounded to the dtype.
#[track_caller]
fn close(ours: &Tensor, wants: &Tensor, k: usize, dtype: DType, what: &str) {
    assert_eq!(ours.dtype(), dtype, "{what}");
    assert_eq!(ours.elem_count(), wants.elem_count(), "{what}");
    let step = match dtype {
        DType::F16 => 1e-3,
        DType::BF16 => 8e-3,
        _ => 0.0,
    };
    for (i, (x, y)) in f64s(ours).iter().zip(&f64s(wants)).enumerate() {
        let within = step * y.abs() + 2e-6 * (k as f64).sqrt() + step * 1e-2;
        assert!((x - y).abs() <= within, "{what}: wants {y} at {i}, got {x}");
    }
}

fn wants(alpha: f32, a: &Tensor, b: &Tensor, c: Option<(f32, &Tensor)>) -> Tensor {
    let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap().contiguous().unwrap();
    let product = wide(a).matmul(&wide(b)).unwrap().affine(alpha.into(), 0.0).unwrap();
    match c {
        Some((beta, c)) => (product + wide(c).affine(beta.into(), 0.0).unwrap()).unwrap(),
        None => product,
    }
}

fn product(
    metal: &MetalDevice,
    alpha: f32,
    a: &Tensor,
    b: &Tensor,
    c: Option<(f32, &Tensor)>,
) -> Result<Tensor> {
    product_by(true, metal, alpha, a, b, c)
}

fn product_by(
    by_vector: bool,
    metal: &MetalDevice,
    alpha: f32,
    a: &Tensor,
    b: &Tensor,
    c: Option<(f32, &Tensor)>,
) -> Result<Tensor> {
    let (a, b, c) = (Held::new(a), Held::new(b), c.map(|(beta, c)| (beta, Held::new(c))));
    let view = |x: &Held<'_>| View::of(x.input("test")).map(|v| (v.rows, v.cols)).is_some();
    assert!(view(&a) && view(&b), "the test's tensors are views");
    let (a, b) = (View::of(a.input("test")).unwrap(), View::of(b.input("test")).unwrap());
    let c = c.as_ref().map(|(beta, c)| (*beta, c.input("test")));
    Ok(run(metal, &Product::new(alpha, a, b, c)?, by_vector)?.tensor())
}

/// A tensor of that shape on the device: as it is, transposed in memory, or part of a larger one.
fn laid_out(x: &Tensor, how: usize, device: &Device) -> Tensor {
    let last = x.rank() - 1;
    match how {
        0 => x.to_device(device).unwrap(),
        1 => x
            .transpose(last - 1, last)
            .unwrap()
            .contiguous()
            .unwrap()
            .to_device(device)
            .unwrap()
            .transpose(last - 1, last)
            .unwrap(),
        _ => {
            // Three columns before, two after; a row before.
            let (rows, cols) = (x.dims()[last - 1], x.dims()[last]);
            let wide = x.pad_with_zeros(last, 3, 2).unwrap().pad_with_zeros(last - 1, 1, 0).unwrap();
            let part = |wide: Tensor| wide.narrow(last, 3, cols).unwrap().narrow(last - 1, 1, rows).unwrap();
            part(wide.contiguous().unwrap().to_device(device).unwrap())
        }
    }
}

#[test]
fn products_of_all_dtypes_sizes_and_layouts() {
    let Some((device, metal)) = gpu() else { return };
    let sizes = [[1, 1, 1], [1, 33, 31], [31, 1, 33], [33, 31, 1], [65, 33, 64], [4, 65, 65]];
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (index, [m, n, k]) in sizes.into_iter().enumerate() {
            for how in 0..9 {
                let (a, b) = (numbers(&[m, k], 1, dtype), numbers(&[k, n], 2, dtype));
                let c = numbers(&[m, n], 3, dtype);
                let factors =
                    [(1.0, None), (0.5, Some((1.0, &c))), (-2.0, Some((0.25, &c))), (1.0, Some((0.0, &c)))];
                let (alpha, added) = factors[(index + how) % 4];
                let (on_a, on_b) = (laid_out(&a, how % 3, &device), laid_out(&b, how / 3, &device));
                let on_c = c.to_device(&device).unwrap();
                // One row and one column by each of their kernels.
                let kernels = if m == 1 || n == 1 { &[true, false][..] } else { &[true] };
                for by_vector in kernels {
                    let on_c = added.map(|(beta, _)| (beta, &on_c));
                    let ours = product_by(*by_vector, &metal, alpha, &on_a, &on_b, on_c).unwrap();
                    assert_eq!(ours.dims(), [1, m, n]);
                    let what = format!("{m}x{k} by {k}x{n} {dtype:?} {how} {by_vector}");
                    close(&ours, &wants(alpha, &a, &b, added), k, dtype, &what);
                }
                assert_eq!(f64s(&on_c), f64s(&c), "c is not changed");
            }
        }
    }
}

/// By `MPSMatrixVectorMultiplication`, which the tests of all layouts compare with Candle.
#[test]
fn one_row_or_column_is_a_vector() {
    let Some((device, metal)) = gpu() else { return };
    for dtype in [DType::F32, DType::BF16] {
        for (m, n, how, by_vector) in [
            (1, 33, 0, true),
            (1, 33, 1, true),
            (1, 33, 2, true),
            (33, 1, 0, true),
            (33, 1, 1, true),
            // A column of a wider matrix does not lie in one piece, unless it is widened.
            (33, 1, 2, dtype == DType::BF16),
            (2, 33, 0, false),
        ] {
            let (a, b) = (numbers(&[m, 31], 1, dtype), numbers(&[31, n], 2, dtype));
            let (a, b) = (laid_out(&a, how, &device), laid_out(&b, how, &device));
            let (a, b) = (Held::new(&a), Held::new(&b));
            let (a, b) = (View::of(a.input("test")).unwrap(), View::of(b.input("test")).unwrap());
            let product = Product::new(1.0, a, b, None).unwrap();
            let found = [true, false].map(|by_vector| {
                let prepared = Prepared::product(&metal, &product, by_vector).unwrap();
                matches!(prepared.steps[0].key, Key::Vector { .. })
            });
            assert_eq!(found, [by_vector, false], "{m}x31 by 31x{n} {dtype:?} {how}");
        }
    }
}

#[test]
fn products_in_batches() {
    let Some((device, metal)) = gpu() else { return };
    let (m, n, k) = (5, 7, 33);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for how in 0..9 {
            let (a, b) = (numbers(&[2, 3, m, k], 1, dtype), numbers(&[2, 3, k, n], 2, dtype));
            let c = numbers(&[2, 3, m, n], 3, dtype);
            // The dimensions of a padded batch are no longer one; a batch of three is.
            let (a, b, c) = (a.get(1).unwrap(), b.get(1).unwrap(), c.get(1).unwrap());
            let (on_a, on_b) = (laid_out(&a, how % 3, &device), laid_out(&b, how / 3, &device));
            let ours =
                product(&metal, 1.5, &on_a, &on_b, Some((-1.0, &c.to_device(&device).unwrap()))).unwrap();
            assert_eq!(ours.dims(), [3, m, n]);
            close(&ours, &wants(1.5, &a, &b, Some((-1.0, &c))), k, dtype, &format!("batch {dtype:?} {how}"));
        }
        // One matrix for all: of the left, the right, both.
        for shared in 1..4 {
            for how in 0..3 {
                let count = |bit: usize| if shared & bit == 0 { 4 } else { 1 };
                let (a, b) = (numbers(&[count(1), m, k], 4, dtype), numbers(&[count(2), k, n], 5, dtype));
                let (on_a, on_b) = (laid_out(&a, how, &device), laid_out(&b, how, &device));
                let wide = |x: &Tensor| x.broadcast_as((4, x.dims()[1], x.dims()[2])).unwrap();
                let ours = product(&metal, 1.0, &wide(&on_a), &wide(&on_b), None).unwrap();
                close(
                    &ours,
                    &wants(1.0, &wide(&a), &wide(&b), None),
                    k,
                    dtype,
                    &format!("shared {shared} {how}"),
                );
            }
        }
    }
    // Matrices at a stride that is no multiple of a row's: they are described one by one.
    let flat = numbers(&[3, 40], 6, DType::F32);
    let part = |x: &Tensor| x.narrow(1, 1, 33).unwrap().reshape((3, 3, 11)).unwrap();
    let b = numbers(&[3, 11, 2], 7, DType::F32);
    let on = flat.to_device(&device).unwrap();
    let held = Held::new(&on);
    let input = held.input("test");
    let uneven = View { input, batch: 3, rows: 3, cols: 11, stride: 11, batch_stride: 40, transposed: false };
    let on_b = b.to_device(&device).unwrap();
    let held_b = Held::new(&on_b);
    let b_view = View::of(held_b.input("test")).unwrap();
    let ours = run(&metal, &Product::new(1.0, uneven, b_view, None).unwrap(), true).unwrap().tensor();
    let flat = part(&flat.pad_with_zeros(1, 1, 0).unwrap());
    close(&ours, &wants(1.0, &flat, &b, None), 11, DType::F32, "uneven");
}

/// Rows closer to each other than a row is long are copied: Apple's contract for `rowBytes` excludes them.
#[test]
fn rows_that_overlap_are_copied() {
    let Some((device, metal)) = gpu() else { return };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let line = numbers(&[40], 1, dtype);
        let b = numbers(&[9, 4], 2, dtype);
        let rows: Vec<_> = (0..2 * 7).map(|i| line.narrow(0, i / 7 * 13 + i % 7 * 2, 9).unwrap()).collect();
        let a = Tensor::stack(&rows, 0).unwrap().reshape((2, 7, 9)).unwrap();
        let (on_line, on_b) = (line.to_device(&device).unwrap(), b.to_device(&device).unwrap());
        let on_b = on_b.broadcast_as((2, 9, 4)).unwrap();
        let (held, held_b) = (Held::new(&on_line), Held::new(&on_b));
        let input = held.input("test");
        let windows =
            View { input, batch: 2, rows: 7, cols: 9, stride: 2, batch_stride: 13, transposed: false };
        let b_view = View::of(held_b.input("test")).unwrap();
        let ours = run(&metal, &Product::new(1.0, windows, b_view, None).unwrap(), true).unwrap().tensor();
        close(&ours, &wants(1.0, &a, &b.broadcast_as((2, 9, 4)).unwrap(), None), 9, dtype, "windows");
    }
}

/// MPS converts them to the dtype of the result, where these are infinite or zero: Candle's product takes them instead.
#[test]
fn factors_that_f16_does_not_have_are_not_rounded_to_it() {
    let Some((device, metal)) = gpu() else { return };
    let (a, b, c) =
        (numbers(&[5, 7], 1, DType::F16), numbers(&[7, 6], 2, DType::F16), numbers(&[5, 6], 3, DType::F16));
    let [on_a, on_b, on_c] = [&a, &b, &c].map(|x| x.to_device(&device).unwrap());
    let (held_a, held_b, held_c) = (Held::new(&on_a), Held::new(&on_b), Held::new(&on_c));
    let (a_view, b_view) = (View::of(held_a.input("test")).unwrap(), View::of(held_b.input("test")).unwrap());
    // 1/3 is within rounding of what f16 has.
    for (alpha, beta) in
        [(1.0, 0.25), (1.0 / 3.0, 1.0), (2e-8, 1.0), (1.0, 2e-8), (66_000.0, 0.0), (1.0, 66_000.0)]
    {
        let on_c = Some((beta, held_c.input("test")));
        let product = Product::new(alpha, a_view, b_view, on_c).unwrap();
        let taken = (alpha, beta) == (1.0, 0.25);
        assert_eq!(super::takes_factors(&product), taken, "{alpha} {beta}");
        let scale = alpha.max(beta).max(1.0);
        let ours = Backend::Mps.product(Site::Metal(&metal), &product).unwrap().tensor();
        let wants = wants(alpha, &a, &b, Some((beta, &c)));
        for (x, y) in f64s(&ours).iter().zip(&f64s(&wants)).filter(|(_, y)| y.abs() < 60_000.0) {
            assert!(
                (x - y).abs() <= 4e-3 * (y.abs() + f64::from(scale)),
                "{alpha} {beta}: wants {y}, got {x}"
            );
        }
    }
}

#[test]
fn empty_products() {
    let Some((device, metal)) = gpu() else { return };
    for dtype in [DType::F32, DType::BF16] {
        for (m, n, k) in [(0, 3, 2), (3, 0, 2), (3, 4, 0), (0, 0, 0)] {
            let zeros = |shape| Tensor::zeros(shape, dtype, &device).unwrap();
            let c = numbers(&[m, n], 1, dtype);
            let on_c = c.to_device(&device).unwrap();
            for added in [None, Some((0.5, &on_c)), Some((0.0, &on_c))] {
                let ours = product(&metal, 1.0, &zeros((m, k)), &zeros((k, n)), added).unwrap();
                let beta = added.map_or(0.0, |(beta, _)| beta);
                let wants = c.affine(beta.into(), 0.0).unwrap();
                assert_eq!(ours.dims(), [1, m, n]);
                if m * n > 0 {
                    assert_eq!(f64s(&ours), f64s(&wants), "{m}x{k} by {k}x{n}, {beta}");
                }
            }
        }
    }
}

/// Operands that candle has only encoded, memory that it still uses, and a result that it reads at once.
#[test]
fn nothing_is_read_before_it_is_written() {
    let Some((device, metal)) = gpu() else { return };
    for dtype in [DType::F32, DType::BF16] {
        let (a, b) = (numbers(&[33, 33], 1, dtype), numbers(&[33, 33], 2, dtype));
        let work = |x: &Tensor, device: &Device| -> Result<Tensor> {
            let mut x = x.to_device(device)?;
            for _ in 0..20 {
                x = x.affine(-1.0, 0.0)?;
            }
            Ok(x)
        };
        for _ in 0..10 {
            let (on_a, on_b) = (work(&a, &device).unwrap(), work(&b, &device).unwrap());
            let once = product(&metal, 1.0, &on_a, &on_b, None).unwrap().squeeze(0).unwrap();
            drop((on_a, on_b));
            let y = work(&once.affine(0.125, 0.0).unwrap(), &device).unwrap();
            let twice = product(&metal, 1.0, &y, &once, None).unwrap();
            let first = wants(1.0, &a, &b, None).to_dtype(dtype).unwrap();
            let second = wants(0.125, &first, &first, None);
            close(&once, &first, 33, dtype, "once");
            let loose = if dtype == DType::F32 { 3300 } else { 1 << 22 };
            close(&twice, &second, loose, dtype, "twice");
        }
    }
}

#[test]
fn threads_share_queue_and_kernels() {
    let Some((device, metal)) = gpu() else { return };
    std::thread::scope(|threads| {
        for seed in 0..4 {
            let (device, metal) = (&device, &metal);
            threads.spawn(move || {
                let (a, b) = (numbers(&[17, 16], seed, DType::F32), numbers(&[16, 15], seed + 9, DType::F32));
                for _ in 0..50 {
                    let (on_a, on_b) = (a.to_device(device).unwrap(), b.to_device(device).unwrap());
                    let ours = product(metal, 1.0, &on_a, &on_b, None).unwrap();
                    close(&ours, &wants(1.0, &a, &b, None), 16, DType::F32, "threads");
                }
            });
        }
    });
}

#[test]
fn kernels_are_kept_and_bounded() {
    let Some((_, metal)) = gpu() else { return };
    let of = |m, dtype| Key::Product { dtype, sizes: [m, 3, 3], transposed: [false; 2], factors: PLAIN };
    let key = |m| of(m, DType::F32);
    // Retained, so that no other has its address.
    let kernel = |m| {
        let kernel = with_kernel(&metal, &key(m), |kernel| match kernel {
            Kernel::Product(kernel) => kernel.clone(),
            _ => panic!("another kind"),
        });
        kernel.unwrap()
    };
    let first = kernel(999);
    let same = |other| Retained::as_ptr(&first) == Retained::as_ptr(&other);
    assert!(!same(kernel(998)));
    // Of another dtype there is another.
    let made = counts().1;
    with_kernel(&metal, &of(999, DType::F16), |_| ()).unwrap();
    assert!(counts().1 > made);
    for m in 1000..1000 + KEPT + 50 {
        kernel(m);
        // Used again and again, it stays.
        assert!(same(kernel(999)));
        assert!(counts().0 <= KEPT);
    }
    assert_eq!(counts().0, KEPT);
    assert!(counts().1 >= made + KEPT as u64 + 50);
}

#[test]
fn wrong_operands_are_errors() {
    let Some((device, metal)) = gpu() else { return };
    let (cpu, gpu) =
        (numbers(&[2, 2], 1, DType::F32), numbers(&[2, 2], 1, DType::F32).to_device(&device).unwrap());
    let error = product(&metal, 1.0, &gpu, &cpu, None).unwrap_err().to_string();
    assert!(error.contains("not on the GPU"), "{error}");
    let other = Device::new_metal(0).unwrap();
    let error = product(&metal, 1.0, &gpu, &cpu.to_device(&other).unwrap(), None).unwrap_err().to_string();
    assert!(error.contains("one Metal device"), "{error}");
}

#[test]
fn overheads_have_all_modes() {
    let Some((device, _)) = gpu() else { return };
    let costs = overhead(&device, 33, 3).unwrap();
    let modes: Vec<_> = costs.iter().map(|cost| cost.mode).collect();
    let named = [
        "queue per call",
        "pooled queue",
        "cached objects",
        "batched",
        "asynchronous",
        "hand-over",
        "candle",
        "row by matrix",
        "row by vector",
        "softmax by mps",
        "softmax",
    ];
    assert_eq!(modes, named);
    for cost in &costs {
        assert!(cost.total_us > 0.0 && cost.size == 33, "{cost:?}");
        assert!(cost.queue_us.is_none_or(|us| (us > 0.0) == (cost.mode == "queue per call")), "{cost:?}");
        let parts =
            [cost.queue_us, cost.object_us, cost.descriptor_us, cost.encode_us, cost.commit_us, cost.wait_us];
        let sum: f64 = parts.iter().flatten().sum();
        assert!(cost.mode == "hand-over" || sum > 0.0, "{cost:?}");
    }
    assert!(serde_json::to_string(&costs).unwrap().contains("\"mode\":\"batched\""));
    assert!(overhead(&device, 0, 3).is_err() && overhead(&Device::Cpu, 8, 3).is_err());
}
