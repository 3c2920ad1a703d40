use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

fn config() -> SamplerConfig {
    SamplerConfig { temperature: 1.0, seed: Some(7), ..Default::default() }
}

/// Logits that fall in no order: token ids are shuffled ranks.
fn logits(vocab: usize, spread: f32) -> Vec<f32> {
    (0..vocab).map(|i| -spread * ((i * 7919) % vocab) as f32 / vocab as f32).collect()
}

fn sequence(config: SamplerConfig, n: usize) -> Vec<u32> {
    let mut sampler = Sampler::new(config).unwrap();
    (0..n).map(|_| sampler.sample(&logits(50, 3.0), &[], 0).unwrap().id).collect()
}

/// The steps of a golden case as a configuration.
fn from_steps(steps: &Value) -> SamplerConfig {
    let mut c = config();
    for step in steps.as_array().unwrap() {
        let number = |i: usize| step[i].as_f64().unwrap() as f32;
        match step[0].as_str().unwrap() {
            "repetition" => c.repetition_penalty = number(1),
            "temperature" => c.temperature = number(1),
            "top_k" => c.top_k = number(1) as usize,
            "top_p" => c.top_p = number(1),
            "min_p" => c.min_p = number(1),
            "presence_frequency" => (c.presence_penalty, c.frequency_penalty) = (number(1), number(2)),
            other => panic!("unknown step {other}"),
        }
    }
    c
}

#[test]
fn processors_are_those_of_transformers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sampling.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 100);
    for case in cases {
        let input = &golden["inputs"][case["input"].as_u64().unwrap() as usize];
        let floats = |v: &Value| -> Vec<f32> {
            let value = |x: &Value| x.as_f64().map_or(f32::NEG_INFINITY, |x| x as f32);
            v.as_array().unwrap().iter().map(value).collect()
        };
        let ids = |v: &Value| -> Vec<u32> { serde_json::from_value(v.clone()).unwrap() };
        let (raw, prompt) = (floats(&input["logits"]), ids(&input["prompt"]));
        let tokens = [prompt.clone(), ids(&input["generated"])].concat();
        let what = format!("{}: {}", input["name"], case["steps"]);

        let mut sampler = Sampler::new(from_steps(&case["steps"])).unwrap();
        let mut got = vec![f32::NEG_INFINITY; raw.len()];
        for c in sampler.candidates(&raw, &tokens, prompt.len()) {
            got[c.id as usize] = c.score;
        }
        let wanted = floats(&case["logits"]);
        let shift = max(&wanted);
        let mut wanted: Vec<f32> = wanted.iter().map(|x| x - shift).collect();
        let greedy = case["greedy"].as_u64().unwrap() as u32;
        if case["ambiguous"].as_bool().unwrap() {
            got.sort_by(f32::total_cmp);
            wanted.sort_by(f32::total_cmp);
        } else {
            let mut config = from_steps(&case["steps"]);
            config.temperature = 0.0;
            let mut sampler = Sampler::new(config).unwrap();
            assert_eq!(sampler.sample(&raw, &tokens, prompt.len()).unwrap().id, greedy, "{what}");
        }
        for (id, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
            let same = got == wanted || (got - wanted).abs() <= 1e-5 * (1.0 + wanted.abs());
            assert!(same, "{what}: token {id}: wants {wanted}, got {got}");
        }
    }
}

#[test]
fn a_seed_repeats_its_tokens_and_another_does_not() {
    let (a, b) = (sequence(config(), 40), sequence(config(), 40));
    assert_eq!(a, b);
    assert_ne!(a, sequence(SamplerConfig { seed: Some(8), ..config() }, 40));

    let drawn = Sampler::new(SamplerConfig { seed: None, ..config() }).unwrap().seed();
    assert_ne!(drawn, Sampler::new(SamplerConfig { seed: None, ..config() }).unwrap().seed());
}

