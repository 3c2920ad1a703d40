use std::path::{Path, PathBuf};

use super::*;
use crate::generate::SamplerConfig;
use crate::generate::{FinishReason, StoppedBy};
use crate::models::Model;
use candle_core::{DType, Device};

/// A model whose logits are a function of all tokens of a row: what the cache loses changes the answer.
struct Toy {
    /// The token that follows so many tokens, if the answer is to be this; without it, a hash decides.
    script: Vec<u32>,
    vocab: usize,
    context: usize,
}

/// The tokens of each row, padding dropped, and how much of it is still to come.
type ToyCache = Vec<(usize, Vec<u32>)>;

impl CausalLm for Toy {
    type Cache = ToyCache;

    fn new_cache(&self, starts: &[usize]) -> Result<ToyCache> {
        Ok(starts.iter().map(|&start| (start, Vec::new())).collect())
    }

    fn forward(&self, ids: &Tensor, cache: &mut ToyCache) -> Result<Tensor> {
        let all = self.forward_all(ids, cache)?;
        Ok(all.narrow(1, all.dim(1)? - 1, 1)?.squeeze(1)?)
    }

    fn forward_all(&self, ids: &Tensor, cache: &mut ToyCache) -> Result<Tensor> {
        let (rows, len) = ids.dims2()?;
        assert_eq!(rows, cache.len());
        let mut logits = Vec::new();
        for (ids, (padding, row)) in ids.to_vec2::<u32>()?.iter().zip(cache.iter_mut()) {
            for &id in ids {
                match padding {
                    0 => row.push(id),
                    _ => *padding -= 1,
                }
                assert!(row.len() <= self.context);
                let seed = row.iter().fold(17u64, |h, &t| (h ^ u64::from(t)).wrapping_mul(0x100000001b3));
                let next = self.script.get(row.len()).copied();
                logits.extend((0..self.vocab as u64).map(|id| match next {
                    Some(next) => f32::from(id == u64::from(next)) * 9.0,
                    None => (((seed ^ id).wrapping_mul(0x9e3779b97f4a7c15) >> 40) as f32) / (1 << 23) as f32,
                }));
            }
        }
        Ok(Tensor::from_vec(logits, (rows, len, self.vocab), &Device::Cpu)?)
    }

    fn truncate(&self, cache: &mut ToyCache, len: usize) {
        cache.iter_mut().for_each(|(_, row)| row.truncate(len));
    }

    fn keep_rows(&self, cache: &mut ToyCache, rows: &[usize]) -> Result<()> {
        *cache = rows.iter().map(|&row| cache[row].clone()).collect();
        Ok(())
    }

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn vocab_size(&self) -> usize {
        self.vocab
    }

    fn max_positions(&self) -> usize {
        self.context
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models")
}

fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::open(&fixtures().join(name)).unwrap()
}

fn hashing() -> Toy {
    Toy { script: Vec::new(), vocab: 270, context: 64 }
}

/// A model that answers a prompt of one token with `text`, then with token 0.
fn reciting(tokenizer: &Tokenizer, text: &str) -> Toy {
    let mut script = vec![0];
    script.extend(tokenizer.encode(text, false).unwrap());
    script.push(0);
    Toy { script, vocab: tokenizer.vocab_size(), context: 200 }
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(max_tokens), ..Default::default() }
}

fn sampled(max_tokens: usize) -> GenerateOptions {
    let sampler = SamplerConfig { temperature: 1.0, top_k: 40, seed: Some(3), ..Default::default() };
    GenerateOptions { sampler, ..greedy(max_tokens) }
}

