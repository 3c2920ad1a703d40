//! The logits of one pass, and the tokens that they choose: on the GPU that has them, or on the host.

use candle_core::{DType, Tensor};

use super::row::Row;
use super::sampler::Sampled;
use crate::ops::sample::{Choice, Pending, begin};
use crate::{Error, Result};

/// The logits of some rows.
pub(super) enum Logits {
    /// As numbers.
    Host(Vec<Vec<f32>>),
    /// On a GPU, with what it has chosen; none for a row that is left to the host.
    Gpu(Tensor, Vec<Option<Sampled>>),
}

impl Logits {
    /// The logits (rows, vocabulary) of these rows, which are waited for. A GPU chooses for all rows in one launch, and
    /// only its choices are read.
    pub fn read(logits: &Tensor, rows: &mut [&mut Row<'_>]) -> Result<Self> {
        Self::begin(logits, rows)?.wait()
    }

    /// As [`Logits::read`], without waiting.
    pub fn begin(logits: &Tensor, rows: &mut [&mut Row<'_>]) -> Result<Reading> {
        match logits.dims() {
            &[n, vocab] if n == rows.len() && vocab > 0 => {}
            got => {
                let wants = format!("shape [{}, vocabulary]", rows.len());
                return Err(Error::wants("logits", wants, format!("{got:?}")));
            }
        }
        let logits = logits.to_dtype(DType::F32)?;
        let choices: Vec<Option<Choice>> = rows.iter_mut().map(|row| row.choice()).collect();
        if choices.iter().any(Option::is_some) {
            // What is chosen for a row that the host chooses for is not used.
            let all: Vec<Choice> = choices.iter().map(|choice| choice.unwrap_or(Choice::greedy())).collect();
            if let Some(pending) = begin(&logits, &all)? {
                return Ok(Reading::Gpu { logits, choices, pending });
            }
        }
        Ok(Reading::Host(logits))
    }

    /// Chooses the next token of `row`, the `i`-th; the text that became certain.
    pub fn step(&self, i: usize, row: &mut Row<'_>) -> Result<String> {
        match self {
            Logits::Host(all) => row.step(&all[i]),
            Logits::Gpu(logits, chosen) => match chosen[i] {
                Some(token) => row.take(token),
                None => row.step(&logits.get(i)?.to_vec1::<f32>()?),
            },
        }
    }
}

/// Logits that the device may still be computing.
pub(super) enum Reading {
    /// For the host to choose by.
    Host(Tensor),
    /// A GPU chooses.
    Gpu {
        /// The logits.
        logits: Tensor,
        /// How each row's token is chosen; none where the host chooses.
        choices: Vec<Option<Choice>>,
        /// What is chosen.
        pending: Pending,
    },
}

impl Reading {
    /// The ids (rows, 1) that follow, where the device that chooses all of them has them before the host.
    pub fn ids(&self) -> Result<Option<Tensor>> {
        match self {
            Reading::Gpu { choices, pending, .. } if choices.iter().all(Option::is_some) => {
                Ok(pending.ids()?)
            }
            _ => Ok(None),
        }
    }

    /// What is there after the device has done its work.
    pub fn wait(self) -> Result<Logits> {
        match self {
            Reading::Host(logits) => Ok(Logits::Host(logits.to_vec2()?)),
            Reading::Gpu { logits, choices, pending } => {
                let of = |(choice, token): (&Option<Choice>, Option<(u32, f32)>)| {
                    let (id, logprob) = token.filter(|_| choice.is_some())?;
                    Some(Sampled { id, logprob })
                };
                let chosen = choices.iter().zip(pending.wait()?).map(of).collect();
                Ok(Logits::Gpu(logits, chosen))
            }
        }
    }
}

impl Logits {
    /// Whether a GPU has chosen for every row.
    pub fn chosen(&self) -> bool {
        matches!(self, Logits::Gpu(_, chosen) if chosen.iter().all(Option::is_some))
    }
}
