//! The choice of the next token on a GPU: one launch for a batch of rows, 8 bytes a row read back.

use crate::kernels::Held;
use crate::kernels::gpu::{self, Buffer, Launch, Unit, unit};
use bytemuck::NoUninit;
use candle_core::{DType, Result, Tensor, bail};

static UNIT: Unit = unit!("sample.h");

const NAME: &str = "sample";

/// Threads for a row.
const THREADS: usize = 1024;

/// `HOST` of `sample.h`.
const HOST: u32 = u32::MAX;

/// How a row's token is chosen: `Choice` of `sample.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, NoUninit)]
#[repr(C)]
pub struct Choice {
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
    /// From 0 to 1, 1 excluded: what is drawn with.
    pub uniform: f32,
    /// 0 is off.
    pub top_k: u32,
    unused: [u32; 3],
}

impl Choice {
    /// A choice of the likeliest token.
    pub fn greedy() -> Self {
        Choice { top_p: 1.0, ..Choice::default() }
    }

    /// A draw by `uniform`; `top_k` of 0, `top_p` of 1 and `min_p` of 0 are off.
    pub fn draw(temperature: f32, top_k: usize, top_p: f32, min_p: f32, uniform: f64) -> Self {
        // Rounded to f32, a number just below 1 would be 1.
        let uniform = (uniform as f32).min(1.0 - f32::EPSILON / 2.0);
        let top_k = u32::try_from(top_k).unwrap_or(0);
        Choice { temperature, top_p, min_p, uniform, top_k, unused: [0; 3] }
    }
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Params {
    vocab: u32,
    rows: u32,
}

/// A token and its log-probability; none for a row that is left to the host.
pub type Chosen = Option<(u32, f32)>;

/// Chooses a token for each row of `logits` (rows, vocabulary), `f32`: its id and its log-probability under the logits.
/// None if the logits are on the CPU. A row is left to the host if its logits are not finite, or if more tokens than a
/// few thousand compete in top-k or top-p.
///
/// # Errors
///
/// When there is not a choice for each row.
pub fn sample(logits: &Tensor, choices: &[Choice]) -> Result<Option<Vec<Chosen>>> {
    begin(logits, choices)?.map(Pending::wait).transpose()
}

/// A choice that a GPU makes.
pub(crate) struct Pending {
    /// Ids, then bits of log-probabilities.
    words: Tensor,
    #[cfg(feature = "cuda")]
    reading: Option<crate::kernels::cuda::readback::Readback>,
}

impl Pending {
    /// The ids (rows, 1) where they are, which is before the host knows them; none where it must know them first. A row
    /// that is left to the host has its likeliest token.
    pub fn ids(&self) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        let early = self.reading.is_some();
        // Not early, but as a GPU that reads back would have it: for tests.
        #[cfg(not(feature = "cuda"))]
        let early = cfg!(feature = "host") && self.words.device().is_cpu();
        if early {
            let rows = self.words.elem_count() / 2;
            return self.words.narrow(0, 0, rows)?.reshape((rows, 1)).map(Some);
        }
        Ok(None)
    }

    /// The tokens, which are waited for.
    pub fn wait(self) -> Result<Vec<Chosen>> {
        #[cfg(feature = "cuda")]
        let words = match self.reading {
            Some(reading) => reading.wait()?,
            None => self.words.to_vec1::<u32>()?,
        };
        #[cfg(not(feature = "cuda"))]
        let words = self.words.to_vec1::<u32>()?;
        let (ids, logprobs) = words.split_at(words.len() / 2);
        let token = |(id, bits): (&u32, &u32)| (*bits != HOST).then(|| (*id, f32::from_bits(*bits)));
        Ok(ids.iter().zip(logprobs).map(token).collect())
    }
}

/// As [`sample`], without waiting for the choice.
///
/// # Errors
///
/// As [`sample`].
pub(crate) fn begin(logits: &Tensor, choices: &[Choice]) -> Result<Option<Pending>> {
    let (rows, vocab) = logits.dims2()?;
    if rows != choices.len() || logits.dtype() != DType::F32 || vocab >= 1 << 24 {
        bail!("{NAME}: wants {} rows of f32, got {rows} of {vocab} {:?}", choices.len(), logits.dtype())
    }
    let logits = logits.contiguous()?;
    let words = gpu::on(&logits, |gpu| {
        let words: &[u32] = bytemuck::cast_slice(choices);
        let choices = Tensor::from_slice(words, words.len(), logits.device())?;
        let (held, choices) = (Held::new(&logits), Held::new(&choices));
        let (x, choices) = (held.input(NAME), choices.input(NAME));
        let packed = vocab % 4 == 0 && x.start_offset() % 4 == 0;
        let mut out = Buffer::new(gpu, 2 * rows, DType::U32)?;
        let launch = Launch {
            unit: &UNIT,
            entry: "sample",
            types: &[],
            defines: &[("PACKED", packed as i64)],
            groups: [rows, 1, 1],
            threads: THREADS,
            shared: 0,
        };
        let params = Params { vocab: vocab as u32, rows: rows as u32 };
        gpu.launch(&launch, &mut [x.into(), choices.into(), (&mut out).into()], &params)?;
        Ok(out.tensor())
    });
    let Some(words) = words.transpose()? else { return Ok(None) };
    #[cfg(feature = "cuda")]
    let reading = match words.device() {
        candle_core::Device::Cuda(device) => {
            Some(crate::kernels::cuda::readback::Readback::begin(device, &words)?)
        }
        _ => None,
    };
    Ok(Some(Pending {
        words,
        #[cfg(feature = "cuda")]
        reading,
    }))
}
