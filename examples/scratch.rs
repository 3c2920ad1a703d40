use candle_core::*;
use metal_candle::load::PeftConfig;
use metal_candle::models::{Config, Model};
use metal_candle::ops;
use metal_candle::train::{data::Batch, optim::*, step::*};
use std::time::Instant;
#[global_allocator]
static A: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn med(mut f: impl FnMut(), n: usize) -> f64 {
    f();
    f();
    let mut v: Vec<f64> = (0..n)
        .map(|_| {
            let t = Instant::now();
            f();
            t.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    v.sort_by(f64::total_cmp);
    v[n / 2]
}
fn main() -> anyhow::Result<()> {
    let which = std::env::args().nth(1).unwrap_or("all".into());
    let (tx, rx) = std::sync::mpsc::channel();
    rayon::spawn(move || {
        tx.send(run(&which)).unwrap();
    });
    rx.recv()?
}
fn run(which: &str) -> anyhow::Result<()> {
    let dev = Device::Cpu;
    if which == "all" || which == "train" {
        let json = serde_json::json!({"model_type":"llama","hidden_size":512,"num_hidden_layers":8,"num_attention_heads":8,"num_key_value_heads":4,"intermediate_size":1408,"vocab_size":8192,"max_position_embeddings":2048,"tie_word_embeddings":false,"rms_norm_eps":1e-5});
        let config = Config::from_json("x", json.as_object().unwrap().clone())?;
        for dt in [DType::F32, DType::BF16] {
            let mut model = Model::init(&config, dt, &dev, 0)?;
            model.add_lora(&PeftConfig { r: 8, lora_alpha: 16., ..Default::default() }, 0)?;
            let vars = model.trainable();
            let ids: Vec<u32> = (0..1024u32).map(|i| (i.wrapping_mul(2654435761)) % 8192).collect();
            let batch = Batch {
                targets: ids.iter().map(|i| (*i as i64 + 1) % 8192).collect(),
                input_ids: ids,
                lengths: vec![256; 4],
                batch: 4,
                seq_len: 256,
                rows: vec![0, 1, 2, 3],
                tokens: 1024,
                target_tokens: 1024,
            };
            let mut opt = AdamW::new(AdamWConfig::default(), &vars)?;
            let t = med(
                || {
                    let mut g = Gradients::default();
                    loss_and_gradients(&model, &vars, &batch, 1.0, StepOptions::default(), &mut g).unwrap();
                    opt.step(&vars, &g, 1e-4, None).unwrap();
                },
                7,
            );
            println!("train {dt:?}: {:.1} ms, {:.0} tok/s", t / 1e3, 1024e6 / t);
            let prompt = Tensor::arange(3u32, 67, &dev)?.reshape((1, 64))?;
            let mut cache = model.cache(&[0]);
            model.unload_lora();
            let t0 = Instant::now();
            model.forward(&prompt, &mut cache)?;
            let pf = t0.elapsed().as_secs_f64();
            let t0 = Instant::now();
            let mut id = 5u32;
            for _ in 0..128 {
                let l = model.forward(&Tensor::new(&[[id]], &dev)?, &mut cache)?;
                id = l.argmax(1)?.to_vec1::<u32>()?[0];
            }
            println!(
                "decode {dt:?}: {:.0} tok/s, prefill {:.0}",
                128. / t0.elapsed().as_secs_f64(),
                64. / pf
            );
        }
    }
    if which == "all" || which == "ops" {
        for (r, c) in [(512usize, 1024usize), (4096, 4096), (64, 64)] {
            for dt in [DType::F32, DType::BF16] {
                let x = Tensor::randn(0f32, 1., (r, c), &dev)?.to_dtype(dt)?;
                let w = Tensor::ones(c, dt, &dev)?;
                let n = if r > 1000 { 15 } else { 200 };
                println!(
                    "softmax {r}x{c} {dt:?} {:.1} us; candle {:.1}",
                    med(
                        || {
                            ops::softmax_last_dim(&x).unwrap();
                        },
                        n
                    ),
                    med(
                        || {
                            candle_nn::ops::softmax_last_dim(&x).unwrap();
                        },
                        n.min(10)
                    )
                );
                println!(
                    "rms {r}x{c} {dt:?} {:.1} us; candle {:.1}",
                    med(
                        || {
                            ops::rms_norm(&x, &w, 1e-5).unwrap();
                        },
                        n
                    ),
                    med(
                        || {
                            candle_nn::ops::rms_norm(&x, &w, 1e-5).unwrap();
                        },
                        n.min(10)
                    )
                );
                let v = Var::from_tensor(&x)?;
                let wv = Var::from_tensor(&w)?;
                println!(
                    "rms_fb {r}x{c} {dt:?} {:.1} us",
                    med(
                        || {
                            ops::rms_norm(&v, &wv, 1e-5).unwrap().backward().unwrap();
                        },
                        n
                    )
                );
                println!(
                    "softmax_fb {r}x{c} {dt:?} {:.1} us",
                    med(
                        || {
                            ops::softmax_last_dim(&v).unwrap().backward().unwrap();
                        },
                        n
                    )
                );
            }
        }
    }
    if which == "all" || which == "lora" {
        for dt in [DType::F32, DType::BF16] {
            let x = Var::from_tensor(&Tensor::randn(0f32, 1., (512, 2048), &dev)?.to_dtype(dt)?)?;
            let w = Tensor::randn(0f32, 1., (2048, 2048), &dev)?.to_dtype(dt)?;
            let a = Var::from_tensor(&Tensor::randn(0f32, 1., (8, 2048), &dev)?.to_dtype(dt)?)?;
            let b = Var::from_tensor(&Tensor::randn(0f32, 1., (2048, 8), &dev)?.to_dtype(dt)?)?;
            let base = ops::LoraLinear { weight: w.clone(), bias: None, scale: 2.0, dropout: None };
            println!(
                "lora f {dt:?} {:.1} us",
                med(
                    || {
                        ops::lora_linear(&x, &a, &b, &base).unwrap();
                    },
                    15
                )
            );
            println!(
                "lora fb {dt:?} {:.1} us",
                med(
                    || {
                        ops::lora_linear(&x, &a, &b, &base).unwrap().backward().unwrap();
                    },
                    15
                )
            );
            println!(
                "linear {dt:?} {:.1} us; candle matmul {:.1}",
                med(
                    || {
                        ops::linear(&x.as_detached_tensor(), &w, None).unwrap();
                    },
                    15
                ),
                med(
                    || {
                        x.as_detached_tensor().matmul(&w.t().unwrap()).unwrap();
                    },
                    15
                )
            );
            let x1 = x.as_detached_tensor().narrow(0, 0, 1)?;
            println!(
                "gemv {dt:?} {:.1} us",
                med(
                    || {
                        ops::linear(&x1, &w, None).unwrap();
                    },
                    100
                )
            );
        }
    }
    if which == "all" || which == "attn" {
        for dt in [DType::F32, DType::BF16] {
            let q = Var::from_tensor(&Tensor::randn(0f32, 1., (4, 256, 8, 64), &dev)?.to_dtype(dt)?)?;
            let k = Var::from_tensor(&Tensor::randn(0f32, 1., (4, 256, 4, 64), &dev)?.to_dtype(dt)?)?;
            let v = Var::from_tensor(&k)?;
            let o = ops::Attention { scale: 0.125, causal: true, ..Default::default() };
            println!(
                "attn f {dt:?} {:.1} us",
                med(
                    || {
                        ops::attention_thd(&q, &k, &v, &o).unwrap();
                    },
                    15
                )
            );
            println!(
                "attn fb {dt:?} {:.1} us",
                med(
                    || {
                        ops::attention_thd(&q, &k, &v, &o).unwrap().backward().unwrap();
                    },
                    15
                )
            );
            let h = Tensor::randn(0f32, 1., (1024, 512), &dev)?.to_dtype(dt)?;
            let hv = Var::from_tensor(&h)?;
            let w = Tensor::randn(0f32, 0.02, (8192, 512), &dev)?.to_dtype(dt)?;
            let t = Tensor::arange(0i64, 1024, &dev)?;
            println!(
                "lce fb {dt:?} {:.1} us",
                med(
                    || {
                        ops::linear_cross_entropy(&hv, &w, &t, &Default::default()).unwrap();
                    },
                    7
                )
            );
        }
    }
    Ok(())
}
