use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::generate::{SamplerConfig, generate, generate_cached};
use crate::load::PeftConfig;
use crate::load::TargetModules;
use crate::models::Model;

/// The model in the binary.
fn embedded(dtype: DType) -> (Model, Tokenizer) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/model");
    (Model::from_dir(&dir, dtype, &Device::Cpu).unwrap(), Tokenizer::open(&dir).unwrap())
}

/// The embedded model, bent by a LoRA of small random numbers: it often agrees, and often does not.
fn bent(seed: u64, by: f32) -> Model {
    bent_as(seed, by, false)
}

fn bent_as(seed: u64, by: f32, use_dora: bool) -> Model {
    let (mut model, _) = embedded(DType::F32);
    let lora = PeftConfig {
        r: 4,
        lora_alpha: 4.0,
        use_dora,
        target_modules: TargetModules::AllLinear,
        ..PeftConfig::default()
    };
    model.add_lora(&lora, seed).unwrap();
    for (_, lora) in model.loras() {
        let (a, b) = (&lora.a, &lora.b);
        let noise =
            Tensor::cat(&vec![a.flatten_all().unwrap(); b.elem_count().div_ceil(a.elem_count())], 0).unwrap();
        let noise = noise.narrow(0, 0, b.elem_count()).unwrap().reshape(b.dims()).unwrap();
        b.set(&noise.affine(f64::from(by), 0.).unwrap()).unwrap();
    }
    model
}

