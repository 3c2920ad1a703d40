//! A LoRA on a model directory, from JSONL data to a PEFT directory.
//!
//!     cargo run --release --example finetune -- MODEL DATA OUT

use candle_core::{DType, Device};
use metal_candle::load::{ModelDir, PeftConfig};
use metal_candle::models::Model;
use metal_candle::train::checkpoint::Checkpoint;
use metal_candle::train::data::{self, ModelEncoder};
use metal_candle::train::schedule::{Schedule, Shape};
use metal_candle::train::trainer::{Event, TrainOptions, train};
use std::ops::ControlFlow;
use std::path::Path;

fn main() -> metal_candle::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, rows, out] = args.as_slice() else { panic!("wants MODEL DATA OUT") };

    let dir = ModelDir::resolve(model)?;
    let (tokenizer, template) = (dir.tokenizer()?, dir.chat_template()?);
    let encoder = ModelEncoder::new(&tokenizer, template.as_ref());
    let splits = data::load(Path::new(rows), &data::Options::default(), &encoder)?;

    let mut model = Model::open(&dir, DType::F32, &Device::Cpu)?;
    let lora = PeftConfig { r: 8, lora_alpha: 16.0, ..PeftConfig::default() };
    model.add_lora(&lora, 0)?;

    let options = TrainOptions {
        iters: 100,
        schedule: Schedule::over(Shape::Cosine, 1e-3, 0.0, 10, 100)?,
        output: out.into(),
        ..TrainOptions::default()
    };
    let outcome = train(&model, &splits, &Checkpoint::Lora(lora), &options, |event| {
        match event {
            Event::Train(line) => println!("{line}"),
            Event::Valid { step, loss, .. } => println!("Iter {step}: Val loss {loss:.3}"),
            _ => {}
        }
        ControlFlow::Continue(())
    })?;
    println!("{:?} -> {:?}", outcome.valid_before, outcome.valid_after);
    Ok(())
}
