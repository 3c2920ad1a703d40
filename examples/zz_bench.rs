use candle_core::{DType, Device, Tensor};
use std::time::Instant;
fn time(name: &str, dev: &Device, bytes: f64, mut f: impl FnMut(usize)) {
    for i in 0..20 {
        f(i)
    }
    dev.synchronize().unwrap();
    let mut ts = vec![];
    for _ in 0..7 {
        let t = Instant::now();
        for i in 0..100 {
            f(i)
        }
        dev.synchronize().unwrap();
        ts.push(t.elapsed().as_secs_f64() * 1e4);
    }
    ts.sort_by(f64::total_cmp);
    println!("{name}: {:.1} us, {:.0} GB/s", ts[3], bytes / ts[3] / 1e3);
}
fn main() -> candle_core::Result<()> {
    let t = Instant::now();
    let dev = metal_candle::device::named("cuda")?;
    println!("device {:?}", t.elapsed());
    let t = Instant::now();
    let x = Tensor::zeros((64, 64), DType::F32, &dev)?;
    let y = metal_candle::ops::softmax_last_dim(&x)?;
    dev.synchronize()?;
    println!("first op {:?} {:?}", t.elapsed(), y.get(0)?.get(0)?.to_scalar::<f32>()?);
    time("softmax 64x64 f32", &dev, 0., |_| {
        metal_candle::ops::softmax_last_dim(&x).unwrap();
    });
    let mut ts = vec![];
    for _ in 0..200 {
        let t = Instant::now();
        metal_candle::ops::softmax_last_dim(&x)?;
        dev.synchronize()?;
        ts.push(t.elapsed().as_secs_f64() * 1e6);
    }
    ts.sort_by(f64::total_cmp);
    println!("softmax 64x64 synced {:.1}", ts[100]);
    use metal_candle::ops::{self, Tape};
    let both = |name: &str,
                dtype: DType,
                shapes: &[(usize, usize)],
                passes: f64,
                f: &dyn Fn(&Tensor, usize) -> Tensor,
                out: &dyn Fn(&Tensor) -> Tensor| {
        for &(r, c) in shapes {
            let n = (400 << 20) / (r * c * dtype.size_in_bytes()) + 1;
            let xs: Vec<_> = (0..n)
                .map(|_| Tensor::randn(0f32, 1., (r, c), &dev).unwrap().to_dtype(dtype).unwrap())
                .collect();
            let g = out(&f(&xs[0], c));
            time(
                &format!("{name} fwd {r}x{c} {dtype:?}"),
                &dev,
                (2 * r * c * dtype.size_in_bytes()) as f64,
                |i| {
                    f(&xs[i % n], c);
                },
            );
            time(
                &format!("{name} fwd+bwd {r}x{c} {dtype:?}"),
                &dev,
                passes * (r * c * dtype.size_in_bytes()) as f64,
                |i| {
                    let x = &xs[i % n];
                    let (y, tape) = Tape::record(&[x], || Ok(f(x, c))).unwrap();
                    tape.backward(&y, g.clone()).unwrap();
                },
            );
        }
    };
    for dtype in [DType::BF16, DType::F32] {
        let ws: std::collections::HashMap<usize, candle_core::Var> = [2048usize, 4096, 8192]
            .into_iter()
            .map(|c| (c, candle_core::Var::ones(c, dtype, &dev).unwrap()))
            .collect();
        both(
            "rms_norm",
            dtype,
            &[(4096, 2048), (4096, 4096), (4096, 8192)],
            5.,
            &|x, c| ops::rms_norm(x, &ws[&c], 1e-5).unwrap(),
            &|y| y.clone(),
        );
    }
    let targets = Tensor::from_iter((0..4096).map(|i| (i * 37) as i64), &dev)?;
    both(
        "cross_entropy",
        DType::BF16,
        &[(512, 151936), (4096, 151936)],
        3.,
        &|x, _| ops::cross_entropy(x, &targets.narrow(0, 0, x.dim(0).unwrap()).unwrap()).unwrap(),
        &|_| Tensor::new(1f32, &dev).unwrap(),
    );
    for dtype in [DType::BF16, DType::F32, DType::F16] {
        for (r, c) in [
            (4096, 512),
            (4096, 2048),
            (4096, 4096),
            (4096, 8192),
            (4096, 16384),
            (4096, 32768),
            (4096, 4099),
            (65536, 2048),
            (2048, 151936),
        ] {
            let n = (400 << 20) / (r * c * dtype.size_in_bytes()) + 1;
            let xs: Vec<_> = (0..n)
                .map(|_| Tensor::randn(0f32, 1., (r, c), &dev).unwrap().to_dtype(dtype).unwrap())
                .collect();
            time(
                &format!("softmax {r}x{c} {dtype:?}"),
                &dev,
                (2 * r * c * dtype.size_in_bytes()) as f64,
                |i| {
                    metal_candle::ops::softmax_last_dim(&xs[i % n]).unwrap();
                },
            );
        }
    }
    Ok(())
}
