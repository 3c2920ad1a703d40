//! The next token from the logits: penalties, temperature, top-k, top-p, min-p, and a seeded draw.
//!
//! The processors are those of `transformers`, in its order:
//!
//! ```text
//! repetition penalty -> frequency, presence -> temperature -> top-k -> top-p -> min-p -> draw
//! ```
//!
//! Frequency and presence penalties, which `transformers` lacks, are OpenAI's, placed where vLLM places them.
//! The log-probability that is reported is the log-softmax of the model's *raw* logits, before any processor.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::ops::sample::Choice;
use crate::{Error, Result};

/// How tokens are chosen. The default is greedy, with every processor off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplerConfig {
    /// Divides the logits; 0 takes the most likely token (after the penalties) and draws nothing.
    pub temperature: f32,
    /// Keeps the k most likely tokens, and those tied with the last of them; 0 is off.
    pub top_k: usize,
    /// Keeps the smallest set of most likely tokens whose probability reaches p; 1 is off.
    pub top_p: f32,
    /// Drops tokens less likely than this share of the most likely one; 0 is off.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens of the prompt and the answer; 1 is off.
    pub repetition_penalty: f32,
    /// Looks only at this many last tokens for the repetition penalty (as mlx-lm); none looks at all of them.
    pub repetition_context_size: Option<usize>,
    /// Subtracted once from the logit of each token that has been generated; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit for each time it has been generated; 0 is off.
    pub frequency_penalty: f32,
    /// The same seed gives the same tokens; none draws a seed, see [`Sampler::seed`].
    pub seed: Option<u64>,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_context_size: None,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
        }
    }
}

impl SamplerConfig {
    /// Refuses values that have no meaning, naming the field.
    pub fn validate(&self) -> Result<()> {
        let check = |ok: bool, field: &str, wants: &str, got: f32| {
            if ok { Ok(()) } else { Err(Error::wants(field, wants, got.to_string())) }
        };
        let finite = |x: f32, field: &str| check(x.is_finite(), field, "a finite number", x);
        let share = |x: f32, field: &str| check((0.0..=1.0).contains(&x), field, "a number from 0 to 1", x);
        let t = self.temperature;
        check(t.is_finite() && t >= 0.0, "temperature", "0 (greedy) or a positive number", t)?;
        share(self.top_p, "top_p")?;
        share(self.min_p, "min_p")?;
        let r = self.repetition_penalty;
        check(r.is_finite() && r > 0.0, "repetition_penalty", "a positive number", r)?;
        finite(self.presence_penalty, "presence_penalty")?;
        finite(self.frequency_penalty, "frequency_penalty")
    }

    fn changes_order(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// A token that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    /// The token's id.
    pub id: u32,
    /// Its natural log-probability under the raw logits.
    pub logprob: f32,
}

/// Chooses tokens; holds the random state of one sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    config: SamplerConfig,
    seed: u64,
    rng: ChaCha8Rng,
    /// What a GPU was to draw with, if it has left the choice to the host.
    drawn: Option<f64>,
    scores: Vec<f32>,
}

impl Sampler {
    /// A sampler at the start of its random stream; an error names a setting that has no meaning.
    pub fn new(config: SamplerConfig) -> Result<Self> {
        config.validate()?;
        // A drawn seed stays below 2^32: short enough to be typed again.
        let seed = config.seed.unwrap_or_else(|| rand::rng().random::<u32>().into());
        Ok(Self { config, seed, rng: ChaCha8Rng::seed_from_u64(seed), drawn: None, scores: Vec::new() })
    }

    /// The seed in use: the one that was configured, or the one that was drawn.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Chooses the token that follows `tokens`, the prompt (`prompt_len` tokens) and what was generated since.
    ///
    /// `logits` has one value for each token of the vocabulary. NaN, +inf, or no possible token is an error.
    pub fn sample(&mut self, logits: &[f32], tokens: &[u32], prompt_len: usize) -> Result<Sampled> {
        let norm = log_sum_exp(logits)?;
        let id = if self.config.temperature == 0.0 {
            self.greedy(logits, tokens, prompt_len)
        } else {
            let kept = self.candidates(logits, tokens, prompt_len);
            self.draw(&kept)
        };
        Ok(Sampled { id, logprob: (logits[id as usize] as f64 - norm) as f32 })
    }

    /// The distribution that [`Sampler::sample`] draws from: the tokens left and their probabilities, by id.
    pub fn distribution(
        &mut self,
        logits: &[f32],
        tokens: &[u32],
        prompt_len: usize,
    ) -> Result<Vec<(u32, f32)>> {
        log_sum_exp(logits)?;
        if self.config.temperature == 0.0 {
            return Ok(vec![(self.greedy(logits, tokens, prompt_len), 1.0)]);
        }
        let kept = self.candidates(logits, tokens, prompt_len);
        let (weights, total) = weights(&kept);
        Ok(kept.iter().zip(weights).map(|(c, w)| (c.id, (w / total) as f32)).collect())
    }

