use super::*;
use crate::device;
use candle_core::{DType, Device};
use half::{bf16, f16};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The device of `METAL_CANDLE_TEST_DEVICE`, if kernels run there.
fn gpu() -> Option<Device> {
    let device = device::named(&std::env::var("METAL_CANDLE_TEST_DEVICE").unwrap_or("cpu".into())).unwrap();
    let one = Tensor::zeros(1, DType::F32, &device).unwrap();
    Moments::new(&[&one]).unwrap().map(|_| device)
}

/// Equal but for rounding: that of the norm, a sum of squares in another order, and where a gradient all but cancels a
/// moment, that of the larger values which do.
fn close(what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().fold(0f32, |m, v| m.max(v.abs()));
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        let allowed = (1e-5 * b.abs()).max(2f32.powi(-22) * largest);
        assert!((a - b).abs() <= allowed, "{what}: {a} at {i}, not {b}");
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Elements of each variable: one, odd, a piece and what is next to it, several pieces.
const SIZES: [usize; 8] = [1, 3, 64, 8191, 8192, 8193, 20_001, 5];

/// Variables on `device`, and the gradients of a step: of every dtype, one at an odd place, and one that is missing.
fn problem(device: &Device, seed: u64) -> (Vec<(String, Var)>, Gradients, Vec<Vec<f32>>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.random_range(-1f32..1.)).collect() };
    let (mut vars, mut gradients, mut plain) = (Vec::new(), Gradients::default(), Vec::new());
    for (i, &n) in SIZES.iter().enumerate() {
        let var = Var::from_vec(draw(n), n, device).unwrap();
        let mut g = draw(n + 1);
        let dtype = [DType::F32, DType::BF16, DType::F32, DType::F16][i % 4];
        for x in &mut g {
            *x = match dtype {
                DType::F16 => f16::from_f32(*x).to_f32(),
                DType::BF16 => bf16::from_f32(*x).to_f32(),
                _ => *x,
            };
        }
        let start = (i == 2) as usize;
        let whole = Tensor::from_slice(&g, n + 1, device).unwrap().to_dtype(dtype).unwrap();
        if i + 1 < SIZES.len() {
            gradients.add(&var, whole.narrow(0, start, n).unwrap()).unwrap();
        }
        plain.push(g[start..start + n].to_vec());
        vars.push((i.to_string(), var));
    }
    (vars, gradients, plain)
}

#[test]
fn a_gpu_updates_as_the_cpu_does() {
    let Some(device) = gpu() else { return };
    for max_norm in [None, Some(1.0), Some(1e9)] {
        let config = AdamWConfig { weight_decay: 0.1, ..AdamWConfig::default() };
        let (vars, ..) = problem(&device, 0);
        let mut optimizer = AdamW::new(config, &vars).unwrap();
        let cpu = Device::Cpu;
        let (reference, ..) = problem(&cpu, 0);
        let zeros = |n: usize| [vec![0f32; n], vec![0f32; n]];
        let mut moments: Vec<_> = SIZES.map(zeros).into();
        for step in 1..4u64 {
            let (others, gradients, plain) = problem(&device, step);
            let of = |of: &Gradients, var: &Var| of.get(var).cloned();
            let mut ours = Gradients::default();
            let mut theirs = Gradients::default();
            for (i, (_, other)) in others.iter().enumerate() {
                if let Some(g) = of(&gradients, other) {
                    ours.add(&vars[i].1, g).unwrap();
                    let g = Tensor::from_slice(&plain[i], plain[i].len(), &cpu).unwrap();
                    theirs.add(&reference[i].1, g).unwrap();
                }
            }
            let loss = Tensor::new(step as f32, &device).unwrap();
            let losses = [loss.clone(), (loss * 2.).unwrap()];
            let (norm, read) = optimizer.step_after(&losses, &vars, &ours, 1e-2, max_norm).unwrap();
            let rate = 1e-2 / (1. - 0.9f64.powf(step as f64));
            let root = 1. / (1. - 0.999f64.powf(step as f64)).sqrt();
            let adam = Adam::new((1. - 1e-2 * 0.1) as f32, rate as f32, [0.9, 0.999], root as f32, 1e-8);
            let wanted = cpu_step(&mut moments, &reference, &theirs, max_norm, adam).unwrap();
            assert!((norm / wanted - 1.).abs() < 1e-5, "{norm} {wanted}");
            assert_eq!(read, [step as f32, 2. * step as f32]);
        }
        let ours = optimizer.moments().unwrap();
        for (i, (_, var)) in vars.iter().enumerate() {
            close("variable", &values(var), &values(&reference[i].1));
            close("first moment", &ours[i][0].to_vec().unwrap(), &moments[i][0]);
            close("second moment", &ours[i][1].to_vec().unwrap(), &moments[i][1]);
        }
        assert_eq!(values(&vars[7].1), values(&problem(&cpu, 0).0[7].1), "no gradient, no change");
    }
}

#[test]
fn a_gpu_changes_nothing_when_a_loss_or_a_gradient_is_not_finite_and_goes_on_from_what_it_gave() {
    let Some(device) = gpu() else { return };
    let (vars, gradients, _) = problem(&device, 0);
    let mut optimizer = AdamW::new(AdamWConfig::default(), &vars).unwrap();
    let all = |vars: &[(String, Var)]| -> Vec<Vec<f32>> { vars.iter().map(|(_, var)| values(var)).collect() };
    let before = all(&vars);
    let nan = Tensor::new(f32::NAN, &device).unwrap();
    let (norm, losses) = optimizer.step_after(&[nan], &vars, &gradients, 1e-2, Some(1.)).unwrap();
    assert!(norm.is_nan() && losses[0].is_nan());
    let mut broken = Gradients::default();
    broken.add(&vars[5].1, Tensor::new(&[f32::INFINITY; 8193], &device).unwrap()).unwrap();
    assert!(optimizer.step(&vars, &broken, 1e-2, Some(1.)).unwrap().is_infinite());
    assert_eq!((before, 0), (all(&vars), optimizer.updates()));

    optimizer.step(&vars, &gradients, 1e-2, None).unwrap();
    let saved: Vec<[Vec<f32>; 2]> =
        optimizer.moments().unwrap().iter().map(|m| m.each_ref().map(|m| m.to_vec().unwrap())).collect();
    let copies: Vec<(String, Var)> =
        vars.iter().map(|(name, var)| (name.clone(), Var::from_tensor(var).unwrap())).collect();
    let mut again = AdamW::new(AdamWConfig::default(), &copies).unwrap();
    again.restore(1, saved).unwrap();
    let mut same = Gradients::default();
    for ((_, var), (_, copy)) in vars.iter().zip(&copies) {
        if let Some(g) = gradients.get(var) {
            same.add(copy, g.clone()).unwrap();
        }
    }
    optimizer.step(&vars, &gradients, 1e-2, None).unwrap();
    again.step(&copies, &same, 1e-2, None).unwrap();
    assert_eq!(all(&vars), all(&copies));
}
