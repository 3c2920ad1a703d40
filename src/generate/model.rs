//! What generation needs of a model.

use candle_core::{Device, Tensor};

use crate::Result;
use crate::models::Model;
use crate::nn::KvCache;

/// What generation needs of a model: the logits that follow a chunk of tokens, with a cache of those before it.
///
/// Rows of a batch are padded on the left: row `i` begins at index `starts[i]` of the batch, what stands before is
/// never attended to, and a token at index `j` has position `j - starts[i]`.
pub trait CausalLm {
    /// The keys and values of the tokens seen so far.
    type Cache;

    /// An empty cache for `starts.len()` rows.
    fn new_cache(&self, starts: &[usize]) -> Result<Self::Cache>;

    /// Reads `ids` (rows, tokens; u32), which follow what `cache` holds, and gives the logits (rows, vocabulary)
    /// of the last position. A chunk may lie wholly in the padding of a row; that row's logits are then not used.
    fn forward(&self, ids: &Tensor, cache: &mut Self::Cache) -> Result<Tensor>;

    /// As [`CausalLm::forward`], with the logits (rows, tokens, vocabulary) of every position. For one row of at
    /// most [`VERIFIED_TOGETHER`] tokens on the CPU they are those that `forward` gives for one token after the other.
    fn forward_all(&self, ids: &Tensor, cache: &mut Self::Cache) -> Result<Tensor>;

    /// Forgets all positions from `len` on.
    fn truncate(&self, cache: &mut Self::Cache, len: usize);

    /// Drops the rows whose index is not in `rows` (ascending): they have ended.
    fn keep_rows(&self, cache: &mut Self::Cache, rows: &[usize]) -> Result<()>;

    /// Whether a row's logits are the same in any batch. They are not if the rotary frequencies depend on the
    /// longest row.
    fn rows_are_independent(&self) -> bool {
        true
    }

    /// Where `ids` must be.
    fn device(&self) -> &Device;

    /// The number of token ids the model can read.
    fn vocab_size(&self) -> usize;

    /// The largest number of tokens in a row, prompt and answer together.
    fn max_positions(&self) -> usize;
}

/// How many tokens [`CausalLm::forward_all`] reads at once on the CPU with the result of one after the other.
pub const VERIFIED_TOGETHER: usize = 4;

impl CausalLm for Model {
    type Cache = KvCache;

    fn new_cache(&self, starts: &[usize]) -> Result<KvCache> {
        Ok(self.cache(starts))
    }

    fn forward(&self, ids: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        Ok(Model::forward(self, ids, cache)?)
    }

    fn forward_all(&self, ids: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        Ok(Model::forward_all(self, ids, cache)?)
    }

    fn truncate(&self, cache: &mut KvCache, len: usize) {
        cache.truncate(len);
    }

    fn keep_rows(&self, cache: &mut KvCache, rows: &[usize]) -> Result<()> {
        Ok(cache.keep_rows(rows)?)
    }

    fn rows_are_independent(&self) -> bool {
        !self.config.ropes.iter().any(|rope| rope.has_regimes())
    }

    fn device(&self) -> &Device {
        Model::device(self)
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_positions(&self) -> usize {
        self.config.max_position_embeddings
    }
}
