//! The decoder: tokens to vectors, layers, a norm, and the head's logits.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::context::Positions;
use super::{Config, Context, Layer};
use crate::load::ModelDir;
use crate::nn::{Embedding, KvCache, Pass, RmsNorm, Rope};
use crate::ops::{self, Keys};

/// A decoder with its weights.
#[derive(Debug)]
pub struct Model {
    /// What it is made of.
    pub config: Config,
    pub(super) embed_tokens: Embedding,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: RmsNorm,
    pub(super) lm_head: Option<Tensor>,
    pub(super) ropes: Vec<Rope>,
    pub(super) dtype: DType,
    pub(super) device: Device,
    /// The weights that an adapter's stand in place of, by name; the adapter's own while it is switched off.
    pub(super) replaced: BTreeMap<String, Tensor>,
    pub(super) adapter_off: bool,
    /// Set when the kernels of a first pass have been compiled.
    #[cfg(feature = "cuda")]
    pub(super) compiled: std::sync::OnceLock<()>,
}

impl Model {
    /// Loads a model: its `config.json` and safetensors weights, computing in `dtype`.
    ///
    /// # Errors
    ///
    /// As [`Config::open`], [`ModelDir::weights`] and [`Model::load`].
    pub fn open(dir: &ModelDir, dtype: DType, device: &Device) -> crate::Result<Self> {
        Self::load(&Config::open(dir)?, &dir.weights()?, dtype, device)
    }

    /// [`Model::open`] of a directory.
    ///
    /// # Errors
    ///
    /// As [`Model::open`].
    pub fn from_dir(dir: &Path, dtype: DType, device: &Device) -> crate::Result<Self> {
        Self::open(&ModelDir::at(dir), dtype, device)
    }

    /// The type that is computed in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// An empty cache for rows that begin at the indices `starts`: row `i` is padded on the left with
    /// `starts[i]` tokens.
    pub fn cache(&self, starts: &[usize]) -> KvCache {
        KvCache::new(self.layers.len(), starts)
    }

    /// The logits of the last position, for tokens that follow those in `cache`.
    ///
    /// # Shapes
    ///
    /// `input_ids` is (B, T), u32; the result is (B, V), f32.
    ///
    /// # Errors
    ///
    /// When there is no token, an id on the CPU is outside the vocabulary, or the cache is of another batch or model.
    /// The cache then holds what it held before. Ids on a GPU are not read back: one outside the vocabulary gives NaN.
    pub fn forward(&self, input_ids: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        self.check(input_ids)?;
        #[cfg(feature = "cuda")]
        self.compile_ahead(input_ids);
        #[cfg(feature = "cuda")]
        if let Some(logits) = self.replayed(input_ids, cache)? {
            return Ok(logits);
        }
        ops::in_pool(|| {
            let x = self.read(input_ids, cache)?;
            let last = x.dim(1)? - 1;
            let x = self.final_norm(&x.narrow(1, last, 1)?.squeeze(1)?, Pass::default())?;
            self.project(&x)
        })
    }

    /// As [`Model::forward`], with the logits of every one of the tokens: (B, T, V), f32.
    ///
    /// On the CPU up to four tokens of one row get, to the last bit, what [`Model::forward`] gives for one after the
    /// other.
    ///
    /// # Errors
    ///
    /// As [`Model::forward`], with the same said of ids on a GPU.
    pub fn forward_all(&self, input_ids: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        self.check(input_ids)?;
        ops::in_pool(|| {
            let x = self.read(input_ids, cache)?;
            let x = x.narrow(1, x.dim(1)? - input_ids.dim(1)?, input_ids.dim(1)?)?;
            self.project(&self.final_norm(&x.contiguous()?, Pass::default())?)
        })
    }

    /// The logits of every position of a batch, without gradients.
    ///
    /// # Shapes
    ///
    /// `input_ids` is (B, T), u32; the result is (B, T, V), f32.
    ///
    /// # Errors
    ///
    /// When there is no token, an id on the CPU is outside the vocabulary, or `keys` is of another batch. Ids on a GPU
    /// are not read back: one outside the vocabulary gives NaN.
    pub fn logits(&self, input_ids: &Tensor, keys: Keys) -> Result<Tensor> {
        let (rows, len) = self.check(input_ids)?;
        let context = self.context(rows, len, keys, Pass::default())?;
        self.project(&self.hidden(input_ids, &context)?)
    }

    /// What the layers need to know of a batch of (`rows`, `len`) tokens. A token's position is its distance
    /// from the first key of its row or document.
    ///
    /// # Errors
    ///
    /// When `keys` is of another batch.
    pub fn context(&self, rows: usize, len: usize, keys: Keys, pass: Pass) -> Result<Context> {
        let positions = Positions::new(rows, 0, len, &keys)?;
        let rotations = self.ropes.iter().map(|rope| positions.rotation(rope)).collect::<Result<_>>()?;
        Ok(Context { rotations, keys, pass })
    }

