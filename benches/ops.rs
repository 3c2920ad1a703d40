//! `cargo bench --bench ops [-- FILTER]`: every op of the crate beside its plain-Candle reference, on the cases
//! that its [`Spec`] tests with, forward and with all gradients. A quick look for who changes an op; the
//! comparison with other libraries, and with the device's limits, is `benches/peers`. `DEVICE=cuda cargo bench
//! --features cuda --bench ops` does it on a GPU.

use candle_core::{DType, Result, Tensor, Var};
use metal_candle::ops::{self, Spec};
use std::time::{Duration, Instant};

/// The allocator of the `metal-candle` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long each side of a row is measured.
const BUDGET: Duration = Duration::from_millis(100);

/// Cases with fewer elements than this are edges for the tests, not sizes that anybody waits for.
const SMALLEST: usize = 4096;

fn main() -> Result<()> {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let device = metal_candle::device::named(&std::env::var("DEVICE").unwrap_or_else(|_| "cpu".into()))?;
    let title = ["op", "pass", "dtype", "shape", "reference", "fused", "speed-up"];
    println!(
        "{:<22}{:<9}{:<6}{:<34}{:>12}{:>12}{:>10}",
        title[0], title[1], title[2], title[3], title[4], title[5], title[6]
    );
    for op in ops::ALL.iter().filter(|op| op.name.contains(&filter)) {
        for case in op.cases.iter().filter(|case| case[0].iter().product::<usize>() >= SMALLEST) {
            for (dtype, name) in [(DType::F32, "f32"), (DType::BF16, "bf16")] {
                let inputs = ops::inputs(case, dtype, &device)?;
                for (pass, backward) in [("fwd", false), ("fwd+bwd", true)] {
                    let reference = time(op, op.reference, &inputs, backward)?;
                    let fused = time(op, op.fused, &inputs, backward)?;
                    let shapes = case
                        .iter()
                        .map(|shape| shape.iter().map(|n| n.to_string()).collect::<Vec<_>>().join("x"));
                    let shapes = shapes.collect::<Vec<_>>().join(" ");
                    println!(
                        "{:<22}{pass:<9}{name:<6}{shapes:<34}{reference:>9.1} µs{fused:>9.1} µs{:>9.1}x",
                        op.name,
                        reference / fused
                    );
                }
            }
        }
    }
    Ok(())
}

/// The median time of a call and, on a GPU, of the wait for it, in µs.
fn time(op: &Spec, f: fn(&[Tensor]) -> Result<Tensor>, inputs: &[Tensor], backward: bool) -> Result<f64> {
    let variable = |(i, x): (usize, &Tensor)| match backward && op.trainable.contains(&i) {
        true => Ok(Var::from_tensor(x)?.into_inner()),
        false => Ok(x.clone()),
    };
    let inputs: Vec<Tensor> = inputs.iter().enumerate().map(variable).collect::<Result<_>>()?;
    let call = || -> Result<()> {
        let y = f(&inputs)?;
        if backward {
            y.sum_all()?.backward()?;
        }
        inputs[0].device().synchronize()
    };
    call()?;
    let (start, mut samples) = (Instant::now(), Vec::new());
    while start.elapsed() < BUDGET || samples.len() < 3 {
        let one = Instant::now();
        call()?;
        samples.push(one.elapsed().as_secs_f64() * 1e6);
    }
    samples.sort_by(f64::total_cmp);
    Ok(samples[samples.len() / 2])
}
