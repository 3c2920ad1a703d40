//! Products by Metal Performance Shaders, on the device of `METAL_CANDLE_TEST_DEVICE` if that is a Metal device.

use candle_core::{D, DType, Device, Tensor, Var};
use metal_candle::matmul::mps::{Batch, softmax, vector};
use metal_candle::ops::Tape;

fn gpu() -> Option<Device> {
    Some(crate::device()).filter(Device::is_metal)
}

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Numbers between -1 and 1, rounded to a dtype, on the CPU.
fn numbers(shape: &[usize], seed: u32, dtype: DType) -> Tensor {
    let count = shape.iter().product::<usize>() as u32;
    let mix =
        |i: u32| ((i + 1).wrapping_mul(0x9e37_79b1).wrapping_add(seed) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    let flat = Tensor::from_iter((0..count).map(mix), &Device::Cpu).unwrap();
    flat.reshape(shape).unwrap().to_dtype(dtype).unwrap()
}

fn wide(x: &Tensor) -> Tensor {
    x.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap().contiguous().unwrap()
}

/// Each within rounding of what Candle computes on the CPU in f64.
#[track_caller]
fn close(ours: &Tensor, wants: &Tensor, dtype: DType) {
    assert_eq!((ours.dims(), ours.dtype()), (wants.dims(), dtype));
    let values = |x: &Tensor| wide(x).flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let step = match dtype {
        DType::F16 => 1e-3,
        DType::BF16 => 8e-3,
        _ => 2e-6,
    };
    for (i, (x, y)) in values(ours).iter().zip(&values(wants)).enumerate() {
        assert!((x - y).abs() <= step * (y.abs() + 1.0), "{dtype:?}: wants {y} at {i}, got {x}");
    }
}

#[test]
fn a_batch_is_many_products() {
    let Some(device) = gpu() else { return };
    for dtype in DTYPES {
        let mut batch = Batch::new(&device).unwrap();
        let mut wants = Vec::new();
        for i in 0..40usize {
            let (m, n, k) = (1 + i % 5, 1 + i * 7 % 33, [1, 31, 65, 0][i % 4]);
            let (a, b) = (numbers(&[2, m, k], i as u32, dtype), numbers(&[2, k, n], 99, dtype));
            let c = numbers(&[2, m, n], 7, dtype);
            let added = (i % 3 == 0).then_some((0.5, &c));
            let product = match k {
                0 => Tensor::zeros((2, m, n), DType::F64, &Device::Cpu).unwrap(),
                _ => (wide(&a).matmul(&wide(&b)).unwrap() * 0.5).unwrap(),
            };
            wants.push(match added {
                Some(_) => (product + (wide(&c) * 0.5).unwrap()).unwrap(),
                None => product,
            });
            // What goes in has only been encoded, and is dropped before the batch is committed.
            let on = |x: &Tensor| {
                x.to_device(&device).unwrap().affine(-1.0, 0.0).unwrap().affine(-1.0, 0.0).unwrap()
            };
            let (on_a, on_b, on_c) = (on(&a), on(&b), on(&c));
            let handle = batch.add(0.5, &on_a, &on_b, added.map(|(beta, _)| (beta, &on_c))).unwrap();
            assert_eq!(handle.index(), i);
        }
        let pending = batch.commit().unwrap();
        // Memory that candle would take from dropped tensors.
        for _ in 0..20 {
            drop(Tensor::ones((2, 31, 31), dtype, &device).unwrap().affine(3.0, 0.0).unwrap());
        }
        let results = pending.wait().unwrap();
        for (ours, wants) in results.iter().zip(&wants) {
            // At once by a candle op.
            close(&ours.affine(1.0, 0.0).unwrap(), wants, dtype);
        }
    }
}

#[test]
fn batches_of_views() {
    let Some(device) = gpu() else { return };
    for dtype in DTYPES {
        let (a, b) = (numbers(&[3, 2, 9, 12], 1, dtype), numbers(&[11, 8], 2, dtype));
        let (on_a, on_b) = (a.to_device(&device).unwrap(), b.to_device(&device).unwrap());
        // A part of each, transposed; one that is no matrix in rows or columns; one right matrix for all.
        let views = |a: &Tensor, b: &Tensor| {
            let part = a.narrow(3, 2, 8).unwrap().narrow(2, 1, 7).unwrap().narrow(0, 1, 2).unwrap();
            let strange = a.permute((3, 1, 0, 2)).unwrap().narrow(0, 0, 2).unwrap();
            let strange = strange.transpose(2, 3).unwrap().contiguous().unwrap().narrow(3, 0, 3).unwrap();
            let right = b.narrow(0, 1, 8).unwrap().expand((2, 2, 8, 8)).unwrap();
            let turned = part.transpose(2, 3).unwrap();
            let few = b.narrow(0, 0, 7).unwrap().expand((2, 2, 7, 8)).unwrap();
            let left = b.narrow(0, 0, 9).unwrap().t().unwrap().expand((2, 2, 8, 9)).unwrap();
            [(part, right), (turned, few), (left, strange)]
        };
        let mut batch = Batch::new(&device).unwrap();
        for (left, right) in views(&on_a, &on_b) {
            batch.add(1.0, &left, &right, None).unwrap();
        }
        let results = batch.commit().unwrap().wait().unwrap();
        for (ours, (left, right)) in results.iter().zip(views(&a, &b)) {
            close(ours, &wide(&left).matmul(&wide(&right)).unwrap(), dtype);
        }
    }
}

#[test]
fn what_is_pending_can_be_asked_and_dropped() {
    let Some(device) = gpu() else { return };
    let x = numbers(&[65, 65], 1, DType::F32);
    let batch = || {
        let x = x.to_device(&device).unwrap().affine(1.0, 0.0).unwrap();
        let mut batch = Batch::new(&device).unwrap();
        for _ in 0..10 {
            batch.add(1.0, &x, &x, None).unwrap();
        }
        batch
    };
    assert!(Batch::new(&device).unwrap().commit().unwrap().is_done(), "there is nothing to do");
    assert!(Batch::new(&device).unwrap().commit().unwrap().wait().unwrap().is_empty());
    drop(batch());
    for _ in 0..20 {
        drop(batch().commit().unwrap());
        // In the memory that the dropped one had, if it is free.
        drop(Tensor::ones((65, 65), DType::F32, &device).unwrap().affine(2.0, 1.0).unwrap());
    }
    // More than a queue has command buffers, none of them waited for.
    let many: Vec<_> = (0..100).map(|_| batch().commit().unwrap()).collect();
    let last = &many[99];
    while !last.is_done() {
        std::thread::yield_now();
    }
    let wants = wide(&x).matmul(&wide(&x)).unwrap();
    for pending in many {
        let results = pending.wait().unwrap();
        assert_eq!(results.len(), 10);
        close(&(&results[9] / 10.0).unwrap(), &(&wants / 10.0).unwrap(), DType::F32);
    }
    let uncommitted: Vec<_> = (0..100).map(|_| batch()).collect();
    close(&uncommitted.into_iter().last().unwrap().commit().unwrap().wait().unwrap()[0], &wants, DType::F32);
}

#[test]
fn one_row_by_a_matrix() {
    let Some(device) = gpu() else { return };
    for dtype in DTYPES {
        for (m, k) in [(1, 1), (33, 31), (1, 65), (65, 1), (4, 0), (0, 4)] {
            let (matrix, x) = (numbers(&[m + 1, k + 2], 1, dtype), numbers(&[2 * k.max(1)], 2, dtype));
            let parts = |matrix: &Tensor, x: &Tensor| {
                let matrix = matrix.narrow(0, 1, m).unwrap().narrow(1, 1, k).unwrap();
                let every_other =
                    x.reshape((k.max(1), 2)).unwrap().narrow(1, 1, 1).unwrap().squeeze(1).unwrap();
                (matrix, every_other.narrow(0, 0, k).unwrap())
            };
            let (on_matrix, on_x) = (matrix.to_device(&device).unwrap(), x.to_device(&device).unwrap());
            let (part, every_other) = parts(&on_matrix, &on_x);
            let (a, b) = parts(&matrix, &x);
            let wants = (wide(&a).broadcast_mul(&wide(&b)).unwrap()).sum(D::Minus1).unwrap();
            let ours = vector(&part, &every_other).unwrap();
            if m == 0 {
                assert_eq!(ours.dims(), [0]);
                continue;
            }
            close(&ours, &wants, dtype);
            let flipped = on_matrix.t().unwrap().contiguous().unwrap().t().unwrap();
            let (part, _) = parts(&flipped, &on_x);
            close(&vector(&part, &every_other.affine(1.0, 0.0).unwrap()).unwrap(), &wants, dtype);
        }
    }
}

#[test]
fn softmax_of_rows() {
    let Some(device) = gpu() else { return };
    for dtype in DTYPES {
        for shape in [&[5][..], &[1, 1], &[3, 2, 33], &[2, 65]] {
            let x = (numbers(shape, 1, dtype) * 8.0).unwrap();
            let exp = wide(&x).exp().unwrap();
            let wants = exp.broadcast_div(&exp.sum_keepdim(D::Minus1).unwrap()).unwrap();
            let on = x.to_device(&device).unwrap();
            close(&softmax(&on.affine(1.0, 0.0).unwrap()).unwrap(), &wants, dtype);
        }
        let empty = Tensor::zeros((0, 3), dtype, &device).unwrap();
        assert_eq!(softmax(&empty).unwrap().dims(), [0, 3]);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(device) = gpu() else { return };
    let (cpu, x) =
        (numbers(&[2, 3], 1, DType::F32), numbers(&[2, 3], 1, DType::F32).to_device(&device).unwrap());
    let half = x.to_dtype(DType::F16).unwrap();
    let whole = x.to_dtype(DType::U32).unwrap();
    let tracked = Var::from_tensor(&x).unwrap();
    let row = x.get(0).unwrap();
    let add = |a: &Tensor, b: &Tensor, c: Option<(f32, &Tensor)>| {
        Batch::new(&device).unwrap().add(1.0, a, b, c).unwrap_err().to_string()
    };
    let square = x.narrow(1, 0, 2).unwrap();
    let failures = [
        (Batch::new(&Device::Cpu).err().unwrap().to_string(), "wants a Metal device"),
        (add(&x, &x, None), "wants (.., m, k) by (.., k, n)"),
        (add(&x, &cpu, None), "wants tensors on one device"),
        (add(&square, &half, None), "wants inputs of one dtype"),
        (add(&square, &x, Some((1.0, &square))), "wants c of shape [2, 3], got [2, 2]"),
        (add(&square, tracked.as_tensor(), None), "got one that is tracked"),
        (add(&square, &x, Some((1.0, tracked.as_tensor()))), "got one that is tracked"),
        (vector(&x, &x).unwrap_err().to_string(), "mps vector: wants (m, k) by (k)"),
        (vector(&square, &row).unwrap_err().to_string(), "mps vector: wants (m, k) by (k)"),
        (vector(tracked.as_tensor(), &row).unwrap_err().to_string(), "got one that is tracked"),
        (softmax(tracked.as_tensor()).unwrap_err().to_string(), "got one that is tracked"),
        (softmax(&cpu).unwrap_err().to_string(), "wants tensors on a Metal device"),
        (softmax(&whole).unwrap_err().to_string(), "wants f32, f16 or bf16, got U32"),
        (softmax(&row.sum_all().unwrap()).unwrap_err().to_string(), "at least one dimension"),
    ];
    for (error, wants) in failures {
        assert!(error.contains(wants), "{wants}: {error}");
    }
    let taped = Tape::record(&[&x], || softmax(&x)).err().unwrap().to_string();
    assert!(taped.contains("got one that is tracked"), "{taped}");
    // On a tape where it is no leaf it is a number like others.
    assert!(Tape::record(&[], || softmax(&x)).is_ok());
}