fn go_on(_: Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

const QUESTIONS: &[&str] = &[
    "Who are you?",
    "What colour is the sky?",
    "Tell me a story about a fox.",
    "I feel sad. What should I do?",
    "Describe a winter morning.",
    "What should I pack for the beach?",
    "Count to ten.",
    "How do birds fly?",
];

fn prompts(tokenizer: &Tokenizer) -> Vec<Vec<u32>> {
    let ask = |q: &&str| format!("<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n");
    QUESTIONS.iter().map(|q| tokenizer.encode(&ask(q), false).unwrap()).collect()
}

#[test]
fn a_few_tokens_at_once_are_one_after_the_other_to_the_bit() {
    let (_, tokenizer) = embedded(DType::F32);
    let tokens = &prompts(&tokenizer)[2];
    for model in [embedded(DType::F32).0, embedded(DType::BF16).0, bent(1, 8.0), bent_as(1, 8.0, true)] {
        for together in 2..=VERIFIED_TOGETHER {
            let (mut one, mut some) = (PromptCache::new(), PromptCache::new());
            for part in tokens.chunks(together) {
                let together = read_all(&model, &mut some, part).unwrap();
                for (token, together) in part.iter().zip(together) {
                    let alone = read_all(&model, &mut one, &[*token]).unwrap();
                    assert!(alone[0] == together, "{:?}, {} at once", model.dtype(), part.len());
                }
            }
        }
    }
}

#[test]
fn greedy_answers_are_those_without_a_draft() {
    let (model, tokenizer) = embedded(DType::F32);
    let mut stops = tokenizer.eos_ids().to_vec();
    let (mut proposed, mut accepted) = (0, 0);
    for (seed, by, count) in [(1, 0.0, 3), (1, 8.0, 3), (2, 12.0, 5), (3, 20.0, 9)] {
        let mut draft = Draft::new(bent(seed, by), count).unwrap();
        for prompt in prompts(&tokenizer) {
            let penalty = if seed == 2 { 1.1 } else { 1.0 };
            let sampler = SamplerConfig { repetition_penalty: penalty, ..Default::default() };
            let options = GenerateOptions {
                max_tokens: Some(40),
                stop_tokens: stops.clone(),
                sampler,
                ..Default::default()
            };
            let plain = generate(&model, &tokenizer, &prompt, &options, go_on).unwrap();
            let mut cache = PromptCache::new();
            let mut text = String::new();
            let got = generate_speculative(
                &model,
                &mut draft,
                &tokenizer,
                &prompt,
                &mut cache,
                &options,
                |event| {
                    if let Event::Token { text: piece, .. } = event {
                        text += piece;
                    }
                    ControlFlow::Continue(())
                },
            );
            let got = got.unwrap();
            assert_eq!((&got.tokens, &got.logprobs), (&plain.tokens, &plain.logprobs), "draft bent by {by}");
            assert_eq!(
                (&got.text, &text, got.finish_reason),
                (&plain.text, &plain.text, plain.finish_reason)
            );
            assert_eq!(cache.tokens(), [&prompt[..], &got.tokens[..got.tokens.len() - 1]].concat());
            let drafted = got.draft.unwrap();
            if by == 0.0 {
                assert!(drafted.accepted + count > drafted.proposed, "{drafted:?}");
            }
            (proposed, accepted) = (proposed + drafted.proposed, accepted + drafted.accepted);
        }
        stops.clear();
    }
    assert!(
        accepted > proposed / 10 && accepted < proposed * 9 / 10,
        "{accepted} of {proposed}: no test of both"
    );
}

/// A model whose next token depends on the last one alone.
struct Markov([[f32; 4]; 4]);

impl CausalLm for Markov {
    type Cache = Vec<u32>;

    fn new_cache(&self, _: &[usize]) -> Result<Vec<u32>> {
        Ok(Vec::new())
    }

    fn forward(&self, ids: &Tensor, cache: &mut Vec<u32>) -> Result<Tensor> {
        let all = self.forward_all(ids, cache)?;
        Ok(all.narrow(1, all.dim(1)? - 1, 1)?.squeeze(1)?)
    }

    fn forward_all(&self, ids: &Tensor, cache: &mut Vec<u32>) -> Result<Tensor> {
        let ids = ids.flatten_all()?.to_vec1::<u32>()?;
        let logits: Vec<f32> = ids.iter().flat_map(|&id| self.0[id as usize].map(f32::ln)).collect();
        cache.extend(&ids);
        Ok(Tensor::from_vec(logits, (1, ids.len(), 4), &Device::Cpu)?)
    }

    fn truncate(&self, cache: &mut Vec<u32>, len: usize) {
        cache.truncate(len);
    }

    fn keep_rows(&self, _: &mut Vec<u32>, _: &[usize]) -> Result<()> {
        Ok(())
    }

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn vocab_size(&self) -> usize {
        4
    }

    fn max_positions(&self) -> usize {
        64
    }
}

#[test]
fn sampled_answers_have_the_model_s_distribution() {
    let p = [[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.4, 0.1], [0.02, 0.9, 0.04, 0.04]];
    let q = [[0.4, 0.3, 0.2, 0.1], [0.1, 0.7, 0.1, 0.1], [0.25, 0.25, 0.4, 0.1], [0.3, 0.1, 0.3, 0.3]];
    let (_, tokenizer) = embedded(DType::F32);
    let model = Markov(p);
    let mut draft = Draft::new(Markov(q), 3).unwrap();
    let runs = 20_000;
    let mut seen: BTreeMap<Vec<u32>, f64> = BTreeMap::new();
    for seed in 0..runs {
        let sampler = SamplerConfig { temperature: 1.0, seed: Some(seed), ..Default::default() };
        let options = GenerateOptions { max_tokens: Some(3), sampler, ..Default::default() };
        let mut cache = PromptCache::new();
        let got =
            generate_speculative(&model, &mut draft, &tokenizer, &[0], &mut cache, &options, go_on).unwrap();
        for (token, (logprob, before)) in
            got.tokens.iter().zip(got.logprobs.iter().zip([0].iter().chain(&got.tokens)))
        {
            assert!((logprob - p[*before as usize][*token as usize].ln()).abs() < 1e-5);
        }
        *seen.entry(got.tokens).or_default() += 1.0;
    }
    let mut chi2 = 0.0;
    for cell in 0..64u32 {
        let [a, b, c] = [cell / 16, cell / 4 % 4, cell % 4];
        let wanted = [(0, a), (a, b), (b, c)].into_iter().map(|(x, y)| f64::from(p[x as usize][y as usize]));
        let wanted = wanted.product::<f64>() * runs as f64;
        let got = seen.get(&vec![a, b, c]).copied().unwrap_or(0.0);
        chi2 += (got - wanted).powi(2) / wanted;
    }
    // 63 degrees of freedom: 63 ± 11.2. Taking the draft's distribution, or skipping the rejection, gives thousands.
    assert!(chi2 < 63.0 + 4.0 * 11.2, "chi squared is {chi2}");
}

#[test]
fn the_draft_reads_the_prompt_before_the_answer_and_can_be_stopped() {
    let (model, tokenizer) = embedded(DType::F32);
    let prompt = prompts(&tokenizer).concat().repeat(2);
    let options = GenerateOptions { max_tokens: Some(4), prefill_chunk: 16, ..Default::default() };
    let parts = prompt.len().div_ceil(16);
    for stop in [parts + 1, usize::MAX] {
        let mut draft = Draft::new(embedded(DType::F32).0, 2).unwrap();
        let (mut seen, mut cache) = (0, PromptCache::new());
        let on_event = |event: Event| {
            if let Event::Prefill { done, total } = event {
                seen += 1;
                assert!(done == total || seen < parts);
            }
            if seen == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let got =
            generate_speculative(&model, &mut draft, &tokenizer, &prompt, &mut cache, &options, on_event);
        assert_eq!((got.unwrap().tokens.is_empty(), seen), (stop == parts + 1, stop.min(2 * parts)));
    }
}

#[test]
fn a_draft_with_other_tokens_is_refused_by_name() {
    let (_, tokenizer) = embedded(DType::F32);
    let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama");
    let other = Tokenizer::open(&other).unwrap();
    Draft::<Model>::check(&tokenizer, &tokenizer).unwrap();
    let error = Draft::<Model>::check(&other, &tokenizer).unwrap_err().to_string();
    assert!(error.starts_with("draft model: wants the model's vocabulary, token 0 being"), "{error}");
    assert!(Draft::new(Markov([[0.25; 4]; 4]), 0).is_err());
}

#[test]
fn a_cache_that_is_kept_reads_only_what_is_new() {
    let (model, tokenizer) = embedded(DType::F32);
    let options = GenerateOptions { max_tokens: Some(12), prefill_chunk: 16, ..Default::default() };
    let mut cache = PromptCache::new();
    let mut prompt = prompts(&tokenizer)[0].clone();
    for turn in 0..3 {
        let mut read = 0;
        let got = generate_cached(&model, &tokenizer, &prompt, &mut cache, &options, |event| {
            if let Event::Prefill { done, .. } = event {
                read = done;
            }
            ControlFlow::Continue(())
        });
        let got = got.unwrap();
        let plain = generate(&model, &tokenizer, &prompt, &options, go_on).unwrap();
        assert_eq!(got.tokens, plain.tokens, "turn {turn}");
        assert_eq!((read, got.prompt_tokens), (prompt.len(), prompt.len()));
        // All but the last token of the answer before and the new question.
        let new = if turn == 0 { prompt.len() } else { 1 + prompts(&tokenizer)[turn].len() };
        assert_eq!(got.prompt_tokens - got.cached_tokens, new, "turn {turn}");
        prompt.extend(&got.tokens);
        prompt.extend(&prompts(&tokenizer)[turn + 1]);
    }
    // A prompt that was read already needs its last token again; one that differs early is read from there.
    let again = generate_cached(&model, &tokenizer, &prompt[..30], &mut cache, &options, go_on).unwrap();
    assert_eq!(again.cached_tokens, 29);
    let mut other = prompt.clone();
    other[5] ^= 1;
    let got = generate_cached(&model, &tokenizer, &other, &mut cache, &options, go_on).unwrap();
    assert_eq!(got.cached_tokens, 5);
    assert_eq!(got.tokens, generate(&model, &tokenizer, &other, &options, go_on).unwrap().tokens);
}