    /// Whether the most likely token is taken and nothing drawn.
    pub(super) fn is_greedy(&self) -> bool {
        self.config.temperature == 0.0
    }

    /// A number from 0 to 1, 1 excluded.
    pub(super) fn uniform(&mut self) -> f64 {
        self.rng.random()
    }

    /// How a GPU is to choose the next token, with the number that this sampler would draw; none if there are penalties,
    /// which the host applies. After it comes [`Sampler::took`], or [`Sampler::sample`], which then draws with the same.
    pub(super) fn choice(&mut self) -> Option<Choice> {
        let c = &self.config;
        if c.changes_order() {
            return None;
        }
        let (temperature, top_k, top_p, min_p) = (c.temperature, c.top_k, c.top_p, c.min_p);
        if temperature == 0.0 {
            return Some(Choice::greedy());
        }
        let uniform = self.next_uniform();
        self.drawn = Some(uniform);
        Some(Choice::draw(temperature, top_k, top_p, min_p, uniform))
    }

    /// A GPU has made the choice.
    pub(super) fn took(&mut self) {
        self.drawn = None;
    }

    fn next_uniform(&mut self) -> f64 {
        self.drawn.take().unwrap_or_else(|| self.rng.random())
    }

    /// Draws from weights that need not add up to 1; none if they are all zero.
    pub(super) fn draw_from(&mut self, weights: &[(u32, f64)]) -> Option<u32> {
        let mut left = self.uniform() * weights.iter().map(|(_, w)| w).sum::<f64>();
        for &(id, weight) in weights {
            left -= weight;
            if left < 0.0 {
                return Some(id);
            }
        }
        // Rounding can leave a crumb.
        weights.iter().rev().find(|(_, weight)| *weight > 0.0).map(|(id, _)| *id)
    }

    fn greedy(&mut self, logits: &[f32], tokens: &[u32], prompt_len: usize) -> u32 {
        if !self.config.changes_order() {
            return argmax(logits);
        }
        self.penalise(logits, tokens, prompt_len);
        argmax(&self.scores)
    }

    /// Copies the logits into `scores` and applies the penalties there.
    fn penalise(&mut self, logits: &[f32], tokens: &[u32], prompt_len: usize) {
        let c = &self.config;
        let scores = &mut self.scores;
        scores.clear();
        scores.extend_from_slice(logits);
        if c.repetition_penalty != 1.0 {
            let size = c.repetition_context_size.unwrap_or(tokens.len()).min(tokens.len());
            for (id, _) in occurrences(&tokens[tokens.len() - size..]) {
                if let Some(s) = scores.get_mut(id as usize) {
                    *s = if *s < 0.0 { *s * c.repetition_penalty } else { *s / c.repetition_penalty };
                }
            }
        }
        if c.presence_penalty != 0.0 || c.frequency_penalty != 0.0 {
            for (id, count) in occurrences(&tokens[prompt_len.min(tokens.len())..]) {
                if let Some(s) = scores.get_mut(id as usize) {
                    *s -= c.frequency_penalty * count as f32 + c.presence_penalty;
                }
            }
        }
    }

    /// The tokens that pass the filters with their scaled scores, by id; never empty.
    fn candidates(&mut self, logits: &[f32], tokens: &[u32], prompt_len: usize) -> Vec<Candidate> {
        self.penalise(logits, tokens, prompt_len);
        let (t, shift) = (self.config.temperature, max(&self.scores));
        // Shifting by the maximum first keeps a tiny temperature from overflowing to +inf.
        let scaled = self.scores.iter().enumerate().map(|(id, &s)| Candidate {
            id: id as u32,
            score: if s == shift { 0.0 } else { (s - shift) / t },
        });
        let mut kept: Vec<Candidate> = scaled.filter(|c| c.score > f32::NEG_INFINITY).collect();
        keep_top_k(&mut kept, self.config.top_k);
        keep_top_p(&mut kept, self.config.top_p);
        keep_min_p(&mut kept, self.config.min_p);
        kept
    }

    fn draw(&mut self, kept: &[Candidate]) -> u32 {
        let (weights, total) = weights(kept);
        let mut left = self.next_uniform() * total;
        for (c, w) in kept.iter().zip(&weights) {
            left -= w;
            if left < 0.0 {
                return c.id;
            }
        }
        // Rounding can leave a crumb: the most likely token takes it.
        kept.iter().fold(kept[0], |best, &c| if c.score > best.score { c } else { best }).id
    }
}