fn go_on(_: Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn without_times(mut g: Generation) -> Generation {
    (g.prefill_seconds, g.decode_seconds) = (0.0, 0.0);
    (g.prefill_tokens_per_s, g.decode_tokens_per_s) = (0.0, 0.0);
    g
}

#[test]
fn text_is_streamed_in_whole_characters_up_to_the_stop() {
    let text = "Grüße, 🦀🧑‍🚀 Ende\nUser: weiter";
    for name in ["llama", "llama2", "gemma3"] {
        let tokenizer = tokenizer(name);
        let whole = tokenizer.encode(text, false).unwrap();
        let model = reciting(&tokenizer, text);
        for (stops, cut) in [(vec![], text), (vec!["\nUser:".to_string()], "Grüße, 🦀🧑‍🚀 Ende")] {
            let options = GenerateOptions { stop_strings: stops, ..greedy(whole.len()) };
            let mut pieces = Vec::new();
            let got = generate(&model, &tokenizer, &[1], &options, |event| {
                if let Event::Token { text, .. } = event {
                    pieces.push(text.to_string());
                }
                ControlFlow::Continue(())
            })
            .unwrap();
            assert_eq!(pieces.concat(), got.text);
            assert_eq!(got.text.trim_start(), cut, "{name}");
            assert_eq!(pieces.len(), got.tokens.len());
            assert!(pieces.iter().all(|p| !p.contains('\u{FFFD}')), "{name}: {pieces:?}");
            let stopped = options.stop_strings.first().cloned().map(StoppedBy::String);
            let reason = if stopped.is_some() { FinishReason::Stop } else { FinishReason::Length };
            assert_eq!((got.stopped_by, got.finish_reason), (stopped, reason));
        }
    }
}

#[test]
fn a_stop_token_ends_the_answer_without_its_text() {
    let tokenizer = tokenizer("llama");
    let model = reciting(&tokenizer, "ab cd");
    let stop = *model.script.iter().rev().nth(1).unwrap();
    let stop_strings = vec!["never".to_string()];
    let options = GenerateOptions { stop_tokens: vec![stop], stop_strings, top_logprobs: 2, ..greedy(50) };
    let got = generate(&model, &tokenizer, &[1], &options, go_on).unwrap();
    assert_eq!(got.stopped_by, Some(StoppedBy::Token(stop)));
    assert_eq!(got.tokens.last(), Some(&stop));
    assert!("ab cd".starts_with(&got.text) && got.text.len() < 5, "{:?}", got.text);
    assert_eq!((got.tokens.len(), got.top_logprobs.len()), (got.logprobs.len(), got.logprobs.len()));
    assert_eq!(got.top_logprobs[0][0].id, got.tokens[0]);

    let json = serde_json::to_value(&got).unwrap();
    assert_eq!(json["finish_reason"], "stop");
    assert_eq!(json["stopped_by"]["token"], stop);
    assert!(json["prefill_tokens_per_s"].is_number() && json["decode_tokens_per_s"].is_number());
}

#[test]
fn prompts_in_chunks_and_batches_get_the_same_answers() {
    let tokenizer = tokenizer("llama");
    let prompts: Vec<Vec<u32>> = vec![(0..31).collect(), vec![7], (40..52).collect(), vec![7]];
    // Without a length, the longest prompt meets the end of the context first, the others go on.
    for max_tokens in [Some(12), None] {
        let options = GenerateOptions { max_tokens, ..sampled(1) };
        let with_chunk = |n| GenerateOptions { prefill_chunk: n, ..options.clone() };
        let single = |i: usize| {
            let mut options = with_chunk(512);
            options.sampler.seed = Some(3 + i as u64);
            without_times(generate(&hashing(), &tokenizer, &prompts[i], &options, go_on).unwrap())
        };
        let wanted: Vec<Generation> = (0..prompts.len()).map(single).collect();
        assert_ne!(wanted[1].tokens, wanted[3].tokens);
        for chunk in [1, 5, 31, 512] {
            let got = generate_batch(&hashing(), &tokenizer, &prompts, &with_chunk(chunk), go_on).unwrap();
            let got: Vec<Generation> = got.into_iter().map(without_times).collect();
            assert_eq!(got, wanted, "chunks of {chunk}");
        }
    }
}

#[test]
fn real_models_answer_a_batch_as_one_by_one() {
    let mut names: Vec<PathBuf> = std::fs::read_dir(fixtures()).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    assert!(names.len() >= 6);
    for dir in names {
        let model = Model::from_dir(&dir, DType::F32, &Device::Cpu).unwrap();
        let tokenizer = Tokenizer::open(&dir).unwrap();
        let prompts: Vec<Vec<u32>> =
            vec![vec![5, 9, 30], (10..41).collect(), vec![44], (60..80).rev().collect()];
        let options = |prefill_chunk| GenerateOptions { prefill_chunk, ..greedy(24) };
        let single = |p: &Vec<u32>| generate(&model, &tokenizer, p, &options(512), go_on).unwrap();
        let wanted: Vec<Generation> = prompts.iter().map(single).collect();
        for chunk in [4, 512] {
            let got = generate_batch(&model, &tokenizer, &prompts, &options(chunk), go_on).unwrap();
            for (got, wanted) in got.iter().zip(&wanted) {
                assert_eq!(got.tokens, wanted.tokens, "{}, chunks of {chunk}", dir.display());
                for (a, b) in got.logprobs.iter().zip(&wanted.logprobs) {
                    assert!((a - b).abs() < 1e-4, "{}: {a} {b}", dir.display());
                }
            }
        }
    }
}

#[test]
fn the_callback_can_end_it_while_reading_and_while_writing() {
    let tokenizer = tokenizer("llama");
    let options = GenerateOptions { prefill_chunk: 2, ..greedy(20) };
    let got = generate(&hashing(), &tokenizer, &[1, 2, 3, 4, 5], &options, |event| match event {
        Event::Prefill { done: 4, total: 5 } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    let got = got.unwrap();
    assert_eq!((got.finish_reason, got.tokens.len()), (FinishReason::Cancelled, 0));

    let mut seen = 0;
    let got = generate(&hashing(), &tokenizer, &[1], &options, |event| {
        seen += usize::from(matches!(event, Event::Token { .. }));
        if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let got = got.unwrap();
    assert_eq!((got.finish_reason, got.tokens.len(), seen), (FinishReason::Cancelled, 3, 3));
}

#[test]
fn prompts_that_do_not_fit_are_named() {
    let tokenizer = tokenizer("llama");
    let run = |prompt: &[u32], options: &GenerateOptions| {
        generate(&hashing(), &tokenizer, prompt, options, go_on).map_err(|e| e.to_string())
    };
    assert_eq!(
        run(&[1; 64], &greedy(1)).unwrap_err(),
        "prompt: wants at most 64 tokens, the model's max_position_embeddings, \
         got 64 tokens, which leave none for an answer"
    );
    assert_eq!(
        run(&[1; 60], &greedy(5)).unwrap_err(),
        "prompt + max_tokens: wants at most 64 tokens, the model's max_position_embeddings, got 65 tokens (60 + 5)"
    );
    assert_eq!(run(&[1; 60], &greedy(4)).unwrap().tokens.len(), 4);
    assert!(run(&[1, 270], &greedy(4)).unwrap_err().contains("got 270"));
    assert!(run(&[1], &greedy(0)).unwrap_err().starts_with("max_tokens"));
    assert!(run(&[], &greedy(4)).unwrap_err().contains("no BOS"));
    let with_bos = GenerateOptions { bos_token: Some(9), ..greedy(4) };
    assert_eq!(run(&[], &with_bos).unwrap().tokens, run(&[9], &greedy(4)).unwrap().tokens);
}