#[test]
fn tokens_are_drawn_as_often_as_the_distribution_says() {
    let raw = [0.0, 1.0, f32::NEG_INFINITY, 2.0];
    let mut sampler = Sampler::new(config()).unwrap();
    let wanted = sampler.distribution(&raw, &[], 0).unwrap();
    let mut counts = [0; 4];
    let n = 20_000;
    for _ in 0..n {
        counts[sampler.sample(&raw, &[], 0).unwrap().id as usize] += 1;
    }
    assert_eq!(counts[2], 0);
    assert!((wanted.iter().map(|(_, p)| p).sum::<f32>() - 1.0).abs() < 1e-6);
    for (id, p) in wanted {
        let got = counts[id as usize] as f32 / n as f32;
        assert!((got - p).abs() < 0.015, "token {id}: wants {p}, got {got}");
    }
}

#[test]
fn partial_selection_equals_a_full_sort() {
    for (vocab, spread) in [(5000, 0.01), (5000, 30.0), (65, 1.0)] {
        let raw = logits(vocab, spread);
        for p in [0.001, 0.3, 0.9, 0.9999] {
            let mut sorted: Vec<(usize, f64)> =
                raw.iter().enumerate().map(|(id, &x)| (id, (x as f64).exp())).collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let total: f64 = sorted.iter().map(|x| x.1).sum();
            let (mut above, mut wanted) = (0.0, BTreeSet::new());
            for (id, w) in sorted {
                if above / total < p as f32 as f64 {
                    wanted.insert(id as u32);
                }
                above += w;
            }
            let mut sampler = Sampler::new(SamplerConfig { top_p: p as f32, ..config() }).unwrap();
            let got: BTreeSet<u32> = sampler.candidates(&raw, &[], 0).iter().map(|c| c.id).collect();
            assert_eq!(got.len(), wanted.len(), "{vocab} tokens, spread {spread}, p {p}");
            assert_eq!(got, wanted, "{vocab} tokens, spread {spread}, p {p}");
        }
    }
}

#[test]
fn log_probabilities_are_of_the_raw_logits() {
    let raw = [2.0f32, 1.0, 0.5, -3.0];
    let norm = raw.iter().map(|x| x.exp()).sum::<f32>().ln();
    let config = SamplerConfig { repetition_penalty: 100.0, temperature: 0.0, ..config() };
    let got = Sampler::new(config).unwrap().sample(&raw, &[0], 1).unwrap();
    assert_eq!(got.id, 1, "token 0 is penalised");
    assert!((got.logprob - (1.0 - norm)).abs() < 1e-6);

    let top = top_logprobs(&raw, 2).unwrap();
    assert_eq!(top.iter().map(|t| t.id).collect::<Vec<_>>(), [0, 1]);
    assert!((top[0].logprob - (2.0 - norm)).abs() < 1e-6);
    assert_eq!(top_logprobs(&raw, 9).unwrap().len(), 4);
    assert!(top_logprobs(&raw, 0).unwrap().is_empty());
}

#[test]
fn bad_logits_and_settings_are_named() {
    let mut sampler = Sampler::new(config()).unwrap();
    let error = sampler.sample(&[0.0, f32::NAN, f32::NAN], &[], 0).unwrap_err().to_string();
    assert_eq!(error, "logits: wants finite numbers, got NaN for token 1 (2 of 3 values)");
    assert!(sampler.sample(&[f32::INFINITY, 0.0], &[], 0).is_err());
    assert!(sampler.sample(&[], &[], 0).is_err());
    let error = sampler.sample(&[f32::NEG_INFINITY; 4], &[], 0).unwrap_err().to_string();
    assert_eq!(error, "logits: wants at least one possible token, got -inf for all 4");
    // A temperature that overflows every quotient leaves the most likely token.
    let tiny = SamplerConfig { temperature: 1e-38, ..config() };
    assert_eq!(Sampler::new(tiny).unwrap().sample(&[1.0, 3.0, 2.0], &[], 0).unwrap().id, 1);

    for (bad, field) in [
        (SamplerConfig { temperature: -1.0, ..config() }, "temperature"),
        (SamplerConfig { temperature: f32::NAN, ..config() }, "temperature"),
        (SamplerConfig { top_p: 1.5, ..config() }, "top_p"),
        (SamplerConfig { min_p: -0.1, ..config() }, "min_p"),
        (SamplerConfig { repetition_penalty: 0.0, ..config() }, "repetition_penalty"),
        (SamplerConfig { presence_penalty: f32::INFINITY, ..config() }, "presence_penalty"),
    ] {
        assert!(Sampler::new(bad).unwrap_err().to_string().starts_with(field));
    }
}