/// The `n` most likely tokens under the raw logits, most likely first, with their log-probabilities.
pub fn top_logprobs(logits: &[f32], n: usize) -> Result<Vec<Sampled>> {
    let norm = log_sum_exp(logits)?;
    let mut top: Vec<Candidate> =
        logits.iter().enumerate().map(|(id, &score)| Candidate { id: id as u32, score }).collect();
    let n = n.min(top.len());
    if n == 0 {
        return Ok(Vec::new());
    }
    top.select_nth_unstable_by(n - 1, Candidate::likelier);
    top.truncate(n);
    top.sort_unstable_by(Candidate::likelier);
    Ok(top.iter().map(|c| Sampled { id: c.id, logprob: (c.score as f64 - norm) as f32 }).collect())
}

/// The log-probability of a token under the raw logits.
pub(super) fn logprob(logits: &[f32], id: u32) -> Result<f32> {
    Ok((logits[id as usize] as f64 - log_sum_exp(logits)?) as f32)
}

/// A token that may be drawn; its score is a logit, shifted so that the largest is 0.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    score: f32,
}

impl Candidate {
    /// Orders the likelier first and equals by id: a total order, so that no choice depends on a sort's whim.
    fn likelier(&self, other: &Self) -> std::cmp::Ordering {
        other.score.total_cmp(&self.score).then(self.id.cmp(&other.id))
    }
}

fn keep_top_k(kept: &mut Vec<Candidate>, k: usize) {
    if k == 0 || k >= kept.len() {
        return;
    }
    let mut scores: Vec<f32> = kept.iter().map(|c| c.score).collect();
    let (_, &mut threshold, _) = scores.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    kept.retain(|c| c.score >= threshold);
}

/// Keeps a token while the probability of all likelier ones is below `p`; the likeliest is always kept.
fn keep_top_p(kept: &mut Vec<Candidate>, p: f32) {
    if p >= 1.0 {
        return;
    }
    let (_, total) = weights(kept);
    let mut order = kept.clone();
    let (mut above, mut sorted, mut last) = (0.0, 0, order[0]);
    // The head of the distribution is nearly always enough: sort it, and four times more when it is not.
    'out: for head in std::iter::successors(Some(64usize), |n| Some(n * 4)) {
        let end = (sorted + head).min(order.len());
        let rest = &mut order[sorted..];
        if end - sorted < rest.len() {
            rest.select_nth_unstable_by(end - sorted, Candidate::likelier);
        }
        order[sorted..end].sort_unstable_by(Candidate::likelier);
        for (i, c) in order[sorted..end].iter().enumerate() {
            if above / total >= p as f64 && sorted + i > 0 {
                break 'out;
            }
            above += (c.score as f64).exp();
            last = *c;
        }
        sorted = end;
        if sorted == order.len() {
            break;
        }
    }
    kept.retain(|c| c.likelier(&last).is_le());
}

fn keep_min_p(kept: &mut Vec<Candidate>, min_p: f32) {
    // The likeliest token is never filtered and has score 0: its weight is 1.
    if min_p > 0.0 {
        kept.retain(|c| c.score.exp() >= min_p);
    }
}

/// The unnormalised probabilities of the candidates and their sum.
fn weights(kept: &[Candidate]) -> (Vec<f64>, f64) {
    let weights: Vec<f64> = kept.iter().map(|c| (c.score as f64).exp()).collect();
    let total = weights.iter().sum();
    (weights, total)
}

/// Each token of the slice once, with how often it occurs.
fn occurrences(tokens: &[u32]) -> Vec<(u32, usize)> {
    let mut sorted = tokens.to_vec();
    sorted.sort_unstable();
    sorted.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect()
}

fn max(scores: &[f32]) -> f32 {
    scores.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The first of the largest values.
fn argmax(scores: &[f32]) -> u32 {
    let best = max(scores);
    scores.iter().position(|&s| s == best).unwrap_or(0) as u32
}

/// log Σ exp(logits), after a check that they describe a distribution.
fn log_sum_exp(logits: &[f32]) -> Result<f64> {
    if let Some(id) = logits.iter().position(|x| x.is_nan() || *x == f32::INFINITY) {
        let bad = logits.iter().filter(|x| x.is_nan() || **x == f32::INFINITY).count();
        return Err(Error::wants(
            "logits",
            "finite numbers",
            format!("{} for token {id} ({bad} of {} values)", logits[id], logits.len()),
        ));
    }
    let max = max(logits);
    if max == f32::NEG_INFINITY {
        let got = format!("-inf for all {}", logits.len());
        return Err(Error::wants("logits", "at least one possible token", got));
    }
    let sum: f64 = logits.iter().map(|&x| (x - max).exp() as f64).sum();
    Ok(max as f64 + sum.ln())
}

#[cfg(test)]
mod tests;