    /// The vectors that the head sees: embedding, layers and the final norm.
    ///
    /// # Shapes
    ///
    /// `input_ids` is (B, T), u32; the result is (B, T, hidden).
    ///
    /// # Errors
    ///
    /// When an id on the CPU is outside the vocabulary, or the context is of another batch. Ids on a GPU are not read
    /// back: one outside the vocabulary gives NaN.
    pub fn hidden(&self, input_ids: &Tensor, context: &Context) -> Result<Tensor> {
        let mut x = self.embed(input_ids, context.pass)?;
        for layer in &self.layers {
            x = layer.forward(&x, context)?;
        }
        self.final_norm(&x, context.pass)
    }

    /// The vectors of the tokens: what the first layer sees.
    ///
    /// # Errors
    ///
    /// When an id on the CPU is outside the vocabulary. Ids on a GPU are not read back: one outside gives a row of NaN.
    pub fn embed(&self, input_ids: &Tensor, pass: Pass) -> Result<Tensor> {
        self.embed_tokens.forward(input_ids, self.dtype, pass)
    }

    /// The layers, from the first to the last.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Normalizes what the last layer gives: what the head sees.
    ///
    /// # Errors
    ///
    /// When the last dimension of `x` is not the model's.
    pub fn final_norm(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        self.norm.forward(x, pass)
    }

    /// The head (V, hidden): the embedding's table if the two are tied.
    pub fn head(&self) -> &Tensor {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens.weight)
    }

    pub(super) fn project(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear(x, &self.head().detach(), None)?.to_dtype(DType::F32)
    }

    fn check(&self, input_ids: &Tensor) -> Result<(usize, usize)> {
        match input_ids.dims() {
            &[rows, len] if rows > 0 && len > 0 => Ok((rows, len)),
            dims => bail!("input_ids: wants shape (rows, tokens) with at least one token, got {dims:?}"),
        }
    }

    /// Refuses a cache of another batch or model.
    pub(super) fn check_cache(&self, rows: usize, cache: &mut KvCache) -> Result<()> {
        if cache.starts().len() != rows || cache.layers_mut().len() != self.layers.len() {
            bail!(
                "kv cache: wants {rows} rows and {} layers, got {} and {}",
                self.layers.len(),
                cache.starts().len(),
                cache.layers_mut().len()
            )
        }
        Ok(())
    }

    /// Runs the layers on tokens that follow those in `cache`, and adds theirs to it.
    pub(super) fn read(&self, input_ids: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        let (rows, len) = input_ids.dims2()?;
        self.check_cache(rows, cache)?;
        let at = cache.len();
        let end = at + len;
        let keys = match cache.starts().iter().any(|&start| start > 0) {
            true => {
                Keys::Rows(cache.starts().iter().map(|&start| (start.min(end) as u32, end as u32)).collect())
            }
            false => Keys::All,
        };
        let positions = Positions::new(rows, at, len, &keys)?;
        if self.config.ropes.iter().any(|rope| rope.has_regimes()) {
            let regime = self.config.ropes.iter().map(|rope| rope.regime(positions.total)).sum();
            if regime != cache.regime && at > 0 {
                return self.read_again(input_ids, cache, regime);
            }
            cache.regime = regime;
        }
        let pass = Pass::default();
        let rotations = self.ropes.iter().map(|rope| positions.rotation(rope)).collect::<Result<_>>()?;
        let context = Context { rotations, keys, pass };
        let mut x = self.embed(input_ids, pass)?;
        for (layer, cache) in self.layers.iter().zip(cache.layers_mut()) {
            x = layer.forward_cached(&x, &context, cache, at)?;
        }
        if self.config.ropes.iter().any(|rope| rope.has_regimes()) {
            for (row, ids) in cache.tokens.iter_mut().zip(input_ids.to_vec2::<u32>()?) {
                row.extend(ids);
            }
        }
        cache.advance(len);
        Ok(x)
    }

    /// Reads all tokens anew: with these the sequence comes to other frequencies than its keys were rotated with.
    fn read_again(&self, input_ids: &Tensor, cache: &mut KvCache, regime: usize) -> Result<Tensor> {
        let before =
            Tensor::from_vec(cache.tokens.concat(), (cache.starts().len(), cache.len()), input_ids.device())?;
        let all = Tensor::cat(&[&before, input_ids], 1)?;
        cache.truncate(0);
        cache.regime = regime;
        self.read(&all, cache)
    }
}