#[test]
fn the_repetition_context_can_be_short() {
    let config = SamplerConfig {
        temperature: 0.0,
        repetition_penalty: 4.0,
        repetition_context_size: Some(1),
        ..config()
    };
    let mut sampler = Sampler::new(config).unwrap();
    assert_eq!(sampler.sample(&[3.0, 2.0], &[0, 1], 2).unwrap().id, 0, "token 0 is out of the context");
    assert_eq!(sampler.sample(&[3.0, 2.0], &[1, 0], 2).unwrap().id, 1);
}

mod on_a_gpu {
    use super::*;
    use crate::ops::sample::sample;
    use candle_core::Tensor;

    /// What the device of `METAL_CANDLE_TEST_DEVICE` chooses for each row; none if it is the CPU.
    fn choose(rows: &[Vec<f32>], samplers: &mut [Sampler]) -> Option<Vec<Option<(u32, f32)>>> {
        let name = std::env::var("METAL_CANDLE_TEST_DEVICE").unwrap_or("cpu".into());
        let device = crate::device::named(&name).unwrap();
        let logits = Tensor::new(rows.to_vec(), &device).unwrap();
        let choices: Vec<Choice> = samplers.iter_mut().map(|s| s.choice().unwrap()).collect();
        sample(&logits, &choices).unwrap()
    }

    /// What the CPU chooses when it draws with `uniform` and cuts at `top_p`.
    fn cpu(config: &SamplerConfig, logits: &[f32], uniform: f64, top_p: f32) -> Sampled {
        let mut sampler = Sampler::new(SamplerConfig { top_p, ..config.clone() }).unwrap();
        sampler.drawn = Some(uniform);
        sampler.sample(logits, &[], 0).unwrap()
    }

    fn configs() -> Vec<SamplerConfig> {
        let mut all = Vec::new();
        for temperature in [0.0, 0.2, 1.0, 3.0] {
            for (top_k, top_p, min_p) in [
                (0, 1.0, 0.0),
                (0, 1.0, 0.1),
                (1, 1.0, 0.0),
                (20, 1.0, 0.0),
                (20, 0.9, 0.02),
                (0, 0.5, 0.0),
                (0, 0.0, 0.0),
                (300, 0.95, 0.0),
            ] {
                all.push(SamplerConfig { temperature, top_k, top_p, min_p, ..config() });
            }
        }
        all
    }

