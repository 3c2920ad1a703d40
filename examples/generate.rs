//! An answer from a model directory, streamed.
//!
//!     cargo run --release --example generate -- MODEL "Why is the sky blue?" [ADAPTER]

use candle_core::{DType, Device};
use metal_candle::generate::{Event, GenerateOptions, generate};
use metal_candle::load::{ModelDir, adapter};
use metal_candle::models::Model;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

fn main() -> metal_candle::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, prompt, rest @ ..] = args.as_slice() else { panic!("wants MODEL PROMPT [ADAPTER]") };

    let dir = ModelDir::resolve(model)?;
    let mut model = Model::open(&dir, DType::F32, &Device::Cpu)?;
    if let Some(path) = rest.first() {
        model.load_lora(&adapter::read(Path::new(path))?)?;
    }
    let tokenizer = dir.tokenizer()?;
    let ids = match dir.chat_template()? {
        Some(template) => {
            let messages = [serde_json::json!({"role": "user", "content": prompt})];
            tokenizer.encode(&template.render(&messages, None, true, &Default::default())?, false)?
        }
        None => tokenizer.encode(prompt, true)?,
    };

    let options = GenerateOptions::for_model(&dir.generation_config()?, &tokenizer);
    let answer = generate(&model, &tokenizer, &ids, &options, |event| {
        if let Event::Token { text, .. } = event {
            print!("{text}");
            std::io::stdout().flush().ok();
        }
        ControlFlow::Continue(())
    })?;
    println!("\n{:.1} tokens/s", answer.decode_tokens_per_s);
    Ok(())
}