    #[test]
    fn tokens_are_those_of_the_cpu() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (mut compared, mut left, mut moved) = (0, 0, 0);
        for vocab in [1, 2, 37, 1000, 4099, 20_000] {
            for quantum in [0.0, 0.5, 4.0f32] {
                let configs = configs();
                let row = |_| -> Vec<f32> {
                    let value = |rng: &mut ChaCha8Rng| {
                        let bell: f32 = (0..6).map(|_| rng.random_range(-1.5f32..1.5)).sum();
                        if quantum > 0.0 { (bell / quantum).round() * quantum } else { bell * 2.0 }
                    };
                    let out = |x: f32, i: usize| if i % 5 == 4 { f32::NEG_INFINITY } else { x };
                    (0..vocab).map(|i| out(value(&mut rng), i)).collect()
                };
                let rows: Vec<Vec<f32>> = configs.iter().map(row).collect();
                let mut samplers: Vec<Sampler> =
                    configs.iter().map(|config| Sampler::new(config.clone()).unwrap()).collect();
                // Not all with the same number.
                for (i, sampler) in samplers.iter_mut().enumerate() {
                    (0..i).for_each(|_| {
                        sampler.uniform();
                    });
                }
                let Some(chosen) = choose(&rows, &mut samplers) else { return };
                for (((config, logits), sampler), token) in
                    configs.iter().zip(&rows).zip(&samplers).zip(chosen)
                {
                    let Some((id, logprob)) = token else {
                        // Only where too many tokens compete.
                        assert!((config.top_k > 0 || config.top_p < 1.0) && config.top_k != 1, "{config:?}");
                        left += 1;
                        continue;
                    };
                    compared += 1;
                    let uniform = sampler.drawn.unwrap_or(0.5);
                    let exact = cpu(config, logits, uniform, config.top_p);
                    let what =
                        format!("{config:?} of {vocab} by {quantum}, {uniform}: {id}, not {}", exact.id);
                    let wanted = logprob_of(logits, id);
                    assert!((logprob - wanted).abs() < 1e-4, "{what}: {logprob}, not {wanted}");
                    if id != exact.id {
                        // At the edge of a token, or of what top-p keeps, rounding decides.
                        moved += 1;
                        let near = [-1e-5, 0.0, 1e-5];
                        let near_p = near.map(|d| (config.top_p + d as f32).clamp(0.0, 1.0));
                        let edges = near.iter().flat_map(|d| near_p.map(|p| (uniform + d, p)));
                        let mut ids = edges.map(|(u, p)| cpu(config, logits, u.clamp(0.0, 1.0), p).id);
                        assert!(config.temperature > 0.0 && ids.any(|near| near == id), "{what}");
                    }
                }
            }
        }
        assert!(compared > 400 && left < compared / 4 && moved < compared / 50, "{compared} {left} {moved}");
    }

    fn logprob_of(logits: &[f32], id: u32) -> f32 {
        super::super::logprob(logits, id).unwrap()
    }

    #[test]
    fn ties_go_as_on_the_cpu_and_bad_logits_are_left_to_it() {
        let (inf, k) = (f32::INFINITY, |top_k| SamplerConfig { top_k, ..config() });
        let p = |top_p| SamplerConfig { top_p, ..config() };
        let greedy = SamplerConfig { temperature: 0.0, ..config() };
        // The k-th is tied with those that follow it: all of them stay. Top-p takes the lowest ids of a tie.
        let tied = vec![2.0, 1.0, 1.0, 1.0, -9.0, 1.0, -inf, 2.0];
        let cases: Vec<(SamplerConfig, Vec<f32>)> = vec![
            (greedy.clone(), tied.clone()),
            (k(3), tied.clone()),
            (k(1), tied.clone()),
            (p(0.6), tied.clone()),
            (p(0.75), tied.clone()),
            (SamplerConfig { min_p: 0.5, ..config() }, tied.clone()),
            (greedy.clone(), vec![0.0, f32::NAN, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
            (k(2), vec![0.0, inf, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
            (greedy, vec![-inf; 8]),
        ];
        for u in (0..50).map(|i| (i as f64 + 0.37) / 50.) {
            let mut samplers: Vec<Sampler> =
                cases.iter().map(|(config, _)| Sampler::new(config.clone()).unwrap()).collect();
            samplers.iter_mut().for_each(|sampler| sampler.drawn = Some(u));
            let rows: Vec<Vec<f32>> = cases.iter().map(|(_, row)| row.clone()).collect();
            let Some(chosen) = choose(&rows, &mut samplers) else { return };
            for ((config, row), token) in cases.iter().zip(&chosen).take(6) {
                assert_eq!(token.unwrap().0, cpu(config, row, u, config.top_p).id, "{config:?} {u}");
            }
            assert_eq!(chosen[6..], [None; 3]);
        }
    }
}
